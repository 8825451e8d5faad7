"""A large file that the cache can't take: read in blocks by range requests, and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from cachetools import LRUCache

from pictofs.api.body import Body
from pictofs.errors import Corrupt, Invalid, ServerFault
from pictofs.library.flights import Flights
from pictofs.library.source import Source

BLOCK = 4 << 20
"""Bytes of one request: a round trip of 20 ms is then a few per cent of the transfer."""
BLOCKS = 4
"""Blocks held by one open file: the kernel reads ahead over the edge of one, seldom of two."""

Opener = Callable[[int, int, str | None], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset to an end, if the entity tag still is the same."""


class PassThrough:
    """One reader's view of the server's bytes."""

    proven = True  # a part has no checksum: there is nothing to wait for

    def __init__(self, name: str, size: int, opener: Opener, source: Source, flights: Flights) -> None:
        self.size = size
        self._name, self._open, self._source, self._flights = name, opener, source, flights
        self._blocks: LRUCache[int, bytes] = LRUCache(BLOCKS)
        self._etag: str | None = None

    async def begin(self) -> None:
        """Read the first block: the size is exact from then on."""
        await self._block(0)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of one or several blocks."""
        end = min(offset + length, self.size)
        pieces = []
        while offset < end:
            number, place = divmod(offset, BLOCK)
            piece = (await self._block(number))[place : place + end - offset]
            if not piece:
                raise Corrupt(f"{self._name} is shorter than it was")
            pieces.append(piece)
            offset += len(piece)
            if place == 0 and end < self.size:  # the start of a block: likely the next one is wanted soon
                self._flights.launch((id(self), number + 1), partial(self._fetched, number + 1))
        return b"".join(pieces)

    async def _block(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is None:
            found = await self._flights.share((id(self), number), partial(self._fetched, number))
        return found

    async def _fetched(self, number: int) -> bytes:
        if number in self._blocks or number * BLOCK >= max(self.size, 1):
            return self._blocks.get(number, b"")
        try:
            data = await self._source.retried(self._name, lambda: self._fetch(number * BLOCK))
        except Invalid:
            if number:
                raise
            self.size, data = 0, b""  # an empty file has no range at all
        self._blocks[number] = data
        return data

    async def _fetch(self, start: int) -> bytes:
        async with self._open(start, start + BLOCK, self._etag) as body:
            if self._etag is None:
                self._etag = body.etag
                self.size = self.size if body.total is None else body.total
            elif body.etag not in (None, self._etag) or body.total not in (None, self.size):
                raise Corrupt(f"{self._name} changed while it was read")
            wanted = min(BLOCK, self.size - start)
            # A server that ignores ranges sends it all from the beginning: what comes before is thrown away.
            skip = 0 if body.ranged else start
            data = bytearray()
            while len(data) < wanted:
                piece = await body.receive()
                if not piece:
                    raise ServerFault(f"{self._name} ended early")
                data += piece[skip:]
                skip = max(0, skip - len(piece))
            return bytes(data[:wanted])

    def close(self) -> None:
        """Drop the blocks."""
        self._blocks.clear()
