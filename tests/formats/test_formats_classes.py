"""The order of classes, and which names are classes at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import CLASSES, box, keypoint, polygon, polyline, sample

from pictofs.formats.classes import CLASSES_MAX, NODES_MAX, Classes, Skeleton, undeclared

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "type", "skeleton", "nodes", "edges", "x"]), inner, max_size=5
        )
    ),
    max_leaves=30,
)


def test_a_name_comes_once_in_the_order_of_the_dataset() -> None:
    classes = Classes(CLASSES)
    assert classes.names == ("car", "lake", "person", "corner")
    assert [classes.index(name) for name in classes.names] == [0, 1, 2, 3]
    assert classes.index("nose") is None


def test_names_that_only_occur_in_annotations_follow_sorted() -> None:
    classes = Classes(CLASSES, ["zebra", "bus", "car"])
    assert classes.names == ("car", "lake", "person", "corner", "bus", "zebra")
    assert classes.index("zebra") == 5


def test_a_skeleton_has_its_joints_in_order() -> None:
    classes = Classes(CLASSES)
    assert classes.skeletons == {
        "person": Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
    }
    assert classes.pose_names == ("person",)
    assert classes.pose_index("person") == 0
    assert classes.match(["left_eye", "tail"]) == "person"
    assert classes.match(["corner"]) is None


@pytest.mark.parametrize(
    "skeleton",
    [
        7,
        {},
        {"nodes": []},
        {"nodes": [{"name": "a"}, {"x": 1}]},
        {"nodes": [{"name": "a"}] * (NODES_MAX + 1)},
    ],
    ids=["no object", "empty", "no joints", "a joint without a name", "too many joints"],
)
def test_a_skeleton_that_makes_no_sense_is_none(skeleton: object) -> None:
    assert Classes([{"name": "p", "type": "keypoint", "skeleton": skeleton}]).skeletons == {}


def test_edges_that_lead_nowhere_are_left_out() -> None:
    edges = [[0, 1], [1, 1], [0, 2], [-1, 0], ["0", 1], [True, 0], [0], 5, [0, 1, 1]]
    nodes = [{"name": "a"}, {"name": "b"}]
    raw = [{"name": "p", "type": "keypoint", "skeleton": {"nodes": nodes, "edges": edges}}]
    assert Classes(raw).skeletons["p"].edges == ((0, 1),)


def test_undeclared_names_are_those_of_labels_that_a_format_can_write() -> None:
    found = undeclared(
        sample(
            box("car", 1, 1, 5, 5),
            box("bus", 1, 1, 5, 5),
            polygon("pond", [(0, 0), (9, 0), (9, 9)]),
            polyline("road", (0, 0), (5, 5)),
            keypoint("nose", 5, 5),
            keypoint("tail", 5, 5),
            box("nose", 1, 1, 5, 5),
        ),
        Classes(CLASSES),
    )
    # "nose" as a box is not the joint, and "tail" is a joint of nothing.
    assert found == {"bus", "pond", "tail", "nose"}


def test_names_that_are_given_in_addition_stay_undeclared() -> None:
    classes = Classes(CLASSES, ["bus"])
    assert undeclared(sample(box("bus", 1, 1, 5, 5)), classes) == {"bus"}


def test_the_list_has_a_bound() -> None:
    raw = [{"name": f"c{place}", "type": "box"} for place in range(CLASSES_MAX + 5)]
    assert len(Classes(raw, ["extra"]).names) == CLASSES_MAX


@given(JSON)
def test_whatever_the_server_sends_has_an_order(raw: object) -> None:
    classes = Classes(raw)
    assert len(set(classes.names)) == len(classes.names)
    assert [classes.index(name) for name in classes.names] == list(range(len(classes.names)))
    for name, skeleton in classes.skeletons.items():
        assert name in classes.names
        assert all(0 <= end < len(skeleton.nodes) for edge in skeleton.edges for end in edge)
