"""Annotation files: what makes no sense costs itself, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from making import box, file_of, keypoint, polygon, polyline

from pictofs.errors import InvalidResponse
from pictofs.formats.sample import ANNOTATIONS_MAX, Box, OrientedBox, decode

GOOD = box("car", 1, 2, 3, 4)


@pytest.mark.parametrize(
    "data",
    [
        file_of([GOOD]),
        json.dumps([GOOD]).encode(),
        json.dumps(
            {"success": True, "image_id": "i", "filename": "a.jpg", "annotations": [GOOD]}
        ).encode(),
    ],
    ids=["file", "array", "answer"],
)
def test_each_shape_of_a_file_is_read(data: bytes) -> None:
    decoded = decode(data)
    assert [each.name for each in decoded.annotations] == ["car"]
    assert decoded.annotations[0].box == Box(1, 2, 3, 4)
    assert decoded.malformed == 0


def test_all_kinds_are_read_with_their_geometry() -> None:
    turned = {"cx": 5.0, "cy": 6.0, "w": 4.0, "h": 2.0, "angle": 30.0}
    ring = [(0.0, 0.0), (9.0, 0.0), (9.0, 9.0)]
    hole = [(6.0, 2.0), (8.0, 2.0), (8.0, 5.0)]
    decoded = decode(
        file_of(
            [
                box("ship", 1, 2, 8, 9, oriented_box=turned, confidence=0.5),
                polygon("lake", ring, hole),
                polyline("lane", (1, 1), (5, 5)),
                keypoint("nose", 3, 4, 7, attributes={"occluded": "true", "worn": "yes"}),
                keypoint("corner", 1, 1, attributes=[]),
            ]
        )
    )
    ship, lake, lane, nose, corner = decoded.annotations

    assert ship.oriented == OrientedBox(5.0, 6.0, 4.0, 2.0, 30.0)
    assert ship.bounds == (1, 2, 9, 11)
    assert lake.rings == (tuple(ring), tuple(hole))
    assert lake.bounds == (0, 0, 9, 9)
    assert lane.kind == "polyline"
    assert (nose.point, nose.instance, nose.occluded) == ((3, 4), 7, True)
    assert nose.attributes == {"worn": "yes"}
    assert (corner.instance, corner.occluded) == (None, False)


MALFORMED: dict[str, Any] = {
    "no object": 7,
    "null": None,
    "no type": {**GOOD, "type": None},
    "an unknown type": {**GOOD, "type": "skeleton"},
    "a blank name": {**GOOD, "name": "  "},
    "no name": {**GOOD, "name": None},
    "a box without a width": {**GOOD, "bounding_box": {"x": 1, "y": 2, "h": 3}},
    "a box without a box": {**GOOD, "bounding_box": None},
    "a width of 0": box("car", 1, 2, 0, 4),
    "a negative height": box("car", 1, 2, 3, -4),
    "NaN": box("car", math.nan, 2, 3, 4),
    "infinity": box("car", 1, math.inf, 3, 4),
    "an absurd place": box("car", 1e9, 2, 3, 4),
    "a number too large for JSON's readers": box("car", 1, 2, 3, 4, confidence=1.0)
    | {"bounding_box": {"x": 10**400, "y": 2, "w": 3, "h": 4}},
    "a coordinate as text": {**GOOD, "bounding_box": {"x": "1", "y": 2, "w": 3, "h": 4}},
    "a turned box without a size": {
        **GOOD,
        "oriented_box": {"cx": 1, "cy": 1, "w": 0, "h": 1, "angle": 0},
    },
    "two points": polygon("lake", [(0, 0), (1, 1)]),
    "a hole of two points": polygon("lake", [(0, 0), (1, 0), (1, 1)], [(0, 0), (1, 1)]),
    "no rings": {"name": "lake", "type": "polygon", "polygon": {"paths": []}},
    "rings in rings": {"name": "lake", "type": "polygon", "polygon": {"paths": [[[[]]]]}},
    "NaN in a ring": polygon("lake", [(0, 0), (1, math.nan), (1, 1)]),
    "a line of one point": polyline("lane", (1, 1)),
    "NaN in a line": polyline("lane", (1, 1), (math.nan, 2)),
    "a keypoint without a place": {"name": "nose", "type": "keypoint", "keypoint": {}},
    "instance 0": keypoint("nose", 1, 1, 0),
    "an instance as text": {**keypoint("nose", 1, 1), "instance_id": "1"},
}


@pytest.mark.parametrize("nonsense", MALFORMED.values(), ids=MALFORMED)
def test_nonsense_is_left_out_and_counted(nonsense: Any) -> None:
    decoded = decode(file_of([GOOD, nonsense, GOOD]))
    assert [each.name for each in decoded.annotations] == ["car", "car"]
    assert decoded.malformed == 1


def test_keys_that_are_unknown_or_null_do_not_matter() -> None:
    more = {**GOOD, "colour": {"deep": [1, [2]]}, "oriented_box": None, "keypoint": None}
    for others in ([], [{"type": "none of ours"}]):
        decoded = decode(file_of([more, *others]))
        assert len(decoded.annotations) == 1
        assert decoded.malformed == len(others)


def test_an_identity_that_is_no_text_is_none() -> None:
    decoded = decode(file_of([{**GOOD, "id": 5}, {**GOOD, "id": ["a"]}]))
    assert [each.id for each in decoded.annotations] == ["", ""]


def test_a_name_with_half_a_character_can_be_written() -> None:
    decoded = decode(b'[{"name":"a\\ud800","type":"keypoint","keypoint":{"x":1,"y":2}}]')
    assert decoded.annotations[0].name.encode()


def test_attributes_that_are_plain_are_kept() -> None:
    given = {"make": "v", "seats": 4, "share": 0.5, "new": True, "owners": ["a"], "void": None}
    decoded = decode(file_of([box("car", 1, 2, 3, 4, attributes=given)]))
    assert decoded.annotations[0].attributes == {
        "make": "v",
        "seats": 4,
        "share": 0.5,
        "new": True,
    }


def test_more_annotations_than_can_be_numbered_are_counted() -> None:
    decoded = decode(file_of([GOOD] * (ANNOTATIONS_MAX + 3)))
    assert len(decoded.annotations) == ANNOTATIONS_MAX
    assert decoded.malformed == 3


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"{", b"7", b'{"a": 1}', b'{"annotations": 7}', b"\xff", b"[" * 9999]
)
def test_what_is_no_annotation_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidResponse):
        decode(data)
