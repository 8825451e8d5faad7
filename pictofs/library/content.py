"""An open file's bytes: of one version, for as long as the handle lives."""

from __future__ import annotations

from typing import Protocol

from pictofs.store.shelf import Blob


class Content(Protocol):
    """What a handle reads."""

    @property
    def size(self) -> int:
        """Bytes, exactly."""

    @property
    def proven(self) -> bool:
        """Whether every byte that was given is known to be right, as far as a checksum can tell."""

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`, fewer only at the end."""

    def close(self) -> None:
        """Give back what is held."""


class Shelved:
    """Content on the local disk. Reads are inline: 20 us from the page cache, a thread would cost 100."""

    proven = True

    def __init__(self, blob: Blob) -> None:
        """Takes over `blob`, which is verified."""
        self._blob = blob
        self.size = blob.size

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the blob."""
        return self._blob.pread(offset, length)

    def close(self) -> None:
        """Close the blob."""
        self._blob.close()


class InMemory:
    """Small content that the disk did not take."""

    proven = True

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, offset: int, length: int) -> bytes:
        """A slice."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Nothing to give back."""
