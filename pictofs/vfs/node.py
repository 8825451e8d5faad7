"""What the tree says of a node, and what a view must be able to say."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from pictofs.errors import Invalid, IsADirectory, NotADirectory
from pictofs.library.content.content import Content
from pictofs.library.listing.pager import ListingInProgress
from pictofs.model.inode import Inode

FOREVER_S = 86_400.0
"""Seconds the kernel may keep what can't change: the attributes of an image of known size."""

FOLDER, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644
"""Modes. They go along with a copy, whose owner must be able to change and delete it; the mount
itself refuses that by being read-only, or where it is not, by answering EROFS."""

BATCH = 256
"""Entries that a view gives at once: ten times what one readdir takes with attributes (4 KiB)."""


class Attributes(NamedTuple):
    """What stat shows, and for how long the kernel may keep it."""

    inode: int
    mode: int
    size: int
    """Bytes."""
    blocks: int
    """Of 512 bytes; 0 where the size is a placeholder."""
    mtime_ns: int
    """Nanoseconds since the epoch."""
    keep: float
    """Seconds for which the attributes hold."""
    keep_entry: float
    """Seconds for which the name leads here."""


class Entry(NamedTuple):
    """One entry of a folder."""

    name: str
    attributes: Attributes
    cookie: int
    """Where readdir goes on behind this entry."""


class Batch(NamedTuple):
    """Some entries of a folder."""

    entries: list[Entry]
    in_progress_listing: ListingInProgress | None
    """Where there are no entries: the pass that may still bring some."""


def folder(inode: int, mtime_ns: int, keep: float) -> Attributes:
    """Attributes of a folder."""
    return Attributes(inode, FOLDER, 0, 0, mtime_ns, keep, keep)


def file(inode: int, size: int, mtime_ns: int, keep: float, keep_entry: float) -> Attributes:
    """Attributes of a file of known size."""
    return Attributes(inode, FILE, size, -(-size // 512), mtime_ns, keep, keep_entry)


def unsized(inode: int, placeholder: int, mtime_ns: int, keep_entry: float) -> Attributes:
    """Attributes of a file whose size only a download tells: the kernel asks again once it is
    open."""
    return Attributes(inode, FILE, placeholder, 0, mtime_ns, 0.0, keep_entry)


class Opening(NamedTuple):
    """A file as a view opens it."""

    attributes: Attributes
    """As they are now; their size is the content's."""
    content: Content
    told_one_size: bool = True
    """Whether no other size was ever shown of this inode, by any mount, that the kernel may still
    keep."""


def exactly(attributes: Attributes, size: int) -> Attributes:
    """The same with the size that the content has."""
    return attributes._replace(size=size, blocks=-(-size // 512))


class NodeHandler(Protocol):
    """One kind of node."""

    async def attributes(self, inode: Inode) -> Attributes:
        """What stat shows. Raises NoSuchEntry."""

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """The entry `name`. Raises NoSuchEntry, NotADirectory."""

    async def entries(self, inode: Inode, cookie: int) -> Batch:
        """Entries from behind `cookie`, 0 for the first; none at the end. Raises NotADirectory."""

    async def open(self, inode: Inode) -> Opening:
        """The content, and what the kernel may have been told of it. Raises IsADirectory,
        NoSuchEntry, Stale."""

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """Extended attributes by name, for no more requests than `attributes`. Raises NoSuchEntry,
        Stale."""

    async def target(self, inode: Inode) -> str:
        """Where a symbolic link leads. Raises Invalid for what is none, NoSuchEntry."""


class PlainHandler:
    """A view without extended attributes, of what is no symbolic link."""

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """None."""
        return {}

    async def target(self, inode: Inode) -> str:
        """Refused."""
        raise Invalid("this is no symbolic link")


class FileHandler(PlainHandler):
    """The half of a view that files share."""

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Refused."""
        raise NotADirectory(f"{name!r} was looked up in a file")

    async def entries(self, inode: Inode, cookie: int) -> Batch:
        """Refused."""
        raise NotADirectory("a file was listed")


class DirectoryHandler(PlainHandler):
    """The half of a view that folders share."""

    async def open(self, inode: Inode) -> Opening:
        """Refused."""
        raise IsADirectory("a folder was opened as a file")
