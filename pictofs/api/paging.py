"""Walks over the pages of a list, which end whatever the server says."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pictofs.errors import InvalidResponse
from pictofs.model.records import Dataset, Page

log = logging.getLogger(__name__)

PAGE = 1000
"""Datasets of one page, the API's cap."""
BARREN = 3
"""Pages in a row that bring nothing new: the server heeds no offset, or all of its rows are malformed."""
DATASETS_MAX = 100_000
"""Datasets of one organization; 100 requests."""


def is_last(page: Page[Any], limit: int) -> bool:
    """Whether no page follows, as the vendor's SDK decides: a short page ends the list unless it denies that."""
    if page.has_more is False or page.received == 0:
        return True
    return page.received < limit and page.has_more is not True


async def read_datasets(
    page: Callable[[int, int], Awaitable[Page[Dataset]]], limit: int | None = None
) -> list[Dataset]:
    """All datasets in the server's order, each once, or the first `limit` of them.

    `page` gives the page of an offset and a limit. A list that is longer than DATASETS_MAX raises `InvalidResponse`.
    """
    found: dict[str, Dataset] = {}
    offset = barren = 0
    while limit is None or len(found) < limit:
        wanted = PAGE if limit is None else min(PAGE, limit - len(found))
        got = await page(offset, wanted)
        before = len(found)
        found |= {row.id: row for row in got.rows}
        offset += got.received
        if is_last(got, wanted):
            break
        barren = 0 if len(found) > before else barren + 1
        if barren == BARREN:
            log.warning("the list of datasets ends after %d: more pages bring nothing new", len(found))
            break
        if len(found) > DATASETS_MAX:
            raise InvalidResponse(f"the list of datasets does not end: {len(found):,} and more")
    return [*found.values()][:limit]
