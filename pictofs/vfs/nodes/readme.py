"""`/datasets/<name>/README.md`: the dataset's readme, where the API gives one."""

from __future__ import annotations

import zlib

from pictofs.errors import NoSuchEntry, Stale
from pictofs.library.content.content import InMemory
from pictofs.library.library import Library
from pictofs.model.inode import Inode, Kind, number
from pictofs.model.moment import time_ns
from pictofs.model.names import storable
from pictofs.store.catalog.datasets import README
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs.node import Attributes, FileView, Opening, file


class ReadmeView(FileView):
    """The text as it came. As with `dataset.json` the inode's version is made of the content."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def of(self, row: DatasetRow) -> tuple[Attributes, bytes] | None:
        """Attributes and bytes, as the catalog has them; None where there is no text."""
        raw = self._library.catalog.dataset_object(row.key)
        text = raw.get("readme")
        if not isinstance(text, str) or not text:
            return None
        data = storable(text).encode()
        inode = number(Kind.README, row.key, zlib.crc32(data))
        changed_ns = time_ns(raw.get("updated_at")) or row.created_ns
        return file(inode, len(data), changed_ns, 0.0, self._library.listing.fresh_for), data

    async def attributes(self, inode: Inode) -> Attributes:
        """Size and time of the text."""
        return (await self._current(inode))[0]

    async def open(self, inode: Inode) -> Opening:
        """The text. Raises Stale when it is another one by now: the path leads to it."""
        attributes, data = await self._current(inode)
        return Opening(attributes, InMemory(data))

    async def _current(self, inode: Inode) -> tuple[Attributes, bytes]:
        found = self.of(await self._library.listing.dataset(inode.key))
        if found is None:
            raise NoSuchEntry(f"the dataset has no {README}")
        if found[0].inode != number(*inode):
            raise Stale(f"{README} has changed")
        return found
