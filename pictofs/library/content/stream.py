"""A large file on its way to the cache, readable from the first bytes on.

One transfer, the main one, goes from the first byte to the last; far seeks may have transfers of
their own. Only the server's answers decide what the bytes are and how many:

- The length is the one that the first answer names. If it names none, the end of the answer tells
  the length, and no byte is given to a reader before. Nor is one given of a small file whose bytes
  a second answer has to confirm.
- Bytes of several answers are put together in one file only if the answers are proven to be of one
  version. Otherwise a transfer that broke begins again at the first byte, and must bring the bytes
  that are there already once more, unchanged.
- An answer that brings nothing new is followed by another one a few times at most, and only while
  somebody reads.
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
from pictofs.library.content.whole import SMALL_BYTES, agrees, answers_differ
from pictofs.store.blobs.cache import Blob, PartialBlob, WouldBlock
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

NEAR_BYTES = 4 << 20
"""A reader waits for a running transfer that is at most this many bytes behind, rather than start
another one."""
TRANSFERS_MAX = 4
"""Transfers of one file at once: the main one, and far seeks."""
WORTH_FINISHING = 0.5
"""Share of a file above which the rest is fetched although every reader has closed it."""

UNREAD_LEAST_BYTES = 64 << 20
"""Bytes up to which an answer without a length is received although nobody waits for it any more:
`open` may have run into its deadline, and the next `open` then finds the file. (Larger files: up to
twice the size in the listing.)"""
SHORT_ANSWERS = 16
"""The server is given up after this many answers that end before what was asked for and bring less
than `NEAR_BYTES`."""

Opener = Callable[[int, str | None, bool], AbstractAsyncContextManager[Body]]
"""Opens the bytes from an offset on, if the entity tag is still the same. True: the answer is to
prove another one (`Source.open`)."""


class ByteRanges:
    """Which bytes are there: sorted, disjoint, half-open intervals."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add an interval, and merge it with those that it touches."""
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
        """The end of the interval that holds `offset`; `offset` itself if none does."""
        place = bisect_right(self._starts, offset) - 1
        return max(offset, self._ends[place]) if place >= 0 else offset

    def next_start(self, offset: int, end: int) -> int:
        """The first start of an interval after `offset`; `end` if there is none."""
        place = bisect_right(self._starts, offset)
        return self._starts[place] if place < len(self._starts) else end

    def first_gap(self) -> int:
        """The offset of the first missing byte."""
        return self.end_of(0)

    def total(self) -> int:
        """How many bytes are there."""
        return sum(self._ends) - sum(self._starts)


class _NotNeeded(PictofsError):
    """Nobody reads the file any more."""


class _Transfer:
    """One transfer, and how far it has come."""

    def __init__(self, offset: int, *, main: bool) -> None:
        self.start = offset
        self.offset = offset
        self.main = main
        """Whether it goes through to the end of the file, and its failure is the file's."""
        self.scope = trio.CancelScope()


