"""What the kernel must forget, on its way to the adapter."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from pictofs.store.rows import Gone

QUEUE = 100_000
"""Entries that may wait. Past that news is dropped: the kernel's own timeouts end what it would have told."""


class Changes:
    """A channel of entries that folders no longer have."""

    def __init__(self) -> None:
        send, self.incoming = trio.open_memory_channel[Gone](QUEUE)
        self._send = send

    def tell(self, gone: Iterable[Gone]) -> None:
        """Pass on entries; never waits."""
        for entry in gone:
            try:
                self._send.send_nowait(entry)
            except trio.WouldBlock:
                return

    def tell_from_thread(self, gone: list[Gone]) -> None:
        """The same, from a thread that trio started."""
        if gone:
            trio.from_thread.run_sync(self.tell, gone)
