"""An export archive on the server, as far as fetching annotations in bulk needs it."""

from __future__ import annotations

import msgspec


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One export row (`/exports/`)."""

    name: str
    status: str
    """`pending`, `processing`, `completed`, `failed`, or a word not known yet."""
    error_message: str | None = None
    file_size: int = 0
    image_count: int = 0
    dataset_id: str | None = None
    dataset_name: str | None = None
    format: str | None = None
    include_images: bool = False
    filtered: bool = False
    """Whether images, or classes of annotations, are left out on purpose."""
    created_ns: int = 0
    """Nanoseconds since the epoch, by the server's clock; 0: it does not tell."""
