"""Pascal VOC annotations: an XML document for each image, boxes only.

Pixels are whole numbers from 0, as in the platform's own files (the vendor's SDK reads and writes
them so), whereas the devkit of 2007 counts from 1. Readers that follow it (supervision, detectron2)
take 1 from the left and the top edge.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from pictofs.formats import geometry
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Annotation, Sample

FOLDER = "JPEGImages"
_SPACES = re.compile(r"[\t\n\r]")
_NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't hold, not even escaped."""


def document(sample: Sample, losses: Losses) -> str:
    """The text of `Annotations/<stem>.xml`.

    `sample.file_name` is the name in JPEGImages. What VOC can't hold is counted in `losses`.
    """
    losses.add("malformed", sample.file_name, sample.malformed)
    objects = []
    for annotation in sample.annotations:
        found = _object(annotation, sample, losses)
        if found:
            objects.append(found)

    losses.wrote(len(objects))
    return (
        "<annotation>\n"
        f"  <folder>{FOLDER}</folder>\n"
        f"  <filename>{_text(sample.file_name)}</filename>\n"
        "  <size>\n"
        f"    <width>{sample.width}</width>\n"
        f"    <height>{sample.height}</height>\n"
        "    <depth>3</depth>\n"
        "  </size>\n"
        "  <segmented>0</segmented>\n" + "".join(objects) + "</annotation>\n"
    )


def _object(annotation: Annotation, sample: Sample, losses: Losses) -> str:
    """The element of a label; "" if VOC can't hold it."""
    if annotation.kind not in ("bbox", "polygon"):
        losses.add(annotation.kind, sample.file_name)
        return ""

    box = _box(annotation, sample, losses)
    if box is None:
        return ""
    left, top, right, bottom = box
    return (
        "  <object>\n"
        f"    <name>{_text(annotation.name)}</name>\n"
        "    <pose>Unspecified</pose>\n"
        "    <truncated>0</truncated>\n"
        "    <difficult>0</difficult>\n"
        "    <bndbox>\n"
        f"      <xmin>{left}</xmin>\n"
        f"      <ymin>{top}</ymin>\n"
        f"      <xmax>{right}</xmax>\n"
        f"      <ymax>{bottom}</ymax>\n"
        "    </bndbox>\n"
        "  </object>\n"
    )


def _box(
    annotation: Annotation, sample: Sample, losses: Losses
) -> tuple[int, int, int, int] | None:
    """The box in whole pixels, at least one wide and high; None if nothing of it is in the image."""
    clipped = geometry.clip_annotation(annotation, sample.width, sample.height)
    if clipped is None:
        outside = geometry.is_outside(annotation, sample.width, sample.height)
        losses.add("outside" if outside else "degenerate", sample.file_name)
        return None

    if annotation.kind == "polygon":
        losses.add("outline", sample.file_name)
    elif annotation.oriented is not None:
        losses.add("rotation", sample.file_name)

    left, right = _whole(clipped[0], clipped[2], sample.width)
    top, bottom = _whole(clipped[1], clipped[3], sample.height)
    return left, top, right, bottom


def _whole(low: float, high: float, limit: int) -> tuple[int, int]:
    """Two edges, rounded as the vendor's SDK does; a pixel apart where they would fall together."""
    first = round(low)
    last = round(high)
    if first == last:
        first = min(first, limit - 1)
        last = first + 1
    return first, last


def _text(value: str) -> str:
    """`value` as the text of an element. White space is a blank: readers fold it."""
    return escape(_NOT_XML.sub("\ufffd", _SPACES.sub(" ", value)))
