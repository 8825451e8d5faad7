"""What the tree says about a node, and what the handler of each kind of node must offer."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from pictofs.errors import Invalid, IsADirectory, NotADirectory
from pictofs.library.content.content import Content
from pictofs.library.listing.pager import ListingInProgress
from pictofs.model.inode import Inode

FOREVER_S = 86_400.0
"""Seconds for which the kernel may keep what can't change: the attributes of an image of known
size."""

FOLDER = stat.S_IFDIR | 0o755
"""The mode of folders. A copy keeps it, and the copy's owner must be able to change and delete it.
The mount refuses both: it is read-only, or answers EROFS."""
FILE = stat.S_IFREG | 0o644
"""The mode of files, chosen for the same reason."""

BATCH = 744
"""Entries that a handler gives at once: what fits into one readdir with attributes, 128 KiB, if names
have 17 to 24 letters. They take 3 ms."""


class Attributes(NamedTuple):
    """What stat shows, and for how long the kernel may keep it."""

    inode: int
    mode: int
    size: int
    """Bytes."""
    blocks: int
    """Blocks of 512 bytes; 0 if the size is a placeholder."""
    mtime_ns: int
    """Nanoseconds since the epoch."""
    keep: float
    """Seconds for which the kernel may keep the attributes."""
    keep_entry: float
    """Seconds for which the kernel may keep what the name leads to."""


class Entry(NamedTuple):
    """One entry of a folder."""

    name: str
    attributes: Attributes
    cookie: int
    """Where readdir continues after this entry."""


class EntryBatch(NamedTuple):
    """Some entries of a folder."""

    entries: list[Entry]
    in_progress_listing: ListingInProgress | None
    """The pass over the listing that may still bring entries, if there are none yet."""


def folder(inode: int, mtime_ns: int, keep: float) -> Attributes:
    """Attributes of a folder. `keep`: seconds, for the attributes and for the name."""
    return Attributes(inode, FOLDER, 0, 0, mtime_ns, keep, keep)


def file(inode: int, size: int, mtime_ns: int, keep: float, keep_entry: float) -> Attributes:
    """Attributes of a file of known size."""
    return Attributes(inode, FILE, size, -(-size // 512), mtime_ns, keep, keep_entry)


def unsized(inode: int, placeholder: int, mtime_ns: int, keep_entry: float) -> Attributes:
    """Attributes of a file whose size only a download shows: the kernel asks again once it is
    open. `placeholder`: the size shown until then, in bytes."""
    return Attributes(inode, FILE, placeholder, 0, mtime_ns, 0.0, keep_entry)


class Opening(NamedTuple):
    """A file as its handler opens it."""

    attributes: Attributes
    """The attributes now; their size is the content's."""
    content: Content
    told_one_size: bool = True
    """Whether the kernel can't still keep another size of this inode: no mount ever showed one."""


def exactly(attributes: Attributes, size: int) -> Attributes:
    """The same attributes with the content's size, in bytes."""
    return attributes._replace(size=size, blocks=-(-size // 512))


class NodeHandler(Protocol):
    """One kind of node."""

    async def attributes(self, inode: Inode) -> Attributes:
        """What stat shows. Raises NoSuchEntry."""

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """The attributes of the entry `name`. Raises NoSuchEntry, NotADirectory."""

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Entries after `cookie`, 0 for the first; none at the end. Raises NotADirectory."""

    async def open(self, inode: Inode) -> Opening:
        """The content, and what the kernel may have been told about it. Raises IsADirectory,
        NoSuchEntry, Stale."""

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """Extended attributes by name; costs no more requests than `attributes`. Raises
        NoSuchEntry, Stale."""

    async def target(self, inode: Inode) -> str:
        """Where a symbolic link leads. Raises NoSuchEntry; Invalid for anything but a link."""


class PlainHandler:
    """A handler of nodes that have no extended attributes and are no symbolic links."""

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """None."""
        return {}

    async def target(self, inode: Inode) -> str:
        """Raises Invalid."""
        raise Invalid("this is no symbolic link")


class FileHandler(PlainHandler):
    """What the handlers of files have in common."""

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Raises NotADirectory."""
        raise NotADirectory(f"{name!r} was looked up in a file")

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Raises NotADirectory."""
        raise NotADirectory("a file was listed")


class DirectoryHandler(PlainHandler):
    """What the handlers of folders have in common."""

    async def open(self, inode: Inode) -> Opening:
        """Raises IsADirectory."""
        raise IsADirectory("a folder was opened as a file")
