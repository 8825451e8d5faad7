"""Fetches everything below some paths, so that nothing is left to wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pictofs.api.stats import exempt_from_reserve
from pictofs.errors import DiskFull, PictofsError
from pictofs.library.bulk.inventory import RequestCost, request_cost, seconds_of_budget
from pictofs.library.bulk.job import Job, JobRequest, Lane
from pictofs.library.bulk.scope import KINDS, Item
from pictofs.library.library import Library
from pictofs.model.printable import bytes_text
from pictofs.store.blobs.ledger import Usage


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
        self._is_interactive = False
        """Whether somebody at a prompt waits for the answer, and not for all files."""
        self._cost = RequestCost()
        self._evicted = 0
        self._obstacle: DiskFull | None = None
        """Why the cache can't hold everything at once, as far as is known."""

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
        cost = self._cost
        seconds = seconds_of_budget(request_stats, cost.total, self._library.clock.wall())
        shard = self._request.choice.shard

        return {
            **super().result(),
            "shard": None if shard is None else {"index": shard.index, "count": shard.count},
            **self._inventory.shown(),
            "requests_needed": cost.shown(),
            "fits": self._obstacle is None,
            "obstacle": None if self._obstacle is None else str(self._obstacle),
            "evicted": self._evicted,
            "budget": {
                "limit": request_stats.limit,
                "remaining": request_stats.remaining,
                "reserve": request_stats.reserve,
                "seconds": seconds,
            },
        }

    def _end(self, lane: Lane, error: PictofsError) -> None:
        if isinstance(error, DiskFull) and not error.hint:
            error = DiskFull(error.message, hint=f"{self._disk_remedy} or a larger --cache-size")
        super()._end(lane, error)

    def _usage(self) -> Usage | None:
        """What the cache takes and may take; None if that can't be told now."""
        try:
            return self._library.cache.blob_cache.usage()
        except PictofsError:
            return None

    @property
    def _disk_remedy(self) -> str:
        folder = self._library.cache.blob_cache.path
        return f"make room on the disk of {folder}, or mount with a smaller --min-free"

    def _find_obstacle(self) -> DiskFull | None:
        # What is there is in use: it would be evicted for the rest, and the rest for it.
        needed = self._inventory.allocated
        present = self._inventory.allocated_present
        usage = self._usage()
        holds = self._library.cache_size if usage is None else min(usage.limit, usage.room)
        if not self.missing or needed <= holds:
            return None

        sizes = (
            f"all of it takes {bytes_text(needed)} ({bytes_text(present)} cached, "
            f"{bytes_text(needed - present)} missing), and "
        )
        if usage is None or usage.limit <= usage.room:
            bound = f"the cache holds {bytes_text(holds)} at most"
            remedy = "or mount with a larger --cache-size"
        else:
            bound = (
                f"the disk of {self._library.cache.blob_cache.path} lets the cache hold "
                f"{bytes_text(holds)}: it takes {bytes_text(usage.bytes)} now, and of "
                f"{bytes_text(usage.free)} free {bytes_text(usage.kept)} must stay free"
            )
            remedy = self._disk_remedy

        return DiskFull(sizes + bound, hint=f"name less, {remedy}")

    async def _list(self, work: Callable[[], Awaitable[None]]) -> None:
        if not self._is_interactive:
            await super()._list(work)
            return

        # The reserve is for that, and a listing that is there serves where the limit is spent.
        with exempt_from_reserve():
            await work()

    async def _count(self) -> None:
        await super()._count()
        self._cost = await request_cost(self._library, self._inventory, bulk=self._request.bulk)

    async def look(self) -> None:
        """List, and count what is there and what is missing.

        Waits for no request budget: `error` is Throttled if the limit is spent and something was
        never listed.
        """
        self._is_interactive = True
        async with self._running():
            await self._list_and_look()

    async def fetch(self) -> None:
        """Fetch what is missing."""
        async with self._running():
            await self._list_and_look()
            if self._obstacle is not None:
                raise self._obstacle

            if self.missing:
                await self._fetch_missing()
                # Others may have fetched, or evicted, meanwhile.
                await self._count()

    async def evict(self) -> None:
        """Drop from the cache what is there. Waits for no request budget, as `look`."""
        self._is_interactive = True
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
        self._obstacle = self._find_obstacle()


def _remove(remove: Callable[[str], bool], names: list[str]) -> int:
    return sum(map(remove, names))
