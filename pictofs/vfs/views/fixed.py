"""The folders and files that every mount has: `/`, `/datasets`, `/.pictofs` and what is in it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from typing import Any

from pictofs.errors import IsADirectory, NoSuchEntry, NotADirectory
from pictofs.library.content import Content, InMemory
from pictofs.library.library import Library
from pictofs.model.inode import Inode, Kind, number
from pictofs.vfs.node import BATCH, FOREVER, Attributes, Batch, Entry, Plain, folder
from pictofs.vfs.views.dataset import dataset_folder

ROOT, DATASETS, OWN, STATUS = range(4)
"""Keys of inodes of the kind FIXED; they must not change."""

_TREE: dict[int, dict[str, int]] = {
    ROOT: {"datasets": DATASETS, ".pictofs": OWN},
    OWN: {"status.json": STATUS},
}


class FixedView(Plain):
    """The top of the tree."""

    def __init__(self, library: Library, status: Callable[[], dict[str, Any]], started_ns: int) -> None:
        """`status` gives what status.json shows; `started_ns` is the age of everything here."""
        self._library, self._status, self._started_ns = library, status, started_ns

    async def attributes(self, inode: Inode) -> Attributes:
        """Of a folder, or of status.json as it is now."""
        if inode.key == STATUS:
            ino = number(Kind.FIXED, STATUS)
            return Attributes(
                ino, stat.S_IFREG | 0o444, len(self._document()), 0, self._started_ns, 0.0, FOREVER
            )
        if inode.key not in (ROOT, DATASETS, OWN):
            raise NoSuchEntry("there is no such node")
        return folder(number(Kind.FIXED, inode.key), self._started_ns, FOREVER)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """A fixed entry, or a dataset."""
        if inode.key == DATASETS:
            await self._library.listing.datasets()
            row = self._library.catalog.dataset_by_entry(name)
            if row is None:
                raise NoSuchEntry(f"there is no dataset {name!r}")
            return dataset_folder(row, self._library.listing.fresh_for)
        try:
            key = _TREE[inode.key][name]
        except KeyError:
            raise (NotADirectory if inode.key == STATUS else NoSuchEntry)(f"no entry {name!r}") from None
        return await self.attributes(Inode(Kind.FIXED, key, 0))

    async def entries(self, inode: Inode, cookie: int) -> Batch:
        """The fixed entries, or the datasets."""
        if inode.key == DATASETS:
            if cookie == 0:
                await self._library.listing.datasets()
            keep = self._library.listing.fresh_for
            rows = self._library.catalog.datasets_after(cookie, BATCH)
            return Batch([Entry(row.entry, dataset_folder(row, keep), row.seq) for row in rows], None)
        if inode.key not in _TREE:
            raise NotADirectory("a file was listed")
        return Batch(
            [
                Entry(name, await self.attributes(Inode(Kind.FIXED, key, 0)), place)
                for place, (name, key) in enumerate(_TREE[inode.key].items(), 1)
                if place > cookie
            ],
            None,
        )

    async def open(self, inode: Inode) -> tuple[Attributes, Content]:
        """status.json as it is now."""
        if inode.key != STATUS:
            raise IsADirectory("a folder was opened as a file")
        return await self.attributes(inode), InMemory(self._document())

    def _document(self) -> bytes:
        return json.dumps(self._status(), indent=2).encode() + b"\n"
