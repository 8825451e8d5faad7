"""An open file's bytes, all of one version for as long as the handle lives."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import google_crc32c

from pictofs.store.blobs.cache import Blob


class Content(Protocol):
    """What a handle reads."""

    @property
    def size(self) -> int:
        """Bytes, exactly."""

    @property
    def version(self) -> Hashable:
        """Equal for two contents of a file only if they have the same bytes.

        The CRC-32C if it is known; else an object of the transfer.
        """

    async def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer only at the end. Raises what keeps them from
        coming."""

    def close(self) -> None:
        """Release what is held."""


class CachedContent:
    """Content on the local disk. Reads are made on the event loop: they take 20 us from the page
    cache, and a thread would cost 100."""

    def __init__(self, blob: Blob) -> None:
        """Takes over `blob`, whose checksum has been verified."""
        self._blob = blob
        self.size = blob.size
        self.version: Hashable = blob.crc32c

    async def read(self, offset: int, length: int) -> bytes:
        """See `Content`."""
        return self.pread(offset, length)

    def pread(self, offset: int, length: int) -> bytes:
        """The same, inline."""
        return self._blob.pread(offset, length)

    def close(self) -> None:
        """Close the blob."""
        self._blob.close()


class ContentInMemory:
    """Small content that the disk did not take."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.version: Hashable = google_crc32c.value(data)

    async def read(self, offset: int, length: int) -> bytes:
        """See `Content`."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Do nothing: nothing is held."""
