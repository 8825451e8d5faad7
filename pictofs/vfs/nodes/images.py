"""`images/`: the original bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pictofs.errors import NoSuchEntry
from pictofs.library.content.content import CachedContent
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, key_in, number
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DirectoryRow, ImageEntryRow, ImageRow
from pictofs.vfs import xattrs
from pictofs.vfs.node import (
    FILE,
    FOREVER_S,
    Attributes,
    Entry,
    FileHandler,
    Opening,
    exactly,
    file,
    unsized,
)
from pictofs.vfs.nodes.tree import VirtualDirectory

PLACEHOLDER_BYTES = 1 << 30
"""Bytes that stat shows for an image whose size the server does not tell, until it has been opened
once. Images are smaller: a program that trusts the size meets the end too early, instead of
cutting the file off."""

_new = tuple.__new__
"""Makes a named tuple in half the time that its class takes: a listing has many."""

RECENT_MAX = 32_768
"""Images that can be opened again without a look at the catalog: 12 MB of memory."""


class _Recent(NamedTuple):
    """An image that was opened lately, of which no kernel may hold another size."""

    dataset: int
    blob: str
    """Its file in the cache."""
    size: int
    mtime_ns: int


def image_file(row: ImageRow, keep_entry: float) -> Attributes:
    """Attributes of an image."""
    return _attributes(row.key, row.known_size, row.created_ns, keep_entry)


def _attributes(key: int, size: int | None, created_ns: int, keep_entry: float) -> Attributes:
    inode = number(NodeKind.IMAGE, key)
    if size is None:
        return unsized(inode, PLACEHOLDER_BYTES, created_ns, keep_entry)

    return _new(Attributes, (inode, FILE, size, -(-size // 512), created_ns, FOREVER_S, keep_entry))


class ImagesDirectory(VirtualDirectory):
    """A virtual directory in `images/`."""

    kind = NodeKind.IMAGES
    row_kind = ImageEntryRow

    async def find(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The image called `name`; None if there is none."""
        return await self._library.listing.image(directory, name)

    def known(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The same, from the catalog alone."""
        return self._library.catalog.image_by_entry(directory.key, name)

    def file(self, row: ImageRow, keep_entry: float) -> Attributes:
        """Attributes of the image."""
        return image_file(row, keep_entry)

    def listed(self, rows: Iterable[ImageEntryRow], keep_entry: float) -> list[Entry]:
        """The entries of images, with the size that a download has shown, or the listing's."""
        return [
            _new(
                Entry,
                (
                    entry,
                    _attributes(
                        key,
                        (size or None) if true_size is None else true_size,
                        created_ns,
                        keep_entry,
                    ),
                    seq << 1 | 1,
                ),
            )
            for seq, key, entry, size, true_size, created_ns in rows
        ]


def image_xattrs(catalog: Catalog, row: ImageRow) -> Mapping[str, bytes]:
    """What the API says about an image, as extended attributes by name."""
    return xattrs.of_image(row, catalog.dataset(row.dataset), catalog.directory(row.directory))


class ImageFile(FileHandler):
    """An image."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._recent: dict[int, _Recent] = {}
        """By inode number."""
        self._catalog_version = 0
        """What `_recent` goes by."""

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes with the size and time of the listing; if a download has shown another size,
        with that."""
        return image_file(self._row(inode), self._library.listing.fresh_for)

    async def open(self, inode: Inode) -> Opening:
        """The bytes. Which sizes were shown is looked up once the bytes are there: it may have
        changed meanwhile."""
        version = self._library.catalog.version
        row = self._row(inode)
        content = await self._library.downloads.image(row)

        shown = exactly(image_file(row, 0.0), content.size)._replace(keep=FOREVER_S)
        told_one_size = self._library.catalog.had_one_size(row.key, content.size)
        if told_one_size and isinstance(content, CachedContent):
            self._remember(version, shown, row)

        return Opening(shown, content, told_one_size)

    def reopen(self, number: int) -> Opening | None:
        """What `open` would return for an image that was open lately, without a wait.

        None if only `open` can tell: the catalog has changed since, or the cache has lost it.
        """
        recent = self._recent.get(number)
        if recent is None:
            return None
        if self._library.catalog.version != self._catalog_version:
            # Nobody need ask for the version again until there is something new to remember.
            self._recent.clear()
            return None

        content = self._library.downloads.reopen(
            recent.dataset, key_in(number), recent.blob, recent.size
        )
        if content is None:
            return None

        return Opening(file(number, recent.size, recent.mtime_ns, FOREVER_S, 0.0), content)

    def _remember(self, version: int, shown: Attributes, row: ImageRow) -> None:
        """Let `reopen` answer next time. `version`: the catalog's before `row` was read."""
        if version != self._catalog_version:
            self._recent.clear()
            self._catalog_version = version

        if len(self._recent) < RECENT_MAX:
            blob = self._library.cache.image_path(row)
            self._recent[shown.inode] = _Recent(row.dataset, blob, shown.size, shown.mtime_ns)

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """What the API says about the image."""
        return image_xattrs(self._library.catalog, self._row(inode))

    def _row(self, inode: Inode) -> ImageRow:
        row = self._library.catalog.image(inode.key)
        if row is None:
            raise NoSuchEntry("the image is gone")
        return row
