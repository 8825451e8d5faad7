"""Fetches everything below some paths, so that nothing is left to wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pictofs.errors import DiskFull
from pictofs.library.bulk.inventory import seconds_of_budget
from pictofs.library.bulk.job import Job, JobRequest
from pictofs.library.bulk.scope import KINDS, Item
from pictofs.library.library import Library


@dataclass(frozen=True)
class WarmRequest(JobRequest):
    """What is to be fetched into the cache, and how."""

    paths: tuple[tuple[str, ...], ...] = ((),)
    """Each in parts, from the mount point on."""


class WarmJob(Job):
    """One run: `look`, `fetch` or `evict`."""

    def __init__(self, library: Library, request: WarmRequest) -> None:
        super().__init__(library, request, "warm", {KINDS: request.workers})
        self._paths = request.paths
        self._evicted = 0

    def _is_there(self, item: Item) -> bool:
        if item.kind == "images":
            return self._library.downloads.is_kept(item.image)
        return self._library.annotations.has(item.image)

    async def _fetch(self, item: Item) -> None:
        image = item.image
        annotations = self._library.annotations

        if self._is_there(item):
            # A reader or an export has brought it meanwhile.
            return
        if item.kind == "images":
            await self._library.downloads.fetch(image)
            return

        await annotations.fetch(image)
        now = self._library.catalog.image(image.key)
        if now is not None and not annotations.is_cached(now):
            raise DiskFull("the cache takes no more")

    def _named(self, item: Item) -> dict[str, str]:
        return {"path": self._scope.path_of(item)}

    def result(self) -> dict[str, Any]:
        """How it ended, JSON-ready."""
        request_stats = self._library.request_stats
        price = self._inventory.price
        seconds = seconds_of_budget(request_stats, price.total, self._library.clock.wall())

        return {
            **super().result(),
            **self._inventory.shown(),
            "fits": self._fits,
            "evicted": self._evicted,
            "budget": {
                "limit": request_stats.limit,
                "remaining": request_stats.remaining,
                "reserve": request_stats.reserve,
                "seconds": seconds,
            },
        }

    @property
    def _fits(self) -> bool:
        # What is there is in use: it would be evicted for the rest, and the rest for it.
        present = self._inventory.counts["images"].bytes_present
        return self._inventory.bytes_missing + present <= self._library.cache_size

    async def look(self) -> None:
        """List, and count what is there and what is missing."""
        async with self._running():
            await self._list_and_look()

    async def fetch(self) -> None:
        """Fetch what is missing."""
        async with self._running():
            await self._list_and_look()
            if not self._fits:
                raise DiskFull(
                    f"{self._inventory.bytes_missing} bytes are missing "
                    f"and the cache holds {self._library.cache_size} at most: "
                    "name less, or mount with a larger --cache-size"
                )

            if self.missing:
                await self._fetch_missing()
                # Others may have fetched, or evicted, meanwhile.
                await self._count()

    async def evict(self) -> None:
        """Drop from the cache what is there."""
        async with self._running():
            await self._add_paths()
            for dataset in self._scope.parts:
                row = self._library.catalog.dataset(dataset)
                # What the catalog does not have would stay. An old listing has it.
                if row is not None and row.listed_signature is None:
                    await self._list(partial(self._scope.bring, dataset, self._library.listing))
            await self._count()

            cache = self._library.cache
            for dataset in self._scope.parts:
                for page in self._scope.pages(dataset):
                    images = [cache.image_blob_name(row) for kind, row in page if kind == "images"]
                    annotations = [
                        cache.annotation_blob_name(row)
                        for kind, row in page
                        if kind == "annotations" and row.annotation_crc32c is not None
                    ]
                    self._evicted += await cache.disk.call(
                        _remove, cache.blob_cache.remove, images + annotations
                    )

    async def _add_paths(self) -> None:
        for path in self._paths:
            await self._list(partial(self._scope.add, path, self._library.listing))

    async def _list_and_look(self) -> None:
        await self._add_paths()
        for dataset in self._scope.parts:
            await self._list(partial(self._scope.bring, dataset, self._library.listing))
        await self._look()


def _remove(remove: Callable[[str], bool], names: list[str]) -> int:
    return sum(map(remove, names))
