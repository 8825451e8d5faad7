"""An image with its annotations, as every format takes it, and how an annotation file is read.

The file comes from a server that is not trusted. One annotation that makes no sense is left out
and counted; it never costs the others, or the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pictofs.errors import InvalidResponse
from pictofs.model import names

COORDINATE_MAX = 1e7
"""Pixels. A coordinate beyond it, in either direction, is a mistake and no place in an image."""
ANNOTATIONS_MAX = 65_535
"""Annotations of one image that are taken; COCO's ids number them in 16 bits (coco.py)."""
POINTS_MAX = 100_000
"""Points of one polygon, its holes included."""
_NAME_CHARS_MAX = 1000
_ATTRIBUTES_MAX = 100
_INSTANCE_MAX = 2**31

_OCCLUDED = frozenset({"true", "1", "yes", "y", "t", "occluded"})
"""What the vendor's SDK takes for true in a joint's attribute `occluded` (API.md 9.3)."""

Kind = Literal["bbox", "polygon", "polyline", "keypoint"]
Point = tuple[float, float]
Ring = tuple[Point, ...]


class Box(msgspec.Struct, frozen=True, gc=False):
    """A rectangle: its top left corner and its size, both sides greater than 0."""

    x: float
    y: float
    w: float
    h: float


class OrientedBox(msgspec.Struct, frozen=True, gc=False):
    """A turned rectangle: its centre, the lengths along its own axes, and the angle."""

    cx: float
    cy: float
    w: float
    h: float
    angle: float = 0.0
    """Degrees, clockwise as the image is seen (y grows downwards)."""


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One annotation that makes sense. Its coordinates may lie outside the image."""

    kind: Kind
    id: str = ""
    """The platform's, unique in the image; "" if it has none."""
    name: str
    """The class, or the joint of a keypoint."""
    bounds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Left, top, right and bottom of a `bbox` or of a `polygon`'s outer ring."""
    box: Box | None = None
    """Of a `bbox`, with the very numbers of the file."""
    oriented: OrientedBox | None = None
    """Of a `bbox` that is turned."""
    rings: tuple[Ring, ...] = ()
    """Of a `polygon`: the outer ring, then the holes, by the even-odd rule."""
    point: Point = (0.0, 0.0)
    """Of a `keypoint`."""
    instance: int | None = None
    """Which object of the image a keypoint belongs to; None if it stands alone."""
    occluded: bool = False
    """Whether a keypoint is labelled, and hidden in the image."""
    attributes: dict[str, str | int | float | bool] = {}


class Sample(msgspec.Struct, frozen=True):
    """One image of a dataset, as the formats see it."""

    key: int
    """Positive, below 2**51, unique in the dataset, the same on each machine and in each build."""
    file_name: str
    """Relative to the images of the split (`images/<split>`), as it is shown."""
    width: int
    height: int
    tags: tuple[str, ...]
    annotations: tuple[Annotation, ...]
    malformed: int = 0
    """Annotations of the file that make no sense: `Decoded.malformed`."""


class Decoded(msgspec.Struct, frozen=True):
    """What an annotation file holds."""

    annotations: tuple[Annotation, ...]
    malformed: int
    """How many annotations were left out, because they make no sense or exceed ANNOTATIONS_MAX."""


class _Point(msgspec.Struct, gc=False):
    x: float
    y: float


class _Polygon(msgspec.Struct):
    paths: list[list[_Point]]


class _Polyline(msgspec.Struct):
    path: list[_Point]


class _Annotation(msgspec.Struct):
    """An annotation as the API spells it (API.md 7.2). Unknown keys are ignored."""

    type: Kind
    name: str
    id: Any = ""
    bounding_box: Box | None = None
    oriented_box: OrientedBox | None = None
    polygon: _Polygon | None = None
    polyline: _Polyline | None = None
    keypoint: _Point | None = None
    instance_id: Any = None
    attributes: Any = None


class _File(msgspec.Struct):
    """An annotation file (API.md 7.3), and the answer of the annotation route (7.1)."""

    annotations: list[_Annotation]


_FILE = msgspec.json.Decoder(_File)
_ARRAY = msgspec.json.Decoder(list[_Annotation])


def decode(data: bytes) -> Decoded:
    """The annotations of a file: the file's wrapper, the annotation route's, or a bare array.

    Annotations that make no sense are counted in `malformed`.

    Raises: InvalidResponse if `data` is not JSON, nested too deep for Python (about 1,000 levels),
    or has no list of annotations.
    """
    try:
        # The usual case, at once: all annotations have the right shape.
        found = _ARRAY.decode(data) if data[:1] == b"[" else _FILE.decode(data).annotations
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_singly(data)

    kept = []
    for each in found[:ANNOTATIONS_MAX]:
        annotation = _checked(each)
        if annotation is not None:
            kept.append(annotation)

    return Decoded(tuple(kept), len(found) - len(kept))


