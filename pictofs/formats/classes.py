"""The classes of a dataset, in one order that all formats share.

On the platform a class is the pair of a name and a type, and one name may come with several types.
Trainers know names only. A name is in the list, once and in the dataset's order, if something can
be drawn for it that a format can write:

- types `box` and `polygon` (and `bbox`, and types that are not known yet);
- type `keypoint`, if the class has a skeleton: that is the class of a whole object;
- type `keypoint` without a skeleton, unless the name is a joint of another class's skeleton.

Not in the list: tags, which are image labels (imagefolder.py), lines, which no format has, and
joints. Names that occur only in annotations follow, sorted. YOLO's index is the place in this
list, COCO's id the place plus 1; poses have a list of their own, the classes with a skeleton.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pictofs.formats.sample import Annotation, Sample
from pictofs.model import names as entries

CLASSES_MAX = 10_000
"""Names in the list. Labels of others are left out: a trainer's last layer grows with it."""
NODES_MAX = 500
"""Joints of a skeleton; one with more is not used. A mesh of a face has 478."""
SKELETONS_MAX = 200
"""Skeletons of a dataset that are used, the first ones."""
EDGES_MAX = 10_000
_NAME_CHARS_MAX = 1000
_NOT_DRAWN = ("tag", "polyline")


class Skeleton(msgspec.Struct, frozen=True):
    """The joints of a class, and which of them are connected."""

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    """Places in `nodes`, from 0."""

    def slots(self) -> dict[str, int]:
        """The place of each joint; the first one of a name that comes twice."""
        found: dict[str, int] = {}
        for place, node in enumerate(self.nodes):
            found.setdefault(node, place)
        return found


class Classes:
    """The list of names, and the skeletons. It does not change."""

    def __init__(self, raw: Any, extra: Iterable[str] = ()) -> None:
        """`raw`: the field `classes` of the API's dataset object, whatever it holds.

        `extra`: names that occur in annotations (`undeclared`), in any order.
        """
        declared = _declared(raw)
        skeletons = _skeletons(declared)
        self.skeletons: dict[str, Skeleton] = skeletons
        """By class name, in the dataset's order."""
        self.joints = frozenset(node for each in skeletons.values() for node in each.nodes)

        names = []
        for each in declared:
            name = each["name"]
            kind = each.get("type")
            joint = kind == "keypoint" and name not in skeletons and name in self.joints
            if kind not in _NOT_DRAWN and not joint:
                names.append(name)

        first = list(dict.fromkeys(names))[:CLASSES_MAX]
        more = sorted(set(extra).difference(first))
        self.names: tuple[str, ...] = tuple(first + more)[:CLASSES_MAX]
        """In order, each once."""
        self.declared = frozenset(first)
        """Those of the dataset: the first ones of `names`."""
        self.pose_names: tuple[str, ...] = tuple(skeletons)
        """Classes with a skeleton, in order."""

        self.joints_max = max((len(each.nodes) for each in skeletons.values()), default=0)
        """Joints of the largest skeleton; 0 if there is none."""

        self._places = {name: place for place, name in enumerate(self.names)}
        self._pose_places = {name: place for place, name in enumerate(self.pose_names)}
        self._slots = {name: each.slots() for name, each in skeletons.items()}

    def index(self, name: str) -> int | None:
        """The place of a name in `names`, from 0; None if it is not there."""
        return self._places.get(name)

    def pose_index(self, name: str) -> int | None:
        """The place of a name in `pose_names`, from 0; None if it is not there."""
        return self._pose_places.get(name)

    def slots(self, name: str) -> dict[str, int]:
        """The places of the joints of a class with a skeleton."""
        return self._slots[name]

    def match(self, joints: Iterable[str]) -> str | None:
        """The class whose skeleton has most of these joints; the first one of several.

        None if no skeleton has any. This is the platform's rule (API.md 9.3): a joint does not
        say which object it belongs to.
        """
        wanted = set(joints)
        best = None
        best_hits = 0
        for name, slots in self._slots.items():
            hits = len(wanted.intersection(slots))
            if hits > best_hits:
                best = name
                best_hits = hits
        return best


def undeclared(sample: Sample, classes: Classes) -> set[str]:
    """Names of the sample's labels that the dataset does not declare.

    If there are none, a label file depends on this sample and the dataset only.
    """
    found = set()
    for annotation in sample.annotations:
        if annotation.name not in classes.declared and _counts(annotation, classes):
            found.add(annotation.name)
    return found


def _counts(annotation: Annotation, classes: Classes) -> bool:
    if annotation.kind == "keypoint":
        return annotation.name not in classes.joints
    return annotation.kind != "polyline"


def _declared(raw: Any) -> list[dict[str, Any]]:
    """The class objects that have a name."""
    if not isinstance(raw, list):
        return []

    found = []
    for each in raw[:CLASSES_MAX]:
        if isinstance(each, dict) and _is_name(each.get("name")):
            found.append({**each, "name": entries.storable(each["name"])})
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _NAME_CHARS_MAX


def _skeletons(declared: Sequence[dict[str, Any]]) -> dict[str, Skeleton]:
    found: dict[str, Skeleton] = {}
    for each in declared:
        skeleton = _skeleton(each.get("skeleton"))
        if skeleton is None or each.get("type") in _NOT_DRAWN:
            continue
        if len(found) < SKELETONS_MAX:
            found.setdefault(each["name"], skeleton)
    return found


def _skeleton(raw: Any) -> Skeleton | None:
    """The skeleton, or None if a joint has no name: the places of the others would be wrong."""
    if not isinstance(raw, dict):
        return None
    nodes = raw.get("nodes")
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= NODES_MAX:
        return None

    joints = []
    for node in nodes:
        if not isinstance(node, dict) or not _is_name(node.get("name")):
            return None
        joints.append(entries.storable(node["name"]))

    return Skeleton(tuple(joints), _edges(raw.get("edges"), len(joints)))


def _edges(raw: Any, nodes: int) -> tuple[tuple[int, int], ...]:
    if not isinstance(raw, list):
        return ()

    edges = []
    for each in raw[:EDGES_MAX]:
        if not isinstance(each, list) or len(each) != 2:
            continue
        first = each[0]
        second = each[1]
        if type(first) is not int or type(second) is not int or first == second:
            continue
        if 0 <= first < nodes and 0 <= second < nodes:
            edges.append((first, second))
    return tuple(edges)
