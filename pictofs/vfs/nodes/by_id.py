"""`/by-id`: symbolic links, named by id, to datasets, images and annotation files.

The inode of a link has the key of what the link leads to, and the kind of that as its version.
"""

from __future__ import annotations

import stat

from pictofs.api.address import is_uuid
from pictofs.errors import Invalid, NoSuchEntry
from pictofs.library.bulk.scope import Choice, Item, Scope
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.vfs.node import BATCH, Attributes, Entry, EntryBatch, FileHandler, Opening

TARGET_MAX_BYTES = 4095
"""The longest target that a link can have on Linux, in bytes."""


class IdLink(FileHandler):
    """The handler of a link, and the contents of the folder of all links."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def find(self, name: str) -> Attributes:
        """Attributes of the link called `name`. Raises NoSuchEntry."""
        identity = name.lower()
        if is_uuid(identity):
            dataset = await self._library.id_lookup.dataset(identity)
            if dataset is not None:
                return self._link(NodeKind.DATASET, dataset.key)

        bare = identity.removesuffix(".json")
        if not is_uuid(bare):
            raise NoSuchEntry(f"{name!r} is no id")

        image = await self._library.id_lookup.image(bare)
        if image is None:
            raise NoSuchEntry(f"there is no image {bare}")

        return self._link(NodeKind.IMAGE if bare == identity else NodeKind.ANNOTATION, image.key)

    async def datasets(self, cookie: int) -> EntryBatch:
        """Links to the datasets after `cookie`. There are too many images to list."""
        if cookie == 0:
            await self._library.listing.datasets()

        entries: list[Entry] = []
        while not entries and (rows := self._library.catalog.datasets_after(cookie, BATCH)):
            cookie = rows[-1].seq
            entries = [
                Entry(row.id.lower(), self._link(NodeKind.DATASET, row.key), row.seq)
                for row in rows
                if is_uuid(row.id)
            ]

        return EntryBatch(entries, None)

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a link."""
        return self._link(inode.version, inode.key)

    async def target(self, inode: Inode) -> str:
        """Where the link leads."""
        return self._target(inode.version, inode.key)[0]

    async def open(self, inode: Inode) -> Opening:
        """Raises Invalid: the kernel follows a link, and does not open it."""
        raise Invalid("a symbolic link was opened as a file")

    def _link(self, kind: int, key: int) -> Attributes:
        target, created_ns = self._target(kind, key)
        size = len(target.encode())
        keep = self._library.listing.fresh_for
        if size > TARGET_MAX_BYTES:
            raise NoSuchEntry("the path is longer than a symbolic link can be")

        return Attributes(
            number(NodeKind.LINK, key, kind), stat.S_IFLNK | 0o777, size, 0, created_ns, keep, keep
        )

    def _target(self, kind: int, key: int) -> tuple[str, int]:
        """Where a link leads, and when that was created, in nanoseconds since the epoch. Raises
        NoSuchEntry."""
        catalog = self._library.catalog
        if kind == NodeKind.DATASET:
            dataset = catalog.dataset(key)
            if dataset is None:
                raise NoSuchEntry("the dataset is gone")

            return f"../datasets/{dataset.entry}", dataset.created_ns

        image = catalog.image(key)
        if image is None:
            raise NoSuchEntry("the image is gone")

        item = Item("images" if kind == NodeKind.IMAGE else "annotations", image)
        return f"../{Scope(catalog, Choice()).path_of(item)}", image.created_ns
