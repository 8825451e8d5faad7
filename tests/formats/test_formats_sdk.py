"""The vendor's SDK writes the same where both agree, and differs as docs/semantics.md says."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest
from making import CLASSES, box, coco_file, keypoint, polygon, sample
from pictograph.formats import from_coco, from_pascal_voc, to_coco, to_pascal_voc, to_yolo
from pictograph.models.annotation import Annotation
from pydantic import TypeAdapter

from pictofs.formats import coco, voc, yolo
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses

DECLARED = Classes(CLASSES)
SDK = TypeAdapter(list[Annotation])
TEMPLATES = {
    each["name"]: each["skeleton"] for each in CLASSES if isinstance(each.get("skeleton"), dict)
}

RING = [(100.0, 100.0), (300.5, 120.25), (280.0, 300.0)]
HOLE = [(150.0, 150.0), (220.0, 160.0), (200.0, 230.0)]
TURNED = {"cx": 320.0, "cy": 240.0, "w": 200.0, "h": 100.0, "angle": 90.0}
AGREED = [
    box("car", 10.1, 20.2, 30.3, 40.4),
    box("car", 600.0, 400.0, 40.0, 80.0, attributes={"seats": "4"}),
    polygon("lake", RING),
]
POSES = [
    keypoint("left_eye", 110, 100, 2, attributes={"occluded": "true", "worn": "yes"}),
    keypoint("nose", 100, 130, 2),
    keypoint("nose", 300, 200, 1),
    keypoint("right_eye", 200, 300),
    keypoint("corner", 50, 60),
]


def ours_coco(*annotations: dict[str, Any]) -> list[dict[str, Any]]:
    return _named(json.loads(coco_file([sample(*annotations)], DECLARED, Losses())))


def sdks_coco(*annotations: dict[str, Any]) -> list[dict[str, Any]]:
    return _named(
        to_coco(
            {"a.jpg": SDK.validate_python(list(annotations))},
            image_sizes={"a.jpg": (640, 480)},
            keypoint_templates=TEMPLATES,
        )
    )


def _named(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations, with the name of the category in place of ids, which differ."""
    categories = {each["id"]: each for each in content["categories"]}
    found = []
    for each in content["annotations"]:
        category = categories[each.pop("category_id")]
        del each["id"], each["image_id"]
        found.append({**each, "category": category["name"]})
    return found


def without(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != key} for row in rows]


def test_coco_boxes_and_polygons_are_equal() -> None:
    ours = ours_coco(*AGREED)
    sdks = sdks_coco(*AGREED)
    # The SDK writes no segmentation of a box.
    assert ours[2]["segmentation"] == sdks[2]["segmentation"]
    for mine, its in zip(without(ours, "segmentation"), without(sdks, "segmentation"), strict=True):
        assert mine.pop("area") == pytest.approx(its.pop("area"))
        assert mine == its


def test_coco_poses_are_equal() -> None:
    ours = ours_coco(*POSES)
    sdks = sdks_coco(*POSES)
    assert len(ours) == 4
    for mine, its in zip(without(ours, "segmentation"), without(sdks, "segmentation"), strict=True):
        assert mine.pop("bbox") == pytest.approx(its.pop("bbox"))
        assert mine.pop("area") == pytest.approx(its.pop("area"))
        assert mine == its


def test_coco_goes_back_through_the_sdk() -> None:
    content = json.loads(coco_file([sample(*AGREED, *POSES)], DECLARED, Losses()))
    read = from_coco(content)
    assert read.class_names[:2] == ["car", "lake"]
    found = read.annotations["a.jpg"]
    kinds = [each.type for each in found]
    # Boxes come back as polygons of their corners.
    assert kinds == ["polygon"] * 3 + ["keypoint"] * 5
    assert found[0].bounding_box.model_dump() == pytest.approx(
        {"x": 10.1, "y": 20.2, "w": 30.3, "h": 40.4}
    )


def test_coco_differs_in_holes_ids_and_turned_boxes() -> None:
    (mine,) = ours_coco(polygon("lake", RING, HOLE))
    (its,) = sdks_coco(polygon("lake", RING, HOLE))
    assert set(mine["segmentation"]) == {"size", "counts"}
    assert len(its["segmentation"]) == 2
    assert mine["area"] < its["area"]

    turned = box("car", 270, 140, 100, 200, oriented_box=TURNED)
    assert len(ours_coco(turned)[0]["segmentation"][0]) == 8
    assert "segmentation" not in sdks_coco(turned)[0]


def test_coco_differs_outside_the_image() -> None:
    outside = box("car", -30, 10, 20, 20)
    partly = box("car", -10, 10, 20, 20)
    assert [each["bbox"] for each in ours_coco(outside, partly)] == [[0, 10, 10, 20]]
    assert len(sdks_coco(outside, partly)) == 2


def test_coco_differs_in_a_joint_that_has_no_place() -> None:
    twice = [keypoint("nose", 5, 5, 1), keypoint("nose", 99, 99, 1)]
    losses = Losses()
    rows = coco.annotation_rows(sample(*twice), DECLARED, coco.Ids(), losses)
    assert len(rows) == 1
    assert losses.counts == {"unplaced_keypoint": 1}
    assert [each["category"] for each in sdks_coco(*twice)] == ["person", "nose"]


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_yolo_lines_are_equal(task: yolo.Task) -> None:
    drawn = AGREED if task == "detect" else AGREED[2:]
    ours = yolo.label(sample(*drawn), DECLARED, task, Losses())
    sdks = to_yolo(
        SDK.validate_python(drawn), DECLARED.names, 640, 480, segmentation=task == "segment"
    )
    assert ours == sdks + "\n"


def test_yolo_differs_in_mixed_images_and_outside() -> None:
    mixed = [AGREED[0], AGREED[2]]
    sdks = to_yolo(SDK.validate_python(mixed), DECLARED.names, 640, 480, segmentation=True)
    assert [len(line.split()) for line in sdks.splitlines()] == [5, 7]
    ours = yolo.label(sample(*mixed), DECLARED, "segment", Losses())
    assert [len(line.split()) for line in ours.splitlines()] == [9, 7]

    large = [box("car", -10, 0, 2000, 480)]
    sdks = to_yolo(SDK.validate_python(large), DECLARED.names, 640, 480)
    assert float(sdks.split()[3]) > 1
    assert yolo.label(sample(*large), DECLARED, "detect", Losses()) == (
        "0 0.500000 0.500000 1.000000 1.000000\n"
    )


def test_voc_boxes_are_equal() -> None:
    ours = voc.document(sample(*AGREED), Losses())
    sdks = to_pascal_voc(
        SDK.validate_python(AGREED), filename="a.jpg", image_width=640, image_height=480
    )
    assert _objects(ours) == _objects(sdks)
    assert "<folder>" in ours
    assert "<directory" in sdks
    assert len(from_pascal_voc(ours)) == 3


def _objects(text: str) -> list[list[tuple[str, str]]]:
    return [
        [(leaf.tag, leaf.text or "") for leaf in each.iter() if not len(leaf)]
        for each in ElementTree.fromstring(text).iter("object")
    ]


def test_voc_differs_in_boxes_thinner_than_a_pixel() -> None:
    thin = [box("car", 10.1, 10, 0.2, 5)]
    ours = voc.document(sample(*thin), Losses())
    sdks = to_pascal_voc(
        SDK.validate_python(thin), filename="a.jpg", image_width=640, image_height=480
    )
    assert ("xmax", "11") in _objects(ours)[0]
    assert ("xmax", "10") in _objects(sdks)[0]
    assert from_pascal_voc(sdks) == []
