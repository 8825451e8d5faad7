"""Fetches what will be read next.

What no generic file system knows: a dataset is read whole, again and again. Once a few of its images were read, more
are fetched: those that follow in the order of the reads, or any of the folders that are being read when there is no
order and they fit into the cache. Each use of something fetched ahead allows more of it, so that a few previews in a
file manager cost a few images, and an epoch is soon fetched as fast as it comes. Readers never wait for this: their
own downloads start at once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import trio

from pictofs.api.meter import background
from pictofs.clock import Clock
from pictofs.errors import DiskFull, PictofsError, Throttled
from pictofs.store.catalog import Catalog
from pictofs.store.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)

Mode = Literal["off", "auto", "all"]

WORKERS = 24
"""Downloads at once. At 20 ms a round trip that is 1,200 files a second, more than one process can take in."""
LEAST = 3
"""Downloads at once when the loop is busy."""
TURN, FEEL_EVERY = 0.002, 0.01
"""Seconds that a turn of the loop may take before fewer downloads are made at once, and between two looks at it."""
FIRST = 4
"""Reads of a dataset before anything is fetched ahead: a lone `cat` costs nothing more."""
PER_READ = 8
"""Images that may lie unused for each one that was read: the window doubles every eighth read."""
NEAR = 16
"""A read counts as the next one in an order when it is one of so many."""
CERTAIN = 3
"""Reads in a row that decide an order."""
SHARE_ALL, SHARE_AHEAD = 0.8, 0.25
"""Of the cache: what folders read in no order may take altogether, and what may lie unused."""
IDLE = 300.0
"""Seconds without a read after which a dataset's pattern is forgotten."""
REST = 30.0
"""Seconds of rest after a failure; a throttle says itself how long."""
PAGE = 256

ORDERS = ("seq", "entry", "key")
"""As `ls -U` and os.scandir give names; sorted, as glob and ImageFolder do; by inode number, as cp and tar do."""

Fetch = Callable[[ImageRow], Awaitable[bool]]
"""Fetches an image onto the shelf; whether it is there now."""


@dataclass
class Pattern:
    """How one dataset is being read."""

    dataset: int
    reads: int = 0
    """Downloads that readers waited for, and uses of what was fetched ahead."""
    unused: set[int] = field(default_factory=set)
    """Keys of what was fetched ahead, or is about to be, and was not read yet."""
    last: ImageRow | None = None
    order: str | None = None
    agreement: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORDERS, 0))
    folders: dict[int, int] = field(default_factory=dict)
    """Directories that were read in, with how far each one is fetched (a `seq`), while there is no order."""
    ahead: ImageRow | None = None
    """How far an ordered read is fetched."""
    told: Told | None = None
    read_at: float = 0.0
    rest_until: float = 0.0


