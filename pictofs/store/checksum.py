"""The checksum of a file's content, by which blobs, catalogs and plain folders are compared."""

from __future__ import annotations

import os

import google_crc32c

_CHUNK = 1 << 20  # bytes read at once; larger ones fall out of the CPU's cache


def checksum(fd: int, size: int) -> int:
    """The crc32c of the first `size` bytes of `fd`, or of all if there are fewer.

    Blocks. Raises OSError.
    """
    crc = 0
    for start in range(0, size, _CHUNK):
        crc = google_crc32c.extend(crc, os.pread(fd, min(_CHUNK, size - start), start))
    return crc
