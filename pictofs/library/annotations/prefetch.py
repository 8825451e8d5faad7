"""Annotation files fetched before they are read, like images, but fewer: each costs a request."""

from __future__ import annotations

from collections.abc import Callable

from pictofs.errors import DiskFull, Throttled
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.prefetch.access_pattern import FIRST, AccessPattern
from pictofs.library.prefetch.prefetcher import PrefetchPolicy
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow

WORKERS = 16
"""Files fetched at once, half as many as the API's connections: readers must not wait behind them."""
SPARE = 8
"""Files that may lie unused however few were read."""
MOST = 128
"""Files that may lie unused however many were read: eight rounds of all workers."""
PER_USE = 8
"""Files by which MOST grows, if there is no order, with each that was fetched ahead and is read.

Of 1,000 files that are read in no order 128 that lie ready are hit by each eighth read, and so all
are soon fetched. A few hundred of 100,000 hit none, and cost MOST at most.
"""
SIZE_BYTES = 1 << 14
"""Bytes that a file is assumed to have."""
EXPORT_WAIT_S = 10.0
"""Seconds of rest while the files come by an export."""


def window(pattern: AccessPattern) -> int:
    """How many files may lie unused.

    In all, never more are fetched than twice as many as were read, and SPARE.
    """
    if pattern.reads < FIRST:
        return 0

    affordable = 2 * pattern.total + SPARE - pattern.expected
    most = MOST
    if pattern.order is None:
        most += PER_USE * pattern.used
    return min(pattern.reads + SPARE, most, len(pattern.ahead) + affordable)


ANNOTATIONS = PrefetchPolicy(
    size=lambda dataset: dataset.image_count * SIZE_BYTES, window=window, workers=WORKERS
)


class AnnotationFetcher:
    """Brings annotation files into the cache before they are read."""

    def __init__(
        self, catalog: Catalog, annotations: Annotations, is_exporting: Callable[[int], bool]
    ) -> None:
        """`is_exporting`: whether the files of a dataset are on their way by an export."""
        self._catalog = catalog
        self._annotations = annotations
        self._is_exporting = is_exporting

    def is_small(self, image: ImageRow) -> bool:
        """Always true: annotation files are small."""
        return True

    def has(self, image: ImageRow) -> bool:
        """Whether a file is cached, or on its way. Inline."""
        return self._annotations.is_coming(image) or self._annotations.has(image)

    def renew(self, image: ImageRow) -> bool:
        """The same as `has`: no order of reading is announced for annotations."""
        return self.has(image)

    async def fetch_ahead(self, image: ImageRow, *, via_api: bool) -> bool:
        """Fetch a file. Returns whether it is there now.

        Raises Throttled if the rest of the budget is for readers or an export brings the file, and
        DiskFull if the cache does not take it.
        """
        if self._is_exporting(image.dataset):
            raise Throttled("an export brings the annotations", retry_after=EXPORT_WAIT_S)

        await self._annotations.fetch(image)
        now = self._catalog.image(image.key)
        if now is not None and not self._annotations.is_cached(now):
            raise DiskFull("the cache takes nothing now")

        return now is not None
