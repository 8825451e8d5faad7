"""Changes of a class in a whole dataset: renaming, merging into another class, deleting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from standin.dataset import Dataset
from standin.routes.registry import on
from standin.routing import Answer, Call, conflict, data, not_found
from standin.shapes import annotations_of

#: Changes an annotation, or drops it with None.
Rewrite = Callable[[dict[str, Any]], dict[str, Any] | None]


class Rename(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /annotations/rename-class`."""

    dataset: str
    old_name: str
    new_name: str


class Merge(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /annotations/merge-class`."""

    dataset: str
    source_name: str
    target_name: str


class Drop(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /annotations/delete-class`."""

    dataset: str
    name: str
    class_type: str | None = None
    delete_annotations: bool = False


def _rewrite(call: Call, dataset: Dataset, name: str, change: Rewrite) -> tuple[int, int]:
    """Change every annotation of a class; returns the numbers of images and annotations."""
    images = touched = 0
    for image in dataset.images.values():
        after: list[dict[str, Any]] = []
        hits = 0
        for each in annotations_of(image):
            changed: dict[str, Any] | None = each
            if each["name"] == name:
                changed = change(each)
                hits += 1

            if changed is not None:
                after.append(changed)

        if hits:
            call.organization.set_annotations(image, after)
            images += 1
            touched += hits

    return images, touched


def _named(dataset: Dataset, name: str) -> list[dict[str, Any]]:
    return [each for each in dataset.classes if each["name"] == name]


@on("POST", "/annotations/rename-class", role="member")
def rename(call: Call) -> Answer:
    """`POST /annotations/rename-class`: in the class list and all annotations.

    409 if a class of the same type has the name already.
    """
    wanted = call.body(Rename)
    dataset = call.dataset(wanted.dataset)

    entries = _named(dataset, wanted.old_name)
    taken = {each.get("type") for each in _named(dataset, wanted.new_name)}
    if taken & {each.get("type") for each in entries}:
        raise conflict(f"Class '{wanted.new_name}' already exists")

    changed = {"name": wanted.new_name}
    images, touched = _rewrite(call, dataset, wanted.old_name, lambda each: each | changed)
    if not entries and not touched:
        raise not_found(f"Class '{wanted.old_name}' not found")

    for entry in entries:
        entry["name"] = wanted.new_name

    call.organization.changed(dataset, "dataset")

    names = {"old_name": wanted.old_name, "new_name": wanted.new_name}
    done = {"images_updated": images, "annotations_updated": touched}
    return data({"dataset_id": dataset.id, **names, **done, "config_updated": bool(entries)})


@on("POST", "/annotations/merge-class", role="member")
def merge(call: Call) -> Answer:
    """`POST /annotations/merge-class`: moves annotations to the target, deletes the source."""
    wanted = call.body(Merge)
    dataset = call.dataset(wanted.dataset)
    if not _named(dataset, wanted.target_name):
        raise not_found(f"Class '{wanted.target_name}' not found")

    changed = {"name": wanted.target_name}
    images, touched = _rewrite(call, dataset, wanted.source_name, lambda each: each | changed)

    entries = _named(dataset, wanted.source_name)
    dataset.classes = [each for each in dataset.classes if each not in entries]
    call.organization.changed(dataset, "dataset")

    names = {"source_name": wanted.source_name, "target_name": wanted.target_name}
    done = {"images_updated": images, "annotations_updated": touched}
    return data({"dataset_id": dataset.id, **names, **done, "config_updated": bool(entries)})


@on("POST", "/annotations/delete-class", role="member")
def drop(call: Call) -> Answer:
    """`POST /annotations/delete-class`: from the class list.

    With `delete_annotations` the annotations of the class are deleted too.
    """
    wanted = call.body(Drop)
    dataset = call.dataset(wanted.dataset)

    entries = _named(dataset, wanted.name)
    if wanted.class_type is not None:
        entries = [each for each in entries if each.get("type") == wanted.class_type]

    images = touched = 0
    if wanted.delete_annotations:
        images, touched = _rewrite(call, dataset, wanted.name, lambda each: None)

    dataset.classes = [each for each in dataset.classes if each not in entries]
    call.organization.changed(dataset, "dataset")

    return data(
        {
            "dataset_id": dataset.id,
            "name": wanted.name,
            "config_updated": bool(entries),
            "images_updated": images,
            "annotations_removed": touched,
        }
    )
