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
