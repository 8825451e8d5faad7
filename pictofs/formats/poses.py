"""Keypoints, grouped into objects by the platform's rule (API.md 9.3).

A joint is a class of its own, and `instance` says which object of the image it belongs to. The
object's class is the one whose skeleton has most of its joints.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pictofs.formats.classes import Classes
from pictofs.formats.geometry import Corners, clip_corners, extent
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Annotation, Sample

BOX_SIDE_SHARE = 0.05
"""A pose's box has sides of at least this share of the image's shorter side, as in the platform's
exports: a box of a single joint has no size, and a detector can't be taught one of a pixel."""
SLOTS_MAX = 1_000_000
"""Joints of all poses of one image, those that are not labelled included: 6 MB of a label file."""
_BOX_SIDE_MIN = 1.0
"""Pixels."""


class Pose(msgspec.Struct, frozen=True):
    """One object: its class, and its joints in the skeleton's order."""

    name: str
    slots: tuple[Annotation | None, ...]
    """None where a joint is not labelled or lies outside the image."""
    first: Annotation
    """Its first joint in that order: its id and its attributes are the object's."""
    box: Corners
    """Around the joints, not smaller than BOX_SIDE_SHARE, cut to the image."""


def grouped(
    sample: Sample, classes: Classes, losses: Losses
) -> tuple[list[Pose], list[Annotation]]:
    """The sample's objects, and the keypoints that belong to none, in a stable order.

    Joints outside the image, and a second joint of one name in one instance, are counted.
    """
    instances: dict[int, list[Annotation]] = {}
    singles: list[list[Annotation]] = []
    outside = 0

    for annotation in sample.annotations:
        if annotation.kind != "keypoint":
            continue
        x, y = annotation.point
        if not (0 <= x <= sample.width and 0 <= y <= sample.height):
            outside += 1
        elif annotation.instance is None:
            singles.append([annotation])
        else:
            instances.setdefault(annotation.instance, []).append(annotation)

    losses.add("outside", sample.file_name, outside)
    poses: list[Pose] = []
    loose: list[Annotation] = []
    poses_max = SLOTS_MAX // max(classes.joints_max, 1)
    for points in [instances[key] for key in sorted(instances)] + singles:
        name = classes.match(point.name for point in points)
        if name is None:
            loose.extend(points)
            continue
        if len(poses) == poses_max:
            losses.add("too_many", sample.file_name)
            continue
        pose, spilled = _pose(name, points, sample, classes)
        poses.append(pose)
        loose.extend(spilled)

    # A joint has no class of its own, so there is nothing that it could be written as.
    alone = [point for point in loose if point.name not in classes.joints]
    losses.add("unplaced_keypoint", sample.file_name, len(loose) - len(alone))
    return poses, alone


def _pose(
    name: str, points: Sequence[Annotation], sample: Sample, classes: Classes
) -> tuple[Pose, list[Annotation]]:
    """The object, and the points that found no place in it. The first point of a name wins."""
    places = classes.slots(name)
    slots: list[Annotation | None] = [None] * len(classes.skeletons[name].nodes)
    spilled = []

    for point in points:
        place = places.get(point.name)
        if place is None or slots[place] is not None:
            spilled.append(point)
            continue
        slots[place] = point

    placed = [slot for slot in slots if slot is not None]
    box = points_box(placed, sample)
    return Pose(name, tuple(slots), placed[0], box), spilled


def points_box(points: Sequence[Annotation], sample: Sample) -> Corners:
    """The box around points that lie within the image, by BOX_SIDE_SHARE, cut to the image."""
    left, top, right, bottom = extent([point.point for point in points])
    side = max(_BOX_SIDE_MIN, BOX_SIDE_SHARE * min(sample.width, sample.height))

    if right - left < side:
        left -= (side - (right - left)) / 2
        right = left + side
    if bottom - top < side:
        top -= (side - (bottom - top)) / 2
        bottom = top + side

    box = clip_corners((left, top, right, bottom), sample.width, sample.height)
    assert box is not None, "a box around points of the image lies in it"
    return box
