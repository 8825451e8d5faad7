"""Annotations: those that a seed gives, and the shapes that the vendor accepts."""

from __future__ import annotations

import random
from typing import Annotated, Any

import msgspec

from standin import content, scenes
from standin.identity import uuid_for
from standin.records import Image

NonBlank = Annotated[str, msgspec.Meta(pattern=r"\S")]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

#: The classes of generated datasets. A class of boxes has the type `box`, its annotations `bbox`.
CLASSES: list[dict[str, Any]] = [
    {"name": "car", "type": "box"},
    {"name": "lake", "type": "polygon"},
    {"name": "lane", "type": "polyline"},
    {"name": "nose", "type": "keypoint"},
]
SCENE_CLASSES: list[dict[str, Any]] = [
    *({"name": name, "type": "box"} for name in scenes.SIGNS),
    {"name": "road", "type": "polygon"},
    {"name": "lane", "type": "polyline"},
    {"name": "lamp", "type": "keypoint"},
]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A shape that takes no other keys."""


class Point(_Strict):
    """A place in pixels."""

    x: float
    y: float


class Box(_Strict):
    """An upright box in pixels."""

    x: float
    y: float
    w: Positive
    h: Positive


class OrientedBox(_Strict):
    """A turned box: centre, extents along its own axes, degrees clockwise."""

    cx: float
    cy: float
    w: Positive
    h: Positive
    angle: Annotated[float, msgspec.Meta(ge=0, lt=360)] = 0.0


Ring = Annotated[list[Point], msgspec.Meta(min_length=3)]


class Polygon(_Strict):
    """Rings of three points or more; the first is the outer one."""

    paths: Annotated[list[Ring], msgspec.Meta(min_length=1)]


class Polyline(_Strict):
    """An open path."""

    path: Annotated[list[Point], msgspec.Meta(min_length=2)]


class _Annotation(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    name: NonBlank
    id: NonBlank | None = None
    confidence: Share = 1.0
    created_by: str | None = None
    attributes: dict[str, Any] | list[Any] = []


class BBox(_Annotation, tag="bbox"):
    """A box, perhaps turned."""

    bounding_box: Box
    oriented_box: OrientedBox | None = None


class PolygonShape(_Annotation, tag="polygon"):
    """A polygon; the box around it is computed when absent."""

    polygon: Polygon
    bounding_box: Box | None = None


class PolylineShape(_Annotation, tag="polyline"):
    """A polyline; the box around it is computed when absent."""

    polyline: Polyline
    bounding_box: Box | None = None


class Keypoint(_Annotation, tag="keypoint"):
    """A point; it must not have a box."""

    keypoint: Point
    instance_id: Annotated[int, msgspec.Meta(ge=1)] | None = None


Annotation = BBox | PolygonShape | PolylineShape | Keypoint


def accept(saved: list[Any], image_id: str) -> list[dict[str, Any]]:
    """The annotations to store for those that were sent, with their defaults filled in.

    Raises `msgspec.ValidationError` if one has a wrong shape.
    """
    typed = msgspec.convert(saved, list[Annotation])

    return [
        _stored(raw, shape, image_id, index)
        for index, (raw, shape) in enumerate(zip(saved, typed, strict=True))
    ]


def _stored(raw: dict[str, Any], shape: Annotation, image_id: str, index: int) -> dict[str, Any]:
    kept = {key: value for key, value in raw.items() if value is not None}
    kept.setdefault("id", uuid_for("annotation", image_id, index))

    if isinstance(shape, PolygonShape):
        points = [point for ring in raw["polygon"]["paths"] for point in ring]
        kept.setdefault("bounding_box", _around(points))
    elif isinstance(shape, PolylineShape):
        kept.setdefault("bounding_box", _around(raw["polyline"]["path"]))

    kept.setdefault("confidence", 1.0)
    kept.setdefault("attributes", [])
    return kept


def _around(points: list[dict[str, float]]) -> dict[str, float]:
    xs = [float(point["x"]) for point in points]
    ys = [float(point["y"]) for point in points]
    return _box(min(xs), min(ys), max(xs), max(ys))


def _box(left: float, top: float, right: float, bottom: float) -> dict[str, float]:
    return {"x": left, "y": top, "w": max(right - left, 1.0), "h": max(bottom - top, 1.0)}


def lowest_confidence(seed: str, count: int) -> float | None:
    """The `min_confidence` of an image with generated annotations: that of the first of them."""
    if count == 0:
        return None

    return 0.5 + (hash_of(seed) % 50) / 100


def hash_of(seed: str) -> int:
    """A number that is the same for a seed in every run, cheap enough for a million images."""
    # The multiplier is Knuth's, near 2**32 divided by the golden ratio.
    return int.from_bytes(seed.encode()[-8:], "big") * 2654435761 >> 7


def annotations_of(image: Image) -> list[dict[str, Any]]:
    """The annotations of an image: the saved ones, or those its seed gives."""
    if image.annotations is not None:
        return image.annotations
    if image.look is content.SCENE:
        return _of_scene(image)

    chance = random.Random(image.seed)
    return [_shape(image, chance, index) for index in range(image.annotation_count)]


def _common(image: Image, index: int, name: str, kind: str) -> dict[str, Any]:
    lowest = lowest_confidence(image.seed, 1)

    return {
        "id": uuid_for("annotation", image.seed, index),
        "name": name,
        "type": kind,
        "confidence": lowest if index == 0 else 1.0,
        "created_by": None,
        "attributes": [],
    }


def _shape(image: Image, chance: random.Random, index: int) -> dict[str, Any]:
    width = float(image.width or 640)
    height = float(image.height or 480)
    x = round(chance.uniform(0, width * 0.6), 2)
    y = round(chance.uniform(0, height * 0.6), 2)
    w = round(chance.uniform(2, width * 0.3), 2)
    h = round(chance.uniform(2, height * 0.3), 2)
    box = {"x": x, "y": y, "w": w, "h": h}

    # The four types take turns.
    kind = index % 4
    if kind == 0:
        shape = _common(image, index, "car", "bbox") | {"bounding_box": box}
        if chance.random() < 0.25:
            turned = {
                "cx": x + w / 2,
                "cy": y + h / 2,
                "w": w,
                "h": h / 2,
                "angle": float(chance.randint(0, 359)),
            }
            shape["oriented_box"] = turned

        return shape

    if kind == 1:
        ring = [
            {"x": x, "y": y},
            {"x": x + w, "y": y},
            {"x": x + w, "y": y + h},
            {"x": x, "y": y + h},
        ]
        hole = [
            {"x": x + w / 4, "y": y + h / 4},
            {"x": x + w / 2, "y": y + h / 4},
            {"x": x + w / 2, "y": y + h / 2},
        ]
        geometry = {"polygon": {"paths": [ring, hole]}, "bounding_box": box}
        return _common(image, index, "lake", "polygon") | geometry

    if kind == 2:
        path = [{"x": x, "y": y}, {"x": x + w, "y": y + h}]
        geometry = {"polyline": {"path": path}, "bounding_box": box}
        return _common(image, index, "lane", "polyline") | geometry

    return _common(image, index, "nose", "keypoint") | {
        "keypoint": {"x": x, "y": y},
        "instance_id": 1 + index // 4,
    }


def scene_count(seed: str) -> int:
    """How many annotations a scene has: one for each sign, and the road, the lane and the lamp."""
    return len(scenes.scene_of(seed).signs) + 3


def _of_scene(image: Image) -> list[dict[str, Any]]:
    scene = scenes.scene_of(image.seed)
    found: list[dict[str, Any]] = []
    for index, sign in enumerate(scene.signs):
        right = float(sign.x + sign.side)
        bottom = float(sign.y + sign.side)
        box = _box(float(sign.x), float(sign.y), right, bottom)
        shape = _common(image, index, sign.name, "bbox")
        found.append(shape | {"bounding_box": box, "attributes": {"occluded": "false"}})

    ring = [{"x": float(x), "y": float(y)} for x, y in scene.road]
    path = [{"x": float(x), "y": float(y)} for x, y in scene.lane]
    road = {"polygon": {"paths": [ring]}, "bounding_box": _around(ring)}
    lane = {"polyline": {"path": path}, "bounding_box": _around(path)}
    lamp_x, lamp_y = scene.lamp
    lamp = {"keypoint": {"x": float(lamp_x), "y": float(lamp_y)}, "instance_id": 1}

    rest = (("road", "polygon", road), ("lane", "polyline", lane), ("lamp", "keypoint", lamp))
    for offset, (name, kind, geometry) in enumerate(rest):
        found.append(_common(image, len(scene.signs) + offset, name, kind) | geometry)

    return found
