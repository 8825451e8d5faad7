"""What a mount has done, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class ReadStats:
    """Counts since the mount was made."""

    hits: int = 0
    """Opens that the cache answered."""
    misses: int = 0
    """Opens that needed the server."""
    bytes_read: int = 0
    """Bytes given to readers by the daemon; the kernel's page cache serves more."""
    waiting: int = 0
    """Readers that wait for the server just now."""

    @contextmanager
    def wait(self) -> Iterator[None]:
        """A reader waits inside."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
