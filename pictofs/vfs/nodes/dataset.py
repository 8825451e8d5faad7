"""`/datasets/<name>`: the folder of a dataset, and `dataset.json` in it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from pictofs.errors import NoSuchEntry, Stale
from pictofs.library.content.content import InMemory
from pictofs.library.library import Library
from pictofs.model.document import document
from pictofs.model.inode import Inode, Kind, number
from pictofs.model.moment import time_ns
from pictofs.store.catalog.datasets import DOCUMENT, README
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs import xattrs
from pictofs.vfs.node import Attributes, Batch, Entry, FileView, FolderView, Opening, file, folder
from pictofs.vfs.nodes.readme import ReadmeView
from pictofs.vfs.nodes.selected import SelectionView

PARTS = {"images": Kind.IMAGES, "annotations": Kind.ANNOTATIONS}


def dataset_folder(row: DatasetRow, keep: float) -> Attributes:
    """Attributes of a dataset's folder, as old as the dataset."""
    return folder(number(Kind.DATASET, row.key), row.created_ns, keep)


class DatasetView(FolderView):
    """A dataset."""

    def __init__(
        self, library: Library, objects: DocumentView, readme: ReadmeView, views: SelectionView
    ) -> None:
        self._library, self._objects, self._readme, self._views = library, objects, readme, views

    async def attributes(self, inode: Inode) -> Attributes:
        """Of the folder."""
        row = await self._library.listing.dataset(inode.key)
        return dataset_folder(row, self._library.listing.fresh_for)

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """What the API says of the dataset."""
        await self._library.listing.dataset(inode.key)
        return xattrs.of_dataset(self._library.catalog.dataset_object(inode.key))

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """`images`, `annotations`, `dataset.json`, or a view, which `entries` does not show."""
        row = await self._library.listing.dataset(inode.key)
        if name == DOCUMENT:
            return self._objects.of(row)[0]
        if name == README and (text := self._readme.of(row)) is not None:
            return text[0]
        view = self._views.axis(row, name)
        if view is not None:
            return view
        if name not in PARTS:
            raise NoSuchEntry(f"a dataset has no {name!r}")
        return self._part(PARTS[name], row)

    async def entries(self, inode: Inode, cookie: int) -> Batch:
        """All but the views: who walks the folder must meet each file once."""
        row = await self._library.listing.dataset(inode.key)
        found = {name: self._part(kind, row) for name, kind in PARTS.items()}
        found[DOCUMENT] = self._objects.of(row)[0]
        if (text := self._readme.of(row)) is not None:
            found[README] = text[0]
        entries = [Entry(name, attributes, at) for at, (name, attributes) in enumerate(found.items(), 1)]
        return Batch(entries[cookie:], None)

    def _part(self, kind: Kind, row: DatasetRow) -> Attributes:
        root = self._library.catalog.directory_by_path(row.key, "/")
        if root is None:
            raise NoSuchEntry("the dataset is gone")
        return folder(number(kind, root.key), row.created_ns, self._library.listing.fresh_for)


class DocumentView(FileView):
    """`dataset.json`: the API's object.

    The inode's version is made of the content, so that who holds it open keeps what was opened.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def of(self, row: DatasetRow) -> tuple[Attributes, bytes]:
        """Attributes and bytes of a dataset's document, as the catalog has it."""
        raw = self._library.catalog.dataset_object(row.key)
        data = document(raw)
        inode = number(Kind.DOCUMENT, row.key, zlib.crc32(data))
        changed_ns = time_ns(raw.get("updated_at")) or row.created_ns
        return file(inode, len(data), changed_ns, 0.0, self._library.listing.fresh_for), data

    async def attributes(self, inode: Inode) -> Attributes:
        """Size and time of the object."""
        return (await self._current(inode))[0]

    async def open(self, inode: Inode) -> Opening:
        """The object. Raises Stale when it is another one by now: the path leads to it."""
        attributes, data = await self._current(inode)
        return Opening(attributes, InMemory(data))

    async def _current(self, inode: Inode) -> tuple[Attributes, bytes]:
        attributes, data = self.of(await self._library.listing.dataset(inode.key))
        if attributes.inode != number(*inode):
            raise Stale(f"{DOCUMENT} has changed")
        return attributes, data
