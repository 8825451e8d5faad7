"""An export archive on the server, with what it takes to fetch annotations in bulk."""

from __future__ import annotations

import msgspec


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
