"""Samples, and plain folders of them as a mount shows them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pictofs.formats import coco, huggingface, imagefolder, voc, yolo
from pictofs.formats.classes import Classes, undeclared
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample, decode

CLASSES = [
    {"name": "car", "type": "box", "color": "#f00"},
    {"name": "night", "type": "tag"},
    {"name": "lake", "type": "polygon"},
    {"name": "car", "type": "polygon"},
    {"name": "lane", "type": "polyline"},
    {
        "name": "person",
        "type": "keypoint",
        "skeleton": {
            "nodes": [{"name": "nose"}, {"name": "left_eye"}, {"name": "right_eye"}],
            "edges": [[0, 1], [0, 2]],
        },
    },
    {"name": "nose", "type": "keypoint"},
    {"name": "left_eye", "type": "keypoint"},
    {"name": "right_eye", "type": "keypoint"},
    {"name": "corner", "type": "keypoint"},
]
"""A dataset's classes as the API spells them: one name with two types, a skeleton, its joints."""


def box(name: str, x: float, y: float, w: float, h: float, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{name}-{x}-{y}",
        "name": name,
        "type": "bbox",
        "bounding_box": {"x": x, "y": y, "w": w, "h": h},
        **more,
    }


def polygon(name: str, *rings: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    paths = [[{"x": x, "y": y} for x, y in ring] for ring in rings]
    return {
        "id": f"{name}-{rings[0][0]}",
        "name": name,
        "type": "polygon",
        "polygon": {"paths": paths},
        **more,
    }


def polyline(name: str, *points: tuple[float, float]) -> dict[str, Any]:
    path = [{"x": x, "y": y} for x, y in points]
    return {"id": f"{name}-line", "name": name, "type": "polyline", "polyline": {"path": path}}


def keypoint(
    name: str, x: float, y: float, instance: int | None = None, **more: Any
) -> dict[str, Any]:
    point = {
        "id": f"{name}-{instance}-{x}",
        "name": name,
        "type": "keypoint",
        "keypoint": {"x": x, "y": y},
        **more,
    }
    if instance is not None:
        point["instance_id"] = instance
    return point


def file_of(annotations: list[Any]) -> bytes:
    """An annotation file around these annotations (API.md 7.3)."""
    wrapper = {
        "image": "a.jpg",
        "image_uuid": "9a0e",
        "dataset": {"name": "d", "slug": "d"},
        "annotation_count": len(annotations),
        "annotations": annotations,
    }
    return json.dumps(wrapper).encode()


def sample(
    *annotations: dict[str, Any],
    key: int = 1,
    file_name: str = "a.jpg",
    width: int = 640,
    height: int = 480,
    tags: tuple[str, ...] = (),
) -> Sample:
    decoded = decode(file_of(list(annotations)))
    return Sample(
        key, file_name, width, height, tags, decoded.annotations, malformed=decoded.malformed
    )


def scene(place: int, *, width: int = 160, height: int = 120) -> Sample:
    """A made-up image's labels; every eighth image has none."""
    chance = random.Random(place)
    labels = []
    for _ in range(place % 8 and chance.randint(1, 4)):
        x = chance.uniform(0, width - 60)
        y = chance.uniform(0, height - 60)
        w = chance.uniform(20, 60)
        h = chance.uniform(20, 60)
        if chance.random() < 0.5:
            labels.append(box("car", x, y, w, h))
        else:
            labels.append(polygon("lake", [(x, y), (x + w, y + h / 3), (x + w / 2, y + h)]))

    return sample(
        *labels,
        key=place + 1,
        file_name=f"cam{place % 2}/{place:03}.jpg",
        width=width,
        height=height,
        tags=("night",) if place % 3 else ("day",),
    )


def draw(one: Sample, path: Path) -> None:
    """An image of the sample's size with its labels painted, at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (one.width, one.height), "gray")
    pen = ImageDraw.Draw(image)
    for each in one.annotations:
        if each.kind == "bbox":
            pen.rectangle(each.bounds, fill="red")
        elif each.kind == "polygon":
            pen.polygon(list(each.rings[0]), fill="blue")
    image.save(path, quality=90)


def classes_of(samples: list[Sample]) -> Classes:
    declared = Classes(CLASSES)
    return Classes(CLASSES, {name for each in samples for name in undeclared(each, declared)})


def write_yolo(root: Path, splits: dict[str, list[Sample]], task: yolo.Task) -> Losses:
    """`data.yaml`, images and labels below `root`."""
    classes = classes_of([each for samples in splits.values() for each in samples])
    losses = Losses()
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(yolo.data_yaml(classes, task, set(splits)), encoding="utf-8")

    for split, samples in splits.items():
        for each in samples:
            draw(each, root / "images" / split / each.file_name)
            path = (root / "labels" / split / each.file_name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yolo.label(each, classes, task, losses), encoding="utf-8")
    return losses


def coco_file(samples: list[Sample], classes: Classes, losses: Losses) -> bytes:
    """The whole of `instances_<split>.json`."""
    ids = coco.Ids()
    rows = [row for each in samples for row in coco.annotation_rows(each, classes, ids, losses)]
    images = [coco.image_row(each) for each in samples]
    return (
        coco.head(classes, "d") + b",\n".join(images) + coco.MIDDLE + b",\n".join(rows) + coco.TAIL
    )


def write_coco(root: Path, samples: list[Sample]) -> Path:
    """Images and the file of the split train; the path of the file."""
    classes = classes_of(samples)
    for each in samples:
        draw(each, root / "images" / "train" / each.file_name)
    path = root / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coco_file(samples, classes, Losses()))
    return path


def write_voc(root: Path, samples: list[Sample]) -> None:
    """JPEGImages and Annotations. The samples' names are flat."""
    (root / "Annotations").mkdir(parents=True)
    for each in samples:
        draw(each, root / "JPEGImages" / each.file_name)
        path = (root / "Annotations" / each.file_name).with_suffix(".xml")
        path.write_text(voc.document(each, Losses()), encoding="utf-8")


def write_imagefolder(root: Path, samples: list[Sample]) -> None:
    for each in samples:
        for folder in imagefolder.folders(each.tags):
            draw(each, root / folder / Path(each.file_name).name)


def write_huggingface(root: Path, samples: list[Sample]) -> None:
    classes = classes_of(samples)
    ids = coco.Ids()
    for each in samples:
        draw(each, root / each.file_name)
    lines = [huggingface.row(each, classes, ids, Losses()) for each in samples]
    lines.sort(key=lambda line: b'"bbox":[]' in line)
    (root / "metadata.jsonl").write_bytes(b"".join(lines))
