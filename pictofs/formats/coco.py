"""COCO instances and keypoints, piece by piece, so that a file needs no memory of its size.

A file is `head`, the image rows with commas between them, MIDDLE, the annotation rows with commas
between them, and TAIL.

- Ids are the same in each build: an image's is its key, and an annotation's is made from the key
  and the annotation's own id, so that it does not depend on what else the dataset has (`Ids`).
- Each annotation has a `segmentation`: what has no outline gets the corners of its box, because
  `pycocotools.annToMask` and torchvision's masks fail on an annotation that has none.
- A polygon with holes is a run-length code in the uncompressed form, `{"size", "counts": [...]}`,
  which COCO's own files have. `pycocotools.annToMask`, supervision, detectron2 and torchvision's
  wrapper take both forms, but torchvision's reference training, DETR and the like hand whatever is
  there to pycocotools' `frPyObjects`, which takes this one only.
- `supercategory` is never "none": RF-DETR leaves such categories out.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from pictofs.formats import geometry, poses, runs
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses
from pictofs.formats.sample import ANNOTATIONS_MAX, Annotation, Point, Sample

MIDDLE = b'],"annotations":[\n'
TAIL = b"]}\n"
_KEY_BITS = 51
_INDEX_BITS = 16
_BLOCK_BITS = 37
"""An annotation's id has 37 + 16 bits: JSON readers that know floats only hold 53 exactly."""
_MIX = 0x5851F42D4C957
"""An odd number below 2**51: multiplying by it modulo 2**51 loses no key, and spreads all of them.
"""

_encode = msgspec.json.Encoder().encode


class Ids:
    """Gives out the ids of annotations: unique in the dataset, and the same in each build.

    Each image with annotations has a block of 65,536 ids, which is told from its key. Two of
    100,000 images share one with a probability of 4 %; the later one then gets the next block.
    So ask in a stable order of images, such as that of their keys. Memory: some 70 bytes an image
    with annotations (7 MB for 100,000).
    """

    def __init__(self) -> None:
        self._blocks: set[int] = set()

    def block(self, key: int) -> int:
        """The first id of an image's block, minus 1. Ask once for each image."""
        mixed = key * _MIX % (1 << _KEY_BITS)
        block = mixed >> (_KEY_BITS - _BLOCK_BITS)
        while block in self._blocks:
            block = (block + 1) % (1 << _BLOCK_BITS)
        self._blocks.add(block)
        return block << _INDEX_BITS


def head(classes: Classes, description: str) -> bytes:
    """The beginning of a file, up to the first image row.

    `description`: what the file is of, such as the name of the dataset.
    """
    info = {"description": description, "version": "1.0", "contributor": "", "url": ""}
    categories = [_category(name, place + 1, classes) for place, name in enumerate(classes.names)]
    return (
        b'{"info":'
        + _encode(info)
        + b',"licenses":[],"categories":'
        + _encode(categories)
        + b',"images":[\n'
    )


def image_row(sample: Sample) -> bytes:
    """The image's object. Images without annotations have one, too."""
    return _encode(
        {
            "id": sample.key,
            "file_name": sample.file_name,
            "width": sample.width,
            "height": sample.height,
        }
    )


def annotation_rows(sample: Sample, classes: Classes, ids: Ids, losses: Losses) -> list[bytes]:
    """The objects of the image's annotations; what COCO can't hold is counted in `losses`."""
    return [_encode(row) for row in _rows(sample, classes, ids, losses)]


def annotation_ids(sample: Sample, chosen: Sequence[Annotation], ids: Ids) -> list[int]:
    """The ids of these annotations of the sample: up to ANNOTATIONS_MAX, each once."""
    if not chosen:
        return []

    block = ids.block(sample.key)
    taken: set[int] = set()
    found = []
    for annotation in chosen:
        index = zlib.crc32(annotation.id.encode("utf-8", "surrogatepass")) % ANNOTATIONS_MAX
        while index in taken:
            index = (index + 1) % ANNOTATIONS_MAX
        taken.add(index)
        found.append(block + index + 1)
    return found


def _category(name: str, identity: int, classes: Classes) -> dict[str, Any]:
    category: dict[str, Any] = {"id": identity, "name": name, "supercategory": "object"}
    skeleton = classes.skeletons.get(name)
    if skeleton is not None:
        category["keypoints"] = list(skeleton.nodes)
        # COCO counts joints from 1.
        category["skeleton"] = [[first + 1, second + 1] for first, second in skeleton.edges]
    return category


