"""A data set of PyTorch: the images of a mounted dataset, with the boxes that are marked in
them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

Box = tuple[str, float, float, float, float]
"""A class and a box's left, top, width and height in pixels of the image."""


class Marked(Dataset[tuple[Tensor, int]]):
    """Images at one size, and the number of each, by which `boxes` has what is marked in it.

    Labels are read once, before the training: 16 files at a time, one API request each unless they
    are cached.
    """

    def __init__(self, folder: Path, splits: set[str], width: int, height: int) -> None:
        """`folder`: a dataset in a mount. `splits`: which images, by the split that the platform
        shows."""
        images = folder / "images"
        self.files = [
            file
            for file in sorted(images.rglob("*"))
            if file.is_file() and split_of(file) in splits
        ]
        labels = [
            folder / "annotations" / f"{file.relative_to(images)}.json" for file in self.files
        ]
        with ThreadPoolExecutor(16) as pool:
            self.boxes = list(pool.map(boxes_in, labels))
        self._size = (width, height)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image's pixels from 0 to 1 (3, height, width), and its number."""
        with Image.open(self.files[index]) as image:
            image.draft("RGB", self._size)
            pixels = numpy.array(image.convert("RGB").resize(self._size))
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255, index


def split_of(file: Path) -> str:
    """The split of an image. It comes with the listing and costs no request; empty where there is
    none."""
    try:
        return os.getxattr(file, "user.pictograph.split").decode()
    except OSError:
        return ""


def boxes_in(file: Path) -> list[Box]:
    """The bounding boxes in an annotation file."""
    marks = json.loads(file.read_text())["annotations"]
    shapes = [(mark["name"], mark["bounding_box"]) for mark in marks if mark["type"] == "bbox"]
    return [(name, box["x"], box["y"], box["w"], box["h"]) for name, box in shapes]
