"""`/datasets/<name>`: the folder of a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from pictofs.errors import NoSuchEntry
from pictofs.library.library import Library
from pictofs.model.inode import Inode, Kind, number
from pictofs.store.rows import DatasetRow
from pictofs.vfs import xattrs
from pictofs.vfs.node import Attributes, Batch, Entry, FolderView, folder

PARTS = {"images": Kind.IMAGES, "annotations": Kind.ANNOTATIONS}


def dataset_folder(row: DatasetRow, keep: float) -> Attributes:
    """Attributes of a dataset's folder, as old as the dataset."""
    return folder(number(Kind.DATASET, row.key), row.created_ns, keep)


class DatasetView(FolderView):
    """A dataset."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def attributes(self, inode: Inode) -> Attributes:
        """Of the folder."""
        return dataset_folder(await self._library.listing.dataset(inode.key), self._library.listing.fresh_for)

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """What the API says of the dataset."""
        await self._library.listing.dataset(inode.key)
        return xattrs.of_dataset(self._library.catalog.dataset_object(inode.key))

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """`images` or `annotations`."""
        if name not in PARTS:
            raise NoSuchEntry(f"a dataset has no {name!r}")
        return self._part(PARTS[name], await self._library.listing.dataset(inode.key))

    async def entries(self, inode: Inode, cookie: int) -> Batch:
        """Both."""
        row = await self._library.listing.dataset(inode.key)
        parts = enumerate(PARTS.items(), 1)
        return Batch(
            [Entry(name, self._part(kind, row), at) for at, (name, kind) in parts if at > cookie], None
        )

    def _part(self, kind: Kind, row: DatasetRow) -> Attributes:
        root = self._library.catalog.directory_by_path(row.key, "/")
        if root is None:
            raise NoSuchEntry("the dataset is gone")
        return folder(number(kind, root.key), row.created_ns, self._library.listing.fresh_for)