@dataclass
class Told:
    """An order that the user told, as keys of images, and how far it is read and fetched."""

    keys: list[int]
    most: int
    """Images fetched ahead of the reader."""
    read: int = 0
    fetched: int = 0
    places: dict[int, deque[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place, key in enumerate(self.keys):
            self.places.setdefault(key, deque()).append(place)

    def use(self, key: int) -> None:
        """The image is being read."""
        places = self.places.get(key)
        if places:
            # Workers run ahead of each other by less than a batch or two; the furthest of them sets the pace.
            self.read = max(self.read, places.popleft() + 1)


class Prefetch:
    """Watches reads and fetches ahead, with tasks of its own."""

    def __init__(
        self,
        catalog: Catalog,
        is_there: Callable[[ImageRow], bool],
        fetch: Fetch,
        clock: Clock,
        mode: Mode,
        limit: int,
    ) -> None:
        """`is_there`: whether the shelf has an image, inline. `limit`: bytes of the cache."""
        self._catalog, self._is_there, self._fetch, self._clock = catalog, is_there, fetch, clock
        self._mode, self._limit = mode, limit
        self._patterns: dict[int, Pattern] = {}
        self._wake = trio.Event()
        self._at_once = trio.CapacityLimiter(WORKERS)
        self._felt_at = 0.0
        self._send, self._receive = trio.open_memory_channel[tuple[Pattern, ImageRow]](0)
        self.fetched = 0
        """Images fetched ahead."""
        self.used = 0
        """Of these, how many were read."""

    # What readers tell: inline, on every open.

    def hit(self, image: ImageRow) -> None:
        """The cache had what a reader opened."""
        pattern = self._patterns.get(image.dataset)
        if pattern is None:
            return
        if pattern.told is not None:
            pattern.told.use(image.key)
            self._wake.set()
        if image.key in pattern.unused:
            pattern.unused.discard(image.key)
            self.used += 1
            self._read(pattern, image)

    def miss(self, image: ImageRow) -> None:
        """A reader waits for a download."""
        if self._mode == "off" and image.dataset not in self._patterns:
            return
        pattern = self._patterns.setdefault(image.dataset, Pattern(image.dataset))
        if pattern.told is not None:
            pattern.told.use(image.key)
        pattern.unused.discard(image.key)
        self._read(pattern, image)

    def _read(self, pattern: Pattern, image: ImageRow) -> None:
        now = self._clock.monotonic()
        if now - pattern.read_at > IDLE and pattern.told is None:
            told, pattern.reads = pattern.told, 0
            self._patterns[image.dataset] = pattern = Pattern(image.dataset, told=told)
        pattern.read_at = now
        pattern.reads += 1
        pattern.folders.setdefault(image.directory, 0)
        if self._mode == "all" and pattern.reads == 1:
            for folder in self._catalog.directory_keys(image.dataset):
                pattern.folders.setdefault(folder, 0)
        if pattern.order is None and pattern.reads <= PAGE:
            self._compare(pattern, image)
        elif pattern.order is not None and not self._follows(pattern, image):
            pattern.order, pattern.ahead, pattern.reads = None, None, pattern.reads // 2
            pattern.agreement = dict.fromkeys(ORDERS, 0)
        if pattern.ahead is not None and pattern.ahead.directory != image.directory:
            pattern.ahead = image
        pattern.last = image
        self._wake.set()

    def _compare(self, pattern: Pattern, image: ImageRow) -> None:
        """Count which orders this read agrees with."""
        last = pattern.last
        if last is None or last.directory != image.directory:
            return
        for order in ORDERS:
            near = self._catalog.next_images(last, order, NEAR)
            agrees = any(row.key == image.key for row in near)
            pattern.agreement[order] = pattern.agreement[order] + 1 if agrees else 0
            if pattern.agreement[order] >= CERTAIN:
                pattern.order, pattern.ahead = order, image
                return

    def _follows(self, pattern: Pattern, image: ImageRow) -> bool:
        """Whether an ordered read went on in its order: it was fetched ahead, or is not far."""
        last = pattern.last
        if last is None or last.directory != image.directory:
            return True  # the next folder; its images follow in the same order
        assert pattern.order is not None
        at, before = getattr(image, pattern.order), getattr(last, pattern.order)
        if pattern.ahead is not None and pattern.ahead.directory == image.directory:
            return bool(
                at <= getattr(pattern.ahead, pattern.order) or self._is_near(last, image, pattern.order)
            )
        return bool(at > before)

    def _is_near(self, last: ImageRow, image: ImageRow, order: str) -> bool:
        return any(row.key == image.key for row in self._catalog.next_images(last, order, NEAR))

    def tell(self, dataset: int, keys: list[int], ahead: int) -> None:
        """The user says in which order images will be read from now on. An empty one ends the last."""
        pattern = self._patterns.setdefault(dataset, Pattern(dataset))
        pattern.told = Told(keys, ahead) if keys else None
        pattern.unused.clear()
        self._wake.set()

    # What is fetched.

    async def run(self) -> None:
        """Plan and fetch for as long as the library lives."""
        with background():
            async with trio.open_nursery() as nursery:
                for _ in range(WORKERS):
                    nursery.start_soon(self._work)
                await self._plan()

    async def _plan(self) -> None:
        while True:
            wake = self._wake
            rest = self._rest()
            if rest is None:
                await wake.wait()
            else:
                with trio.move_on_after(rest):
                    await wake.wait()
            self._wake = trio.Event()
            progress = True
            while progress:
                progress = False
                for pattern in list(self._patterns.values()):
                    for image in islice(self._candidates(pattern), WORKERS):
                        progress = True
                        pattern.unused.add(image.key)
                        await self._send.send((pattern, image))
                        await self._feel()

    async def _feel(self) -> None:
        """Suit the downloads at once to what the loop can take.

        A turn of the loop runs every task that is ready: with all workers busy on a near server it takes
        10 ms, and a listing of 3,000 names, which needs 40 turns, 400 ms. Where the server is far, the loop
        is idle and many downloads cost nobody anything.
        """
        start = time.perf_counter()
        if start - self._felt_at < FEEL_EVERY:
            return
        await trio.lowlevel.checkpoint()
        self._felt_at = time.perf_counter()
        limit = int(self._at_once.total_tokens)
        slow = self._felt_at - start > TURN
        self._at_once.total_tokens = max(LEAST, limit * 2 // 3) if slow else min(WORKERS, limit + 1)

    def _rest(self) -> float | None:
        now = self._clock.monotonic()
        waits = [pattern.rest_until - now for pattern in self._patterns.values() if pattern.rest_until > now]
        return min(waits, default=None)

    async def _work(self) -> None:
        async for pattern, image in self._receive:
            try:
                async with self._at_once:
                    there = pattern.rest_until <= self._clock.monotonic() and await self._fetch(image)
                if there:
                    self.fetched += 1
                else:
                    pattern.unused.discard(image.key)
            except PictofsError as error:
                pattern.unused.discard(image.key)
                self._pause(pattern, error)

    def _pause(self, pattern: Pattern, error: PictofsError) -> None:
        wait = error.retry_after if isinstance(error, Throttled) and error.retry_after else REST
        if isinstance(error, (Throttled, DiskFull)) or pattern.rest_until == 0.0:
            log.info("fetching nothing ahead for %.0f s: %s", wait, error)
        pattern.rest_until = self._clock.monotonic() + wait

    def _candidates(self, pattern: Pattern) -> Iterator[ImageRow]:
        """Images worth fetching now, at most as many as the pattern allows."""
        if pattern.rest_until > self._clock.monotonic():
            return
        dataset = self._catalog.dataset(pattern.dataset)
        if dataset is None:
            self._patterns.pop(pattern.dataset, None)
            return
        if pattern.told is not None:
            yield from self._told(pattern.told)
            return
        room = self._room(pattern, dataset)
        if room > 0:
            rows = self._ordered(pattern) if pattern.order else self._unordered(pattern, dataset)
            yield from islice(rows, room)

    def _room(self, pattern: Pattern, dataset: DatasetRow) -> int:
        """How many more images may lie unused."""
        if self._mode == "off" or pattern.reads < (1 if self._mode == "all" else FIRST):
            return 0
        each = max(1, dataset.total_size // max(1, dataset.image_count))
        share = SHARE_ALL if self._fits(dataset) else SHARE_AHEAD
        most = int(self._limit * share) // each
        wanted = most if self._mode == "all" else PER_READ * pattern.reads
        return min(wanted, most) - len(pattern.unused)

    def _fits(self, dataset: DatasetRow) -> bool:
        return dataset.total_size <= SHARE_ALL * self._limit

    def _ordered(self, pattern: Pattern) -> Iterator[ImageRow]:
        assert pattern.order is not None
        while pattern.ahead is not None:
            rows = self._catalog.next_images(pattern.ahead, pattern.order, WORKERS)
            if not rows:
                return
            for row in rows:
                pattern.ahead = row
                if row.key not in pattern.unused and not self._is_there(row):
                    yield row

    def _unordered(self, pattern: Pattern, dataset: DatasetRow) -> Iterator[ImageRow]:
        if not self._fits(dataset):
            return
        for folder, seq in list(pattern.folders.items()):
            while rows := self._catalog.images_after(folder, seq, WORKERS):
                for row in rows:
                    pattern.folders[folder] = seq = row.seq  # noqa: PLW2901
                    if row.key not in pattern.unused and not self._is_there(row):
                        yield row

    def _told(self, told: Told) -> Iterator[ImageRow]:
        while told.fetched < min(len(told.keys), told.read + told.most):
            told.fetched = max(told.fetched, told.read)
            if told.fetched >= len(told.keys):
                return
            row = self._catalog.image(told.keys[told.fetched])
            told.fetched += 1
            if row is not None and not self._is_there(row):
                yield row
