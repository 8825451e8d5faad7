"""What trainers' own loaders make of `formats/`; run as a program of its own: KIND PATH.

It prints one JSON object of what they found.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def _torchvision() -> Any:
    import torch

    # The wheel of torchvision may hold CUDA operators, and then does not load beside torch for the
    # CPU. It imports without them once those that it registers on import are declared.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    import torchvision

    return torchvision


def coco_detection(top: Path) -> dict[str, Any]:
    """torchvision.datasets.CocoDetection, read whole."""
    found: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        data = _torchvision().datasets.CocoDetection(
            str(top / "coco/images" / split),
            str(top / f"coco/annotations/instances_{split}.json"),
        )
        boxes = [box for _, target in data for box in target]
        found[split] = {
            "images": len(data),
            "boxes": len(boxes),
            "sides": sorted({image.size for image, _ in data}),
        }
    return found


def masks(top: Path) -> dict[str, Any]:
    """pycocotools: the area of each annotation's mask, beside the one that is written."""
    import contextlib
    import io

    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(top / "coco/annotations/instances_train.json"))

    worst = 0.0
    rows = coco.loadAnns(coco.getAnnIds())
    for row in rows:
        area = float(coco.annToMask(row).sum())
        worst = max(worst, abs(area - row["area"]) / max(area, row["area"]))
    return {"rows": len(rows), "ids": len({row["id"] for row in rows}), "worst": worst}


def voc_detection(top: Path) -> dict[str, Any]:
    """torchvision.datasets.VOCDetection, which wants its own folders above."""
    import os
    import tempfile

    root = Path(tempfile.mkdtemp())
    (root / "VOCdevkit").mkdir()
    os.symlink(top / "voc", root / "VOCdevkit" / "VOC2012")
    data = _torchvision().datasets.VOCDetection(str(root), year="2012", image_set="train")
    names: Counter[str] = Counter()
    for image, target in data:
        size = target["annotation"]["size"]
        assert image.size == (int(size["width"]), int(size["height"]))
        for each in target["annotation"].get("object", []):
            names[each["name"]] += 1
    return {"images": len(data), "names": names}


def image_folder(top: Path) -> dict[str, Any]:
    """torchvision.datasets.ImageFolder of each split."""
    found: dict[str, Any] = {}
    for split in ("train", "val"):
        data = _torchvision().datasets.ImageFolder(
            str(top / "imagefolder" / split), allow_empty=True
        )
        for image, _ in data:
            image.load()
        found[split] = {
            "classes": data.class_to_idx,
            "counts": Counter(data.classes[place] for _, place in data.samples),
        }
    return found


def hugging_face(top: Path) -> dict[str, Any]:
    """Hugging Face `datasets`: all splits at once."""
    import datasets

    data = datasets.load_dataset("imagefolder", data_dir=str(top / "huggingface"))
    found: dict[str, Any] = {}
    for split, rows in data.items():
        boxes = 0
        for row in rows:
            assert row["image"].size == (row["width"], row["height"])
            boxes += len(row["objects"]["bbox"])
        found[split] = {"images": len(rows), "boxes": boxes}
    return found


def supervision_all(top: Path) -> dict[str, Any]:
    """supervision reads YOLO, COCO and VOC, and finds the same boxes in each."""
    import supervision

    def boxes(data: Any) -> dict[str, list[list[int]]]:
        return {
            Path(path).stem: sorted(
                [int(place), *map(round, box)]
                for place, box in zip(found.class_id, found.xyxy.tolist(), strict=True)
            )
            for path, _, found in data
        }

    yolo = supervision.DetectionDataset.from_yolo(
        str(top / "yolo/images/train/cam1"),
        str(top / "yolo/labels/train/cam1"),
        str(top / "yolo/data.yaml"),
    )
    coco = supervision.DetectionDataset.from_coco(
        str(top / "coco/images/train"), str(top / "coco/annotations/instances_train.json")
    )
    in_yolo = boxes(yolo)
    in_coco = boxes(coco)
    differing = 0
    compared = 0
    for stem, found in in_yolo.items():
        # COCO has the lamps, too, as keypoints.
        others = in_coco[stem]
        compared += len(found)
        for one in found:
            near = [
                each
                for each in others
                if all(abs(a - b) <= 1 for a, b in zip(one, each, strict=True))
            ]
            differing += not near

    return {
        "names": yolo.classes,
        "images": len(yolo),
        "compared": compared,
        "differing": differing,
    }


if __name__ == "__main__":
    KINDS = {
        "coco": coco_detection,
        "masks": masks,
        "voc": voc_detection,
        "imagefolder": image_folder,
        "huggingface": hugging_face,
        "supervision": supervision_all,
    }
    print(json.dumps(KINDS[sys.argv[1]](Path(sys.argv[2]))))
