"""Finds the images of many paths, so that a caller who names a whole dataset pays no request for
each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import trio

from pictofs.errors import NoSuchEntry
from pictofs.library.formats.names import Names
from pictofs.library.library import Library
from pictofs.model.formats import FLAT, FORMATS_FOLDER, TREES, Format, listed_folder
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


class _Folder(NamedTuple):
    """A folder of images."""

    dataset: int
    directory: int | None
    """None: it holds images of every directory."""
    format: Format | None = None
    """The format that it belongs to; None: its names are those of `images/`."""
    names: Names | None = None


class Paths:
    """Looks paths up in the catalog, after each dataset in them was listed once."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._folders: dict[str, _Folder | Other] = {}

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
                key = self._image(place, name)
                found.append(Other.UNKNOWN if key is None else Found(place.dataset, key))

            if len(found) % STEP == 0:
                await trio.lowlevel.checkpoint()

        return found

    def _image(self, folder: _Folder, name: str) -> int | None:
        """The key of the image that a folder calls `name`; None if there is none."""
        if folder.format is not None and folder.names is not None:
            row = folder.names.image(folder.format, folder.directory, name)
            return None if row is None else row.key
        if folder.directory is None:
            return None

        return self._library.catalog.image_key(folder.directory, name)

    async def _folder(self, path: str) -> _Folder | Other:
        """The folder at a path if it is `images/...` of a dataset, or one of a format."""
        if storable(path) != path:
            return Other.UNKNOWN

        top, _, below = path.partition("/")
        entry, _, below = below.partition("/")
        part, _, below = below.partition("/")
        if part in AXIS_FOLDERS:  # `by-status/new/images/...` has the same files as `images/...`
            part, _, below = below.partition("/")[2].partition("/")

        if top != "datasets" or part not in (*PARTS, FORMATS_FOLDER):
            return Other.UNKNOWN
        if part in PARTS and PARTS[part] is NodeKind.ANNOTATIONS:
            return Other.ANNOTATION

        await self._library.listing.datasets()
        dataset = self._library.catalog.dataset_by_entry(entry)
        if dataset is None:
            return Other.UNKNOWN
        if part == FORMATS_FOLDER:
            return await self._format_folder(dataset, tuple(below.split("/")))

        directory = await self._directory(dataset, below)
        return Other.UNKNOWN if directory is None else _Folder(dataset.key, directory)

    async def _format_folder(self, dataset: DatasetRow, path: tuple[str, ...]) -> _Folder | Other:
        """The folder at a path below `formats`."""
        try:
            names = await self._library.formats.names.flat(dataset.key)
        except NoSuchEntry:
            return Other.UNKNOWN

        format_ = next((name for name in FLAT if path[:1] == (name,)), None)
        if format_ is not None:
            has_images = path == ("voc", "JPEGImages") or (format_ != "voc" and len(path) == 3)
            return _Folder(dataset.key, None, format_, names) if has_images else Other.UNKNOWN

        tree = next((each for each in TREES if path[: len(each.path)] == each.path), None)
        if tree is None:
            return Other.UNKNOWN
        if tree.labels:
            return Other.ANNOTATION

        entries = [
            listed_folder(name, tree.format, is_top=not depth)
            for depth, name in enumerate(path[len(tree.path) :])
        ]
        known = [entry for entry in entries if entry is not None]
        directory = await self._directory(dataset, "/".join(known))
        if directory is None or len(known) != len(entries):
            return Other.UNKNOWN
        return _Folder(dataset.key, directory, tree.format, names)

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
