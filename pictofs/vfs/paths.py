"""Finds the images of many paths, so that a caller who names a whole dataset pays no request for
each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import trio

from pictofs.errors import NoSuchEntry
from pictofs.library.library import Library
from pictofs.model.inode import NodeKind
from pictofs.model.names import storable
from pictofs.model.selection import AXIS_FOLDERS
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs.nodes.dataset import PARTS

STEP = 256
"""Paths that are looked up before other tasks have a turn: 2 ms."""
REMEMBERED = 65_536
"""The most folders whose keys are remembered."""


class Other(Enum):
    """What a path leads to if it does not lead to an image."""

    ANNOTATION = "an annotation file"
    UNKNOWN = "nothing, or a folder"


class Found(NamedTuple):
    """An image: the keys of its dataset and of itself."""

    dataset: int
    image: int


class Paths:
    """Looks paths up in the catalog, after each dataset in them was listed once."""

    def __init__(self, library: Library) -> None:
        self._library = library
        # By a folder's path: the keys of its dataset and directory.
        self._folders: dict[str, tuple[int, int] | Other] = {}

    async def find(self, paths: Sequence[str]) -> list[Found | Other]:
        """What each path, relative to the mount point, leads to. A million paths cost no more
        requests than one.

        Raises what keeps a dataset from being listed if it never was.
        """
        found: list[Found | Other] = []
        for path in paths:
            folder, _, name = path.rpartition("/")
            place = self._folders.get(folder)
            if place is None:
                if len(self._folders) >= REMEMBERED:
                    self._folders.clear()

                place = self._folders[folder] = await self._folder(folder)

            if storable(name) != name:  # no entry has such a name: names are escaped
                place = Other.UNKNOWN

            if isinstance(place, Other):
                found.append(place)
            else:
                dataset, directory = place
                key = self._library.catalog.image_key(directory, name)
                found.append(Other.UNKNOWN if key is None else Found(dataset, key))

            if len(found) % STEP == 0:
                await trio.lowlevel.checkpoint()

        return found

    async def _folder(self, path: str) -> tuple[int, int] | Other:
        """The keys of the dataset and the directory if the path is `images/...` of a dataset."""
        if storable(path) != path:
            return Other.UNKNOWN

        top, _, below = path.partition("/")
        entry, _, below = below.partition("/")
        part, _, below = below.partition("/")
        if part in AXIS_FOLDERS:  # `by-status/new/images/...` has the same files as `images/...`
            part, _, below = below.partition("/")[2].partition("/")

        if top != "datasets" or part not in PARTS:
            return Other.UNKNOWN
        if PARTS[part] is NodeKind.ANNOTATIONS:
            return Other.ANNOTATION

        await self._library.listing.datasets()
        dataset = self._library.catalog.dataset_by_entry(entry)
        if dataset is None:
            return Other.UNKNOWN

        directory = await self._directory(dataset, below)
        return Other.UNKNOWN if directory is None else (dataset.key, directory)

    async def _directory(self, dataset: DatasetRow, path: str) -> int | None:
        """The key of a directory by its path in the dataset; None if there is none."""
        try:
            await self._library.listing.all_images(dataset.key)
        except NoSuchEntry:
            return None

        directory = self._library.catalog.directory_by_path(dataset.key, "/")
        entries = path.split("/") if path else []
        for entry in entries:
            if directory is None:
                return None

            directory = self._library.catalog.directory_by_entry(directory.key, entry)

        return directory and directory.key
