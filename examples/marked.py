"""A data set of PyTorch: the images of a mounted dataset, with the boxes that COCO has of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

Box = tuple[str, float, float, float, float]
"""A class and a box's left, top, width and height in pixels of the image."""


class Marked(Dataset[tuple[Tensor, int]]):
    """Images at one size, and the number of each, by which `boxes` has what is marked in it."""

    def __init__(self, folder: Path, splits: list[str], width: int, height: int) -> None:
        """`folder`: a dataset in a mount. `splits`: which images."""
        self.files: list[Path] = []
        self.boxes: list[list[Box]] = []
        self._size = (width, height)

        for split in splits:
            self._read(folder / "formats/coco", split)

    def _read(self, coco: Path, split: str) -> None:
        marks = json.loads((coco / f"annotations/instances_{split}.json").read_text())
        names = {each["id"]: each["name"] for each in marks["categories"]}
        boxes: dict[int, list[Box]] = {each["id"]: [] for each in marks["images"]}
        for each in marks["annotations"]:
            if "keypoints" not in each:
                boxes[each["image_id"]].append((names[each["category_id"]], *each["bbox"]))

        for each in marks["images"]:
            self.files.append(coco / "images" / split / each["file_name"])
            self.boxes.append(boxes[each["id"]])

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image's pixels from 0 to 1 (3, height, width), and its number."""
        return pixels_of(self.files[index], self._size), index


def pixels_of(file: Path, size: tuple[int, int]) -> Tensor:
    """An image's pixels from 0 to 1 (3, height, width), at that width and height."""
    with Image.open(file) as image:
        image.draft("RGB", size)
        pixels = numpy.array(image.convert("RGB").resize(size))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255
