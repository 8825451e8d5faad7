"""What the kernel must forget, on its way to the adapter."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from pictofs.model.inode import Kind
from pictofs.store.catalog.rows import RemovedDentry

QUEUE = 100_000
"""Entries that may wait. Past that news is dropped: the kernel's own timeouts end what it would have told."""

_SELECTION_KINDS = frozenset({Kind.VIEW, Kind.VIEW_IMAGES, Kind.VIEW_ANNOTATIONS})


class DentryInvalidations:
    """A channel of entries that folders no longer have."""

    def __init__(self) -> None:
        send, self.incoming = trio.open_memory_channel[RemovedDentry](QUEUE)
        self._send = send
        # Folders of views that the kernel has looked into: there are six entries of an image, and few see but two.
        self._watched: set[int] = set()

    def watch(self, folder: int) -> None:
        """The kernel may hold entries of this folder of a view from now on. `folder`: its inode number."""
        self._watched.add(folder)

    def tell(self, gone: Iterable[RemovedDentry]) -> None:
        """Pass on entries; never waits."""
        for entry in gone:
            if entry.parent & 15 in _SELECTION_KINDS and entry.parent not in self._watched:
                continue
            try:
                self._send.send_nowait(entry)
            except trio.WouldBlock:
                return

    def tell_from_thread(self, gone: list[RemovedDentry]) -> None:
        """The same, from a thread that trio started."""
        if gone:
            trio.from_thread.run_sync(self.tell, gone)
