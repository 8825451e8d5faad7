"""The folders and files that every mount has: `/`, `/datasets`, `/by-id`, `/.pictofs` and its
files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pictofs.errors import IsADirectory, NoSuchEntry, NotADirectory
from pictofs.library.content.content import ContentInMemory
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.vfs.node import (
    BATCH,
    FILE,
    FOREVER_S,
    Attributes,
    Entry,
    EntryBatch,
    Opening,
    PlainHandler,
    folder,
)
from pictofs.vfs.nodes.by_id import IdLink
from pictofs.vfs.nodes.dataset import dataset_folder

ROOT, DATASETS, OWN, STATUS, METRICS, BY_ID, README = range(7)
"""The keys of the inodes of kind FIXED. They must not change."""

_TREE: dict[int, dict[str, int]] = {
    ROOT: {"datasets": DATASETS, "by-id": BY_ID, ".pictofs": OWN},
    OWN: {"README.md": README, "status.json": STATUS, "metrics": METRICS},
}

Documents = Mapping[str, Callable[[], bytes]]
"""By the name of each file in `.pictofs`: makes its bytes, without a request."""


def fixed_parent(key: int) -> int:
    """The key of the folder that an inode of kind FIXED lies in; the root's own for the root."""
    return next((above for above, entries in _TREE.items() if key in entries.values()), ROOT)


def fixed_path(key: int) -> str | None:
    """The path of an inode of kind FIXED; None if there is no such inode."""
    if key == ROOT:
        return "/"

    for above, entries in _TREE.items():
        for name, below in entries.items():
            if below == key:
                return f"{(fixed_path(above) or '').rstrip('/')}/{name}"

    return None


class FixedNodes(PlainHandler):
    """The handler of the top of the tree."""

    def __init__(
        self, library: Library, documents: Documents, links: IdLink, started_ns: int
    ) -> None:
        """`started_ns`: the time of all nodes here, in nanoseconds since the epoch."""
        self._library = library
        self._links = links
        self._started_ns = started_ns
        self._documents = {_TREE[OWN][name]: document for name, document in documents.items()}

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a folder, or of a file as it is now. Raises NoSuchEntry."""
        if inode.key in self._documents:
            return self._file(inode.key, self._documents[inode.key]())
        if inode.key not in (ROOT, DATASETS, OWN, BY_ID):
            raise NoSuchEntry("there is no such node")

        return folder(number(NodeKind.FIXED, inode.key), self._started_ns, FOREVER_S)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of a fixed entry, a dataset, or a link."""
        if inode.key == BY_ID:
            return await self._links.find(name)

        if inode.key == DATASETS:
            await self._library.listing.datasets()
            row = self._library.catalog.dataset_by_entry(name)
            if row is None:
                raise NoSuchEntry(f"there is no dataset {name!r}")

            self._library.listing.shown([name])
            return dataset_folder(row, self._library.listing.fresh_for)

        try:
            key = _TREE[inode.key][name]
        except KeyError:
            if inode.key in self._documents:
                raise NotADirectory(f"no entry {name!r}") from None
            raise NoSuchEntry(f"no entry {name!r}") from None

        return await self.attributes(Inode(NodeKind.FIXED, key, 0))

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """The fixed entries, the datasets, or links to them."""
        if inode.key == BY_ID:
            return await self._links.datasets(cookie)

        if inode.key == DATASETS:
            if cookie == 0:
                await self._library.listing.datasets()

            library = self._library
            keep = library.listing.fresh_for
            rows = library.catalog.datasets_after(cookie, BATCH)
            library.listing.shown(row.entry for row in rows)
            found = [Entry(row.entry, dataset_folder(row, keep), row.seq) for row in rows]
            return EntryBatch(found, None)

        if inode.key not in _TREE:
            raise NotADirectory("a file was listed")

        entries = []
        for place, (name, key) in enumerate(_TREE[inode.key].items(), 1):
            if place > cookie:
                attributes = await self.attributes(Inode(NodeKind.FIXED, key, 0))
                entries.append(Entry(name, attributes, place))

        return EntryBatch(entries, None)

    async def open(self, inode: Inode) -> Opening:
        """A file as it is now."""
        if inode.key not in self._documents:
            raise IsADirectory("a folder was opened as a file")
        text = self._documents[inode.key]()
        return Opening(self._file(inode.key, text), ContentInMemory(text))

    def _file(self, key: int, text: bytes) -> Attributes:
        ino = number(NodeKind.FIXED, key)
        return Attributes(ino, FILE, len(text), 0, self._started_ns, 0.0, FOREVER_S)
