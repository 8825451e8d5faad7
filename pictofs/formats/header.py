"""The size of an image, told from its first bytes."""

from __future__ import annotations

import io

import imagesize

HEAD_BYTES = 64 * 1024
"""First bytes that suffice usually: a JPEG's size stands behind its EXIF, which has up to 64 KiB
and mostly less than 20. One with large colour profiles or several thumbnails before it needs more.
"""
_SIDE_MAX = 2**31
_STARTS = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"MM\x00*", b"II*\x00", b"RIFF")
"""JPEG, PNG, GIF, BMP, TIFF, WebP. The library's readers of HEIF and SVG are not asked: hostile
bytes can keep the one busy for minutes, and the other is an XML parser."""


def size(head: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of the upright image; None if the bytes don't tell.

    EXIF's orientation counts in JPEG and TIFF. More bytes may tell if HEAD_BYTES did not.
    """
    if not head.startswith(_STARTS):
        return None

    width, height = imagesize.get(io.BytesIO(head))
    if not (0 < width < _SIDE_MAX and 0 < height < _SIDE_MAX):
        return None
    return int(width), int(height)
