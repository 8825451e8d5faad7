"""Fetches what will be read next.

What no generic file system knows: a dataset is read whole, again and again. Once a few of its
images were read, more are fetched: those that follow in the order of the reads, or any of the
folders that are being read when there is no order and they fit into the cache. Each use of
something fetched ahead allows more of it, so that a few previews in a file manager cost a few
images, and an epoch is soon fetched as fast as it comes. If the user has told the order, that is
followed and nothing guessed. Reads of the heads of files alone, as readers of EXIF make them, count
against it. Readers never wait for any of this: their own downloads start at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import trio

from pictofs.api.stats import background
from pictofs.clock import Clock
from pictofs.errors import DiskFull, PictofsError, Throttled
from pictofs.library.prefetch.access_pattern import AccessPattern
from pictofs.library.prefetch.declared_order import DeclaredOrder
from pictofs.library.prefetch.window import Plan
from pictofs.model.status import OrderStatus, PrefetchStatus
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)

PrefetchMode = Literal["off", "auto", "all"]

WORKERS = 24
"""Downloads at once.

At 20 ms a round trip that is 1,200 files a second, more than one process can take in.
"""
SLICE = 64
"""Rows that are looked at before others have a turn: 2 ms."""
SHARE_ALL = 0.8
SHARE_AHEAD = 0.25
SHARE_TOLD = 0.5
"""Of the cache.

What folders read in no order may take altogether; what may lie unused; what may, as the user asks.
"""
LEAST = 64
"""Images that are kept ahead in an order that was told, if they take no more than SHARE_TOLD."""
UNKNOWN_SIZE_BYTES = 1 << 20
"""Bytes of an image if the server does not say how large a dataset is."""
BLOCK_BYTES = 4096
"""Bytes that a file takes at least."""
IDLE_S = 300.0
"""Seconds without a read after which a dataset's pattern is forgotten.

An order that was told stands aside then.
"""
ORDERS_MAX = 16
"""Orders at once: one for each process of a training. The one unused for longest goes."""
RETRY_AFTER_S = 30.0
"""Seconds of rest after a failure; a throttle says itself how long."""
FAILURES = 3
"""Failures in a row that are not one image's own."""


@dataclass(frozen=True)
class PrefetchPolicy:
    """How boldly something is fetched ahead."""

    size: Callable[[DatasetRow], int]
    """Bytes of all of it in a dataset; 0 if nobody knows."""
    window: Callable[[AccessPattern], int]
    """How many may lie unused, as far as the reads go."""
    workers: int


IMAGES = PrefetchPolicy(
    size=lambda dataset: dataset.total_size, window=lambda pattern: pattern.window, workers=WORKERS
)


class Fetcher(Protocol):
    """What brings images, or what belongs to them, into the cache."""

    def is_small(self, image: ImageRow) -> bool:
        """Whether an image is one to fetch whole."""

    def has(self, image: ImageRow) -> bool:
        """Whether the cache has an image, or it is on its way. Inline."""

    def renew(self, image: ImageRow) -> bool:
        """The same; one that is there is evicted later than what is there unused. Inline."""

    async def fetch_ahead(self, image: ImageRow, *, via_api: bool) -> bool:
        """Fetch an image; whether it is there now. `via_api`: also by a request of its own."""


