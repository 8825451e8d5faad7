"""Writes a dataset to a plain folder, which then is what `cp -r` of a mount would have made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from pictofs.errors import DiskFull, NoSuchEntry, PictofsError
from pictofs.library.bulk.folder_writer import FolderWriter
from pictofs.library.bulk.job import Job, JobRequest
from pictofs.library.bulk.scope import KINDS, Item
from pictofs.library.library import Library
from pictofs.model.printable import bytes_text
from pictofs.model.records import FileKind
from pictofs.store.catalog.rows import DatasetRow
from pictofs.store.folder import Folder

ANNOTATION_WORKERS = 16
"""Annotation files fetched at once: half as many as the API's connections."""


@dataclass(frozen=True)
class DownloadRequest(JobRequest):
    """What is to be written, and how."""

    dataset: str
    """By its name, the name of its folder in a mount, or its id."""
    refresh: bool = False
    """Whether to doubt every annotation file.

    Edits that no listing shows are found by fetching it again.
    """


class DownloadJob(Job):
    """One run: `run`."""

    def __init__(self, library: Library, folder: Folder, request: DownloadRequest) -> None:
        # A lane for each kind: images that have their URLs need no budget.
        lanes: dict[tuple[FileKind, ...], int] = {
            ("images",): request.workers,
            ("annotations",): min(request.workers, ANNOTATION_WORKERS),
        }
        super().__init__(library, request, "download", lanes)

        self._folder = folder
        self._folder_writer = FolderWriter(library, folder)
        self._name = request.dataset
        self._refresh = request.refresh
        self._dataset: DatasetRow | None = None
        self._downloaded: Counter[FileKind] = Counter()

    def _is_there(self, item: Item) -> bool:
        place = self._scope.place_of(item)
        if item.kind == "images":
            return self._folder_writer.has_image(item.image, place)
        return self._folder_writer.has_annotation_file(item.image, place)

    async def _fetch(self, item: Item) -> None:
        place = self._scope.place_of(item)
        if item.kind == "images":
            await self._folder_writer.image(item.image, place)
        else:
            await self._folder_writer.annotation_file(item.image, place)
        self._downloaded[item.kind] += 1

    def _named(self, item: Item) -> dict[str, str]:
        return {"path": "/".join(self._scope.place_of(item)), "kind": item.kind.removesuffix("s")}

    def progress(self) -> dict[str, Any]:
        """How far it is, JSON-ready."""
        progress = super().progress()
        progress["bytes_done"] += self._folder_writer.arriving
        return progress

    def result(self) -> dict[str, Any]:
        """How it ended, JSON-ready. The fields of the vendor's DownloadReport are among it."""
        dataset = self._dataset

        return {
            **super().result(),
            "dataset": None if dataset is None else dataset.name,
            "dataset_id": None if dataset is None else dataset.id,
            "dir": str(self._folder.root),
            "images_downloaded": self._downloaded["images"],
            "annotations_downloaded": self._downloaded["annotations"],
            # There is no cap: kept for programs that read the vendor's report.
            "truncated": False,
            "success": self.error is None and not self.missing and not self.failed,
        }

    async def run(self) -> None:
        """List, look at what is there, and bring what is missing."""
        async with self._running():
            await self._list_dataset()
            await self._look()
            self._make_folders()
            self._warn()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._folder_writer.serve)
                if self.missing:
                    await self._fetch_missing()
                    # What counts is what is there now.
                    await self._count()

                await self._finish()
                nursery.cancel_scope.cancel()

    async def _finish(self) -> None:
        """What comes when every file was fetched."""

    async def _list_dataset(self) -> None:
        listing = self._library.listing
        await self._list(partial(listing.datasets, strict=True))

        self._dataset = dataset = self._find_dataset()
        if self._refresh:
            await self._library.cache.disk.call(self._library.catalog.expire, dataset.key)
        await self._list(partial(listing.all_images, dataset.key, strict=True))
        self._scope.add_listed(dataset)

    def _find_dataset(self) -> DatasetRow:
        name = self._name
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

    def _make_folders(self) -> None:
        """Have every folder, empty ones too, unless only some files are wanted."""
        choice = self._request.choice

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
                        self._note_failure(error, {"path": "/".join(path), "kind": "folder"})

    def _warn(self) -> None:
        images = self._inventory.counts["images"]
        missing = images.bytes - images.bytes_present
        free = self._folder.free
        choice = self._request.choice

        if missing > free:
            self._notice = (
                f"{bytes_text(missing)} are missing, and the disk of {self._folder.root} has "
                f"{bytes_text(free)} left"
            )
        elif not self._inventory.files and (choice.status is not None or choice.split is not None):
            self._notice = "no image is of that status and split"
