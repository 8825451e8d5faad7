"""Which files the paths that a user names stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pictofs.errors import Invalid, NoSuchEntry
from pictofs.library.listing.listing import COMMAND_REFRESH_WAIT_S, Listing
from pictofs.model.formats import FORMATS_FOLDER
from pictofs.model.records import FileKind
from pictofs.model.selection import UNASSIGNED
from pictofs.model.shard import Shard
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow

KINDS: tuple[FileKind, ...] = ("images", "annotations")

PAGE = 128
"""Rows that are looked at before others have a turn: 4 ms."""


class Item(NamedTuple):
    """A file: an image, or its annotation file."""

    kind: FileKind
    image: ImageRow

    @property
    def size(self) -> int | None:
        """Bytes, as far as they are known."""
        if self.kind == "images":
            return self.image.known_size
        return self.image.annotation_size


@dataclass
class Part:
    """Files of one dataset: those of whole folders, and single ones."""

    whole: bool = False
    """Whether a folder of it was named that holds everything else."""
    folders: dict[FileKind, dict[int, None]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    """Row ids of directories, in order."""
    single: dict[tuple[FileKind, int], None] = field(default_factory=dict)
    """Kind and row id of the image."""


@dataclass(frozen=True)
class Choice:
    """What of the files below a path is meant. None: whatever there is."""

    kinds: frozenset[FileKind] | None = None
    """None: what the path leads to, both below a dataset."""
    status: str | None = None
    split: str | None = None
    """`UNASSIGNED`: images without a split."""
    shard: Shard | None = None

    def takes(self, image: ImageRow) -> bool:
        """Whether an image is meant."""
        split = UNASSIGNED if image.split is None else image.split
        if self.status not in (None, image.status) or self.split not in (None, split):
            return False
        return self.shard is None or self.shard.takes(image.id)


class Scope:
    """The files below some paths, each once."""

    def __init__(self, catalog: Catalog, choice: Choice) -> None:
        self._catalog = catalog
        self._choice = choice
        self.parts: dict[int, Part] = {}
        """By the row id of the dataset."""
        self._folder_parts: dict[int, tuple[str, ...]] = {}

    async def add(self, path: tuple[str, ...], listing: Listing) -> None:
        """Add what is below `path`, in parts from the mount point on.

        Asks for datasets and directories. Raises NoSuchEntry, and Invalid for a path that holds no
        files of datasets.
        """
        await listing.datasets(patience=COMMAND_REFRESH_WAIT_S)

        if path in ((), ("datasets",)):
            for row in self._catalog.datasets_after(0, 1 << 30):
                await self._add_below(row, KINDS, ("/",), listing)
            return

        # Whatever the format: trainers read all images and labels.
        if path[0] == "datasets" and path[2:3] == (FORMATS_FOLDER,):
            path = path[:2]

        dataset = self._catalog.dataset_by_entry(path[1]) if path[0] == "datasets" else None
        if path[0] != "datasets" or (len(path) > 2 and path[2] not in KINDS):
            raise Invalid(
                f"{'/'.join(path)} is no dataset and no folder of its images or annotations"
            )
        if dataset is None:
            raise NoSuchEntry(f"there is no dataset {path[1]!r}")

        kinds = tuple(kind for kind in KINDS if len(path) == 2 or path[2] == kind)
        await self._add_below(dataset, kinds, ("/", *path[3:]), listing)

    def add_listed(self, dataset: DatasetRow) -> None:
        """Add a dataset of which the catalog has every image and directory."""
        part = self.parts.setdefault(dataset.key, Part())
        part.whole = True
        for kind in self._kinds(KINDS):
            part.folders[kind] |= dict.fromkeys(self._catalog.directory_keys(dataset.key))

    async def _add_below(
        self,
        dataset: DatasetRow,
        kinds: tuple[FileKind, ...],
        path: tuple[str, ...],
        listing: Listing,
    ) -> None:
        await listing.tree(dataset.key)
        found = self._catalog.directory_by_path(dataset.key, "/")
        if found is None:
            raise NoSuchEntry(f"the dataset {dataset.name!r} is gone")

        for place, entry in enumerate(path[1:], 2):
            below = self._catalog.directory_by_entry(found.key, entry)
            if below is None and place == len(path):
                return await self._add_file(dataset, kinds[0], found, entry, listing)
            if below is None:
                raise NoSuchEntry(f"there is no {entry!r} in {dataset.name}")

            found = below

        part = self.parts.setdefault(dataset.key, Part())
        part.whole = part.whole or found.parent is None
        for kind in self._kinds(kinds):
            part.folders[kind] |= dict.fromkeys(self._subtree(dataset.key, found))

        return None

    async def _add_file(
        self,
        dataset: DatasetRow,
        kind: FileKind,
        directory: DirectoryRow,
        entry: str,
        listing: Listing,
    ) -> None:
        find = listing.image if kind == "images" else listing.image_of_annotation
        row = await find(directory, entry)
        if row is None:
            raise NoSuchEntry(f"there is no {entry!r} in {dataset.name}")

        part = self.parts.setdefault(dataset.key, Part())
        part.single |= dict.fromkeys((each, row.key) for each in self._kinds((kind,)))

    def _kinds(self, of_path: tuple[FileKind, ...]) -> tuple[FileKind, ...]:
        wanted = self._choice.kinds
        if wanted is None:
            return of_path
        return tuple(kind for kind in KINDS if kind in wanted)

    def _subtree(self, dataset: int, top: DirectoryRow) -> Iterator[int]:
        prefix = top.path.rstrip("/") + "/"
        for key in self._catalog.directory_keys(dataset):
            row = self._catalog.directory(key)
            if row is not None and (key == top.key or row.path.startswith(prefix)):
                yield key

    async def bring(self, dataset: int, listing: Listing) -> None:
        """Have every image of a dataset that this is about in the catalog."""
        part = self.parts[dataset]
        if part.whole:
            await listing.all_images(dataset)

            # The listing may name directories that the tree did not have.
            root = self._catalog.directory_by_path(dataset, "/")
            for kind in KINDS:
                if root is not None and root.key in part.folders[kind]:
                    part.folders[kind] |= dict.fromkeys(self._catalog.directory_keys(dataset))
            return

        for key in self._folders(part):
            row = self._catalog.directory(key)
            in_progress_listing = None if row is None else await listing.folder(row)
            if in_progress_listing is not None:
                await in_progress_listing.finished.wait()
                if in_progress_listing.error is not None:
                    raise in_progress_listing.error

    def pages(self, dataset: int) -> Iterator[list[Item]]:
        """The files of a dataset, as far as the catalog has them, some at a time."""
        part = self.parts[dataset]
        yield [
            Item(kind, row)
            for kind, key in part.single
            if (row := self._catalog.image(key)) is not None
            and self._choice.takes(row)
            and row.directory not in part.folders[kind]
        ]

        for folder in self._folders(part):
            kinds = [kind for kind in KINDS if folder in part.folders[kind]]

            seq = 0
            while rows := self._catalog.images_after(folder, seq, PAGE):
                seq = rows[-1].seq
                yield [Item(kind, row) for row in rows if self._choice.takes(row) for kind in kinds]

    def _folders(self, part: Part) -> Iterable[int]:
        return part.folders["images"] | part.folders["annotations"]

    def path_of(self, item: Item) -> str:
        """Where a file is below the mount point."""
        dataset = self._catalog.dataset(item.image.dataset)
        entry = dataset.entry if dataset else "?"
        return "/".join(["datasets", entry, *self.place_of(item)])

    def place_of(self, item: Item) -> tuple[str, ...]:
        """The same, in parts from the dataset's folder on."""
        kind, image = item
        name = image.entry if kind == "images" else image.annotation_name
        return (kind, *self.folder_parts(image.directory), name)

    def folder_parts(self, directory: int) -> tuple[str, ...]:
        """Where a directory is below its dataset's `images` or `annotations`."""
        parts = self._folder_parts.get(directory)
        if parts is None:
            row = self._catalog.directory(directory)
            parts = ()
            if row is not None and row.parent is not None:
                parts = (*self.folder_parts(row.parent), row.entry)
            self._folder_parts[directory] = parts

        return parts
