"""`metadata.jsonl` of a folder of images, as Hugging Face `datasets` reads it (`imagefolder`).

pyarrow infers the types from a file's first 10 MB, and `datasets` refuses splits whose types
differ. A list that is empty in all rows has no type. So `tags` is one text, a JSON array, and a
file should begin with a row that has objects, if the split has one.

`objects` is a struct of lists, as in the object detection guide: `category` is the place in the
dataset's classes, which that guide's code wants, and `category_name` is the class.
"""

from __future__ import annotations

import msgspec

from pictofs.formats import geometry
from pictofs.formats.classes import Classes
from pictofs.formats.coco import Ids, annotation_ids
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Annotation, Sample
from pictofs.model import names

_encode = msgspec.json.Encoder().encode


class _Objects(msgspec.Struct):
    id: list[int] = []
    bbox: list[list[float]] = []
    category: list[int] = []
    category_name: list[str] = []
    area: list[float] = []


def row(sample: Sample, classes: Classes, ids: Ids, losses: Losses) -> bytes:
    """The image's line, with its newline. What it can't hold is counted in `losses`.

    `ids` is COCO's: an object has the same id in both formats.
    """
    losses.add("malformed", sample.file_name, sample.malformed)
    objects = _Objects()
    chosen = []

    for annotation in sample.annotations:
        if _add(annotation, sample, classes, objects, losses):
            chosen.append(annotation)

    objects.id = annotation_ids(sample, chosen, ids)
    losses.wrote(len(chosen))
    line = {
        "file_name": sample.file_name,
        "width": sample.width,
        "height": sample.height,
        "image_id": sample.key,
        "tags": _encode([names.storable(tag) for tag in sample.tags]).decode(),
        "objects": objects,
    }
    return _encode(line) + b"\n"


def _add(
    annotation: Annotation, sample: Sample, classes: Classes, objects: _Objects, losses: Losses
) -> bool:
    """Add a label to the lists, and say whether it could be."""
    if annotation.kind not in ("bbox", "polygon"):
        losses.add(annotation.kind, sample.file_name)
        return False
    place = classes.index(annotation.name)
    if place is None:
        losses.add("unknown_class", sample.file_name)
        return False

    clipped = geometry.clip_annotation(annotation, sample.width, sample.height)
    if clipped is None:
        outside = geometry.is_outside(annotation, sample.width, sample.height)
        losses.add("outside" if outside else "degenerate", sample.file_name)
        return False

    if annotation.kind == "polygon":
        losses.add("outline", sample.file_name)
    elif annotation.oriented is not None:
        losses.add("rotation", sample.file_name)

    left, top, right, bottom = clipped
    objects.bbox.append([left, top, right - left, bottom - top])
    objects.category.append(place)
    objects.category_name.append(annotation.name)
    objects.area.append((right - left) * (bottom - top))
    return True
