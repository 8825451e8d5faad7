"""COCO: pycocotools and supervision read the same boxes, masks and keypoints."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from making import (
    CLASSES,
    box,
    coco_file,
    keypoint,
    polygon,
    polyline,
    sample,
    scene,
    write_coco,
)
from pycocotools import mask as masks
from pycocotools.coco import COCO

from pictofs.formats import coco, poses, runs
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample

DECLARED = Classes(CLASSES)
OUTER = [(100.0, 100.0), (300.0, 120.0), (280.0, 300.0), (90.0, 280.0)]
HOLE = [(150.0, 150.0), (220.0, 160.0), (200.0, 230.0)]


def rows(one: Sample, losses: Losses | None = None) -> list[dict[str, Any]]:
    found = coco.annotation_rows(one, DECLARED, coco.Ids(), losses or Losses())
    return [json.loads(row) for row in found]


def loaded(path: Path) -> COCO:
    return COCO(str(path))


def test_categories_count_from_1_in_the_order_of_the_classes() -> None:
    content = json.loads(coco_file([sample()], DECLARED, Losses()))
    assert [(each["id"], each["name"]) for each in content["categories"]] == [
        (1, "car"),
        (2, "lake"),
        (3, "person"),
        (4, "corner"),
    ]
    assert content["categories"][2]["keypoints"] == ["nose", "left_eye", "right_eye"]
    assert content["categories"][2]["skeleton"] == [[1, 2], [1, 3]]
    assert all(each["supercategory"] not in ("", "none") for each in content["categories"])


def test_an_image_without_annotations_stays() -> None:
    content = json.loads(coco_file([sample(key=7, file_name="d/é.jpg")], DECLARED, Losses()))
    assert content["images"] == [{"id": 7, "file_name": "d/é.jpg", "width": 640, "height": 480}]
    assert content["annotations"] == []


def test_a_box_keeps_its_numbers() -> None:
    (row,) = rows(sample(box("car", 10.1, 20.2, 30.3, 40.4)))
    assert row["bbox"] == [10.1, 20.2, 30.3, 40.4]
    assert row["category_id"] == 1
    assert row["iscrowd"] == 0
    assert row["area"] == pytest.approx(30.3 * 40.4)


def test_a_label_is_cut_to_the_image() -> None:
    cut, poly = rows(
        sample(box("car", -10, 470, 30, 40), polygon("lake", [(600, 400), (700, 400), (600, 500)]))
    )
    assert cut["bbox"] == [0, 470, 20, 10]
    assert cut["area"] == 200
    assert poly["bbox"] == [600, 400, 40, 80]
    # The triangle without the two corners that are outside.
    assert poly["area"] == pytest.approx(5000 - 1800 - 200)


def test_what_can_not_be_written_is_counted() -> None:
    losses = Losses()
    one = sample(
        box("car", -50, 0, 20, 20),
        polygon("lake", [(1, 1), (5, 5), (9, 9)]),
        polyline("lane", (0, 0), (5, 5)),
        box("unheard of", 1, 1, 5, 5),
        {"type": "nothing"},
        keypoint("nose", 999, 999, 1),
    )
    assert rows(one, losses) == []
    assert losses.counts == {
        "malformed": 1,
        "outside": 2,
        "degenerate": 1,
        "polyline": 1,
        "unknown_class": 1,
    }


def test_joints_of_an_instance_are_one_annotation() -> None:
    found = rows(
        sample(
            keypoint("left_eye", 110, 100, 1, attributes={"occluded": "true"}),
            keypoint("nose", 100, 130, 1),
            keypoint("nose", 300, 200, 2),
            keypoint("corner", 50, 60, attributes={"kind": "bent"}),
        )
    )
    first, second, corner = found
    assert first["keypoints"] == [100, 130, 2, 110, 100, 1, 0, 0, 0]
    assert first["num_keypoints"] == 2
    assert first["category_id"] == second["category_id"] == 3
    # 5 % of the shorter side where the joints are nearer to each other.
    assert first["bbox"] == [93, 100, 24, 30]
    assert second["num_keypoints"] == 1
    assert corner["category_id"] == 4
    assert corner["keypoints"] == [50, 60, 2]
    assert corner["attributes"] == {"kind": "bent"}


def test_a_box_of_a_class_with_a_skeleton_has_joints_that_are_not_labelled() -> None:
    (row,) = rows(sample(box("person", 1, 1, 9, 9)))
    assert row["keypoints"] == [0] * 9
    assert row["num_keypoints"] == 0


def test_a_hole_is_a_hole(tmp_path: Path) -> None:
    one = sample(polygon("lake", OUTER, HOLE))
    read = loaded(write_coco(tmp_path, [one]))
    (annotation,) = read.loadAnns(read.getAnnIds())
    mask = read.annToMask(annotation).astype(bool)

    outer = _painted(OUTER, one).astype(bool)
    hole = _painted(HOLE, one).astype(bool)
    assert not mask[180, 190]
    assert mask[120, 120]
    assert not ((mask != (outer & ~hole)) & ~_near([OUTER, HOLE], one)).any()
    assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("seed", range(12))
def test_holes_are_what_pycocotools_leaves_of_the_outer_ring(seed: int) -> None:
    one = sample(width=90, height=70)
    chance = random.Random(seed)
    outer = _star(chance, 20, 55)
    hole = _star(chance, 4, 12)

    counts = runs.encode([outer, hole], one.width, one.height)
    mask = masks.decode(masks.frPyObjects({"size": [70, 90], "counts": counts}, 70, 90)) != 0
    expected = (_painted(outer, one) != 0) & (_painted(hole, one) == 0)
    assert expected.any()
    assert not ((mask != expected) & ~_near([outer, hole], one)).any()


def _star(chance: random.Random, low: float, high: float) -> list[tuple[float, float]]:
    """A ring around (45, 35) whose corners have distances between `low` and `high`."""
    corners = chance.randint(3, 12)
    ring = []
    for place in range(corners):
        angle = 2 * math.pi * place / corners
        far = chance.uniform(low, high)
        ring.append((45 + far * math.cos(angle), 35 + far * math.sin(angle)))
    return ring


def _painted(ring: list[tuple[float, float]], one: Sample) -> np.ndarray[Any, Any]:
    flat = [each for point in ring for each in point]
    codes = masks.frPyObjects([flat], one.height, one.width)
    painted: np.ndarray[Any, Any] = masks.decode(masks.merge(codes))
    return painted


def _near(rings: list[list[tuple[float, float]]], one: Sample) -> np.ndarray[Any, Any]:
    """The pixels whose centre is within 1.5 pixels of a ring."""
    ys, xs = np.mgrid[0 : one.height, 0 : one.width] + 0.5
    near = np.zeros(xs.shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            dx, dy = x1 - x0, y1 - y0
            share = ((xs - x0) * dx + (ys - y0) * dy) / max(dx * dx + dy * dy, 1e-12)
            share = np.clip(share, 0, 1)
            near |= np.hypot(xs - x0 - share * dx, ys - y0 - share * dy) <= 1.5
    return near


PLACES = st.floats(-20, 70)
RINGS = st.lists(st.tuples(PLACES, PLACES), min_size=3, max_size=8)


@given(RINGS)
def test_a_run_length_code_has_the_centres_inside_by_the_even_odd_rule(
    ring: list[tuple[float, float]],
) -> None:
    one = sample(width=50, height=40)
    counts = runs.encode([ring], one.width, one.height)
    assert sum(counts) == one.width * one.height
    mask = masks.decode(masks.frPyObjects({"size": [40, 50], "counts": counts}, 40, 50))
    inside = _even_odd(ring, one)
    assert ((mask != 0) == inside)[~_near([ring], one)].all()


def _even_odd(ring: list[tuple[float, float]], one: Sample) -> np.ndarray[Any, Any]:
    """The centres that a ray to the left leaves through an odd number of edges."""
    ys, xs = np.mgrid[0 : one.height, 0 : one.width] + 0.5
    inside = np.zeros(xs.shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if y0 != y1:
            crossing = x0 + (ys - y0) * (x1 - x0) / (y1 - y0)
            inside ^= ((y0 > ys) != (y1 > ys)) & (crossing < xs)
    return inside


def test_a_polygon_that_would_take_too_long_loses_its_holes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "STEPS_MAX", 100)
    losses = Losses()
    (row,) = rows(sample(polygon("lake", OUTER, HOLE)), losses)
    assert row["segmentation"] == [[each for point in OUTER for each in point]]
    assert losses.counts == {"hole": 1}


def test_the_steps_are_bounded_for_an_image_and_not_for_a_polygon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "STEPS_MAX", 1000)
    losses = Losses()
    rows(sample(polygon("lake", OUTER, HOLE), polygon("lake", OUTER, HOLE)), losses)
    assert losses.counts == {"hole": 1}


def test_poses_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poses, "SLOTS_MAX", 7)
    losses = Losses()
    points = [keypoint("nose", 5 + place, 5, place + 1) for place in range(4)]
    assert len(rows(sample(*points), losses)) == 2
    assert losses.counts == {"too_many": 2}


def test_ids_do_not_depend_on_what_else_there_is() -> None:
    samples = [scene(place) for place in range(40)]

    def ids(chosen: list[Sample]) -> dict[int, list[int]]:
        content = json.loads(coco_file(chosen, DECLARED, Losses()))
        found: dict[int, list[int]] = {}
        for row in content["annotations"]:
            found.setdefault(row["image_id"], []).append(row["id"])
        return found

    everything = ids(samples)
    some = ids(samples[::3])
    assert some == {key: everything[key] for key in some}

    fewer = sample(*[box("car", x, 1, 9, 9) for x in (1, 20)], key=99)
    more = sample(*[box("car", x, 1, 9, 9) for x in (1, 9, 20)], key=99)
    assert set(ids([fewer])[99]) < set(ids([more])[99])


@pytest.mark.parametrize("step", [1, 2**14, 2**37 + 1])
def test_ids_are_unique_and_fit_into_53_bits(step: int) -> None:
    ids = coco.Ids()
    keys = [(1 + place * step) % 2**51 for place in range(5000)]
    found = {ids.block(key) + index for key in keys for index in (1, 65_535)}
    assert len(found) == 2 * len(keys)
    assert min(found) > 0
    assert max(found) <= 2**53


def test_images_whose_blocks_fall_together_have_different_ids() -> None:
    # Keys that differ in the last bit once they are spread: they share a block.
    back = pow(coco._MIX, -1, 2**51)
    first = 5 * 2**20 * back % 2**51
    second = (5 * 2**20 + 1) * back % 2**51
    assert coco.Ids().block(first) == coco.Ids().block(second)

    ids = coco.Ids()
    assert ids.block(second) - ids.block(first) == -(2**16)


def test_annotations_with_one_identity_have_different_ids() -> None:
    same = {**box("car", 1, 1, 9, 9), "id": "same"}
    found = rows(sample(same, same, same))
    assert len({row["id"] for row in found}) == 3


def test_pycocotools_and_supervision_read_the_same(tmp_path: Path) -> None:
    samples = [scene(place) for place in range(16)]
    samples.append(sample(polygon("lake", OUTER, HOLE), key=500, file_name="cam0/hole.jpg"))
    path = write_coco(tmp_path, samples)

    read = loaded(path)
    for one in samples:
        found = read.loadAnns(read.getAnnIds(imgIds=[one.key]))
        assert len(found) == len(one.annotations)
        for each, row in zip(one.annotations, found, strict=True):
            left, top, right, bottom = each.bounds
            assert row["bbox"] == pytest.approx([left, top, right - left, bottom - top])
            # What pycocotools paints has the area that is written, but for the boundary.
            edge = 4 * (right - left + bottom - top)
            assert abs(int(read.annToMask(row).sum()) - row["area"]) <= edge

    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path / "images/train"), str(path), force_masks=True
    )
    assert dataset.classes == ["car", "lake", "person", "corner"]
    by_name = {Path(each.file_name).name: each for each in samples}
    for image, _, detections in dataset:
        one = by_name[Path(image).name]
        expected = np.reshape([each.bounds for each in one.annotations], (-1, 4))
        assert np.allclose(detections.xyxy, expected, atol=0.01)
