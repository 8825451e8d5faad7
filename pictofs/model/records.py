"""The items of an organization: datasets, directories, images.

`pictofs.api` decodes them from the API's spellings, and `pictofs.store` keeps them on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar

import msgspec

from pictofs.model.names import entry_name, tagged

T = TypeVar("T")

FileKind = Literal["images", "annotations"]
"""The files that a dataset has, by the names of their folders."""


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset row (`GET /datasets/`)."""

    id: str
    name: str
    description: str | None = None
    image_count: int = 0
    """Active images; archived ones are not counted."""
    completed_image_count: int = 0
    archived_image_count: int = 0
    total_size: int = 0
    """Bytes of all images."""
    storage_class: str = "standard"
    is_archived: bool = False
    created_ns: int = 0
    """Nanoseconds since the epoch."""
    updated_at: str | None = None
    """The server's text, by the server's clock."""
    raw: dict[str, Any] = {}
    """The API's object without embedded images."""

    @property
    def signature(self) -> str:
        """A text that changes if the dataset's listing may have changed (API.md 10)."""
        parts = (
            self.updated_at,
            self.image_count,
            self.archived_image_count,
            self.completed_image_count,
            self.total_size,
        )
        return "|".join(map(str, parts))


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual directory. The root has no row."""

    path: str
    """Canonical: `/a/b`."""
    id: str | None = None
    image_count: int = 0
    """Images directly in it, as the server counts them."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image row. The bytes of an id never change."""

    id: str
    dataset_id: str | None = None
    filename: str
    directory: str = "/"
    """Canonical: `/` or `/a/b`."""
    status: str = "new"
    split: str | None = None
    annotation_count: int = 0
    min_confidence: float | None = None
    size: int = 0
    """Bytes by the listing; 0 may mean unknown (API.md 5.1)."""
    width: int | None = None
    height: int | None = None
    content_type: str | None = None
    tags: tuple[str, ...] = ()
    is_archived: bool = False
    created_ns: int = 0
    """Nanoseconds since the epoch."""


class SignedUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A URL from which the bytes of an image can be fetched without a key until it expires."""

    image_id: str
    url: str
    expires_at: float
    """Wall-clock seconds since the epoch after which the URL must not be used."""


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """The rows of one page of a listing."""

    rows: list[T]
    received: int
    """Rows that the server sent, malformed ones included. The offset advances by this."""
    total: int | None = None
    """Rows of the whole listing, as the server counts them."""
    has_more: bool | None = None
    summary: bool = False
    """Whether all rows lack the image's directory, or all lack its size."""


DIRECTORY_CHARS_MAX = 65_536
"""Characters of a directory's path. A longer one makes no sense and counts as absent."""


def canonical_directory(path: str | None) -> str:
    """`/a/b` for every spelling of that directory; `/` for the root, null, "" and absurd ones."""
    if not path or len(path) > DIRECTORY_CHARS_MAX:
        return "/"
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(parts)


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One export row (`/exports/`)."""

    name: str
    status: str
    """`pending`, `processing`, `completed`, `failed`, or a word that is unknown here."""
    error_message: str | None = None
    file_size: int = 0
    image_count: int = 0
    dataset_id: str | None = None
    dataset_name: str | None = None
    format: str | None = None
    include_images: bool = False
    filtered: bool = False
    """Whether a filter leaves out images or annotation classes."""
    created_ns: int = 0
    """Nanoseconds since the epoch, by the server's clock; 0 if unsent."""
    id: str | None = None
    annotation_count: int = 0
    raw: dict[str, Any] = {}
    """The API's object without its signed URL."""

    @property
    def identity(self) -> str:
        """What tells it from every other export: its id, or if the server sends none, its name and
        time."""
        return self.id.lower() if self.id else f"{self.name}:{self.created_ns}"


FINISHED = "completed"
"""The status of an export whose archive is there."""


def export_entries(exports: Iterable[Export]) -> dict[str, Export]:
    """Finished exports of a dataset by their names in its folder `exports`, the oldest first.

    Of two that want one name the older keeps it, and the other gets a tag.
    """
    found = {each.identity: each for each in exports if each.status == FINISHED}
    entries: dict[str, Export] = {}
    for each in sorted(found.values(), key=lambda each: (each.created_ns, each.identity)):
        entry = entry_name(each.name, each.identity)
        if entry in entries:
            entry = tagged(each.name, each.identity)
        entries[entry] = each

    return entries


def document(raw: Mapping[str, Any]) -> bytes:
    """An API object as `dataset.json` holds it and `pictofs dataset show --json` prints it.

    Indented by 2, ASCII-escaped (a lone surrogate has no UTF-8), in the server's order, with a
    newline at the end.
    """
    return json.dumps(raw, indent=2).encode("ascii") + b"\n"
