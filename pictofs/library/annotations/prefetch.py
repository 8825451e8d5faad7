"""Annotation files that will be read next: fetched ahead like images, but far less boldly. Each costs a request."""

from __future__ import annotations

from collections.abc import Callable

from pictofs.errors import DiskFull, Throttled
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.prefetch.access_pattern import FIRST, AccessPattern
from pictofs.library.prefetch.prefetcher import PrefetchPolicy
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow

WORKERS = 8
"""Fetched at once: those of readers must not wait behind them."""
SPARE = 8
"""How many may lie unused however few were read."""
MOST = 64
"""How many may lie unused however many were read: eight rounds of all workers."""
SIZE_BYTES = 1 << 14
"""Bytes of a file, as far as nothing else is known."""
EXPORT_WAIT_S = 10.0
"""Seconds of rest while the files come by an export."""


def window(pattern: AccessPattern) -> int:
    """How many may lie unused. Never more are fetched in all than twice what was read, and SPARE."""
    if pattern.reads < FIRST:
        return 0
    affordable = 2 * pattern.total + SPARE - pattern.expected
    return min(pattern.reads + SPARE, MOST, len(pattern.ahead) + affordable)


ANNOTATIONS = PrefetchPolicy(
    size=lambda dataset: dataset.image_count * SIZE_BYTES, window=window, workers=WORKERS
)


class AnnotationFetcher:
    """Brings annotation files into the cache before they are read."""

    def __init__(
        self, catalog: Catalog, notes: Annotations, is_exporting: Callable[[int], bool]
    ) -> None:
        """`is_exporting`: whether the files of a dataset are on their way by an export."""
        self._catalog, self._annotations, self._is_exporting = catalog, notes, is_exporting

    def is_small(self, image: ImageRow) -> bool:
        """All of them are."""
        return True

    def has(self, image: ImageRow) -> bool:
        """Whether a file is cached, or on its way. Inline."""
        return self._annotations.is_coming(image) or self._annotations.has(image)

    def renew(self, image: ImageRow) -> bool:
        """The same: nobody tells an order for annotations."""
        return self.has(image)

    async def fetch_ahead(self, image: ImageRow, *, via_api: bool) -> bool:
        """Fetch a file. Raises Throttled where the rest of the budget is for readers, or an export brings it."""
        if self._is_exporting(image.dataset):
            raise Throttled("an export brings the annotations", retry_after=EXPORT_WAIT_S)
        await self._annotations.fetch(image)
        now = self._catalog.image(image.key)
        if now is not None and not self._annotations.is_cached(now):
            raise DiskFull("the cache takes nothing now")
        return now is not None
