"""A large file that the cache can't take, kept nowhere.

From a server that heeds ranges, and says which version of the object they are of, the file comes in
blocks, each by a request of its own. From any other server it comes in order, by one transfer that
stays a little ahead of the reader; a block that has gone by takes another transfer from the first
byte on. The checksum of each block is remembered, and another transfer is accepted only if it
brings the same bytes again.
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
from pictofs.library.content.whole import agrees, answers_differ, checksum_differs
from pictofs.library.single_flight import SingleFlight

BLOCK_BYTES = 4 << 20
"""Bytes of one request: a round trip of 20 ms is then a few per cent of the transfer."""
BLOCKS = 4
"""Blocks held by one open file: the kernel reads ahead across one boundary, seldom across two."""
AHEAD = 1
"""Blocks that a transfer in order may be ahead of the last one that was asked for."""

Opener = Callable[[int, str | None, bool, int | None], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset, if the entity tag is still the same, to an end. True: the answer
is to prove another one (`Source.open`)."""


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
        """`listed`: the size in the listing, in bytes."""
        self.size = 0
        """Bytes; exact after `begin`."""
        self._name = name
        self._listed = listed
        self._open = opener
        self._source = source
        self._single_flight = single_flight
        self._blocks: LRUCache[int, bytes] = LRUCache(BLOCKS)
        self._sums: dict[int, int] = {}
        """The CRC-32C of each block that came, by its number."""
        self._version: str | None = None
        self._etag: str | None = None
        self._ranged = False
        self._invalidated = False
        self._error: Changed | None = None
        self._transferred = object()  # the version, where the server names none
        self._transfer: _Transfer | None = None
        self._turn = trio.Lock()
        self._closed = False

    @property
    def version(self) -> Hashable:
        """The version that the server names, as long as all answers are of it: a part has no
        checksum."""
        if self._version is None or self._error is not None:
            return self._transferred
        return self._version

    async def begin(self) -> None:
        """Learn the size, and read the first block.

        Raises Changed, Corrupt, and what keeps storage from answering.
        """
        await self._source.retried(self._name, self._meet)
        await self._block(0)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of one or several blocks. Raises Changed, Corrupt, ServerFault."""
        end = min(offset + length, self.size)
        pieces = []
        while offset < end:
            number, place = divmod(offset, BLOCK_BYTES)
            block = await self._block(number)
            piece = block[place : place + end - offset]
            if not piece:
                raise Corrupt(f"{self._name} was closed while it was read")

            pieces.append(piece)
            offset += len(piece)

            # The start of a block was read: it is likely that the next one is wanted soon.
            if place == 0 and end < self.size and self._ranged:
                following = number + 1
                self._single_flight.launch((id(self), following), partial(self._fetched, following))

        return b"".join(pieces)

    def close(self) -> None:
        """Drop the blocks, and end the transfer that is under way."""
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
            async with self._open(0, None, self._invalidated, BLOCK_BYTES) as body:
                self._version = body.version
                self._etag = body.etag
                total = body.total
                sure = body.crc32c is not None
                self._ranged = body.ranged and body.version is not None and total is not None
                if self._ranged and total is not None:
                    await self._take_first(body, min(BLOCK_BYTES, total))
        except Invalid:  # 416: an empty file has no range at all
            total = 0
            sure = False

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
        """Have a second answer confirm a length that is not the listing's. Raises Corrupt."""
        doubted = self._invalidated
        self._invalidated = True

        # A part is asked for: some servers name the length of the whole only with a part.
        try:
            async with self._open(0, None, True, BLOCK_BYTES) as body:
                found = body.total
        except Invalid:  # 416, as in `_meet`
            found = 0

        if found != length:
            raise Corrupt(f"{self._name}: {length} bytes by one answer, {found} by another one")

        self._invalidated = doubted

    async def _counted(self) -> int:
        """The length if answers do not name it: bytes up to the end of one. Raises Corrupt."""
        length, crc32c, sure = await self._count()

        # A broken connection may look like the end, and the listing has another length.
        if not sure:
            again = await self._count()
            if (length, crc32c) != again[:2]:
                raise answers_differ(self._name)

        return length

    async def _count(self) -> tuple[int, int, bool]:
        """Length and CRC-32C of one whole answer, and whether it is believed. Raises Corrupt."""
        length = 0
        crc32c = 0
        async with self._open(0, None, self._invalidated, None) as body:
            while piece := await body.receive():
                length += len(piece)
                crc32c = google_crc32c.extend(crc32c, piece)

            if body.crc32c not in (None, crc32c):
                raise checksum_differs(self._name)

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
        if found is not None:
            return found

        # One at a time: readers of places far apart would take the transfer from each other for
        # ever.
        async with self._turn:
            return await self._passing(number)

    async def _part(self, number: int) -> bytes | None:
        """A block by a request of its own; None if the server does not heed ranges any more.

        Raises Changed, ServerFault.
        """
        start = number * BLOCK_BYTES
        end = start + BLOCK_BYTES
        wanted = min(BLOCK_BYTES, self.size - start)

        data = bytearray()
        try:
            async with self._open(start, self._etag, self._invalidated, end) as body:
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
        """Hold a block, and return it. Raises Changed if it had other bytes before."""
        crc32c = google_crc32c.value(data)
        if self._sums.setdefault(number, crc32c) != crc32c:
            raise Changed(f"{self._name} changed while it was read")

        self._blocks[number] = data
        return data

    # One transfer, in order.

    async def _passing(self, number: int) -> bytes:
        """A block, once the transfer comes by. Raises what ended the transfer."""
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

            await transfer.progress.wait()

        return self._blocks[number]

    async def _run(self, transfer: _Transfer) -> None:
        try:
            with transfer.scope:
                async with self._open(0, None, self._invalidated, None) as body:
                    self._compare(body)
                    await self._receive(transfer, body)
        except PictofsError as error:
            transfer.error = error
        finally:
            transfer.ended = True
            transfer.tell()

    async def _receive(self, transfer: _Transfer, body: Body) -> None:
        """Give the blocks of an answer as they are wanted. Raises Changed, Corrupt, ServerFault."""
        data = bytearray()
        received = 0
        crc32c = 0
        while piece := await body.receive():
            data += piece
            received += len(piece)
            crc32c = google_crc32c.extend(crc32c, piece)
            if received > self.size:
                raise Changed(f"{self._name} is longer than it was")

            # Before the last block is given: a reader must not take a damaged file for good.
            if received == self.size and body.crc32c not in (None, crc32c):
                raise checksum_differs(self._name)

            while len(data) >= BLOCK_BYTES or (received == self.size and data):
                await transfer.turn()
                self._put(transfer.next, bytes(data[:BLOCK_BYTES]))
                del data[:BLOCK_BYTES]
                transfer.next += 1
                transfer.tell()

        if received < self.size:
            shorter = f"{self._name} ended after {received} of {self.size} bytes"
            if body.delimited:
                raise Changed(shorter)
            raise ServerFault(shorter)


class _Transfer:
    """One answer on its way through."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.next = 0
        """The number of the block that it brings next."""
        self.ended = False
        self.error: PictofsError | None = None
        self.progress = trio.Event()
        self._wanted = 0
        self._more = trio.Event()

    def ask_for(self, number: int) -> None:
        """Say that a reader wants a block."""
        self._wanted = max(self._wanted, number)
        self._more.set()

    async def turn(self) -> None:
        """Wait until the next block is wanted, or soon may be."""
        while self.next > self._wanted + AHEAD:
            self._more = trio.Event()
            await self._more.wait()

    def tell(self) -> None:
        """Wake those who wait for a block."""
        self.progress.set()
        self.progress = trio.Event()
