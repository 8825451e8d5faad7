"""YOLO: what supervision reads of the files is what was drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import supervision
import yaml
from making import CLASSES, box, keypoint, polygon, polyline, sample, scene, write_yolo

from pictofs.formats import yolo
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses

SQUARE = [(64.0, 48.0), (320.0, 48.0), (320.0, 240.0), (64.0, 240.0)]
DECLARED = Classes(CLASSES)


def label(task: yolo.Task, *annotations: object) -> tuple[list[str], dict[str, int]]:
    """The lines of a label file, and what was left out."""
    losses = Losses()
    text = yolo.label(sample(*annotations), DECLARED, task, losses)  # type: ignore[arg-type]
    assert losses.labels == len(text.splitlines())
    return text.splitlines(), losses.counts


def test_a_box_is_its_centre_and_size() -> None:
    lines, counts = label("detect", box("car", 64, 48, 128, 96))
    assert lines == ["0 0.200000 0.200000 0.200000 0.200000"]
    assert counts == {}


def test_a_polygon_is_detected_by_its_box_and_that_is_said() -> None:
    lines, counts = label("detect", polygon("lake", SQUARE))
    assert lines == ["1 0.300000 0.300000 0.400000 0.400000"]
    assert counts == {"outline": 1}


def test_a_box_among_polygons_is_a_polygon_of_its_corners() -> None:
    lines, counts = label("segment", box("car", 64, 48, 64, 48), polygon("lake", SQUARE, SQUARE))
    assert lines == [
        "0 0.100000 0.100000 0.200000 0.100000 0.200000 0.200000 0.100000 0.200000",
        "1 0.100000 0.100000 0.500000 0.100000 0.500000 0.500000 0.100000 0.500000",
    ]
    assert counts == {"hole": 1}


def test_a_label_is_cut_to_the_image() -> None:
    lines, _ = label("detect", box("car", -64, -48, 128, 96), box("car", 576, 432, 999, 999))
    assert lines == [
        "0 0.050000 0.050000 0.100000 0.100000",
        "0 0.950000 0.950000 0.100000 0.100000",
    ]


def test_a_polygon_is_cut_and_not_bent() -> None:
    # Its corner is outside; moving that to the edge would change the two slopes.
    (line,), _ = label("segment", polygon("lake", [(320, 240), (960, 240), (320, 480)]))
    points = {tuple(line.split()[place : place + 2]) for place in range(1, 9, 2)}
    assert points == {
        ("0.500000", "0.500000"),
        ("1.000000", "0.500000"),
        ("1.000000", "0.750000"),
        ("0.500000", "1.000000"),
    }


@pytest.mark.parametrize("task", ["detect", "segment", "obb"])
def test_what_lies_outside_or_has_no_area_is_left_out_and_counted(task: yolo.Task) -> None:
    lines, counts = label(
        task,
        box("car", 640, 0, 10, 10),
        polygon("lake", [(-9, -9), (-1, -9), (-1, -1)]),
        polygon("lake", [(9, 9), (20, 9), (30, 9)]),
        box("car", 9, 9, 1e-5, 10),
        polyline("lane", (0, 0), (9, 9)),
        keypoint("nose", 5, 5, 1),
        box("unheard of", 1, 1, 9, 9),
    )
    assert lines == []
    assert counts == {
        "outside": 2,
        "degenerate": 2,
        "polyline": 1,
        "keypoint": 1,
        "unknown_class": 1,
    }


def test_a_label_that_comes_twice_is_written_once() -> None:
    lines, counts = label("detect", box("car", 1, 1, 9, 9), box("car", 1, 1, 9, 9))
    assert len(lines) == 1
    assert counts == {"duplicate": 1}


def test_an_image_without_labels_has_an_empty_file() -> None:
    losses = Losses()
    assert yolo.label(sample(), DECLARED, "detect", losses) == ""
    assert (losses.images, losses.labels) == (1, 0)


def test_a_turned_box_has_its_own_corners() -> None:
    turned = {"cx": 320.0, "cy": 240.0, "w": 200.0, "h": 100.0, "angle": 90.0}
    (line,), counts = label("obb", box("car", 270, 140, 100, 200, oriented_box=turned))
    corners = np.array(line.split()[1:], dtype=float).reshape(4, 2) * (640, 480)
    assert np.allclose(corners, [(370, 140), (370, 340), (270, 340), (270, 140)], atol=0.001)
    assert counts == {}


def test_a_box_that_is_not_turned_has_its_corners_too() -> None:
    lines, _ = label("obb", box("car", 64, 48, 64, 48))
    assert lines == ["0 0.100000 0.100000 0.200000 0.100000 0.200000 0.200000 0.100000 0.200000"]


def test_a_polygon_has_the_smallest_turned_box() -> None:
    diamond = [(320.0, 140.0), (420.0, 240.0), (320.0, 340.0), (220.0, 240.0)]
    (line,), counts = label("obb", polygon("lake", diamond))
    corners = np.array(line.split()[1:], dtype=float).reshape(4, 2) * (640, 480)
    assert sorted(map(tuple, corners.round().tolist())) == sorted(diamond)
    assert counts == {"outline": 1}


def test_a_pose_has_all_joints_of_the_skeleton_in_order() -> None:
    lines, counts = label(
        "pose",
        keypoint("left_eye", 320, 240, 2),
        keypoint("nose", 384, 288, 2, attributes={"occluded": "true"}),
        box("car", 1, 1, 9, 9),
        keypoint("corner", 5, 5),
        keypoint("right_eye", -5, 5, 2),
    )
    assert lines == [
        "0 0.550000 0.550000 0.100000 0.100000 0.600000 0.600000 1 0.500000 0.500000 2 0 0 0"
    ]
    assert counts == {"no_keypoints": 1, "no_skeleton": 1, "outside": 1}


def test_a_second_joint_of_one_instance_is_left_out_and_counted() -> None:
    lines, counts = label("pose", keypoint("nose", 5, 5, 1), keypoint("nose", 99, 99, 1))
    assert len(lines) == 1
    assert counts == {"unplaced_keypoint": 1}


def test_skeletons_of_different_size_have_lines_of_one_length() -> None:
    small = {"name": "pair", "type": "keypoint"}
    small["skeleton"] = {"nodes": [{"name": "a"}, {"name": "b"}]}  # type: ignore[assignment]
    classes = Classes([*CLASSES, small])
    text = yolo.label(
        sample(keypoint("nose", 9, 9, 1), keypoint("a", 9, 9, 2)), classes, "pose", Losses()
    )
    assert [len(line.split()) for line in text.splitlines()] == [5 + 9, 5 + 9]
    assert [line[0] for line in text.splitlines()] == ["0", "1"]
    assert yaml.safe_load(yolo.data_yaml(classes, "pose", ["train"]))["kpt_shape"] == [3, 3]


def test_data_yaml_names_the_classes_and_the_folders() -> None:
    data = yaml.safe_load(yolo.data_yaml(DECLARED, "detect", ["val", "train", "test"]))
    assert data == {
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": {0: "car", 1: "lake", 2: "person", 3: "corner"},
    }


def test_an_empty_split_borrows_and_says_so() -> None:
    text = yolo.data_yaml(DECLARED, "detect", ["train"])
    data = yaml.safe_load(text)
    assert (data["train"], data["val"]) == ("images/train", "images/train")
    assert "test" not in data
    assert "val: images/train  # No image is in the split val." in text.splitlines()


def test_a_dataset_without_train_borrows_for_it() -> None:
    data = yaml.safe_load(yolo.data_yaml(DECLARED, "detect", ["test"]))
    assert (data["train"], data["val"]) == ("images/test", "images/test")


@pytest.mark.parametrize(
    "name", ["no", "a: b", '"', "\\", "line\nend", "\x00\x7f\x85\ufeff\u2028", "🦀é", "# x", "~"]
)
def test_every_name_survives_yaml(name: str) -> None:
    classes = Classes([{"name": f"x{name}", "type": "box"}])
    data = yaml.safe_load(yolo.data_yaml(classes, "detect", ["train"]))
    assert data["names"] == {0: f"x{name}"}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (["nose", "left_eye", "right_eye"], [0, 2, 1]),
        (["ear-L", "ear-R", "tail"], [1, 0, 2]),
        (["LeftHand", "head"], None),
        (["left_eye", "nose"], None),
        (["a", "b"], None),
    ],
)
def test_mirrored_joints_are_told_by_their_names_or_not_at_all(
    nodes: list[str], expected: list[int] | None
) -> None:
    skeleton = {"nodes": [{"name": node} for node in nodes]}
    classes = Classes([{"name": "p", "type": "keypoint", "skeleton": skeleton}])
    data = yaml.safe_load(yolo.data_yaml(classes, "pose", ["train"]))
    assert data.get("flip_idx") == expected


def test_there_is_a_pose_only_with_a_skeleton() -> None:
    assert yolo.has_pose(DECLARED)
    assert not yolo.has_pose(Classes([{"name": "car", "type": "box"}]))


def _read(root: Path, directory: str, **how: bool) -> supervision.DetectionDataset:
    return supervision.DetectionDataset.from_yolo(
        str(root / "images/train" / directory),
        str(root / "labels/train" / directory),
        str(root / "data.yaml"),
        **how,
    )


def test_supervision_reads_the_same_boxes(tmp_path: Path) -> None:
    samples = [scene(place) for place in range(16)]
    write_yolo(tmp_path, {"train": samples}, "detect")
    seen = 0
    for directory in ("cam0", "cam1"):
        found = _read(tmp_path, directory)
        assert found.classes[:2] == ["car", "lake"]
        for path, _, detections in found:
            number = int(Path(path).stem)
            expected = [each.bounds for each in samples[number].annotations]
            assert np.allclose(detections.xyxy, np.reshape(expected, (-1, 4)), atol=0.01)
            seen += len(detections)
    assert seen == sum(len(each.annotations) for each in samples)


def test_supervision_reads_the_same_masks(tmp_path: Path) -> None:
    samples = [scene(place) for place in range(16)]
    write_yolo(tmp_path, {"train": samples}, "segment")
    for path, _, detections in _read(tmp_path, "cam1", force_masks=True):
        one = samples[int(Path(path).stem)]
        for each, mask in zip(one.annotations, detections.mask, strict=True):
            ring = each.rings[0] if each.rings else []
            if ring:
                wanted = supervision.polygon_to_mask(
                    np.round(np.array(ring)).astype(int), (one.width, one.height)
                )
                assert abs(int(mask.sum()) - int(wanted.sum())) <= 0.01 * wanted.sum()


def test_supervision_reads_the_same_turned_boxes(tmp_path: Path) -> None:
    turned = {"cx": 80.0, "cy": 60.0, "w": 50.0, "h": 20.0, "angle": 30.0}
    one = sample(
        box("car", 50, 35, 60, 50, oriented_box=turned), width=160, height=120, file_name="d/a.jpg"
    )
    write_yolo(tmp_path, {"train": [one]}, "obb")
    ((_, _, detections),) = list(_read(tmp_path, "d", is_obb=True))
    corners = detections.data["xyxyxyxy"][0]
    assert math.isclose(math.dist(corners[0], corners[1]), 50, abs_tol=0.01)
    assert np.allclose(corners.mean(axis=0), (80, 60), atol=0.01)