class Prefetcher:
    """Watches reads and fetches ahead, with tasks of its own."""

    def __init__(
        self,
        catalog: Catalog,
        fetcher: Fetcher,
        list_images: Callable[[int], Awaitable[None]],
        clock: Clock,
        mode: PrefetchMode,
        limit: int,
        terms: PrefetchPolicy = IMAGES,
    ) -> None:
        """`list_images` brings a dataset into the catalog. `limit`: bytes of the cache."""
        self._terms = terms
        self._catalog = catalog
        self._fetcher = fetcher
        self._clock = clock
        self._list_images = list_images
        self._mode = mode
        self._limit = limit

        self._patterns: dict[int, AccessPattern] = {}
        self._told: dict[str, DeclaredOrder] = {}
        self._numbers = 0
        self._unlisted: list[AccessPattern] = []
        self._wake = trio.Event()
        self._send, self._receive = trio.open_memory_channel[tuple[Plan, ImageRow]](0)
        self._under_way = 0

        self.fetched = 0
        """Images fetched ahead."""
        self.used = 0
        """Those of them that were read since."""

    # What readers tell: inline, on every open.

    def hit(self, dataset: int, image: int) -> None:
        """The cache had what a reader opened: an image of a dataset, by their row ids."""
        pattern = self._patterns.get(dataset)
        plans: list[Plan] = [*self._told.values(), *([pattern] if pattern else [])]
        self.used += any(plan.ahead.fetched(image) for plan in plans)

        expected = pattern is not None and pattern.use(image)
        if self._told and self._expected(dataset, image):
            return
        if expected and pattern is not None:
            row = self._catalog.image(image)
            if row is not None:
                self._read(pattern, row, expected=True)

    def miss(self, image: ImageRow) -> None:
        """A reader waits for a download."""
        if self._told:
            self._expected(image.dataset, image.key)
        if self._mode == "off":
            return

        pattern = self._patterns.get(image.dataset)
        if pattern is None:
            pattern = AccessPattern(self._catalog, image.dataset)
            self._patterns[image.dataset] = pattern

        expected = pattern.ahead.take(image.key) is not None
        self._read(pattern, image, expected=expected)

    def skimmed(self, image: ImageRow) -> None:
        """A reader is done with a file, and has taken but the head of it."""
        pattern = self._patterns.get(image.dataset)
        if pattern is not None and self._mode != "all":
            pattern.skim()

    def _read(self, pattern: AccessPattern, image: ImageRow, *, expected: bool) -> None:
        now = self._clock.monotonic()
        if pattern.reads and now - pattern.read_at > IDLE_S:
            pattern = AccessPattern(self._catalog, image.dataset)
            self._patterns[image.dataset] = pattern

        pattern.read_at = now
        pattern.read(image, expected=expected)
        if self._mode == "all" and pattern.reads == 1:
            self._unlisted.append(pattern)
        self._wake.set()

    def _expected(self, dataset: int, image: int) -> bool:
        """Let the orders that were told know of a read; whether one of them had it next."""
        expected = False
        for told in list(self._told.values()):
            if dataset not in told.datasets:
                continue

            if told.read(image):
                expected = True
                told.used_at = self._clock.monotonic()
            if told.finished:
                del self._told[told.name]
            self._wake.set()

        return expected

    # What users tell.

    def begin(self, name: str, ahead: int | None) -> DeclaredOrder:
        """A new order, in place of the one that `name` told before; to be filled by `extend`.

        `ahead`: images to keep ahead of the reader, None for what the cache allows.
        """
        self.end(name)
        if len(self._told) >= ORDERS_MAX:
            del self._told[min(self._told.values(), key=lambda told: told.used_at).name]

        self._numbers += 1
        told = DeclaredOrder(name, self._numbers)
        self._told[name] = told
        told.asked = ahead
        told.used_at = self._clock.monotonic()

        return told

    def end(self, name: str) -> None:
        """Follow the order that `name` told no longer."""
        self._told.pop(name, None)

    def extend(
        self, told: DeclaredOrder, images: Iterable[tuple[int, int]], *, complete: bool
    ) -> None:
        """More of an order: pairs of the row ids of a dataset and of an image.

        `complete`: that is all.
        """
        pairs = list(images)
        told.datasets.update(dataset for dataset, _ in pairs)
        told.extend(key for _, key in pairs)
        told.complete = told.complete or complete
        told.used_at = self._clock.monotonic()

        if told.finished and self._told.get(told.name) is told:
            self.end(told.name)
        self._wake.set()

    def kept_ahead(self, told: DeclaredOrder) -> int:
        """Images of an order that may lie unused.

        As many as asked for, within its part of the cache.
        """
        each = self._mean_size(told.datasets)
        parts = max(1, sum(self._is_live(other) for other in self._told.values()))
        most = int(SHARE_TOLD * self._limit / parts) // each

        wanted = told.asked
        if wanted is None:
            wanted = max(LEAST, int(SHARE_AHEAD * self._limit / parts) // each)

        return max(1, min(wanted, most))

    def _is_live(self, told: DeclaredOrder) -> bool:
        return self._clock.monotonic() - told.used_at <= IDLE_S

    def _mean_size(self, datasets: Iterable[int]) -> int:
        rows = [row for row in map(self._catalog.dataset, datasets) if row is not None]
        images = sum(row.image_count for row in rows)
        size = sum(map(self._terms.size, rows))
        mean = -(-size // images) if size and images else UNKNOWN_SIZE_BYTES
        return -(-mean // BLOCK_BYTES) * BLOCK_BYTES

    def status(self) -> PrefetchStatus:
        """What it did and is at."""
        orders = [
            OrderStatus(
                images=told.images,
                left=told.left,
                ahead=len(told.ahead),
                keeps=self.kept_ahead(told),
                complete=told.complete,
            )
            for told in self._told.values()
        ]

        return PrefetchStatus(self.fetched, self.used, self._under_way, orders)

    # What is fetched.

    async def run(self) -> None:
        """Plan and fetch for as long as the library lives."""
        with background():
            async with trio.open_nursery() as nursery:
                for _ in range(self._terms.workers):
                    nursery.start_soon(self._work)
                await self._plan(nursery)

    async def _plan(self, nursery: trio.Nursery) -> None:
        while True:
            wake = self._wake
            with trio.move_on_after(self._rest()):
                await wake.wait()
            self._wake = trio.Event()

            progress = True
            while progress:
                progress = False
                while self._unlisted:
                    nursery.start_soon(self._take_whole, self._unlisted.pop())
                for plan, candidates in self._plans():
                    if not self._rests(plan):
                        progress |= await self._advance(plan, candidates)

    def _plans(self) -> list[tuple[Plan, Iterator[ImageRow | None]]]:
        """Every plan, and what is next of it: None for an image that need not be fetched."""
        told = [(each, self._next_told(each)) for each in self._told.values()]
        guessed = [(each, self._next_guessed(each)) for each in self._patterns.values()]
        return [*told, *guessed]

    def _rests(self, plan: Plan) -> bool:
        return self._clock.monotonic() < plan.rest_until

    def _rest(self) -> float:
        """Seconds until the first plan that rests goes on."""
        now = self._clock.monotonic()
        plans: list[Plan] = [*self._told.values(), *self._patterns.values()]
        resting = [plan.rest_until - now for plan in plans if self._rests(plan)]
        return min(resting, default=math.inf)

    async def _take_whole(self, pattern: AccessPattern) -> None:
        try:
            await self._list_images(pattern.dataset)
        except PictofsError as error:
            log.info("not every image is fetched ahead: %s", error)

        pattern.take_whole()
        self._wake.set()

    async def _advance(self, plan: Plan, candidates: Iterator[ImageRow | None]) -> bool:
        """Have the next images of one plan fetched; whether there may be more of it."""
        looked_at = 0
        wanted: list[ImageRow] = []
        for row in candidates:
            looked_at += 1
            if row is not None:
                wanted.append(row)
            if looked_at == SLICE or len(wanted) == self._terms.workers:
                break

        self._under_way += len(wanted)
        for row in wanted:
            await self._send.send((plan, row))

        await trio.lowlevel.checkpoint()
        return looked_at > 0

    def _next_told(self, told: DeclaredOrder) -> Iterator[ImageRow | None]:
        most = self.kept_ahead(told)
        while told.left and len(told.ahead) < most:
            key = told.take()
            row = None if key in told.ahead else self._catalog.image(key)
            if row is None or not self._fetcher.is_small(row):
                yield None
                continue

            there = self._fetcher.renew(row)
            if told.was_read(key) and there:
                yield None
                continue

            told.expect(key)
            yield None if there else row

    def _next_guessed(self, pattern: AccessPattern) -> Iterator[ImageRow | None]:
        # Nothing is guessed if the order is known.
        if any(
            pattern.dataset in told.datasets and self._is_live(told) for told in self._told.values()
        ):
            return

        dataset = self._catalog.dataset(pattern.dataset)
        if dataset is None:
            self._patterns.pop(pattern.dataset, None)
            return

        fits = self._fits()
        allowed = self._room(pattern, dataset, fits)
        upcoming = pattern.upcoming(whole=fits)
        while len(pattern.ahead) < allowed and (row := next(upcoming, None)) is not None:
            if (
                row.key in pattern.ahead
                or not self._fetcher.is_small(row)
                or self._fetcher.has(row)
            ):
                yield None
                continue

            pattern.expect(row.key)
            yield row

    def _room(self, pattern: AccessPattern, dataset: DatasetRow, fits: bool) -> int:
        """How many images may lie unused."""
        share = SHARE_ALL if fits else SHARE_AHEAD
        most = int(self._limit * share) // self._mean_size([dataset.key])
        if self._mode == "all" and pattern.reads:
            return most

        return min(most, self._terms.window(pattern))

    def _fits(self) -> bool:
        """Whether the cache takes every dataset that is being read, whole."""
        now = self._clock.monotonic()
        read = {key for key, pattern in self._patterns.items() if now - pattern.read_at <= IDLE_S}
        for told in self._told.values():
            read |= told.datasets

        rows = [row for row in map(self._catalog.dataset, read) if row is not None]
        taken = sum(row.image_count * self._mean_size([row.key]) for row in rows)
        return taken <= SHARE_ALL * self._limit

    async def _work(self) -> None:
        async for plan, image in self._receive:
            try:
                there = await self._try(plan, image)
            finally:
                self._under_way -= 1

            if there:
                self.fetched += 1
                plan.ahead.came(image.key)
            else:
                plan.ahead.take(image.key)
                self._wake.set()

    async def _try(self, plan: Plan, image: ImageRow) -> bool:
        try:
            if self._rests(plan):
                return False

            there = await self._fetcher.fetch_ahead(image, via_api=plan.via_api)
        except PictofsError as error:
            self._failed(plan, image, error)
            return False

        plan.failures = 0
        return there

    def _failed(self, plan: Plan, image: ImageRow, error: PictofsError) -> None:
        """Rest if the server or the disk does not work; one bad image is no reason."""
        plan.failures += 1
        if plan.failures < FAILURES and not isinstance(error, (Throttled, DiskFull)):
            log.info("%s is not fetched ahead: %s", image.entry, error)
            return

        wait = RETRY_AFTER_S
        if isinstance(error, Throttled) and error.retry_after:
            wait = error.retry_after

        if not self._rests(plan):
            log.info("fetching nothing ahead for %.0f s: %s", wait, error)
        plan.rest_until = max(plan.rest_until, self._clock.monotonic() + wait)
