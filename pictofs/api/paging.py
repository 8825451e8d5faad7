"""Reads a list page by page, and ends whatever the server answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pictofs.errors import InvalidResponse
from pictofs.model.records import Dataset, Page

log = logging.getLogger(__name__)

PAGE = 1000
"""Datasets of one page: the API's maximum."""
BARREN = 3
"""Pages in a row without anything new after which a list ends.

The server ignores the offset, or all rows are malformed.
"""
DATASETS_MAX = 100_000
"""Datasets of one organization; 100 requests."""


def is_last(page: Page[Any], limit: int) -> bool:
    """Whether no page follows, by the rule of the vendor's SDK.

    A page with fewer than `limit` rows is the last one unless it says otherwise.
    """
    if page.has_more is False or page.received == 0:
        return True
    return page.received < limit and page.has_more is not True


async def read_datasets(
    page: Callable[[int, int], Awaitable[Page[Dataset]]], limit: int | None = None
) -> list[Dataset]:
    """All datasets in the server's order, each once, or the first `limit` of them.

    `page` gets an offset and a limit. Raises `InvalidResponse` if there are more than DATASETS_MAX,
    and what `page` raises.
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
            log.warning(
                "the list of datasets ends after %d: more pages bring nothing new", len(found)
            )
            break

        if len(found) > DATASETS_MAX:
            raise InvalidResponse(f"the list of datasets does not end: {len(found):,} and more")

    return [*found.values()][:limit]