def _rows(sample: Sample, classes: Classes, ids: Ids, losses: Losses) -> list[dict[str, Any]]:
    losses.add("malformed", sample.file_name, sample.malformed)
    chosen: list[Annotation] = []
    rows: list[dict[str, Any]] = []
    budget = runs.Budget()

    for annotation in sample.annotations:
        if annotation.kind == "polyline":
            losses.add("polyline", sample.file_name)
        elif annotation.kind != "keypoint":
            row = _shape_row(annotation, sample, classes, budget, losses)
            if row is not None:
                chosen.append(annotation)
                rows.append(row)

    for annotation, row in _keypoint_rows(sample, classes, losses):
        chosen.append(annotation)
        rows.append(row)

    losses.wrote(len(rows))
    for row, identity in zip(rows, annotation_ids(sample, chosen, ids), strict=True):
        row["id"] = identity
    return rows


def _shape_row(
    annotation: Annotation,
    sample: Sample,
    classes: Classes,
    budget: runs.Budget,
    losses: Losses,
) -> dict[str, Any] | None:
    """The object of a box or a polygon without its id; None if nothing is left of it."""
    place = classes.index(annotation.name)
    if place is None:
        losses.add("unknown_class", sample.file_name)
        return None

    width = sample.width
    height = sample.height
    clipped = geometry.clip_annotation(annotation, width, height)
    ring = geometry.clip_outline(annotation, width, height)
    segmentation: Any = [_flat(ring)]
    size = 0.0
    if clipped is not None and ring:
        size = geometry.area(ring)

    if len(annotation.rings) > 1 and size > 0:
        if budget.take(annotation.rings, width):
            code = runs.encode(annotation.rings, width, height)
            segmentation = {"size": [height, width], "counts": code}
            size = float(sum(code[1::2]))
        else:
            losses.add("hole", sample.file_name)

    if clipped is None or size <= 0:
        outside = geometry.is_outside(annotation, width, height)
        losses.add("outside" if outside else "degenerate", sample.file_name)
        return None

    if annotation.kind == "bbox":
        size = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
    row = _row(sample, place, _xywh(clipped, annotation), size, segmentation)
    skeleton = classes.skeletons.get(annotation.name)
    if skeleton is not None and len(sample.annotations) * len(skeleton.nodes) <= poses.SLOTS_MAX:
        # Readers of keypoints expect them in each annotation of the category.
        row["keypoints"] = [0] * (3 * len(skeleton.nodes))
        row["num_keypoints"] = 0
    if annotation.attributes:
        row["attributes"] = annotation.attributes
    return row


def _keypoint_rows(
    sample: Sample, classes: Classes, losses: Losses
) -> list[tuple[Annotation, dict[str, Any]]]:
    """An object for each pose, and one for each keypoint that stands alone."""
    found, alone = poses.grouped(sample, classes, losses)
    rows = []

    for pose in found:
        place = classes.index(pose.name)
        if place is None:
            losses.add("unknown_class", sample.file_name)
            continue
        row = _box_row(sample, place, pose.box)
        row["keypoints"] = [each for slot in pose.slots for each in _triplet(slot)]
        row["num_keypoints"] = sum(slot is not None for slot in pose.slots)
        attributes = pose.first.attributes
        if attributes:
            row["attributes"] = attributes
        rows.append((pose.first, row))

    for point in alone:
        place = classes.index(point.name)
        if place is None:
            losses.add("unknown_class", sample.file_name)
            continue
        row = _box_row(sample, place, poses.points_box([point], sample))
        row["keypoints"] = _triplet(point)
        row["num_keypoints"] = 1
        if point.attributes:
            row["attributes"] = point.attributes
        rows.append((point, row))

    return rows


def _box_row(sample: Sample, place: int, box: geometry.Corners) -> dict[str, Any]:
    left, top, right, bottom = box
    xywh = [left, top, right - left, bottom - top]
    return _row(sample, place, xywh, xywh[2] * xywh[3], [_flat(geometry.rectangle(box))])


def _row(
    sample: Sample, place: int, xywh: list[float], size: float, segmentation: Any
) -> dict[str, Any]:
    return {
        "id": 0,
        "image_id": sample.key,
        "category_id": place + 1,
        "bbox": xywh,
        "area": size,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def _xywh(clipped: geometry.Corners, annotation: Annotation) -> list[float]:
    """The box as COCO has it. One that was not cut keeps its very numbers."""
    left, top, right, bottom = clipped
    box = annotation.box
    if box is not None and clipped == annotation.bounds:
        return [box.x, box.y, box.w, box.h]
    return [left, top, right - left, bottom - top]


def _triplet(slot: Annotation | None) -> list[float]:
    if slot is None:
        return [0, 0, 0]
    x, y = slot.point
    return [x, y, 1 if slot.occluded else 2]


def _flat(ring: Sequence[Point]) -> list[float]:
    return [each for point in ring for each in point]
