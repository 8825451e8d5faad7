"""What a mount has done for its readers, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class ReadStats:
    """Counts since the mount was made."""

    hits: int = 0
    """Opens that were answered from the cache."""
    misses: int = 0
    """Opens that needed the server."""
    bytes_read: int = 0
    """Bytes given to readers by the daemon; the kernel's page cache serves more."""
    waiting: int = 0
    """Readers that are waiting for the server."""

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count a reader as waiting inside the context."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
