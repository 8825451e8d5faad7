"""A large file on its way to the cache, readable from the first bytes on.

One transfer, the main one, goes from the first byte to the last; far seeks may have transfers of their own. What the
bytes are, and how many, is said by answers alone:

- The length is the one that the first answer names. If it names none, its end tells, and nobody is given a byte before.
  Nor is one given of a small file of which another answer has to bring the same bytes.
- Bytes of several answers stand in one file only if the answers are of one proven version. Otherwise a transfer that
  broke begins again at the first byte, and what was there before must come again, byte for byte.
- An answer that brings nothing new is followed by another one a few times at most, and only while somebody reads.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from pictofs.api.body import Body
from pictofs.errors import Corrupt, Invalid, PictofsError, ServerFault
from pictofs.library.content.disk import Disk
from pictofs.library.content.source import Changed, Source
from pictofs.library.content.whole import SMALL_BYTES, agrees
from pictofs.store.blobs.cache import Blob, PartialBlob, WouldBlock
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

NEAR_BYTES = 4 << 20
"""Bytes behind a running transfer for which a reader waits, rather than start another transfer."""
TRANSFERS_MAX = 4
"""Transfers of one file at once: the first, and far seeks."""
WORTH_FINISHING = 0.5
"""Share of a file above which the rest is fetched although every reader has closed it."""

UNREAD_LEAST_BYTES = 64 << 20
"""Bytes up to which an answer without a length is received although nobody waits for it any more: `open` may have run
into its deadline, and the next one then finds the file. (Larger ones: up to twice what the listing says.)"""
SHORT_ANSWERS = 16
"""Answers that end before what was asked for, and bring less than NEAR, after which the server is given up."""

Opener = Callable[[int, str | None, bool], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset on, if the entity tag still is the same. True: to prove an answer (`Source.open`)."""


class ByteRanges:
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


class _NotNeeded(PictofsError):
    """Nobody reads the file any more."""


class _Transfer:
    """One transfer: where it is."""

    def __init__(self, offset: int, *, main: bool) -> None:
        self.offset = self.start = offset
        self.main = main
        """Whether it goes through to the end of the file, and its failure is the file's."""
        self.scope = trio.CancelScope()


