"""`/datasets/<name>`: the folder of a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from pictofs.errors import NoSuchEntry
from pictofs.library.library import Library
from pictofs.model.formats import FORMATS_FOLDER
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs import xattrs
from pictofs.vfs.node import Attributes, DirectoryHandler, Entry, EntryBatch, folder
from pictofs.vfs.nodes.dataset_file import DatasetFile
from pictofs.vfs.nodes.exports import EXPORTS, ExportNodes
from pictofs.vfs.nodes.formats import FormatNodes
from pictofs.vfs.nodes.selected import SelectionRoot

PARTS = {"images": NodeKind.IMAGES, "annotations": NodeKind.ANNOTATIONS}


def dataset_folder(row: DatasetRow, keep: float) -> Attributes:
    """Attributes of a dataset's folder, which is as old as the dataset."""
    return folder(number(NodeKind.DATASET, row.key), row.created_ns, keep)


class DatasetDirectory(DirectoryHandler):
    """A dataset."""

    def __init__(
        self,
        library: Library,
        files: Mapping[str, DatasetFile],
        views: SelectionRoot,
        formats: FormatNodes,
        exports: ExportNodes,
    ) -> None:
        """`files`: the files made from the dataset's object, by name, in the order in which they
        are listed."""
        self._library = library
        self._files = files
        self._views = views
        self._formats = formats
        self._exports = exports

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of the folder."""
        row = await self._library.listing.dataset(inode.key)
        return dataset_folder(row, self._library.listing.fresh_for)

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """What the API says about the dataset."""
        await self._library.listing.dataset(inode.key)
        return xattrs.of_dataset(self._library.catalog.dataset_object(inode.key)[0])

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of `images`, `annotations`, a file of the dataset itself, or what `entries`
        does not show: a view, or `exports`."""
        row = await self._library.listing.dataset(inode.key)
        if name in self._files:
            made = self._files[name].of(row)
            if made is not None:
                return made[0]

        view = self._views.axis(row, name)
        if view is not None:
            return view
        if name == FORMATS_FOLDER:
            return self._formats.root(row, None)
        if name == EXPORTS:
            return self._exports.folder_of(row)
        if name not in PARTS:
            raise NoSuchEntry(f"a dataset has no {name!r}")

        return self._part(PARTS[name], row)

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """All entries but the views and `exports`: a walk through the folder must meet each file once."""
        row = await self._library.listing.dataset(inode.key)
        found = {name: self._part(kind, row) for name, kind in PARTS.items()}
        for name, file in self._files.items():
            made = file.of(row)
            if made is not None:
                found[name] = made[0]

        entries = [
            Entry(name, attributes, at) for at, (name, attributes) in enumerate(found.items(), 1)
        ]
        return EntryBatch(entries[cookie:], None)

    def _part(self, kind: NodeKind, row: DatasetRow) -> Attributes:
        """Attributes of `images/` or `annotations/`."""
        root = self._library.catalog.directory_by_path(row.key, "/")
        if root is None:
            raise NoSuchEntry("the dataset is gone")
        return folder(number(kind, root.key), row.created_ns, self._library.listing.fresh_for)
