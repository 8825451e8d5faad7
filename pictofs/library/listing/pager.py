"""Passes over the pages of a listing; whoever reads the folder meanwhile gets each page at once."""

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
"""Pages in succession without a row that can be shown, after which a listing is over."""
EXTRA_MAX = 100_000
"""Rows beyond twice what was announced, after which a listing counts as endless."""
ROWS_MAX = 20_000_000
"""Rows after which any listing counts as endless: 2,000 requests of 10,000."""
PASSES = 3
"""How often a listing is read at most if it changes while it is read."""


@dataclass
class ListingInProgress:
    """A listing under way."""

    signature: str
    """The dataset's signature as it was known when the listing began (F2)."""
    refreshes: int
    """How often a refresh had been asked for by then."""
    finished: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None
    """Why it ended early."""
    slow: bool = False
    """Whether someone has waited for it in vain, so that others need not."""
    old: frozenset[int] = frozenset()
    """Directories of which some images were known before: those may be gone by now."""
    _grown: trio.Event = field(default_factory=trio.Event)

    async def more(self) -> None:
        """Wait until rows are added or the listing ends."""
        if not self.finished.is_set():
            await self._grown.wait()

    def advance(self) -> None:
        """Wake those who wait for more rows."""
        self._grown.set()
        self._grown = trio.Event()

    def fail(self, error: Exception) -> None:
        """Note why the listing ends early."""
        log.warning("a listing could not be completed: %s", error)
        self.error = error


@dataclass(frozen=True)
class ListingPage:
    """One page and what came with it."""

    page: Page[Image]
    """Without rows if they are written already."""
    dataset: Dataset | None
    rows: int
    """How many can be shown."""
    digest: str
    """`ids_digest` of them."""
    is_written: bool = False


@dataclass(frozen=True)
class Listed:
    """A complete listing: what neither pass `seen` nor a later one saw is gone."""

    seen: int
    dataset: Dataset | None
    is_settled: bool = True
    """Whether the last pass alone can be relied on."""


async def list_pages(
    page: Callable[[int, int], Awaitable[ListingPage]],
    limit: int,
    begin_pass: Callable[[], int],
    put: Callable[[list[Image], int], None],
    seen_in: Callable[[int], int],
    in_progress_listing: ListingInProgress,
    expected: int,
) -> Listed:
    """Read all pages and `put` their rows, until the listing does not change during a pass.

    `page`: reads the page at an offset, for the pass of that number. `limit`: rows of a page.
    `expected`: about how many rows there are. Raises InvalidResponse for a listing without end.

    Rows added while pages are read make others come twice at the edges of pages, rows removed make
    others be skipped there. Both show in the counts, and the pass is repeated. Until then no row
    counts as gone.
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
        # A key that may see only part of a dataset gets fewer rows than the server announces, but
        # always the same number: another pass would not help.
        if sweep.stood_still(distinct) or (attempt and distinct == counted):
            return done
        counted = distinct

    log.warning(
        "a listing moved while it was read, %d times in a row; rows may be old until the next",
        PASSES,
    )
    # No pass can be relied on alone: only what none of them saw is gone.
    return Listed(first.seen if first else 0, sweep.dataset, is_settled=False)


class _ListingPass:
    """One pass over all pages."""

    def __init__(
        self,
        page: Callable[[int, int], Awaitable[ListingPage]],
        limit: int,
        seen: int,
        put: Callable[[list[Image], int], None],
        in_progress_listing: ListingInProgress,
        expected: int,
    ) -> None:
        self._expected = expected
        self._page = page
        self._limit = limit
        self._seen = seen
        self._put = put
        self._filling = in_progress_listing
        self._writing = trio.Lock()
        self._totals: set[int | None] = set()
        self._next = 0
        self._received = 0
        self._rows = 0
        self._barren = 0
        # Of each page, a hash of the ids on it.
        self._pages: set[str] = set()
        self._end = False
        self._error: Exception | None = None
        self.dataset: Dataset | None = None

    async def run(self) -> None:
        """Read the first page alone, then the others a few at a time, in any order."""
        total = await self._take(0) or 0
        self._next = self._limit

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._read, total, nursery.cancel_scope)

        if self._error is not None:
            raise self._error

        # Beyond what the server announced, one page at a time.
        while not self._end:
            await self._take(self._offset(total))

    async def _read(self, total: int, scope: trio.CancelScope) -> None:
        """Read pages of those that were announced, as one of several; the first failure cancels
        the others."""
        try:
            while not self._end and self._next < total:
                await self._take(self._offset(total))
        except Exception as error:
            self._error = self._error or error
            scope.cancel()

    def _offset(self, total: int) -> int:
        """Where the next page begins. Raises InvalidResponse for a listing without end."""
        if self._received > min(ROWS_MAX, EXTRA_MAX + 2 * max(total, self._expected)):
            raise InvalidResponse(f"a listing does not end: {self._received:,} rows and more")

        offset = self._next
        self._next += self._limit
        return offset

    async def _take(self, offset: int) -> int | None:
        got = await self._page(offset, self._seen)
        total = got.page.total
        self._totals.add(total)
        self._received += got.page.received
        self._rows += got.rows
        if offset == 0:
            self.dataset = got.dataset
            self._limit = self._cap(got.page)

        if is_last(got.page, self._limit) or total == offset + got.page.received:
            self._end = True
        if not self._is_new(got):
            log.warning("a listing ends after %d rows: more pages bring nothing new", self._rows)
            self._end = True

        if not got.is_written:
            async with self._writing:
                await in_thread(self._put, got.page.rows, self._seen)
        self._filling.advance()

        return total

    def _cap(self, page: Page[Image]) -> int:
        """Rows of a page: as many as were asked for, or fewer if the server's cap is below the
        contract's.

        A key that may see only a part of the dataset gets a short first page, too; a cap, unlike
        that, is a round number.
        """
        received = page.received
        more = page.has_more is True or (received % 100 == 0 and (page.total or 0) > received)
        return received if 0 < received < self._limit and more else self._limit

    def _is_new(self, got: ListingPage) -> bool:
        """Whether the page brings anything that another has not brought."""
        if not got.rows:
            self._barren += got.page.received > 0
            return self._barren < BARREN

        if got.digest in self._pages:
            return False

        self._pages.add(got.digest)
        return True

    def stood_still(self, distinct: int) -> bool:
        """Whether the listing did not change while it was read.

        Then no row came twice, and as many rows came as every page announced, if any did.
        `distinct`: different rows that came.
        """
        if len(self._totals) != 1:
            return False

        (total,) = self._totals
        return distinct == self._rows and total in (None, self._received)
