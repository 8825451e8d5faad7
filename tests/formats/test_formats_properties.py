"""Whatever an annotation file holds, every format can be written and lies within the image."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from making import CLASSES, classes_of, file_of

from pictofs.formats import coco, huggingface, voc, yolo
from pictofs.formats.classes import Classes
from pictofs.formats.losses import REASONS, Losses
from pictofs.formats.sample import Sample, decode

NUMBERS = st.one_of(
    st.floats(-50, 150),
    st.integers(-20, 120),
    st.sampled_from([0, 100, 80, 1e-9, 99.9999999, -1e6, 1e6, 1e300, 10**400]),
    st.floats(),
)
NAMES = st.sampled_from(
    ["car", "lake", "person", "nose", "left_eye", "corner", "new", "", "\ud800"]
)
POINTS = st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS})
SIZES = st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS, "w": NUMBERS, "h": NUMBERS})
TURNED = st.fixed_dictionaries(
    {"cx": NUMBERS, "cy": NUMBERS, "w": NUMBERS, "h": NUMBERS}, optional={"angle": NUMBERS}
)
RINGS = st.lists(POINTS, min_size=2, max_size=7)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "path", "paths"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ANNOTATIONS = st.one_of(
    st.fixed_dictionaries(
        {"name": NAMES, "type": st.just("bbox"), "bounding_box": SIZES},
        optional={"oriented_box": TURNED | JUNK, "id": st.text(max_size=3), "attributes": JUNK},
    ),
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "type": st.just("polygon"),
            "polygon": st.fixed_dictionaries({"paths": st.lists(RINGS, max_size=3)}),
        },
        optional={"bounding_box": SIZES | JUNK},
    ),
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "type": st.just("polyline"),
            "polyline": st.fixed_dictionaries({"path": RINGS}),
        }
    ),
    st.fixed_dictionaries(
        {"name": NAMES, "type": st.just("keypoint"), "keypoint": POINTS},
        optional={"instance_id": st.integers(-1, 3) | JUNK, "attributes": JUNK},
    ),
    st.dictionaries(
        st.sampled_from(["name", "type", "bounding_box", "polygon", "keypoint", "id"]),
        JUNK | NAMES,
        max_size=6,
    ),
    JUNK,
)
FILES = st.lists(ANNOTATIONS, max_size=8)
KEYS = st.integers(1, 2**51 - 1)
SIDES = st.integers(1, 120)


def _sample(annotations: list[Any], key: int, width: int, height: int) -> tuple[Sample, Classes]:
    decoded = decode(file_of(annotations))
    assert len(decoded.annotations) + decoded.malformed == len(annotations)
    one = Sample(key, "d/a.jpg", width, height, ("t",), decoded.annotations, decoded.malformed)
    return one, classes_of([one])


def _accounted(one: Sample, losses: Losses) -> None:
    """No label is neither written nor counted."""
    assert losses.images == 1
    assert losses.counts.keys() <= REASONS.keys()
    assert losses.counts.get("malformed", 0) == one.malformed


@given(FILES, SIDES, SIDES)
def test_yolo_lines_are_shares_of_the_image(
    annotations: list[Any], width: int, height: int
) -> None:
    one, classes = _sample(annotations, 1, width, height)
    shapes = sum(each.kind in ("bbox", "polygon") for each in one.annotations)

    for task in ("detect", "segment", "obb", "pose"):
        losses = Losses()
        lines = yolo.label(one, classes, task, losses).splitlines()
        _accounted(one, losses)
        assert len(lines) == losses.labels == len(set(lines))
        for line in lines:
            place, *shares = line.split()
            assert 0 <= int(place) < len(classes.pose_names if task == "pose" else classes.names)
            if task == "pose":
                assert len(shares) == 4 + 3 * 3
                assert all(each in "012" for each in shares[6::3])
                shares = [each for n, each in enumerate(shares) if n < 4 or n % 3 != 0]
            assert len(shares) == {"detect": 4, "obb": 8}.get(task, len(shares))
            assert len(shares) % 2 == 0
            assert all(0 <= float(share) <= 1 for share in shares)
            if task == "detect":
                assert float(shares[2]) > 0
                assert float(shares[3]) > 0

        if task != "pose":
            gone = ("outside", "degenerate", "unknown_class", "duplicate")
            assert len(lines) + sum(losses.counts.get(each, 0) for each in gone) == shapes


@given(FILES, KEYS, SIDES, SIDES)
def test_coco_rows_lie_within_the_image(
    annotations: list[Any], key: int, width: int, height: int
) -> None:
    one, classes = _sample(annotations, key, width, height)
    losses = Losses()
    rows = [json.loads(row) for row in coco.annotation_rows(one, classes, coco.Ids(), losses)]
    _accounted(one, losses)

    assert len({row["id"] for row in rows}) == len(rows) == losses.labels
    for row in rows:
        assert 0 < row["id"] <= 2**53
        assert row["image_id"] == key
        assert 1 <= row["category_id"] <= len(classes.names)
        assert row["area"] > 0
        x, y, w, h = row["bbox"]
        assert 0 <= x < width
        assert 0 <= y < height
        assert 0 < w <= width - x + 1e-9
        assert 0 < h <= height - y + 1e-9
        if isinstance(row["segmentation"], dict):
            assert sum(row["segmentation"]["counts"]) == width * height
        else:
            for ring in row["segmentation"]:
                assert len(ring) >= 6
                assert all(0 <= each <= width for each in ring[::2])
                assert all(0 <= each <= height for each in ring[1::2])
        assert all(0 <= each <= width for each in row.get("keypoints", [])[::3])
        assert all(0 <= each <= height for each in row.get("keypoints", [])[1::3])

    again = coco.annotation_rows(one, classes, coco.Ids(), Losses())
    assert [json.loads(row) for row in again] == rows


@given(FILES, KEYS, SIDES, SIDES)
def test_voc_boxes_are_whole_pixels_of_the_image(
    annotations: list[Any], key: int, width: int, height: int
) -> None:
    one, _ = _sample(annotations, key, width, height)
    losses = Losses()
    root = ElementTree.fromstring(voc.document(one, losses).encode())
    _accounted(one, losses)
    boxes = root.findall("object/bndbox")
    assert len(boxes) == losses.labels
    for box in boxes:
        left, top, right, bottom = [int(edge.text or "") for edge in box]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@given(FILES, KEYS, SIDES, SIDES)
def test_rows_for_datasets_lie_within_the_image(
    annotations: list[Any], key: int, width: int, height: int
) -> None:
    one, classes = _sample(annotations, key, width, height)
    losses = Losses()
    objects = json.loads(huggingface.row(one, classes, coco.Ids(), losses))["objects"]
    _accounted(one, losses)
    assert {len(each) for each in objects.values()} == {losses.labels}
    for x, y, w, h in objects["bbox"]:
        assert 0 <= x < x + w <= width + 1e-9
        assert 0 <= y < y + h <= height + 1e-9


@given(st.lists(KEYS, unique=True, max_size=60))
def test_blocks_of_ids_are_never_shared(keys: list[int]) -> None:
    ids = coco.Ids()
    assert len({ids.block(key) for key in keys}) == len(keys)


@given(st.binary(max_size=60))
def test_classes_in_any_order_are_the_same_list(data: bytes) -> None:
    extra = [f"c{each}" for each in data]
    assert Classes(CLASSES, extra).names == Classes(CLASSES, reversed(extra)).names
