"""`exports/` of a dataset: its finished exports, each with the tree of its archive.

The dataset's folder does not list it, but a lookup finds it. What is in an archive never changes: if
the archive of an export does, its files and folders have other inode numbers.
"""

from __future__ import annotations

from pictofs.errors import IsADirectory, NoSuchEntry, NotADirectory, Stale
from pictofs.library.archives.exports import (
    EXPORT,
    FOLDER,
    MEMBER,
    KnownExport,
    Place,
    folder_key,
)
from pictofs.library.archives.index import Index, Node
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs.node import (
    BATCH,
    FOREVER_S,
    Attributes,
    Entry,
    EntryBatch,
    Opening,
    PlainHandler,
    file,
    folder,
)

EXPORTS = "exports"
SIZE_MAX = (1 << 63) - 1


class ExportNodes(PlainHandler):
    """The handler of `exports/` and everything below it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._archives = library.archives

    def folder_of(self, row: DatasetRow) -> Attributes:
        """Attributes of a dataset's `exports/`, whether or not it has exports. Costs nothing."""
        keep = self._library.listing.fresh_for
        return folder(number(NodeKind.EXPORT, row.key, FOLDER), row.created_ns, keep)

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a folder or file. Raises NoSuchEntry, Stale."""
        if inode.version == FOLDER:
            return self.folder_of(await self._library.listing.dataset(inode.key))
        if inode.version == EXPORT:
            place = self._archives.place(inode.key)
            return self._export(place.dataset, place.export)

        place, _, node = await self._member(inode)
        return self._node(place, node)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of an export, or of a file or folder in its archive. Raises NoSuchEntry,
        NotADirectory, Stale."""
        if inode.version == FOLDER:
            return self._export(inode.key, await self._archives.find(inode.key, name))

        place, index, parent = await self._within(inode)
        if not parent.is_folder:
            raise NotADirectory(f"{name!r} was looked up in a file")

        node = index.find(parent.number, name)
        if node is None:
            raise NoSuchEntry(f"there is no {name!r}")
        return self._node(place, node)

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """The exports, or some entries of a folder of an archive. Raises NotADirectory, Stale."""
        if inode.version == FOLDER:
            exports = await self._archives.exports(inode.key)
            found = [
                Entry(each.entry, self._export(inode.key, each), at)
                for at, each in enumerate(exports, 1)
            ]
            return EntryBatch(found[cookie:], None)

        place, index, parent = await self._within(inode)
        if not parent.is_folder:
            raise NotADirectory("a file was listed")

        nodes = index.entries(parent.number, cookie, BATCH)
        return EntryBatch(
            [
                Entry(node.name, self._node(place, node), at)
                for at, node in enumerate(nodes, cookie + 1)
            ],
            None,
        )

    async def open(self, inode: Inode) -> Opening:
        """The content of a file, checked. Raises IsADirectory, Stale, and what keeps it from
        coming."""
        if inode.version != MEMBER:
            raise IsADirectory("a folder was opened as a file")

        place, _, node = await self._member(inode)
        if node.is_folder:
            raise IsADirectory("a folder was opened as a file")

        return Opening(self._node(place, node), await self._archives.open(place, node))

    async def _within(self, inode: Inode) -> tuple[Place, Index, Node]:
        """The archive, and the node of it, that an inode is about."""
        if inode.version != EXPORT:
            return await self._member(inode)

        place = self._archives.place(inode.key)
        return self._found(place, await self._archives.index(place), 0)

    async def _member(self, inode: Inode) -> tuple[Place, Index, Node]:
        if inode.version != MEMBER:
            raise NoSuchEntry("there is no such node")

        place, node = self._archives.place_of_member(inode.key)
        index = await self._archives.index(place)
        # The archive may have turned out to be another one just now.
        if self._archives.member_key(place.export, node) != inode.key:
            raise Stale("the export has another archive")
        return self._found(place, index, node)

    def _found(self, place: Place, index: Index, number_in_it: int) -> tuple[Place, Index, Node]:
        node = index.node(number_in_it)
        if node is None:
            raise NoSuchEntry("the archive has no such node")
        return place, index, node

    def _export(self, dataset: int, export: KnownExport) -> Attributes:
        keep = self._archives.fresh_for(dataset)
        return folder(number(NodeKind.EXPORT, folder_key(export), EXPORT), export.created_ns, keep)

    def _node(self, place: Place, node: Node) -> Attributes:
        inode = number(NodeKind.EXPORT, self._archives.member_key(place.export, node.number))
        mtime_ns = node.mtime * 1_000_000_000 or place.export.created_ns
        keep = self._archives.fresh_for(place.dataset)
        if node.is_folder:
            return folder(inode, mtime_ns, keep)

        return file(inode, min(node.size, SIZE_MAX), mtime_ns, FOREVER_S, keep)
