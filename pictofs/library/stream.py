"""A large file on its way to the shelf, readable from the first bytes on."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from pictofs.api.body import Body
from pictofs.errors import Corrupt, PictofsError, ServerFault
from pictofs.library.disk import Disk
from pictofs.library.source import Source
from pictofs.store.shelf import Blob, Draft, WouldBlock
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

NEAR = 4 << 20
"""Bytes behind a running transfer for which a reader waits, rather than start another transfer."""
HEADS = 4
"""Transfers of one file at once: the first, and far seeks."""
WORTH_FINISHING = 0.5
"""Share of a file above which the rest is fetched although every reader has closed it."""

Opener = Callable[[int, str | None], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset on, if the entity tag still is the same."""


class Spans:
    """Which bytes are there: sorted, disjoint, half-open intervals."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add an interval; neighbours melt together."""
        low = bisect_right(self._starts, start)
        if low and self._ends[low - 1] >= start:
            low -= 1
            start = self._starts[low]
        high = bisect_right(self._starts, end)
        if high > low:
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def end_of(self, offset: int) -> int:
        """The end of the interval that holds `offset`, or `offset` itself where none does."""
        place = bisect_right(self._starts, offset) - 1
        return max(offset, self._ends[place]) if place >= 0 else offset

    def next_start(self, offset: int, end: int) -> int:
        """The first start behind `offset`, or `end`."""
        place = bisect_right(self._starts, offset)
        return self._starts[place] if place < len(self._starts) else end

    def first_gap(self) -> int:
        """The first byte that is missing."""
        return self.end_of(0)

    def total(self) -> int:
        """Bytes that are there."""
        return sum(self._ends) - sum(self._starts)