class Stream:
    """The download of one large file, shared by all its readers. It becomes a blob when it is
    complete."""

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
        """`listed`: the size in the listing, in bytes. `partial_blob` is taken over; room in it is
        claimed once an answer names the length."""
        self.size = 0
        """Bytes; exact once `opened` is set."""
        self.opened = trio.Event()
        self._name = name
        self._listed = listed
        self._claimed = 0  # bytes for which the cache has made room
        self._partial_blob = partial_blob
        self._disk = disk
        self._open = opener
        self._source = source
        self._nursery = nursery
        self._spans = ByteRanges()
        self._transfers: list[_Transfer] = []
        self._news = trio.Event()
        self._error: PictofsError | None = None
        self._blob: Blob | None = None
        self._transferred = object()  # the version, as long as there is no checksum
        self._ranges_heeded = True  # until the server shows otherwise
        self._version: str | None = None
        self._etag: str | None = None
        self._crc32c: int | None = None
        self._invalidated = False
        self._awaits_end = False  # whether no byte may be given before the answer ends
        self._short_answers = 0
        self._writing = trio.Lock()
        self._readers = 0
        self._committing = False
        self._given_up = False
        partial_blob.take_time()

    # What readers do.

    def enter(self) -> None:
        """Count one more reader."""
        self._readers += 1

    def leave(self) -> None:
        """Count one reader less; without any, a transfer that has far to go ends."""
        self._readers -= 1
        if self._readers:
            return

        if self._blob is not None:
            self._blob.close()
            return

        # Before an answer ends whose length is unknown or not believed, nobody can say how far it
        # has to go. It goes on: `open` may have run into its deadline, and the next one needs it.
        there = self._spans.total()
        waits_for_end = self._awaits_end and not self._size_is_known and there
        has_far_to_go = not there or there < WORTH_FINISHING * self.size
        if not waits_for_end and has_far_to_go:
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

        Raises what ends the transfer; DiskFull, before any byte is given, if the cache can't take
        the file.
        """
        if not self._transfers:
            self._start(0, main=True)

        await self.opened.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes as soon as they are there. Raises what ended the transfer.

        The last byte is given only once the checksum of the whole was right, unless other bytes are
        still missing: whoever reads a file to its end never takes a damaged one for good.
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
            elif self._may_give(end):
                return self._partial_blob.pread(offset, end - offset)

            await self._news.wait()

        return b""

    def _may_give(self, end: int) -> bool:
        """Whether bytes up to `end`, which are there, may be given although the checksum of the
        whole is still to be compared."""
        if self._committing:
            return False
        return end < self.size or self._spans.first_gap() < self.size

    def _ensure_transfer(self, offset: int) -> None:
        """Make sure that a transfer is on its way to `offset`."""
        if not self._ranged:
            return  # only the main transfer can get there, and it does
        if any(each.offset <= offset <= each.offset + NEAR_BYTES for each in self._transfers):
            return

        if len(self._transfers) < TRANSFERS_MAX:
            self._start(offset, main=False)
            return

        # Not before it has brought something: if there are more readers than transfers, they would
        # otherwise take them from each other for ever.
        oldest = next(each for each in self._transfers if not each.main)
        if oldest.offset - oldest.start >= NEAR_BYTES:
            oldest.scope.cancel()

    # What transfers do.

    @property
    def _size_is_known(self) -> bool:
        """Whether `size` is exact, so that readers may have been given bytes."""
        return self.opened.is_set()

    @property
    def _ranged(self) -> bool:
        """Whether a part may be asked for: only a version proves that a part belongs to the bytes
        that are there."""
        return self._ranges_heeded and self._version is not None

    @property
    def _is_whole(self) -> bool:
        return self._size_is_known and self._spans.first_gap() >= self.size

    def _start(self, offset: int, *, main: bool) -> None:
        transfer = _Transfer(offset, main=main)
        self._transfers.append(transfer)
        self._nursery.start_soon(self._run, transfer)

    async def _run(self, transfer: _Transfer) -> None:
        try:
            with transfer.scope:
                bring = self._bring_all if transfer.main else self._bring
                await self._source.retried(self._name, partial(bring, transfer))
                if self._is_whole:
                    await self._complete(transfer)
        except PictofsError as error:
            if transfer.main or self._committing:
                self._error = self._error or error
                _cancel(self._transfers)
            else:
                self._ranges_heeded = False  # no more far seeks: the main transfer gets there too
        finally:
            self._transfers.remove(transfer)
            failed = not self._transfers and self._blob is None
            if failed:
                self._end()

            self._tell()
            if failed:
                with trio.CancelScope(shield=True):  # also while the mount ends
                    await in_thread(self._partial_blob.abandon)

    async def _bring_all(self, transfer: _Transfer) -> None:
        """Fetch what is missing, from the first gap on. Each turn brings something, counts, or
        fails."""
        while not self._is_whole:
            resumes = self._ranged and self._size_is_known
            transfer.offset = self._spans.first_gap() if resumes else 0

            # A far seek brings just that. A request of its own would only run after it.
            if resumes and self._another_is_at(transfer):
                await self._news.wait()
                continue

            await self._bring(transfer)

    def _another_is_at(self, transfer: _Transfer) -> bool:
        """Whether another transfer is exactly where this one is."""
        others = [each for each in self._transfers if each is not transfer]
        return any(each.offset == transfer.offset for each in others)

    async def _bring(self, transfer: _Transfer) -> None:
        """Take in one answer, from the transfer's offset to bytes that are there already."""
        if not self._readers:
            raise _NotNeeded(f"nobody reads {self._name} any more")
        if self._short_answers >= SHORT_ANSWERS:
            raise Changed(f"{self._name}: the server sends it in too small parts")

        start = transfer.start = transfer.offset
        etag = self._etag if start else None
        try:
            async with self._open(start, etag, self._invalidated) as body:
                if not body.ranged and transfer.main:
                    # The whole, although the rest was asked for: parts can't be had.
                    self._ranges_heeded &= not start
                    await self._receive_whole(transfer, body)
                elif body.ranged and self._is_same(body):
                    await self._receive_part(transfer, body)
                else:
                    self._ranges_heeded = False
        except Invalid as error:  # 416
            raise Changed(f"{self._name} is shorter than it was") from error

    def _is_same(self, body: Body) -> bool:
        """Whether a part is proven to be of the version that is there. Raises Changed if it is
        known to be of another one."""
        if body.total not in (None, self.size):
            raise Changed(f"{self._name} has {body.total} bytes, where it had {self.size} before")
        if body.version not in (None, self._version):
            raise Changed(f"{self._name} changed while it was read")
        return body.version is not None

    async def _receive_part(self, transfer: _Transfer, body: Body) -> None:
        stop = self._spans.next_start(transfer.offset, self.size)
        while transfer.offset < stop and (piece := await body.receive()):
            await self._put(transfer, piece)
            if self._spans.end_of(transfer.offset) > transfer.offset:
                return  # another transfer has been here

        if transfer.offset < stop and transfer.offset - transfer.start < NEAR_BYTES:
            self._short_answers += 1

    async def _receive_whole(self, transfer: _Transfer, body: Body) -> None:
        transfer.offset = 0
        if not self._size_is_known:
            self._spans = ByteRanges()  # no reader has been given a byte
            self._partial_blob.restart()
            self._crc32c = None

        await self._meet(body)

        while piece := await body.receive():
            if self._size_is_known and transfer.offset + len(piece) > self.size:
                raise Changed(f"{self._name} is longer than it was")

            await self._put(transfer, piece)

            # Bytes that another transfer brought are received again, and compared, if they cost
            # less than the round trip of another request.
            if self._ranged and self._spans.end_of(transfer.offset) > transfer.offset + NEAR_BYTES:
                return
            if not self._readers and transfer.offset > self._unread_most:
                raise _NotNeeded(f"nobody waits for {self._name} any more")

        if not self._size_is_known:
            await self._settle(transfer.offset, body)
        elif transfer.offset < self.size:
            shorter = f"{self._name} ended after {transfer.offset} of {self.size} bytes"
            if body.delimited:
                raise Changed(shorter)
            raise ServerFault(shorter)

    @property
    def _unread_most(self) -> int:
        """Bytes after which an answer that nobody reads is given up."""
        if self._size_is_known:
            return self.size
        return max(UNREAD_LEAST_BYTES, 2 * (self._listed or 0))

    async def _meet(self, body: Body) -> None:
        """Note what an answer says of the whole file. Raises Changed, Corrupt, DiskFull."""
        # Unless it is proven to be of the version that is there, parts brought by far seeks may be
        # of another one.
        if self._version is None or body.version != self._version:
            self._ranges_heeded &= not self._size_is_known
            _cancel([each for each in self._transfers if not each.main])

        self._version = body.version
        self._etag = body.etag
        if body.crc32c is not None:
            self._crc32c = body.crc32c

        self._awaits_end = body.total is None
        if body.total is None:
            return

        if not self._size_is_known:
            await in_thread(self._reserve, body.total)
            if body.crc32c is None and not agrees(body.total, self._listed, delimited=True):
                self._awaits_end = body.total <= SMALL_BYTES
                if self._awaits_end:
                    return  # `_settle` has the bytes confirmed, and not the length alone

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
        """Have a second answer confirm a length that is not the listing's. Raises Corrupt."""
        doubted = self._invalidated
        self._invalidated = True
        async with self._open(0, None, True) as body:
            self._crc32c = body.crc32c

            # A checksum without a length will do: it is compared with all the bytes at the end.
            if body.total != length and (body.crc32c is None or body.total is not None):
                raise Corrupt(
                    f"{self._name}: {length} bytes by one answer, {body.total} by another one"
                )

        self._invalidated = doubted

    async def _settle(self, length: int, body: Body) -> None:
        """Take the end of an answer that named no length, or an unlikely one, for the file's end.

        Raises Corrupt if a second answer was needed and says otherwise.
        """
        if body.crc32c is None and not agrees(length, self._listed, body.delimited):
            await self._prove_content(length)

        self.size = length
        await self._commit()
        self.opened.set()

    async def _prove_content(self, length: int) -> None:
        """Have a second answer bring the same bytes. Raises Corrupt."""
        doubted = self._invalidated
        self._invalidated = True
        offset = 0
        async with self._open(0, None, True) as body:
            self._crc32c = body.crc32c
            while piece := await body.receive():
                if self._partial_blob.pread(offset, len(piece)) != piece:
                    raise answers_differ(self._name)

                offset += len(piece)

        if offset != length:
            raise Corrupt(f"{self._name}: {length} bytes in one answer, {offset} in another one")

        self._invalidated = doubted

    async def _put(self, transfer: _Transfer, piece: bytes) -> None:
        """Put bytes where the transfer is: write what is missing, and compare what is there. Raises
        Changed if that differs."""
        while piece:
            start = transfer.offset
            end = start + len(piece)
            there = min(self._spans.end_of(start), end)
            if there > start:
                if self._partial_blob.pread(start, there - start) != piece[: there - start]:
                    raise Changed(f"{self._name} changed while it was read")
            else:
                there = min(self._spans.next_start(start, end), end)
                async with self._writing:  # only one thread at a time may write to a partial blob
                    await self._write(start, piece[: there - start])

                self._spans.add(start, there)

            transfer.offset = there
            piece = piece[there - start :]

        self._tell()

    async def _write(self, offset: int, piece: bytes) -> None:
        # Beyond `_claimed` room has to be made first, for which a write may wait.
        if offset + len(piece) <= self._claimed:
            try:
                self._disk.quick(self._partial_blob.write, offset, piece)
                return
            except WouldBlock:
                pass

        await in_thread(self._partial_blob.write, offset, piece)

    async def _complete(self, last: _Transfer) -> None:
        if self._committing:
            return

        # From some moment of the commit on, the partial blob's file is the blob's.
        self._committing = True
        _cancel([each for each in self._transfers if each is not last])
        await self._commit()

    async def _commit(self) -> None:
        """Make the partial blob a blob. Raises Corrupt if the bytes have another checksum than
        storage says."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                blob = await in_thread(self._partial_blob.commit, self.size, self._crc32c)

        self._blob = blob
        self._committing = True
        if self._readers == 0:
            blob.close()

    def _end(self) -> None:
        """Fail: no transfer is left, and the file is not complete."""
        if self._error is None:
            self._error = ServerFault("the transfer was given up")
        self.opened.set()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _cancel(transfers: list[_Transfer]) -> None:
    for transfer in transfers:
        transfer.scope.cancel()


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
        """See `Stream.read`."""
        return await self._stream.read(offset, length)

    def close(self) -> None:
        """Leave the stream."""
        self._stream.leave()
