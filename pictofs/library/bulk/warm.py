"""Fetches everything below some paths, so that nothing is left to wait for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import trio

from pictofs.api.stats import background
from pictofs.errors import DiskFull, NoSuchEntry, PictofsError, Throttled
from pictofs.library.annotations.export import FEW
from pictofs.library.annotations.export import REQUESTS as EXPORT_REQUESTS
from pictofs.library.bulk.budget import RequestBudget
from pictofs.library.bulk.failures import Failures
from pictofs.library.bulk.inventory import Inventory, inventory, seconds_of_budget
from pictofs.library.bulk.scope import Choice, Item, Scope
from pictofs.library.library import Library

PURPOSE = "warm"
STEADFAST = 4
"""One in so many workers goes on while readers wait for the server.

A training must not stop the rest for good.
"""
GIVE_WAY_S = 0.01
"""Seconds between two looks at whether readers still wait."""

State = Literal["listing", "looking", "exporting", "fetching", "waiting", "done"]


@dataclass(frozen=True)
class WarmRequest:
    """What is to be fetched, and how."""

    paths: tuple[tuple[str, ...], ...] = ((),)
    """Each in parts, from the mount point on."""
    choice: Choice = field(default_factory=Choice)
    workers: int = 16
    bulk: bool = False
    """Whether annotations may come by exports."""
    wait: bool = True
    """Whether to wait when the request budget is spent, and not end."""


class WarmJob:
    """One run.

    `look`, `fetch` or `evict` is the work of a task of its own; the rest may be asked meanwhile.
    """

    def __init__(self, library: Library, wish: WarmRequest) -> None:
        self._library = library
        self._wish = wish
        self._scope = Scope(library.catalog, wish.choice)
        self._cancel = trio.CancelScope()

        self._state: State = "listing"
        self._before = library.request_stats.spent(PURPOSE)
        self._inventory = Inventory()
        self._landed = 0
        self._landed_bytes = 0
        self._evicted = 0
        self._budget = RequestBudget(library.request_stats, library.clock, wait=wish.wait)
        self._failures = Failures()
        self._notice: str | None = None

        self.finished = trio.Event()
        self.error: Exception | None = None
        """What ended the run early."""

    # What can be asked.

    @property
    def missing(self) -> int:
        """Files that are not there."""
        return self._inventory.missing - self._landed

    def progress(self) -> dict[str, Any]:
        """How far it is, JSON-ready."""
        images = self._inventory.images
        until = self._budget.until

        return {
            "state": "waiting" if until and not self.finished.is_set() else self._state,
            "files": self._inventory.files,
            "files_done": self._inventory.files - self.missing,
            "bytes": images.bytes,
            "bytes_done": images.bytes_present + self._landed_bytes,
            "failed": self._failures.count,
            "requests": self._library.request_stats.spent(PURPOSE) - self._before,
            "until": until,
            "notice": self._notice,
        }

    def result(self) -> dict[str, Any]:
        """How it ended, JSON-ready."""
        request_stats = self._library.request_stats
        price = self._inventory.price
        seconds = seconds_of_budget(request_stats, price.total, self._library.clock.wall())

        return {
            **self.progress(),
            **self._inventory.shown(),
            "missing": self.missing,
            "fits": self._fits,
            "evicted": self._evicted,
            "failures": self._failures.told,
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
        inventory = self._inventory
        return inventory.bytes_missing + inventory.images.bytes_present <= self._library.cache_size

    def cancel(self) -> None:
        """End the run where it is; what has landed stays."""
        self._cancel.cancel()

    # What it does.

    async def look(self) -> None:
        """List, and count what is there and what is missing."""
        async with self._running():
            await self._look(ask=True)

    async def fetch(self) -> None:
        """Fetch what is missing."""
        async with self._running():
            await self._look(ask=True)
            self._check_room()
            await self._export()

            self._state = "fetching"
            await self._fetch_files()

            # Others may have fetched, or evicted, meanwhile.
            await self._take_inventory_again()

    async def evict(self) -> None:
        """Drop from the cache what is there, as far as it is listed."""
        async with self._running():
            await self._look(ask=False)

            cache = self._library.cache
            for key in self._scope.parts:
                for page in self._scope.pages(key):
                    images = [cache.image_key(row) for kind, row in page if kind == "images"]
                    annotations = [
                        cache.annotation_blob_name(row)
                        for kind, row in page
                        if kind == "annotations" and row.annotation_crc32c is not None
                    ]
                    self._evicted += await cache.disk.call(
                        _remove, cache.blob_cache.remove, images + annotations
                    )

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Keep what goes wrong for the one who asks: nothing of it may end the mount."""
        try:
            with self._cancel, background(PURPOSE):
                yield
        except PictofsError as error:
            self.error = self.error or error
        except Exception as error:
            self.error = error
        finally:
            self._state = "done"
            self.finished.set()

    async def _look(self, *, ask: bool) -> None:
        listing = self._library.listing
        for path in self._wish.paths:
            await self._budget.listing(partial(self._scope.add, path, listing))
        if ask:
            for key in self._scope.parts:
                await self._budget.listing(partial(self._scope.bring, key, listing))

        await self._take_inventory_again()
        if ask:
            await self._look_for_exports()

    async def _look_for_exports(self) -> None:
        """Ask once which exports are there, if one could save requests."""
        if all(unfetched.steady <= FEW for unfetched in self._inventory.unfetched.values()):
            return

        # A look at what is there waits for no budget.
        with suppress(Throttled):
            await self._library.exports.look()
        if any(self._library.exports.found(key) for key in self._inventory.unfetched):
            await self._take_inventory_again()

    async def _take_inventory_again(self) -> None:
        self._state = "looking"
        self._inventory = await inventory(self._library, self._scope, bulk=self._wish.bulk)
        self._landed = 0
        self._landed_bytes = 0

    def _check_room(self) -> None:
        if not self._fits:
            raise DiskFull(
                f"{self._inventory.bytes_missing} bytes are missing "
                f"and the cache holds {self._library.cache_size} at most: "
                "name less, or mount with a larger --cache-size"
            )

    async def _export(self) -> None:
        exports = self._library.exports
        served = [
            key for key, unfetched in self._inventory.unfetched.items() if unfetched.is_served
        ]
        await self._archives(served, exports.take)

        if self._wish.bulk:
            left = [
                key
                for key, unfetched in self._inventory.unfetched.items()
                if unfetched.files > EXPORT_REQUESTS
            ]
            await self._archives(left, lambda key: exports.fetch(key, self._wish.choice.status))

    async def _archives(self, keys: list[int], fetch: Callable[[int], Awaitable[None]]) -> None:
        """Have archives bring the annotation files of datasets."""
        if not keys:
            return

        self._state = "exporting"
        for key in keys:
            try:
                await self._budget.run(partial(fetch, key))
            except (Throttled, DiskFull):
                raise
            except PictofsError as error:
                self._notice = f"annotations come one by one, their export failed: {error}"

        await self._take_inventory_again()

    async def _fetch_files(self) -> None:
        send, receive = trio.open_memory_channel[Item](0)
        async with trio.open_nursery() as nursery:
            for number in range(self._wish.workers):
                nursery.start_soon(self._work, number, receive.clone())

            async with send:
                receive.close()
                for key in self._scope.parts:
                    for page in self._scope.pages(key):
                        for item in page:
                            if not self._is_there(item):
                                await send.send(item)
                        await trio.lowlevel.checkpoint()

    def _is_there(self, item: Item) -> bool:
        if item.kind == "images":
            return self._library.downloads.is_kept(item.image)
        return self._library.annotations.has(item.image)

    async def _work(self, number: int, items: trio.MemoryReceiveChannel[Item]) -> None:
        async with items:
            async for item in items:
                while number % STEADFAST and self._library.read_stats.waiting:
                    await self._library.clock.sleep(GIVE_WAY_S)

                try:
                    await self._budget.run(partial(self._fetch, item))
                except PictofsError as error:
                    self._fail(item, error)

    async def _fetch(self, item: Item) -> None:
        # As it is now: it may have waited for long.
        image = self._library.catalog.image(item.image.key)
        if image is None:
            raise NoSuchEntry("the image is gone")

        if item.kind == "images":
            await self._library.downloads.fetch(image)
            self._landed_bytes += image.known_size or 0
        else:
            await self._library.annotations.fetch(image)
            now = self._library.catalog.image(image.key)
            if now is not None and not self._library.annotations.is_cached(now):
                raise DiskFull("the cache takes no more")

        self._landed += 1
        self._budget.progressed()
        self._failures.progressed()

    def _fail(self, item: Item, error: PictofsError) -> None:
        if self._failures.ends(error):
            self.error = self.error or error
            self._cancel.cancel()
        else:
            self._failures.add(self._scope.path_of(item), error)


def _remove(remove: Callable[[str], bool], keys: list[str]) -> int:
    return sum(map(remove, keys))