class _Head:
    """One transfer: where it is."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.scope = trio.CancelScope()


class Stream:
    """The download of one large file, shared by all its readers. It becomes a blob when it is complete."""

    def __init__(
        self,
        name: str,
        size: int,
        draft: Draft,
        disk: Disk,
        opener: Opener,
        source: Source,
        nursery: trio.Nursery,
    ) -> None:
        """`draft` has room for `size` bytes, the size by the listing, and is taken over."""
        self._claimed, self._disk = size, disk
        self.size = size
        """Exact once `opened` is set."""
        self.opened = trio.Event()
        self._name, self._draft, self._open, self._source, self._nursery = (
            name,
            draft,
            opener,
            source,
            nursery,
        )
        self._spans = Spans()
        self._heads: list[_Head] = []
        self._news = trio.Event()
        self._error: PictofsError | None = None
        self._blob: Blob | None = None
        self._ranged = True  # until the server shows otherwise
        self._etag: str | None = None
        self._crc32c: int | None = None
        self._writing = trio.Lock()
        self._readers = 0
        self._committing = False
        self._given_up = False

    # What readers do.

    def enter(self) -> None:
        """One more reader."""
        self._readers += 1

    def leave(self) -> None:
        """One reader less; without any, a transfer that has far to go ends."""
        self._readers -= 1
        if self._readers == 0 and self._blob is not None:
            self._blob.close()
        elif self._readers == 0 and self._spans.total() < WORTH_FINISHING * self.size:
            self._given_up = True
            _cancel(self._heads)

    @property
    def usable(self) -> bool:
        """Whether a new reader may join."""
        return self._error is None and self._blob is None and bool(self._heads) and not self._given_up

    @property
    def complete(self) -> bool:
        """Whether the whole has arrived and its checksum was right."""
        return self._blob is not None

    async def begin(self) -> None:
        """Start at the first byte; returns when the size is known. Raises what ends the transfer."""
        if not self._heads:
            self._start(0)
        await self.opened.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes as soon as they are there; raises what ended the transfer.

        The last byte is given only when the checksum of the whole was right, unless something else is
        still missing: who reads a file through never takes a damaged one for good.
        """
        end = min(offset + length, self.size)
        while offset < end:
            if self._blob is not None:
                return self._blob.pread(offset, length)
            if self._error is not None:
                raise self._error.with_traceback(None)
            there = self._spans.end_of(offset)
            if there < end:
                self._send_for(there)
            elif not self._committing and (end < self.size or self._spans.first_gap() < self.size):
                return self._draft.pread(offset, end - offset)
            await self._news.wait()
        return b""

    def _send_for(self, offset: int) -> None:
        """Make sure that a transfer is on its way to `offset`."""
        if any(head.offset <= offset <= head.offset + NEAR for head in self._heads):
            return
        if self._heads and (not self._ranged or len(self._heads) >= HEADS):
            if self._ranged:
                self._heads[1].scope.cancel()  # the oldest far seek; the first one goes through to the end
            return
        self._start(offset)

    # What transfers do.

    def _start(self, offset: int) -> None:
        head = _Head(offset)
        self._heads.append(head)
        self._nursery.start_soon(self._run, head)

    async def _run(self, head: _Head) -> None:
        try:
            with head.scope:
                await self._source.retried(self._name, lambda: self._transfer(head))
                if self._spans.first_gap() >= self.size:
                    await self._complete(head)
        except PictofsError as error:
            if self._heads[0] is head or self._committing:
                self._error = self._error or error
            else:
                self._ranged = False  # no more far seeks: the first transfer gets there too
        finally:
            self._heads.remove(head)
            failed = not self._heads and self._blob is None
            if failed:
                self._end()
            self._tell()
            if failed:
                with trio.CancelScope(shield=True):  # also while the mount ends
                    await in_thread(self._draft.abandon)

    async def _transfer(self, head: _Head) -> None:
        """Fetch from the head on to the next span, and, for the first head, go on with what is missing."""
        while True:
            head.offset = self._spans.end_of(head.offset)
            if head.offset >= self.size:
                head.offset = self._spans.first_gap()
                if head is not self._heads[0] or head.offset >= self.size:
                    return
            async with self._open(head.offset, self._etag) as body:
                self._check(body)
                if not body.ranged and head.offset:
                    self._ranged = False
                    if head is not self._heads[0]:
                        return  # the first transfer gets there no later
                    head.offset = 0
                await self._receive(head, body)
            if head is not self._heads[0]:
                return

    def _check(self, body: Body) -> None:
        if not self.opened.is_set():
            self.size = self.size if body.total is None else body.total
            self.opened.set()
        if body.total is not None and body.total != self.size:
            raise Corrupt(f"{self._name} has {body.total} bytes, where it had {self.size} before")
        if self._etag is None:
            self._etag = body.etag
        elif body.etag is not None and body.etag != self._etag:
            raise Corrupt(f"{self._name} changed while it was read")
        if not body.ranged and body.crc32c is not None:
            self._crc32c = body.crc32c

    async def _receive(self, head: _Head, body: Body) -> None:
        stop = self._spans.next_start(head.offset, self.size) if body.ranged else self.size
        while head.offset < stop:
            piece = await body.receive()
            if not piece:
                return
            piece = piece[: self.size - head.offset]
            async with self._writing:  # one thread at a time writes to a draft
                await self._write(head.offset, piece)
            self._spans.add(head.offset, head.offset + len(piece))
            head.offset += len(piece)
            self._tell()
            if self._ranged and self._spans.end_of(head.offset) > head.offset:
                return  # another transfer has been here

    async def _write(self, offset: int, piece: bytes) -> None:
        if offset + len(piece) <= self._claimed:  # beyond that room is claimed, which may wait
            try:
                self._disk.quick(self._draft.write, offset, piece)
                return
            except WouldBlock:
                pass
        await in_thread(self._draft.write, offset, piece)

    async def _complete(self, last: _Head) -> None:
        if self._committing:
            return
        self._committing = True  # from some moment of the commit on the draft's file is the blob's
        _cancel([head for head in self._heads if head is not last])
        with trio.CancelScope(shield=True):
            async with self._writing:
                blob = await in_thread(self._draft.commit, self.size, self._crc32c)
        self._blob = blob
        if self._readers == 0:
            blob.close()

    def _end(self) -> None:
        """No transfer is left and the file is not complete."""
        if self._error is None:
            self._error = ServerFault("the transfer was given up")
        self.opened.set()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _cancel(heads: list[_Head]) -> None:
    for head in heads:
        head.scope.cancel()


class Streamed:
    """One reader of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.size = stream.size
        stream.enter()

    @property
    def proven(self) -> bool:
        """Only the checksum of the whole tells."""
        return self._stream.complete

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes as they arrive."""
        return await self._stream.read(offset, length)

    def close(self) -> None:
        """Leave the stream."""
        self._stream.leave()
