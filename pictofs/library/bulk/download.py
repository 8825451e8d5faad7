"""Writes a dataset to a plain folder, which then is what `cp -r` of a mount would have made."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from pictofs.api.stats import background
from pictofs.errors import DiskFull, NoSuchEntry, PictofsError, Throttled
from pictofs.library.annotations.export import FEW
from pictofs.library.annotations.export import REQUESTS as EXPORT_REQUESTS
from pictofs.library.bulk.budget import RequestBudget
from pictofs.library.bulk.failures import Failures
from pictofs.library.bulk.folder_writer import FolderWriter
from pictofs.library.bulk.inventory import Count
from pictofs.library.bulk.scope import KINDS, Choice, Item, Kind, Scope
from pictofs.library.library import Library
from pictofs.store.catalog.rows import DatasetRow
from pictofs.store.folder import Folder

PURPOSE = "download"
ANNOTATION_WORKERS = 8
"""Annotation files fetched at once.

Each is a request of the API, which costs more CPU the more are under way.
"""


@dataclass(frozen=True)
class DownloadRequest:
    """What is to be written, and how."""

    dataset: str
    """By its name, the name of its folder in a mount, or its id."""
    choice: Choice = field(default_factory=Choice)
    workers: int = 24
    bulk: bool = False
    """Whether annotations may come by an export."""
    refresh: bool = False
    """Whether to doubt every annotation file.

    Edits that no listing shows are found by fetching it again.
    """
    wait: bool = True
    """Whether to wait when the request budget is spent, and not end."""


class _Found:
    """What a look at every file has shown."""

    def __init__(self) -> None:
        self.count: dict[Kind, Count] = {kind: Count() for kind in KINDS}
        self.missing: dict[Kind, array[int]] = {kind: array("q") for kind in KINDS}
        """Row ids of images."""
        self.unfetched = 0
        """Annotation files that neither the folder nor the cache has."""

    @property
    def files(self) -> int:
        return sum(count.files for count in self.count.values())

    @property
    def lacking(self) -> int:
        return sum(count.missing for count in self.count.values())


class DownloadJob:
    """One run. `run` is the work of a task of its own; the rest may be asked meanwhile."""

    def __init__(self, library: Library, folder: Folder, wanted: DownloadRequest) -> None:
        self._library = library
        self._folder = folder
        self._wanted = wanted
        self._scope = Scope(library.catalog, wanted.choice)
        self._folder_writer = FolderWriter(library, folder)

        # Of their own: images that have their URLs need no budget.
        self._budgets = {
            kind: RequestBudget(library.request_stats, library.clock, wait=wanted.wait)
            for kind in KINDS
        }
        self._failures = {kind: Failures() for kind in KINDS}
        self._before = library.request_stats.spent(PURPOSE)
        self._cancel = trio.CancelScope()

        self._state = "listing"
        self._lanes: set[Kind] = {"images"}
        """What is asked for now, under the budget of that kind."""
        self._spent: set[Kind] = set()
        """Kinds of which no more is asked for: the budget is spent, and that is not waited for."""
        self._signed = trio.Event()
        """Set once there are URLs, or none can be had.

        Their one request comes before those for annotations.
        """

        self._dataset: DatasetRow | None = None
        self._found = _Found()
        self._landed: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._downloaded: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._landed_bytes = 0
        self._notice: str | None = None

        self.finished = trio.Event()
        self.error: Exception | None = None
        """What ended the run early."""

    # What can be asked.

    def progress(self) -> dict[str, Any]:
        """How far it is, JSON-ready."""
        found = self._found
        images = self._found.count["images"]
        rests = [self._budgets[kind].until for kind in self._lanes]

        # It waits only if every kind that is asked for does.
        until = None
        if all(rests):
            until = min((each for each in rests if each is not None), default=None)

        return {
            "state": "waiting" if until and not self.finished.is_set() else self._state,
            "files": found.files,
            "files_done": found.files - self.missing,
            "bytes": images.bytes,
            "bytes_done": images.bytes_present + self._landed_bytes + self._folder_writer.arriving,
            "failed": self.failed,
            "requests": self._library.request_stats.spent(PURPOSE) - self._before,
            "until": until,
            "notice": self._notice,
        }

    @property
    def failed(self) -> int:
        """Files and folders that could not be had."""
        return sum(failures.count for failures in self._failures.values())

    @property
    def missing(self) -> int:
        """Files that are not there."""
        return self._found.lacking - sum(self._landed.values())

    def result(self) -> dict[str, Any]:
        """How it ended, JSON-ready. The fields of the vendor's DownloadReport are among it."""
        dataset = self._dataset

        return {
            **self.progress(),
            "dataset": None if dataset is None else dataset.name,
            "dataset_id": None if dataset is None else dataset.id,
            "dir": str(self._folder.root),
            "images_downloaded": self._downloaded["images"],
            "annotations_downloaded": self._downloaded["annotations"],
            "missing": self.missing,
            "failures": [each for failures in self._failures.values() for each in failures.told],
            # There is no cap: kept for programs that read the vendor's report.
            "truncated": False,
            "success": self.error is None and not self.missing and not self.failed,
        }

    def cancel(self) -> None:
        """End the run where it is; what has landed stays."""
        self._cancel.cancel()

    # What it does.

    async def run(self) -> None:
        """List, look at what is there, and bring what is missing."""
        async with self._running():
            await self._list()
            await self._look()
            self._make_folders()

            if self._found.unfetched > FEW and not self._wanted.refresh:
                await self._take_export()
            if self._wanted.bulk and self._found.unfetched > EXPORT_REQUESTS:
                await self._export()
            self._warn()

            self._state = "fetching"
            self._lanes.clear()
            async with trio.open_nursery() as outer:
                outer.start_soon(self._folder_writer.serve)

                async with trio.open_nursery() as nursery:
                    workers = self._wanted.workers
                    nursery.start_soon(self._fetch, "images", workers)
                    await self._signed.wait()
                    nursery.start_soon(self._fetch, "annotations", min(workers, ANNOTATION_WORKERS))

                outer.cancel_scope.cancel()

            if self._found.lacking:
                # What counts is what is there now.
                await self._look()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Keep what goes wrong for the one who asks."""
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

    async def _list(self) -> None:
        listing = self._library.listing
        budget = self._budgets["images"]
        await budget.listing(partial(listing.datasets, strict=True))

        dataset = self._named(self._wanted.dataset)
        self._dataset = dataset
        if self._wanted.refresh:
            await self._library.cache.disk.call(self._library.catalog.expire, dataset.key)
        await budget.listing(partial(listing.all_images, dataset.key, strict=True))
        self._scope.add_listed(dataset)

    def _named(self, name: str) -> DatasetRow:
        rows = self._library.catalog.datasets_after(0, 1 << 30)
        for is_named in (
            lambda row: row.id.lower() == name.lower(),
            lambda row: row.entry == name,
            lambda row: row.name == name,
        ):
            found = next(filter(is_named, rows), None)
            if found is not None:
                return found

        raise NoSuchEntry(f"there is no dataset {name!r}, or the API key may not see it")

    async def _look(self) -> None:
        """Count what is there and what is missing."""
        self._state = "looking"
        found = _Found()

        for items in self._pages():
            for item in items:
                kind, image = item
                present = self._is_there(item)
                size = image.known_size if kind == "images" else image.annotation_size
                found.count[kind].add(size, present)

                if not present:
                    found.missing[kind].append(image.key)
                    if kind == "annotations":
                        found.unfetched += not self._library.annotations.has(image)

            await trio.lowlevel.checkpoint()

        self._found = found
        self._landed_bytes = 0
        self._landed = dict.fromkeys(KINDS, 0)

    def _pages(self) -> Iterator[list[Item]]:
        for key in self._scope.parts:
            yield from self._scope.pages(key)

    def _is_there(self, item: Item) -> bool:
        place = self._scope.place_of(item)
        if item.kind == "images":
            return self._folder_writer.has_image(item.image, place)
        return self._folder_writer.has_annotation_file(item.image, place)

    def _make_folders(self) -> None:
        """Have every folder, empty ones too, unless only some files are wanted."""
        choice = self._wanted.choice

        for part in self._scope.parts.values():
            for kind in KINDS:
                if choice.kinds is not None and kind not in choice.kinds:
                    continue

                self._folder.make((kind,))
                if choice.status is not None or choice.split is not None:
                    continue

                for directory in part.folders[kind]:
                    path = (kind, *self._scope.folder_parts(directory))
                    try:
                        self._folder.make(path)
                    except DiskFull:
                        raise
                    except PictofsError as error:
                        self._failures[kind].add("/".join(path), error, kind="folder")

    async def _take_export(self) -> None:
        """Take the annotation files from an export that is there, if one is.

        Waits for no budget: images don't.
        """
        exports = self._library.exports

        try:
            await exports.look()
            for key in self._scope.parts:
                if exports.found(key) is not None:
                    self._state = "exporting"
                    self._lanes = {"annotations"}
                    await exports.take(key)
                    await self._look()
        except Throttled:
            return
        except PictofsError as error:
            self._notice = (
                f"annotations come one by one, an export that is there does not serve: {error}"
            )

    async def _export(self) -> None:
        self._state = "exporting"
        self._lanes = {"annotations"}

        for key in self._scope.parts:
            try:
                fetch = partial(self._library.exports.fetch, key, self._wanted.choice.status)
                await self._budgets["annotations"].run(fetch)
            except (Throttled, DiskFull):
                raise
            except PictofsError as error:
                self._notice = f"annotations come one by one, their export failed: {error}"

    def _warn(self) -> None:
        images = self._found.count["images"]
        wanted = images.bytes - images.bytes_present
        free = self._folder.free
        choice = self._wanted.choice

        if wanted > free:
            self._notice = (
                f"{wanted} bytes are missing, and the disk of {self._folder.root} has {free} left"
            )
        elif not self._found.files and (choice.status is not None or choice.split is not None):
            self._notice = "no image is of that status and split"

    async def _fetch(self, kind: Kind, workers: int) -> None:
        missing = self._found.missing[kind]
        keys = iter(missing)
        bring = self._bring_image if kind == "images" else self._bring_annotation_file

        self._lanes.add(kind)
        async with trio.open_nursery() as nursery:
            for _ in range(min(workers, len(missing))):
                nursery.start_soon(self._work, kind, keys, bring)

        self._lanes.discard(kind)
        self._signed.set()

    async def _work(
        self, kind: Kind, keys: Iterator[int], bring: Callable[[int], Awaitable[None]]
    ) -> None:
        budget = self._budgets[kind]

        for key in keys:
            if kind in self._spent:
                return

            # A file that comes from the cache waits for nothing.
            await trio.lowlevel.checkpoint()
            try:
                await budget.run(partial(bring, key))
            except PictofsError as error:
                self._fail(kind, key, error)
            else:
                budget.progressed()
                self._failures[kind].progressed()

            self._signed.set()

    async def _bring_image(self, key: int) -> None:
        image = self._library.catalog.image(key)
        if image is None:
            # Another process has listed the dataset, and the last look will not count it.
            return

        await self._folder_writer.image(image, self._scope.place_of(Item("images", image)))
        self._landed_bytes += image.known_size or 0
        self._count("images")

    async def _bring_annotation_file(self, key: int) -> None:
        image = self._library.catalog.image(key)
        if image is None:
            return

        await self._folder_writer.annotation_file(
            image, self._scope.place_of(Item("annotations", image))
        )
        self._count("annotations")

    def _count(self, kind: Kind) -> None:
        self._landed[kind] += 1
        self._downloaded[kind] += 1

    def _fail(self, kind: Kind, key: int, error: PictofsError) -> None:
        if self._failures[kind].ends(error):
            self.error = self.error or error
            if isinstance(error, Throttled):
                # What is under way is paid for, and the other kind may cost nothing.
                self._spent.add(kind)
            else:
                self._cancel.cancel()
            return

        image = self._library.catalog.image(key)
        path = "?" if image is None else "/".join(self._scope.place_of(Item(kind, image)))
        self._failures[kind].add(path, error, kind=kind.removesuffix("s"))
