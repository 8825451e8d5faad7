"""A large file that the cache can't take, kept nowhere.

From a server that heeds ranges, and tells which version of the object they are of, it comes in blocks, each by a
request of its own. From any other one it comes in order, by one transfer that stays a little ahead of the reader: a
block that has gone by is had by another transfer from the first byte on. Of each block a checksum is remembered, so
that another transfer counts only if it brings the same bytes again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from functools import partial

import google_crc32c
import trio
from cachetools import LRUCache

from pictofs.api.body import Body
from pictofs.errors import Corrupt, Invalid, PictofsError, ServerFault
from pictofs.library.content.source import Changed, Source
from pictofs.library.content.whole import agrees
from pictofs.library.single_flight import SingleFlight

BLOCK_BYTES = 4 << 20
"""Bytes of one request: a round trip of 20 ms is then a few per cent of the transfer."""
BLOCKS = 4
"""Blocks held by one open file: the kernel reads ahead over the edge of one, seldom of two."""
AHEAD = 1
"""Blocks that a transfer in order is ahead of the last one that was asked for."""

Opener = Callable[[int, int | None, str | None, bool], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset to an end, if the entity tag still is the same. True: to prove an answer."""


class PassThrough:
    """One reader's view of the server's bytes."""

    def __init__(
        self,
        name: str,
        listed: int | None,
        opener: Opener,
        source: Source,
        single_flight: SingleFlight,
    ) -> None:
        """`listed`: the size by the listing."""
        self.size = 0
        """Exact after `begin`."""
        self._name, self._listed, self._open = name, listed, opener
        self._source, self._single_flight = source, single_flight
        self._blocks: LRUCache[int, bytes] = LRUCache(BLOCKS)
        self._sums: dict[int, int] = {}
        """CRC-32C of each block that came, 4 MiB each."""
        self._version: str | None = None
        self._etag: str | None = None
        self._ranged = False
        self._invalidated = False
        self._error: Changed | None = None
        self._transferred = object()  # stands for the bytes of this reader
        self._transfer: _Transfer | None = None
        self._turn = trio.Lock()
        self._closed = False

    @property
    def version(self) -> Hashable:
        """The version that the server names, while all answers are of that: a part has no checksum."""
        return (
            self._transferred if self._version is None or self._error is not None else self._version
        )

    async def begin(self) -> None:
        """Learn the size, and read the first block."""
        await self._source.retried(self._name, self._meet)
        await self._block(0)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of one or several blocks."""
        end = min(offset + length, self.size)
        pieces = []
        while offset < end:
            number, place = divmod(offset, BLOCK_BYTES)
            piece = (await self._block(number))[place : place + end - offset]
            if not piece:
                raise Corrupt(f"{self._name} was closed while it was read")
            pieces.append(piece)
            offset += len(piece)
            if place == 0 and end < self.size and self._ranged:
                # The start of a block: likely the next one is wanted soon.
                self._single_flight.launch(
                    (id(self), number + 1), partial(self._fetched, number + 1)
                )
        return b"".join(pieces)

    def close(self) -> None:
        """Drop the blocks, and end what is under way."""
        self._closed = True
        self._blocks.clear()
        if self._transfer is not None:
            self._transfer.scope.cancel()

    # What the first answer says.

    async def _meet(self) -> None:
        """Learn the size, and whether the file can come in blocks."""
        self._blocks.clear()
        self._sums.clear()
        try:
            async with self._open(0, BLOCK_BYTES, None, self._invalidated) as body:
                self._version, self._etag = body.version, body.etag
                total, sure = body.total, body.crc32c is not None
                self._ranged = body.ranged and body.version is not None and total is not None
                if self._ranged and total is not None:
                    await self._take_first(body, min(BLOCK_BYTES, total))
        except Invalid:
            total, sure = 0, False  # 416: an empty file has no range at all
        if total is None:
            self.size = await self._counted()
            return
        if not sure and not agrees(total, self._listed, delimited=True):
            await self._prove(total)
        self.size = total

    async def _take_first(self, body: Body, wanted: int) -> None:
        data = bytearray()
        while len(data) < wanted and (piece := await body.receive()):
            data += piece
        if len(data) < wanted:  # a shorter part than was asked for
            self._ranged = False
            return
        self._put(0, bytes(data[:wanted]))

    async def _prove(self, length: int) -> None:
        """Have a second answer say what the listing does not. Raises Corrupt."""
        doubted, self._invalidated = self._invalidated, True
        try:
            async with self._open(
                0, BLOCK_BYTES, None, True
            ) as body:  # some name the whole length of parts alone
                found = body.total
        except Invalid:
            found = 0
        if found != length:
            raise Corrupt(f"{self._name}: {length} bytes by one answer, {found} by another one")
        self._invalidated = doubted

    async def _counted(self) -> int:
        """The length of answers that do not name it: the end of one tells. Raises Corrupt."""
        length, crc32c, sure = await self._count()
        if not sure:
            # A cut may look like the end; and the listing has another length.
            again = await self._count()
            if (length, crc32c) != again[:2]:
                raise Corrupt(
                    f"{self._name}: two answers differ, and nothing tells which one is right"
                )
        return length

    async def _count(self) -> tuple[int, int, bool]:
        """Length and CRC-32C of one whole answer, and whether it is believed."""
        length = crc32c = 0
        async with self._open(0, None, None, self._invalidated) as body:
            while piece := await body.receive():
                length += len(piece)
                crc32c = google_crc32c.extend(crc32c, piece)
            if body.crc32c not in (None, crc32c):
                raise Corrupt(
                    f"{self._name}: the bytes that came have another checksum than storage says"
                )
            sure = body.crc32c is not None or agrees(length, self._listed, body.delimited)
        return length, crc32c, sure

    # Blocks.

    async def _block(self, number: int) -> bytes:
        if self._error is not None:
            raise self._error.with_traceback(None)
        found = self._blocks.get(number)
        if found is None:
            found = await self._single_flight.share(
                (id(self), number), partial(self._fetched, number)
            )
        return found

    async def _fetched(self, number: int) -> bytes:
        if number in self._blocks or number * BLOCK_BYTES >= self.size:
            return self._blocks.get(number, b"")
        try:
            return await self._source.retried(self._name, partial(self._bring, number))
        except Changed as error:
            self._error = error
            raise

    async def _bring(self, number: int) -> bytes:
        if self._closed:
            return b""
        found = await self._part(number) if self._ranged else None
        if found is None:
            async with (
                self._turn
            ):  # readers of far places would take the transfer from each other for ever
                found = await self._passing(number)
        return found

    async def _part(self, number: int) -> bytes | None:
        """A block by a request of its own; None if the server does not heed ranges any more."""
        start = number * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, self.size - start)
        data = bytearray()
        try:
            async with self._open(
                start, start + BLOCK_BYTES, self._etag, self._invalidated
            ) as body:
                self._compare(body)
                if not body.ranged or body.version is None:
                    self._ranged = False
                    return None
                while len(data) < wanted and (piece := await body.receive()):
                    data += piece
        except Invalid as error:  # 416
            raise Changed(f"{self._name} is shorter than it was") from error
        if len(data) < wanted:
            raise ServerFault(f"{self._name} ended early")
        return self._put(number, bytes(data[:wanted]))

    def _compare(self, body: Body) -> None:
        """Raise Changed if an answer is known to be of another version."""
        if body.total not in (None, self.size):
            raise Changed(f"{self._name} has {body.total} bytes, where it had {self.size} before")
        if body.ranged and body.version not in (None, self._version):
            raise Changed(f"{self._name} changed while it was read")

    def _put(self, number: int, data: bytes) -> bytes:
        """Hold a block. Raises Changed if it has other bytes than it had."""
        crc32c = google_crc32c.value(data)
        if self._sums.setdefault(number, crc32c) != crc32c:
            raise Changed(f"{self._name} changed while it was read")
        self._blocks[number] = data
        return data

    # One transfer, in order.

    async def _passing(self, number: int) -> bytes:
        """A block, once the transfer comes by."""
        if number in self._blocks:
            return self._blocks[number]
        transfer = self._transfer
        if transfer is None or transfer.ended or transfer.next > number:
            if transfer is not None:
                transfer.scope.cancel()
            transfer = self._transfer = _Transfer()
            self._single_flight.launch((id(self), id(transfer)), partial(self._run, transfer))
        transfer.ask_for(number)
        while number not in self._blocks:
            if transfer.error is not None:
                raise transfer.error.with_traceback(None)
            if transfer.ended or transfer.next > number:
                raise ServerFault(f"{self._name}: the transfer went by")
            await transfer.news.wait()
        return self._blocks[number]

    async def _run(self, transfer: _Transfer) -> None:
        try:
            with transfer.scope:
                async with self._open(0, None, None, self._invalidated) as body:
                    self._compare(body)
                    await self._receive(transfer, body)
        except PictofsError as error:
            transfer.error = error
        finally:
            transfer.ended = True
            transfer.tell()

    async def _receive(self, transfer: _Transfer, body: Body) -> None:
        data = bytearray()
        received = crc32c = 0
        while piece := await body.receive():
            data += piece
            received += len(piece)
            crc32c = google_crc32c.extend(crc32c, piece)
            if received > self.size:
                raise Changed(f"{self._name} is longer than it was")
            if received == self.size and body.crc32c not in (
                None,
                crc32c,
            ):  # before the last block is given
                raise Corrupt(
                    f"{self._name}: the bytes that came have another checksum than storage says"
                )
            while len(data) >= BLOCK_BYTES or (received == self.size and data):
                await transfer.turn()
                self._put(transfer.next, bytes(data[:BLOCK_BYTES]))
                del data[:BLOCK_BYTES]
                transfer.next += 1
                transfer.tell()
        if received < self.size:
            shorter = f"{self._name} ended after {received} of {self.size} bytes"
            raise Changed(shorter) if body.delimited else ServerFault(shorter)


class _Transfer:
    """One answer on its way through."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.next = 0
        """The block that it brings next."""
        self.ended = False
        self.error: PictofsError | None = None
        self.news = trio.Event()
        self._wanted = 0
        self._more = trio.Event()

    def ask_for(self, number: int) -> None:
        """A reader wants a block."""
        self._wanted = max(self._wanted, number)
        self._more.set()

    async def turn(self) -> None:
        """Wait until the next block is wanted, or soon may be."""
        while self.next > self._wanted + AHEAD:
            self._more = trio.Event()
            await self._more.wait()

    def tell(self) -> None:
        """Wake who waits for a block."""
        self.news.set()
        self.news = trio.Event()
