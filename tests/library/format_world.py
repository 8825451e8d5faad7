"""A dataset with what formats stumble over, for tests of `formats/` and of downloads of it."""

from __future__ import annotations

from typing import Any

from standin import Organization

TOP = "/datasets/signs"
VIEWS = f"{TOP}/formats"
SPLITS = ("train", "val", "test")

CLASSES = [
    {"name": "car", "type": "box"},
    {"name": "lake", "type": "polygon"},
    {"name": "night", "type": "tag"},
    {
        "name": "person",
        "type": "keypoint",
        "skeleton": {
            "nodes": [{"name": "nose", "x": 0.5, "y": 0}, {"name": "foot", "x": 0.5, "y": 1}],
            "edges": [[0, 1]],
        },
    },
]


def box(name: str, x: float = 10, y: float = 20, w: float = 30, h: float = 40) -> dict[str, Any]:
    return {
        "id": f"{name}-{x}",
        "name": name,
        "type": "bbox",
        "bounding_box": {"x": x, "y": y, "w": w, "h": h},
    }


LAKE = {
    "id": "lake",
    "name": "lake",
    "type": "polygon",
    "polygon": {
        "paths": [
            [{"x": 5, "y": 5}, {"x": 90, "y": 5}, {"x": 90, "y": 60}],
            [{"x": 60, "y": 10}, {"x": 80, "y": 10}, {"x": 80, "y": 30}],
        ]
    },
}
LANE = {
    "id": "lane",
    "name": "lane",
    "type": "polyline",
    "polyline": {"path": [{"x": 1, "y": 1}, {"x": 50, "y": 60}]},
}


def joint(name: str, x: float, instance: int) -> dict[str, Any]:
    return {
        "id": f"{name}{instance}",
        "name": name,
        "type": "keypoint",
        "keypoint": {"x": x, "y": 30},
        "instance_id": instance,
    }


def organization() -> Organization:
    """Names that formats stumble over: a folder `images`, equal stems beside each other and apart,
    a stem that leaves no room; every split and some statuses; images without a label."""
    made = Organization()
    signs = made.add_dataset("signs", classes=CLASSES)
    made.add_directory(signs, "/empty")

    places = [
        ("/", "a.jpg"),
        ("/", "a.png"),
        ("/", "a.b.jpg"),
        ("/cam", "a.jpg"),
        ("/cam", "plain"),
        ("/cam/images", "deep.jpg"),
        ("/images", "a.jpg"),
        ("/images", "metadata.jsonl"),
        ("/", "metadata.jsonl"),
        ("/cam", "x" * 251 + ".jpg"),
    ]
    for place, (folder, name) in enumerate(places * 3):
        annotations: list[dict[str, Any]] = []
        if place % 4:
            annotations = [box("car"), box("car", 100), LAKE, LANE][: 1 + place % 4]
        if place % 5 == 1:
            annotations = [*annotations, joint("nose", 20, 1), joint("foot", 30, 1)]

        made.add_image(
            signs,
            f"{place // len(places)}{name}" if place >= len(places) else name,
            folder,
            size=400 + place,
            width=200,
            height=100,
            annotations=annotations,
            annotation_count=len(annotations),
            status=("new", "complete")[place % 2],
            split=("train", "val", None)[place % 3],
            tags=[(), ("night",), ("night", "rain/snow")][place % 3],
        )

    return made


LISTED = ["GET /datasets/", "GET /directories/{dataset}/tree", "GET /datasets/{dataset}"]
FILE = "GET /annotations/{image_id:uuid}/file"
