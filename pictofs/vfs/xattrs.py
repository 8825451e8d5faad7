"""`user.pictograph.*`: what the API says about a dataset or an image, as extended attributes.

A scalar is given as plain text, a list or an object as compact JSON. What the API leaves out or
gives as null is no attribute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pictofs.model.moment import iso
from pictofs.model.names import storable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow

PREFIX = "user.pictograph."
VALUE_MAX_BYTES = 1 << 16
"""Bytes of the longest value that the kernel takes (XATTR_SIZE_MAX); a longer one is left out."""
LISTED_MAX_BYTES = 2048
"""Bytes of all names and values that are listed. Programs copy what is listed, and ext4 has one
block of 4 KiB for it and a file's other attributes; if they do not fit, `shutil.copytree` fails
with ENOSPC."""
DATASET = (
    "id",
    "organization_id",
    "name",
    "description",
    "readme",
    "annotation_types",
    "classes",
    "tags",
    "image_count",
    "completed_image_count",
    "archived_image_count",
    "total_size",
    "storage_class",
    "is_public",
    "is_archived",
    "archived_at",
    "created_at",
    "updated_at",
)
"""The fields of a dataset that are shown, by their names in the API."""


def of_dataset(raw: Mapping[str, Any]) -> dict[str, bytes]:
    """The attributes of a dataset. `raw`: the API's object."""
    return _attributes({name: raw.get(name) for name in DATASET})


def of_image(
    row: ImageRow, dataset: DatasetRow | None, directory: DirectoryRow | None
) -> dict[str, bytes]:
    """The attributes of an image and of its annotation file."""
    return _attributes(
        {
            "id": row.id,
            "dataset_id": dataset and dataset.id,
            "filename": row.name,
            "directory_path": directory and directory.path,
            "status": row.status,
            "split": row.split,
            "tags": json.loads(row.tags or "[]"),
            "size": row.known_size,
            "width": row.width,
            "height": row.height,
            "content_type": row.content_type,
            "annotation_count": row.annotation_count,
            "min_confidence": row.min_confidence,
            "created_at": iso(row.created_ns) if row.created_ns else None,
        }
    )


def listed(found: Mapping[str, bytes]) -> list[str]:
    """The names that are listed, in the order of `found`: the shortest attributes, as many as
    fit."""
    chosen = set()
    room = LISTED_MAX_BYTES
    for name, value in sorted(found.items(), key=lambda item: len(item[1])):
        room -= len(name) + len(value)
        if room < 0:
            break

        chosen.add(name)

    return [name for name in found if name in chosen]


def _attributes(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """The attributes of fields by name, without those that are None or too long."""
    values = {PREFIX + name: _text(value) for name, value in fields.items() if value is not None}
    return {name: value for name, value in values.items() if len(value) <= VALUE_MAX_BYTES}


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return storable(value).encode()
