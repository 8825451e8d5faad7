"""What the kernel must forget, on its way to the adapter."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from pictofs.model.inode import NodeKind
from pictofs.store.catalog.rows import RemovedDentry

QUEUE = 100_000
"""Entries that may wait. More are dropped: the kernel's own timeouts end those later."""

_SELECTION_KINDS = frozenset({NodeKind.VIEW, NodeKind.VIEW_IMAGES, NodeKind.VIEW_ANNOTATIONS})


class DentryInvalidations:
    """A channel of entries that folders no longer have."""

    def __init__(self) -> None:
        send, self.incoming = trio.open_memory_channel[RemovedDentry](QUEUE)
        self._send = send
        # Folders of views that the kernel has looked into. Each image has six entries in views, and
        # hardly anybody looks at more than two.
        self._watched: set[int] = set()

    def watch(self, folder: int) -> None:
        """Note that the kernel may hold entries of a view's folder. `folder`: its inode number."""
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