class Stream:
    """The download of one large file, shared by all its readers. It becomes a blob when it is complete."""

    def __init__(
        self,
        name: str,
        listed: int | None,
        partial_blob: PartialBlob,
        disk: Disk,
        opener: Opener,
        source: Source,
        nursery: trio.Nursery,
    ) -> None:
        """`listed`: the size by the listing. `draft` is taken over; room in it is claimed as the answers say."""
        self.size = 0
        """Exact once `opened` is set."""
        self.opened = trio.Event()
        self._name, self._listed, self._claimed = name, listed, 0
        self._partial_blob, self._disk, self._open = partial_blob, disk, opener
        self._source, self._nursery = source, nursery
        self._spans = ByteRanges()
        self._transfers: list[_Transfer] = []
        self._news = trio.Event()
        self._error: PictofsError | None = None
        self._blob: Blob | None = None
        self._transferred = object()  # stands for what comes, as long as it has no checksum
        self._ranges_heeded = True  # until the server shows otherwise
        self._version: str | None = None
        self._etag: str | None = None
        self._crc32c: int | None = None
        self._invalidated = False
        self._awaits_end = False  # whether nobody is given a byte before the answer's end
        self._short_answers = 0
        self._writing = trio.Lock()
        self._readers = 0
        self._committing = False
        self._given_up = False
        partial_blob.take_time()

    # What readers do.

    def enter(self) -> None:
        """One more reader."""
        self._readers += 1

    def leave(self) -> None:
        """One reader less; without any, a transfer that has far to go ends."""
        self._readers -= 1
        if self._readers:
            return
        if self._blob is not None:
            self._blob.close()
            return
        # How far it has to go is not known, or not believed, before the end, and no reader could wait longer.
        there = self._spans.total()
        waits_for_end = self._awaits_end and not self.opened.is_set() and there
        if not waits_for_end and (not there or there < WORTH_FINISHING * self.size):
            self._given_up = True
            _cancel(self._transfers)

    @property
    def usable(self) -> bool:
        """Whether a new reader may join."""
        return (
            self._error is None
            and self._blob is None
            and bool(self._transfers)
            and not self._given_up
        )

    @property
    def version(self) -> Hashable:
        """See `Content`."""
        return self._transferred if self._blob is None else self._blob.crc32c

    async def begin(self) -> None:
        """Start at the first byte; returns when the size is known.

        Raises what ends the transfer, DiskFull before any byte was given if the cache can't take the file.
        """
        if not self._transfers:
            self._start(0, main=True)
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
                self._ensure_transfer(there)
            elif not self._committing and (end < self.size or self._spans.first_gap() < self.size):
                return self._partial_blob.pread(offset, end - offset)
            await self._news.wait()
        return b""

    def _ensure_transfer(self, offset: int) -> None:
        """Make sure that a transfer is on its way to `offset`."""
        if not self._ranged or any(
            head.offset <= offset <= head.offset + NEAR_BYTES for head in self._transfers
        ):
            return  # without ranges the main transfer gets there
        if len(self._transfers) < TRANSFERS_MAX:
            self._start(offset, main=False)
            return
        oldest = next(head for head in self._transfers if not head.main)
        # Not before it has brought something: more readers than transfers would take them from each other for ever.
        if oldest.offset - oldest.start >= NEAR_BYTES:
            oldest.scope.cancel()

    # What transfers do.

    @property
    def _ranged(self) -> bool:
        """Whether a part may be asked for: only a version tells that it belongs to what is there."""
        return self._ranges_heeded and self._version is not None

    @property
    def _is_whole(self) -> bool:
        return self.opened.is_set() and self._spans.first_gap() >= self.size

    def _start(self, offset: int, *, main: bool) -> None:
        head = _Transfer(offset, main=main)
        self._transfers.append(head)
        self._nursery.start_soon(self._run, head)

    async def _run(self, head: _Transfer) -> None:
        try:
            with head.scope:
                transfer = self._bring_all if head.main else self._bring
                await self._source.retried(self._name, partial(transfer, head))
                if self._is_whole:
                    await self._complete(head)
        except PictofsError as error:
            if head.main or self._committing:
                self._error = self._error or error
                _cancel(self._transfers)
            else:
                self._ranges_heeded = False  # no more far seeks: the main transfer gets there too
        finally:
            self._transfers.remove(head)
            failed = not self._transfers and self._blob is None
            if failed:
                self._end()
            self._tell()
            if failed:
                with trio.CancelScope(shield=True):  # also while the mount ends
                    await in_thread(self._partial_blob.abandon)

    async def _bring_all(self, head: _Transfer) -> None:
        """Fetch what is missing, from the first gap on. Each turn brings something, counts, or fails."""
        while not self._is_whole:
            resumes = self._ranged and self.opened.is_set()
            head.offset = self._spans.first_gap() if resumes else 0
            if resumes and any(
                other.offset == head.offset for other in self._transfers if other is not head
            ):
                await (
                    self._news.wait()
                )  # a far seek brings just that: another request would run after it
                continue
            await self._bring(head)

    async def _bring(self, head: _Transfer) -> None:
        """Take in one answer, from the head on to what is there already."""
        if not self._readers:
            raise _NotNeeded(f"nobody reads {self._name} any more")
        if self._short_answers >= SHORT_ANSWERS:
            raise Changed(f"{self._name}: the server sends it in too small parts")
        start = head.start = head.offset
        try:
            async with self._open(start, self._etag if start else None, self._invalidated) as body:
                if not body.ranged and head.main:
                    self._ranges_heeded &= not start
                    await self._receive_whole(head, body)
                elif body.ranged and self._is_same(body):
                    await self._receive_part(head, body)
                else:
                    self._ranges_heeded = False
        except Invalid as error:  # 416
            raise Changed(f"{self._name} is shorter than it was") from error

    def _is_same(self, body: Body) -> bool:
        """Whether a part is proven to be of the version that is there. Raises Changed if it is not."""
        if body.total not in (None, self.size):
            raise Changed(f"{self._name} has {body.total} bytes, where it had {self.size} before")
        if body.version not in (None, self._version):
            raise Changed(f"{self._name} changed while it was read")
        return body.version is not None

    async def _receive_part(self, head: _Transfer, body: Body) -> None:
        stop = self._spans.next_start(head.offset, self.size)
        while head.offset < stop and (piece := await body.receive()):
            await self._put(head, piece)
            if self._spans.end_of(head.offset) > head.offset:
                return  # another transfer has been here
        if head.offset < stop and head.offset - head.start < NEAR_BYTES:
            self._short_answers += 1

    async def _receive_whole(self, head: _Transfer, body: Body) -> None:
        head.offset = 0
        if not self.opened.is_set():
            self._spans = ByteRanges()  # nobody has been given a byte
            self._partial_blob.restart()
            self._crc32c = None
        await self._meet(body)
        while piece := await body.receive():
            if self.opened.is_set() and head.offset + len(piece) > self.size:
                raise Changed(f"{self._name} is longer than it was")
            await self._put(head, piece)
            # What another transfer brought is received again, and compared, if it is less than a round trip's worth.
            if self._ranged and self._spans.end_of(head.offset) > head.offset + NEAR_BYTES:
                return
            if not self._readers and head.offset > self._unread_most:
                raise _NotNeeded(f"nobody waits for {self._name} any more")
        if not self.opened.is_set():
            await self._settle(head.offset, body)
        elif head.offset < self.size:
            shorter = f"{self._name} ended after {head.offset} of {self.size} bytes"
            raise Changed(shorter) if body.delimited else ServerFault(shorter)

    @property
    def _unread_most(self) -> int:
        if self.opened.is_set():
            return self.size
        return max(UNREAD_LEAST_BYTES, 2 * (self._listed or 0))

    async def _meet(self, body: Body) -> None:
        """Take down what an answer says of the whole."""
        if self._version is None or body.version != self._version:
            self._ranges_heeded &= not self.opened.is_set()
            _cancel([head for head in self._transfers if not head.main])
        self._version, self._etag = body.version, body.etag
        self._crc32c = self._crc32c if body.crc32c is None else body.crc32c
        self._awaits_end = body.total is None
        if body.total is None:
            return
        if not self.opened.is_set():
            await in_thread(self._reserve, body.total)
            if body.crc32c is None and not agrees(body.total, self._listed, delimited=True):
                self._awaits_end = body.total <= SMALL_BYTES
                if self._awaits_end:
                    return  # `_settle` has the bytes proven, and not the length alone
                await self._prove_length(body.total)
            self.size = body.total
            self.opened.set()
        elif body.total != self.size:
            raise Changed(f"{self._name} has {body.total} bytes, where it had {self.size} before")

    def _reserve(self, size: int) -> None:
        self._partial_blob.grow(size)
        self._partial_blob.allocate()  # or the free space would not show what is on its way
        self._claimed = size

    async def _prove_length(self, length: int) -> None:
        """Have a second answer say what the listing does not. Raises Corrupt."""
        doubted, self._invalidated = self._invalidated, True
        async with self._open(0, None, True) as body:
            self._crc32c = body.crc32c
            if body.total != length and (body.crc32c is None or body.total is not None):
                raise Corrupt(
                    f"{self._name}: {length} bytes by one answer, {body.total} by another one"
                )
        self._invalidated = doubted

    async def _settle(self, length: int, body: Body) -> None:
        """An answer that names no length, or an unlikely one, has ended: that was all, unless something speaks
        against it.

        Raises Corrupt.
        """
        if body.crc32c is None and not agrees(length, self._listed, body.delimited):
            await self._prove_content(length)
        self.size = length
        await self._commit()
        self.opened.set()

    async def _prove_content(self, length: int) -> None:
        """Have a second answer bring the same bytes. Raises Corrupt."""
        doubted, self._invalidated = self._invalidated, True
        offset = 0
        async with self._open(0, None, True) as body:
            self._crc32c = body.crc32c
            while piece := await body.receive():
                if self._partial_blob.pread(offset, len(piece)) != piece:
                    raise Corrupt(
                        f"{self._name}: two answers differ, and nothing tells which one is right"
                    )
                offset += len(piece)
        if offset != length:
            raise Corrupt(f"{self._name}: {length} bytes in one answer, {offset} in another one")
        self._invalidated = doubted

    async def _put(self, head: _Transfer, piece: bytes) -> None:
        """Have bytes at the head: write what is missing, and compare what is there. Raises Changed."""
        while piece:
            start = head.offset
            end = start + len(piece)
            there = min(self._spans.end_of(start), end)
            if there > start:
                if self._partial_blob.pread(start, there - start) != piece[: there - start]:
                    raise Changed(f"{self._name} changed while it was read")
            else:
                there = min(self._spans.next_start(start, end), end)
                async with self._writing:  # one thread at a time writes to a draft
                    await self._write(start, piece[: there - start])
                self._spans.add(start, there)
            head.offset = there
            piece = piece[there - start :]
        self._tell()

    async def _write(self, offset: int, piece: bytes) -> None:
        if offset + len(piece) <= self._claimed:  # beyond that room is claimed, which may wait
            try:
                self._disk.quick(self._partial_blob.write, offset, piece)
                return
            except WouldBlock:
                pass
        await in_thread(self._partial_blob.write, offset, piece)

    async def _complete(self, last: _Transfer) -> None:
        if self._committing:
            return
        self._committing = True  # from some moment of the commit on the draft's file is the blob's
        _cancel([head for head in self._transfers if head is not last])
        await self._commit()

    async def _commit(self) -> None:
        """Make a blob of the draft. Raises Corrupt if the bytes are not those that the checksum is of."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                blob = await in_thread(self._partial_blob.commit, self.size, self._crc32c)
        self._blob = blob
        self._committing = True
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


def _cancel(heads: list[_Transfer]) -> None:
    for head in heads:
        head.scope.cancel()


class Streamed:
    """One reader of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.size = stream.size
        stream.enter()

    @property
    def version(self) -> Hashable:
        """The checksum of the whole, which is known at its end."""
        return self._stream.version

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes as they arrive."""
        return await self._stream.read(offset, length)

    def close(self) -> None:
        """Leave the stream."""
        self._stream.leave()