def _decode_singly(data: bytes) -> Decoded:
    """As `decode`, annotation by annotation.

    Python's own reader also takes NaN, Infinity, numbers that are too large and lone surrogates,
    which then cost one annotation instead of the file.
    """
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidResponse("the annotation file is not JSON that can be read") from error

    if isinstance(content, dict):
        content = content.get("annotations")
    if not isinstance(content, list):
        raise InvalidResponse("the annotation file has no list of annotations")

    kept = []
    for each in content[:ANNOTATIONS_MAX]:
        try:
            annotation = _checked(msgspec.convert(_plain(each), _Annotation))
        except (msgspec.ValidationError, UnicodeEncodeError, OverflowError, RecursionError):
            continue
        if annotation is not None:
            kept.append(annotation)

    return Decoded(tuple(kept), len(content) - len(kept))


def _plain(value: Any) -> Any:
    """`value` without null where the key means as much as its absence."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in value.items() if part is not None}


def _checked(raw: _Annotation) -> Annotation | None:
    """The annotation, or None if it makes no sense."""
    name = raw.name
    if not name or len(name) > _NAME_CHARS_MAX or name.isspace():
        return None
    if not name.isascii():
        name = names.storable(name)

    kind = raw.type
    if kind == "bbox":
        return _checked_box(raw, name)
    if kind == "polygon":
        return _checked_polygon(raw, name)
    if kind == "keypoint":
        return _checked_keypoint(raw, name)

    return _checked_polyline(raw, name)


def _checked_box(raw: _Annotation, name: str) -> Annotation | None:
    box = raw.bounding_box
    if box is None or not _is_box(box.x, box.y, box.w, box.h):
        return None

    oriented = raw.oriented_box
    if oriented is not None:
        is_turned = _is_box(oriented.cx, oriented.cy, oriented.w, oriented.h)
        if not is_turned or not -COORDINATE_MAX < oriented.angle < COORDINATE_MAX:
            return None

    return Annotation(
        kind="bbox",
        id=_identity(raw.id),
        name=name,
        bounds=(box.x, box.y, box.x + box.w, box.y + box.h),
        box=box,
        oriented=oriented,
        attributes=_attributes(raw.attributes),
    )


def _checked_polygon(raw: _Annotation, name: str) -> Annotation | None:
    if raw.polygon is None or not raw.polygon.paths:
        return None
    if sum(map(len, raw.polygon.paths)) > POINTS_MAX:
        return None

    rings = []
    bounds = []
    for path in raw.polygon.paths:
        xs = [point.x for point in path]
        ys = [point.y for point in path]
        if len(xs) < 3 or not _are_places(xs) or not _are_places(ys):
            return None
        rings.append(tuple(zip(xs, ys, strict=True)))
        bounds.append((min(xs), min(ys), max(xs), max(ys)))

    return Annotation(
        kind="polygon",
        id=_identity(raw.id),
        name=name,
        bounds=bounds[0],
        rings=tuple(rings),
        attributes=_attributes(raw.attributes),
    )


def _checked_keypoint(raw: _Annotation, name: str) -> Annotation | None:
    if raw.keypoint is None:
        return None
    point = (raw.keypoint.x, raw.keypoint.y)
    if not _are_places(point):
        return None

    instance = raw.instance_id
    if instance is not None and (type(instance) is not int or not 1 <= instance < _INSTANCE_MAX):
        return None

    attributes = _attributes(raw.attributes)
    occluded = str(attributes.pop("occluded", "")).strip().lower() in _OCCLUDED
    return Annotation(
        kind="keypoint",
        id=_identity(raw.id),
        name=name,
        point=point,
        instance=instance,
        occluded=occluded,
        attributes=attributes,
    )


def _checked_polyline(raw: _Annotation, name: str) -> Annotation | None:
    """No format has lines: that it is one is all that is kept of it."""
    if raw.polyline is None or not 2 <= len(raw.polyline.path) <= POINTS_MAX:
        return None
    for point in raw.polyline.path:
        if not _are_places((point.x, point.y)):
            return None

    return Annotation(kind="polyline", id=_identity(raw.id), name=name)


def _is_box(x: float, y: float, w: float, h: float) -> bool:
    """Whether these are a rectangle's place and size. NaN fails every comparison."""
    return (
        -COORDINATE_MAX < x < COORDINATE_MAX
        and -COORDINATE_MAX < y < COORDINATE_MAX
        and 0 < w < COORDINATE_MAX
        and 0 < h < COORDINATE_MAX
    )


def _are_places(values: Sequence[float]) -> bool:
    """Whether all coordinates are numbers within COORDINATE_MAX."""
    # The sum is not finite if one of them is not, whereas `min` and `max` may pass over NaN.
    return (
        math.isfinite(sum(values))
        and min(values) > -COORDINATE_MAX
        and max(values) < COORDINATE_MAX
    )


def _identity(value: Any) -> str:
    if isinstance(value, str) and len(value) <= _NAME_CHARS_MAX:
        return value
    return ""


def _attributes(value: Any) -> dict[str, str | int | float | bool]:
    """The attributes that are plain values. The older list form has no names, and says nothing."""
    if not value or not isinstance(value, dict) or len(value) > _ATTRIBUTES_MAX:
        return {}

    kept: dict[str, str | int | float | bool] = {}
    for key, each in value.items():
        if isinstance(each, str):
            kept[names.storable(str(key))] = names.storable(each)
        elif isinstance(each, (bool, float, int)) and math.isfinite(each) and abs(each) < 2**53:
            kept[names.storable(str(key))] = each

    return kept
