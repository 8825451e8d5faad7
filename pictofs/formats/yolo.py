"""YOLO label files and `data.yaml`, as ultralytics reads them (8.4: `ultralytics/data/utils.py`).

- A line is a class index from 0 and numbers that are shares of the image's sides. An image whose
  file has a number above 1.01 or below -0.01 is dropped, so everything is cut to the image first.
- `segment` and `obb`: an image with lines of both 5 and more columns is dropped, so a box is
  written as a polygon of its four corners.
- `pose`: all lines have the same number of columns, so a skeleton with fewer joints than another
  one's is filled up with joints that are not labelled (0 0 0).
- Lines that come twice are dropped with a warning, so they are written once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Literal

from pictofs.formats import geometry, poses
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Annotation, Point, Sample

Task = Literal["detect", "segment", "obb", "pose"]
SPLITS = ("train", "val", "test")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_STEP = 1e-6
"""The smallest share of a side that six digits can express."""
_ZERO = "0.000000"
_SIDES = (("left", "right"), ("l", "r"))
"""Words in the names of joints that mirror each other."""


def label(sample: Sample, classes: Classes, task: Task, losses: Losses) -> str:
    """The label file of an image: a line for each label, "" if there is none.

    What the task can't hold is counted in `losses`.
    """
    losses.add("malformed", sample.file_name, sample.malformed)
    lines = _lines(sample, classes, task, losses)
    single = dict.fromkeys(lines)
    losses.add("duplicate", sample.file_name, len(lines) - len(single))
    losses.wrote(len(single))
    if not single:
        return ""
    return "\n".join(single) + "\n"


def _lines(sample: Sample, classes: Classes, task: Task, losses: Losses) -> list[str]:
    if task == "pose":
        return _pose_lines(sample, classes, losses)
    return _shape_lines(sample, classes, task, losses)


def has_pose(classes: Classes) -> bool:
    """Whether there is anything that `pose` could hold: a class with a skeleton."""
    return bool(classes.pose_names)


def data_yaml(classes: Classes, task: Task, splits: Collection[str]) -> str:
    """The text of `data.yaml`.

    `splits`: those of train, val and test that have images. ultralytics needs `train` and `val`:
    one that has none gets another one's images, with a comment that says so.

    There is no `path`: ultralytics then takes the folder of the file itself, wherever that is
    mounted, whereas `path: .` would be relative to its working directory.
    """
    lines = [
        "# Made from the dataset's classes. Paths are relative to this file.",
        *_split_lines(splits),
        "",
    ]
    if task == "pose":
        lines.extend(_pose_settings(classes))

    names = classes.pose_names if task == "pose" else classes.names
    lines.append("names:" if names else "names: {}")
    lines.extend(f"  {place}: {_quoted(name)}" for place, name in enumerate(names))
    return "\n".join(lines) + "\n"


def _split_lines(splits: Collection[str]) -> list[str]:
    present = [split for split in SPLITS if split in splits]
    instead = present[0] if present else "train"
    lines = []

    for split in SPLITS:
        if split in present:
            lines.append(f"{split}: images/{split}")
        elif split == "test":
            lines.append("# No image is in the split test.")
        else:
            lines.append(f"{split}: images/{instead}  # No image is in the split {split}.")
    return lines


def _quoted(name: str) -> str:
    """A YAML double-quoted text: JSON's, with the characters escaped that YAML does not print.

    JSON's own escapes are not used for the others: it writes a character beyond 16 bits as two
    surrogates, which YAML takes for two characters.
    """
    text = json.dumps(name, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _shape_lines(sample: Sample, classes: Classes, task: Task, losses: Losses) -> list[str]:
    """A line for each box and polygon: `detect`, `segment` or `obb`."""
    lines = []
    for annotation in sample.annotations:
        if annotation.kind not in ("bbox", "polygon"):
            losses.add(annotation.kind, sample.file_name)
            continue
        place = classes.index(annotation.name)
        if place is None:
            losses.add("unknown_class", sample.file_name)
            continue

        if task == "detect":
            columns = _box_columns(annotation, sample, losses)
        elif task == "segment":
            columns = _polygon_columns(annotation, sample, losses)
        else:
            columns = _turned_columns(annotation, sample, losses)
        if columns:
            lines.append(f"{place} {columns}")

    return lines


def _box_columns(annotation: Annotation, sample: Sample, losses: Losses) -> str:
    """`cx cy w h`, or "" if nothing is left of the box."""
    clipped = geometry.clip_annotation(annotation, sample.width, sample.height)
    columns = _shares_of_box(clipped, sample)
    if not columns:
        losses.add(_why_nothing(annotation, sample), sample.file_name)
    elif annotation.kind == "polygon":
        losses.add("outline", sample.file_name)
    elif annotation.oriented is not None:
        losses.add("rotation", sample.file_name)
    return columns


def _shares_of_box(box: geometry.Corners | None, sample: Sample) -> str:
    """`cx cy w h` of a box within the image; "" if it has no area once it is rounded."""
    if box is None:
        return ""

    left, top, right, bottom = box
    wide = f"{(right - left) / sample.width:.6f}"
    high = f"{(bottom - top) / sample.height:.6f}"
    if _ZERO in (wide, high):
        return ""

    across = (left + right) / 2 / sample.width
    down = (top + bottom) / 2 / sample.height
    return f"{across:.6f} {down:.6f} {wide} {high}"


def _why_nothing(annotation: Annotation, sample: Sample) -> str:
    """The reason, if nothing is left of a label."""
    if geometry.is_outside(annotation, sample.width, sample.height):
        return "outside"
    return "degenerate"


def _polygon_columns(annotation: Annotation, sample: Sample, losses: Losses) -> str:
    """`x1 y1 x2 y2 ...`, or "" if nothing is left of the polygon."""
    ring = geometry.clip_outline(annotation, sample.width, sample.height)
    columns = _shares_of_ring(ring, sample)
    if not columns:
        losses.add(_why_nothing(annotation, sample), sample.file_name)
    elif len(annotation.rings) > 1:
        losses.add("hole", sample.file_name)
    return columns


def _shares_of_ring(ring: Sequence[Point], sample: Sample) -> str:
    """`x1 y1 x2 y2 ...` of a polygon within the image; "" if it has no area."""
    if not ring:
        return ""

    width = sample.width
    height = sample.height
    left, top, right, bottom = geometry.extent(ring)
    if (right - left) / width < _STEP or (bottom - top) / height < _STEP:
        return ""

    if geometry.area(ring) == 0:
        return ""

    # One format for all numbers: half the time of one for each.
    shares = [share for x, y in ring for share in (x / width, y / height)]
    return " ".join(["%.6f"] * len(shares)) % tuple(shares)


def _turned_columns(annotation: Annotation, sample: Sample, losses: Losses) -> str:
    """The four corners of a box that may be turned; of a polygon, those of the smallest one."""
    ring = geometry.clip_outline(annotation, sample.width, sample.height)
    if ring and annotation.kind == "polygon":
        ring = geometry.turned_box(ring)
    elif ring:
        ring = geometry.outline(annotation)

    # Four corners are the format, so each one is moved into the image by itself.
    width = float(sample.width)
    height = float(sample.height)
    corners = [(min(max(x, 0.0), width), min(max(y, 0.0), height)) for x, y in ring]
    columns = _shares_of_ring(corners, sample)
    if not columns:
        losses.add(_why_nothing(annotation, sample), sample.file_name)
    elif annotation.kind == "polygon":
        losses.add("outline", sample.file_name)
    return columns


def _pose_lines(sample: Sample, classes: Classes, losses: Losses) -> list[str]:
    """`class cx cy w h`, then `x y v` for each joint of the largest skeleton."""
    for annotation in sample.annotations:
        if annotation.kind == "polyline":
            losses.add("polyline", sample.file_name)
        elif annotation.kind != "keypoint":
            losses.add("no_keypoints", sample.file_name)

    found, alone = poses.grouped(sample, classes, losses)
    losses.add("no_skeleton", sample.file_name, len(alone))
    joints = classes.joints_max
    lines = []

    for pose in found:
        columns = [str(classes.pose_index(pose.name)), _shares_of_box(pose.box, sample)]
        for slot in pose.slots:
            columns.append(_joint(slot, sample))
        columns.extend(["0 0 0"] * (joints - len(pose.slots)))
        lines.append(" ".join(columns))

    return lines


def _joint(slot: Annotation | None, sample: Sample) -> str:
    if slot is None:
        return "0 0 0"
    x, y = slot.point
    visible = 1 if slot.occluded else 2
    return f"{x / sample.width:.6f} {y / sample.height:.6f} {visible}"


def _pose_settings(classes: Classes) -> list[str]:
    """`kpt_shape`, and `flip_idx` if the names of the joints tell which ones mirror each other.

    Without `flip_idx` ultralytics does not mirror images. With a wrong one it would teach that a
    left hand is a right one.
    """
    joints = classes.joints_max
    lines = [f"kpt_shape: [{joints}, 3]"]

    orders = {_mirrored(each.nodes, joints) for each in classes.skeletons.values()}
    order = orders.pop() if len(orders) == 1 else None
    if order is None:
        lines.append("# No flip_idx: the joints' names don't tell which ones mirror each other.")
    else:
        lines.append(f"flip_idx: [{', '.join(map(str, order))}]")
    return lines


def _mirrored(nodes: Sequence[str], joints: int) -> tuple[int, ...] | None:
    """For each joint the place of its mirror image; None if a name has no partner, or none has."""
    order = list(range(joints))
    found = False
    for place, node in enumerate(nodes):
        other = _other_side(node)
        if other is None:
            continue
        if other not in nodes:
            return None
        order[place] = nodes.index(other)
        found = True

    is_mirror = all(order[order[place]] == place for place in range(joints))
    return tuple(order) if found and is_mirror else None


def _other_side(node: str) -> str | None:
    """`left_eye` for `right_eye`, `ear-L` for `ear-R`; None if the name says no side."""
    words = _words(node)
    for place, word in enumerate(words):
        for left, right in _SIDES:
            other = {left: right, right: left}.get(word.lower())
            if other is None:
                continue
            if word.isupper():
                other = other.upper()
            elif word[0].isupper():
                other = other.capitalize()
            return "".join([*words[:place], other, *words[place + 1 :]])
    return None


def _words(node: str) -> list[str]:
    """The name, cut where letters end or begin."""
    words: list[str] = []
    for char in node:
        if words and words[-1][-1].isalpha() and char.isalpha():
            words[-1] += char
        else:
            words.append(char)
    return words
