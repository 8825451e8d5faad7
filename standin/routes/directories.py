"""`/directories`: virtual directories. The root has no row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from standin.dataset import Dataset, Selection, within
from standin.records import Directory
from standin.routes.registry import on
from standin.routing import Answer, Call, bad_request, conflict, data, not_found
from standin.wire import DirectoryCounts, directory_row


def clean_path(path: str) -> str:
    """A directory path with a leading slash and none at its end; 400 for `.`, `..` or NUL in it."""
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") or "\0" in part for part in parts):
        raise bad_request(f"Invalid directory path '{path}'")

    return "/" + "/".join(parts)


def _counts(call: Call, dataset: Dataset) -> DirectoryCounts:
    return DirectoryCounts(dataset.select(Selection(granted=call.granted(dataset))))


def _visible(call: Call, dataset: Dataset) -> list[Directory]:
    granted = call.granted(dataset)
    rows = dataset.directories.values()
    return [row for row in rows if granted is None or within(row.path, granted)]


@on("GET", "/directories/{dataset}", query="parent_path")
def listing(call: Call) -> Answer:
    """`GET /directories/{dataset}`: a bare array; `parent_path` narrows it to the children of one.

    An empty `parent_path` means the root.
    """
    dataset = call.dataset()
    parent = call.query.get("parent_path")
    rows = _visible(call, dataset)
    if parent is not None:
        rows = [row for row in rows if row.parent == clean_path(parent)]

    counts = _counts(call, dataset)
    sent = [directory_row(row, dataset, call.organization, counts, read=True) for row in rows]
    return Answer(sent)


@on("GET", "/directories/{dataset}/tree")
def tree(call: Call) -> Answer:
    """`GET /directories/{dataset}/tree`: a bare array of nested nodes."""
    dataset = call.dataset()
    counts = _counts(call, dataset)
    nodes: dict[str, dict[str, Any]] = {}
    tops: list[dict[str, Any]] = []

    # A directory comes before those that are deeper, so its node is there when they need it.
    for row in sorted(_visible(call, dataset), key=lambda row: row.path.count("/")):
        node = nodes[row.path] = {
            "id": row.id,
            "name": row.name,
            "full_path": row.path,
            "image_count": counts.direct[row.path],
            "nested_image_count": counts.nested[row.path],
            "children": [],
        }

        # If the key may not see the directory above, this one is at the top.
        above = nodes.get(row.parent)
        if above is None:
            tops.append(node)
        else:
            above["children"].append(node)

    return Answer(tops)


def _row(call: Call, dataset: Dataset) -> Directory:
    path = f"/{call.params['path']}"
    row = dataset.directories.get(path)
    if row is None or row not in _visible(call, dataset):
        raise not_found(f"Directory '{path}' not found")

    return row


@on("GET", "/directories/{dataset}/{path:path}/stats", query="include_subdirectories")
def stats(call: Call) -> Answer:
    """`GET /directories/{dataset}/{path}/stats`: a bare object of totals."""
    dataset = call.dataset()
    row = _row(call, dataset)
    below: list[Directory] = []
    if call.flag("include_subdirectories", default=True):
        below = dataset.below(row.path)

    paths = {row.path, *(each.path for each in below)}
    images = [image for image in dataset.select(Selection()) if image.directory_path in paths]

    return Answer(
        {
            "total_directories": len(below),
            "total_images": len(images),
            "total_size_bytes": sum(image.file_size for image in images),
            "directories_by_status": Counter(image.status for image in images),
        }
    )


class NewDirectory(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /directories/`."""

    dataset: str
    directory_path: str


@on("POST", "/directories/", role="member")
def create(call: Call) -> Answer:
    """`POST /directories/`: 201 with the new directory, or 200 with the one that exists.

    Its parents are made too.
    """
    wanted = call.body(NewDirectory)
    dataset = call.dataset(wanted.dataset)
    path = clean_path(wanted.directory_path)

    existed = path in dataset.directories
    row = dataset.make_directory(path, call.clock())
    if row is None:
        raise bad_request("The root directory always exists")

    if not existed:
        call.organization.changed(dataset, "dataset")

    counts = _counts(call, dataset)
    body = directory_row(row, dataset, call.organization, counts, read=False)
    return data(body, 200 if existed else 201)


class NewName(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PATCH /directories/{dataset}/{path}/rename`."""

    new_name: str


@on("PATCH", "/directories/{dataset}/{path:path}/rename", role="member")
def rename(call: Call) -> Answer:
    """`PATCH /directories/{dataset}/{path}/rename`: and all below it; 409 if the name is taken."""
    dataset = call.dataset()
    name = call.body(NewName).new_name
    row = _row(call, dataset)
    if not name or "/" in name or name in (".", ".."):
        raise bad_request("A directory name is one path segment")

    target = f"{row.parent.rstrip('/')}/{name}"
    if target in dataset.directories and target != row.path:
        raise conflict(f"Directory '{target}' already exists")

    call.organization.rename_directory(dataset, row.path, name)
    counts = _counts(call, dataset)
    return data(directory_row(row, dataset, call.organization, counts, read=False))


@on("DELETE", "/directories/{dataset}/{path:path}", role="member", query="cascade")
def delete(call: Call) -> Answer:
    """`DELETE /directories/{dataset}/{path}`: only if it is empty.

    With `cascade=true` it may have images, which move to the directory above.
    """
    dataset = call.dataset()
    row = _row(call, dataset)

    occupied = any(image.directory_path == row.path for image in dataset.images.values())
    if dataset.below(row.path):
        raise bad_request("Directory has subdirectories")
    if occupied and not call.flag("cascade"):
        raise bad_request("Directory is not empty")

    moved = call.organization.remove_directory(dataset, row.path)
    return Answer({"success": True, "directory_id": row.id, "images_moved": moved})
