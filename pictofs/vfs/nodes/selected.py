"""`by-status/` and `by-split/` of a dataset: its images and annotation files, selected by a field.

The files are those of `images/` and `annotations/` and have the same inode numbers, as if they were
hard links. The folders have numbers of their own. The dataset's folder does not list them, but a
lookup finds them.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from pictofs.errors import NoSuchEntry
from pictofs.library.library import Library
from pictofs.model.formats import FORMATS_FOLDER
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.model.selection import AXES, AXIS_FOLDERS, SELECTIONS, selections_of
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow
from pictofs.vfs.node import BATCH, Attributes, DirectoryHandler, Entry, EntryBatch, folder
from pictofs.vfs.nodes.formats import FormatNodes
from pictofs.vfs.nodes.tree import VirtualDirectory

PARTS = {"images": NodeKind.VIEW_IMAGES, "annotations": NodeKind.VIEW_ANNOTATIONS}


class SelectionRoot(DirectoryHandler):
    """`by-status` or `by-split`, or a folder in it."""

    def __init__(self, library: Library, formats: FormatNodes) -> None:
        self._library = library
        self._formats = formats

    def axis(self, row: DatasetRow, name: str) -> Attributes | None:
        """`by-status` or `by-split` in a dataset's folder; None for another name."""
        version = AXIS_FOLDERS.get(name)
        return (
            None if version is None else self._folder(number(NodeKind.VIEW, row.key, version), row)
        )

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of the folder, whether or not something is in it."""
        if inode.version not in AXES and inode.version not in SELECTIONS:
            raise NoSuchEntry("there is no such view")
        return self._folder(number(*inode), await self._library.listing.dataset(inode.key))

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of the folder `name`. Raises NoSuchEntry if nothing is in it.

        A status has `formats`, which `entries` does not show.
        """
        below = await self._below(inode)
        if name == FORMATS_FOLDER and inode.version in SELECTIONS and below:
            selection = SELECTIONS[inode.version]
            if selection.axis == "status":
                row = await self._library.listing.dataset(inode.key)
                return self._formats.root(row, selection.value)

        found = below.get(name)
        if found is None:
            raise NoSuchEntry(f"there is no {name!r}")
        return found

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """All folders that something is in."""
        found = enumerate((await self._below(inode)).items(), 1)
        return EntryBatch([Entry(name, each, at) for at, (name, each) in found][cookie:], None)

    async def _below(self, inode: Inode) -> dict[str, Attributes]:
        """The folders that something is in, by name."""
        self._library.invalidations.watch(number(*inode))
        bits = await self._library.selections.of(inode.key)
        row = await self._library.listing.dataset(inode.key)
        root = self._library.catalog.directory_by_path(row.key, "/")
        if root is None:
            raise NoSuchEntry("the dataset is gone")

        if inode.version in SELECTIONS:
            there = bits.get(root.key, 0) >> inode.version & 1
            parts = PARTS if there else {}
            return {
                name: self._folder(number(kind, root.key, inode.version), row)
                for name, kind in parts.items()
            }

        return {
            selection.folder: self._folder(number(NodeKind.VIEW, row.key, version), row)
            for version, selection in SELECTIONS.items()
            if selection.axis == AXES[inode.version] and bits.get(root.key, 0) >> version & 1
        }

    def _folder(self, inode: int, row: DatasetRow) -> Attributes:
        return folder(inode, row.created_ns, self._library.listing.fresh_for)


class FilteredDirectory(DirectoryHandler):
    """`images/` or `annotations/` of a view, or a virtual directory in it, with only what is
    selected."""

    def __init__(self, library: Library, kind: NodeKind, original: VirtualDirectory) -> None:
        """`original`: the handler of the same directories with everything in them."""
        self._library = library
        self._kind = kind
        self._original = original

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a directory."""
        return self._folder(self._directory(inode), inode.version)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of a directory with something selected in it, or of a selected file.

        Raises NoSuchEntry.
        """
        bits = await self._bits(inode)
        directory = self._directory(inode)
        below = self._library.catalog.directory_by_entry(directory.key, name)
        if below is not None and bits.get(below.key, 0) >> inode.version & 1:
            return self._folder(below, inode.version)

        row = self._original.known(directory, name)
        if row is None or not _is_in(row, inode):
            raise NoSuchEntry(f"there is no {name!r}")

        return await self._original.found(row)

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Entries after `cookie`: directories first, as in the original, and with its cookies."""
        bits = await self._bits(inode)
        directory = self._directory(inode)
        catalog = self._library.catalog
        keep = self._library.listing.fresh_for
        seq = cookie >> 1

        # An odd cookie is a file's: then all directories have been given.
        while not cookie & 1 and (rows := catalog.directories_after(directory.key, seq, BATCH)):
            seq = rows[-1].seq
            entries = [
                Entry(row.entry, self._folder(row, inode.version), row.seq << 1)
                for row in rows
                if bits.get(row.key, 0) >> inode.version & 1
            ]
            if entries:
                return EntryBatch(entries, None)

        after: int | None = seq if cookie & 1 else 0
        while after is not None:
            files, after = catalog.selected_after(
                self._original.row_kind, directory.key, after, SELECTIONS[inode.version], BATCH
            )
            if files:
                return EntryBatch(self._original.listed(files, keep), None)

            await trio.lowlevel.checkpoint()

        return EntryBatch([], None)

    async def _bits(self, inode: Inode) -> Mapping[int, int]:
        """By the key of a directory: a bit for each selection that something below is in."""
        self._library.invalidations.watch(number(*inode))
        return await self._library.selections.of(self._directory(inode).dataset)

    def _directory(self, inode: Inode) -> DirectoryRow:
        """The catalog's row. Raises NoSuchEntry."""
        row = self._library.catalog.directory(inode.key)
        if row is None or inode.version not in SELECTIONS:
            raise NoSuchEntry("the directory is gone")
        return row

    def _folder(self, row: DirectoryRow, version: int) -> Attributes:
        dataset = self._library.catalog.dataset(row.dataset)
        created_ns = dataset.created_ns if dataset else 0
        return folder(
            number(self._kind, row.key, version), created_ns, self._library.listing.fresh_for
        )


def _is_in(row: ImageRow, inode: Inode) -> bool:
    return inode.version in selections_of(row.status, row.split)
