"""What `images/` and `annotations/` have in common: a dataset's virtual directories with files in
them.

A cookie is twice the `seq` of the entry's row, plus one for a file: directories come first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from pictofs.errors import NoSuchEntry
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.rows import (
    AnnotationEntryRow,
    DirectoryRow,
    ImageEntryRow,
    ImageRow,
)
from pictofs.vfs.node import BATCH, Attributes, DirectoryHandler, Entry, EntryBatch, folder


class VirtualDirectory(DirectoryHandler):
    """A virtual directory, seen in `images/` or in `annotations/`."""

    kind: NodeKind
    row_kind: type[ImageEntryRow] | type[AnnotationEntryRow]
    """What a listing asks the catalog for."""

    def __init__(self, library: Library) -> None:
        self._library = library

    @abstractmethod
    async def find(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The image whose file is called `name` here; None if there is none."""

    @abstractmethod
    def known(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The same, from the catalog alone."""

    @abstractmethod
    def file(self, row: ImageRow, keep_entry: float) -> Attributes:
        """Attributes of an image's file here, as far as they are known."""

    @abstractmethod
    def listed(self, rows: Iterable[Any], keep_entry: float) -> list[Entry]:
        """The entries of images' files here; of each the row is a `row_kind`."""

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a directory."""
        return self._folder(self._directory(inode), self._library.listing.fresh_for)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of a directory or a file, for at most three requests: the list of datasets,
        the tree, and the name. Raises NoSuchEntry."""
        directory = self._directory(inode)
        await self._library.listing.tree(directory.dataset)
        below = self._library.catalog.directory_by_entry(directory.key, name)
        if below is not None:
            return self._folder(below, self._library.listing.fresh_for)

        row = await self.find(directory, name)
        if row is None:
            raise NoSuchEntry(f"there is no {name!r}")

        return await self.found(row)

    async def found(self, row: ImageRow) -> Attributes:
        """Attributes of a file that was looked up."""
        return self.file(row, self._library.listing.fresh_for)

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Entries after `cookie`: directories first, then files as the pages of the listing
        arrive."""
        directory = self._directory(inode)
        catalog = self._library.catalog
        keep = self._library.listing.fresh_for
        if not cookie & 1:
            if cookie == 0:
                await self._library.listing.tree(directory.dataset)
                # Subdirectories known only from the paths of images must be as new as the tree.
                if catalog.implies(directory.key):
                    await self._library.listing.folder(directory)

            below = catalog.directories_after(directory.key, cookie >> 1, BATCH)
            if below:
                return EntryBatch(
                    [Entry(row.entry, self._folder(row, keep), row.seq << 1) for row in below], None
                )

            cookie = 1

        in_progress_listing = await self._library.listing.folder(directory)
        rows = catalog.entries_after(self.row_kind, directory.key, cookie >> 1, BATCH)
        entries = self.listed(rows, keep)
        return EntryBatch(entries, None if entries else in_progress_listing)

    def _directory(self, inode: Inode) -> DirectoryRow:
        row = self._library.catalog.directory(inode.key)
        if row is None:
            raise NoSuchEntry("the directory is gone")
        return row

    def _folder(self, row: DirectoryRow, keep: float) -> Attributes:
        dataset = self._library.catalog.dataset(row.dataset)
        return folder(number(self.kind, row.key), dataset.created_ns if dataset else 0, keep)
