"""One pass over the pages of a listing, told row by row to whoever reads the folder meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from pictofs.api.paging import is_last
from pictofs.errors import InvalidResponse
from pictofs.model.records import Dataset, Image, Page
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

AT_ONCE = 3
"""Pages under way together, once the first one has told how many there are."""
BARREN = 3
"""Pages in a row without a row that can be shown, after which a listing is over."""
EXTRA_MAX = 100_000
"""Rows beyond twice what was announced, after which a listing counts as endless."""
ROWS_MAX = 20_000_000
"""Rows of a listing in any case: 2,000 requests of 10,000."""
PASSES = 3
"""A listing that moves while it is read is read again, up to this often."""


@dataclass
class ListingInProgress:
    """A pass under way."""

    signature: str
    """Of the dataset as it was known when the pass began (F2)."""
    refreshes: int
    """How often a refresh had been asked for then."""
    finished: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    """Why it ended early."""
    slow: bool = False
    """Whether someone has waited for it in vain, so that others need not."""
    old: frozenset[int] = frozenset()
    """Directories of which some images were known before it: they need not be there still."""
    _grown: trio.Event = field(default_factory=trio.Event)

    async def more(self) -> None:
        """Wait until rows were added or the pass has ended."""
        if not self.finished.is_set():
            await self._grown.wait()

    def advance(self) -> None:
        """Rows were added."""
        self._grown.set()
        self._grown = trio.Event()

    def fail(self, error: Exception) -> None:
        """The pass ends early."""
        log.warning("a listing could not be completed: %s", error)
        self.error = error


@dataclass(frozen=True)
class ListingPage:
    """One page and what came with it."""

    page: Page[Image]
    total: int | None
    """What the server says that all pages hold."""
    dataset: Dataset | None


@dataclass(frozen=True)
class Listed:
    """A complete listing: what `seen` or a later pass has not seen is gone."""

    seen: int
    dataset: Dataset | None


async def list_pages(
    page: Callable[[int], Awaitable[ListingPage]],
    limit: int,
    begin_pass: Callable[[], int],
    put: Callable[[list[Image], int], None],
    seen_in: Callable[[int], int],
    in_progress_listing: ListingInProgress,
    expected: int,
) -> Listed:
    """Read all pages and `put` their rows, until a pass saw the listing stand still. `expected`: about how many.

    Raises InvalidResponse for a listing without end.

    Rows that are added while pages are read repeat at the edges, rows that are removed take others past the
    edge: either shows in the counts, and the pass is made again. Nothing is taken for gone before.
    """
    first: Listed | None = None
    counted = -1
    for attempt in range(PASSES):
        seen = await in_thread(begin_pass)
        sweep = _ListingPass(page, limit, seen, put, in_progress_listing, expected)
        await sweep.run()
        distinct = await in_thread(seen_in, seen)
        done = Listed(seen, sweep.dataset)
        first = first or done
        # A key that may see only part of a dataset gets a steady, smaller number: no reason to go on.
        if sweep.stood_still(distinct) or (attempt and distinct == counted):
            return done
        counted = distinct
    log.warning(
        "a listing moved while it was read, %d times in a row; rows may be old until the next",
        PASSES,
    )
    return Listed(first.seen if first else 0, sweep.dataset)


class _ListingPass:
    """One pass."""

    def __init__(
        self,
        page: Callable[[int], Awaitable[ListingPage]],
        limit: int,
        seen: int,
        put: Callable[[list[Image], int], None],
        in_progress_listing: ListingInProgress,
        expected: int,
    ) -> None:
        self._expected = expected
        self._page, self._limit, self._seen, self._put, self._filling = (
            page,
            limit,
            seen,
            put,
            in_progress_listing,
        )
        self._writing = trio.Lock()
        self._totals: set[int | None] = set()
        self._received = 0
        self._rows = 0
        self._barren = 0
        self._pages: set[int] = set()  # a hash of the ids of each
        self._end = False
        self._error: Exception | None = None
        self.dataset: Dataset | None = None

    async def run(self) -> None:
        """Read the first page alone, then the others a few at a time, in any order."""
        total = await self._take(0)
        offset = self._limit
        while not self._end:
            if self._received > min(ROWS_MAX, EXTRA_MAX + 2 * max(total or 0, self._expected)):
                raise InvalidResponse(f"a listing does not end: {self._received:,} rows and more")
            last = max(total or 0, offset + 1)  # beyond what is announced, one page at a time
            offsets = range(offset, last, self._limit)[:AT_ONCE]
            async with trio.open_nursery() as nursery:
                for place in offsets:
                    nursery.start_soon(self._try, place, nursery.cancel_scope)
            if self._error is not None:
                raise self._error
            offset = offsets[-1] + self._limit

    async def _try(self, offset: int, scope: trio.CancelScope) -> None:
        """A page of several; the first failure ends them all."""
        try:
            await self._take(offset)
        except Exception as error:
            self._error = self._error or error
            scope.cancel()

    async def _take(self, offset: int) -> int | None:
        got = await self._page(offset)
        self._totals.add(got.total)
        self._received += got.page.received
        self._rows += len(got.page.rows)
        if offset == 0:
            self.dataset = got.dataset
            self._limit = self._cap(got)
        if is_last(got.page, self._limit) or got.total == offset + got.page.received:
            self._end = True
        if not self._is_new(got.page):
            log.warning("a listing ends after %d rows: more pages bring nothing new", self._rows)
            self._end = True
        async with self._writing:
            await in_thread(self._put, got.page.rows, self._seen)
        self._filling.advance()
        return got.total

    def _cap(self, got: ListingPage) -> int:
        """Rows of a page: what was asked for, or fewer where the server has a lower cap than the contract.

        A short first page of a longer listing is also what a key sees that may see only a part. Caps are round.
        """
        received = got.page.received
        more = got.page.has_more is True or (received % 100 == 0 and (got.total or 0) > received)
        return received if 0 < received < self._limit and more else self._limit

    def _is_new(self, page: Page[Image]) -> bool:
        """Whether the page brings anything that another has not brought."""
        if not page.rows:
            self._barren += page.received > 0
            return self._barren < BARREN
        ids = hash(tuple(image.id for image in page.rows))
        if ids in self._pages:
            return False
        self._pages.add(ids)
        return True

    def stood_still(self, distinct: int) -> bool:
        """Whether no row came twice, and as many came as the server says there are, from first to last."""
        if len(self._totals) != 1:
            return False
        (total,) = self._totals
        return distinct == self._rows and total in (None, self._received)
