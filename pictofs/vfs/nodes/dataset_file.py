"""The files made from the API's object of a dataset: `dataset.json`, and `README.md` if there is a
readme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pictofs.errors import Stale
from pictofs.library.content.content import ContentInMemory
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.model.moment import time_ns
from pictofs.model.names import storable
from pictofs.store.catalog.rows import DatasetRow
from pictofs.vfs.node import Attributes, FileHandler, Opening, file


class DatasetFile(FileHandler):
    """A file in a dataset's folder whose text is made from the API's object.

    The inode's version counts the changes of the object: a program that has an older text open
    keeps it, with its size. A hash of the text in 8 bits would give two texts one inode once in 256
    changes.
    """

    def __init__(
        self,
        library: Library,
        kind: NodeKind,
        name: str,
        text: Callable[[Mapping[str, Any]], bytes | None],
        *,
        written: bool = False,
    ) -> None:
        """`text`: makes the bytes of the file from the API's object; None if the dataset has no
        such file.

        `written`: whether the file can be written. Then the kernel asks each time what the name
        leads to: it must not lead to the old text until the kernel has been told of the new one.
        """
        self._library = library
        self._kind = kind
        self._name = name
        self._text = text
        self._keep_name = not written

    def of(self, row: DatasetRow) -> tuple[Attributes, bytes] | None:
        """Attributes and bytes from the catalog alone; None if there is no such file."""
        raw, changes = self._library.catalog.dataset_object(row.key)
        data = self._text(raw)
        if data is None:
            return None

        inode = number(self._kind, row.key, changes)
        changed_ns = time_ns(raw.get("updated_at")) or row.created_ns
        keep_entry = self._library.listing.fresh_for if self._keep_name else 0.0
        return file(inode, len(data), changed_ns, keep=0.0, keep_entry=keep_entry), data

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes with the size and time of the text."""
        return (await self.current(inode))[0]

    async def open(self, inode: Inode) -> Opening:
        """The text. Raises Stale if there is another one by now, to which the path leads."""
        attributes, data = await self.current(inode)
        return Opening(attributes, ContentInMemory(data))

    async def current(self, inode: Inode) -> tuple[Attributes, bytes]:
        """Attributes and bytes. Raises NoSuchEntry if the dataset is gone; Stale if there is
        another text by now, or none."""
        found = self.of(await self._library.listing.dataset(inode.key))
        # Not ENOENT for a file that is gone: with ESTALE the kernel looks the name up again, and
        # creates it if it was opened by O_CREAT.
        if found is None or found[0].inode != number(*inode):
            raise Stale(f"{self._name} has changed")
        return found


def readme(raw: Mapping[str, Any]) -> bytes | None:
    """The readme in a dataset's object, as UTF-8; None if the API gives none or an empty one."""
    text = raw.get("readme")
    if not isinstance(text, str) or not text:
        return None
    return storable(text).encode()
