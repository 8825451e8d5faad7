"""What an organization consists of, as the rest of pictofs sees it.

The wire's spellings stop in `pictofs.api`; what is kept on disk is the business of `pictofs.store`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


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
    """The server's word, by its clock."""
    raw: dict[str, Any] = {}
    """The API's object as it came, without embedded images."""

    @property
    def signature(self) -> str:
        """What changes when the dataset's listing may have changed (API.md 10)."""
        return "|".join(
            str(part)
            for part in (
                self.updated_at,
                self.image_count,
                self.archived_image_count,
                self.completed_image_count,
                self.total_size,
            )
        )


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
    """Bytes as the listing says; 0 may mean unknown (API.md 5.1)."""
    width: int | None = None
    height: int | None = None
    content_type: str | None = None
    tags: tuple[str, ...] = ()
    is_archived: bool = False
    created_ns: int = 0
    """Nanoseconds since the epoch."""


class SignedUrl(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of an image can be fetched without a key, for a while."""

    image_id: str
    url: str
    expires_at: float
    """Wall-clock seconds since the epoch after which it is not to be used."""


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some rows of a paged listing."""

    rows: list[T]
    received: int
    """Rows that the server sent, the malformed ones included: what the offset advances by."""
    total: int | None = None
    """What the server says the whole listing holds."""
    has_more: bool | None = None


def canonical_directory(path: str | None) -> str:
    """`/a/b` for every way the API spells that directory; `/` for null, empty and root."""
    if not path:
        return "/"
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(parts)
