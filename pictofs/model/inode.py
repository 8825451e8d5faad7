"""Inode numbers: 63 bits that identify a node, made from the server's ids.

| bits | meaning |
|---|---|
| 0-3 | the `NodeKind` |
| 4-11 | for a file whose content changes, its version modulo 256; for a link, the `NodeKind` of its
         target; for a view, what it selects (model/selection.py), or its place in a format
         (model/formats.py); for exports, which kind of node; else 0 |
| 12-62 | the item's key: 51 bits of a hash of its id; in an archive, 30 bits of a hash of the export's
          id and the archive's directory, and 21 bits of the node's place in it |

The number survives renames and remounts. A new version of a file has a new number: an open handle
keeps the old number with its own page cache, so that no reader sees a mix of two versions.
"""

from __future__ import annotations

import enum
import hashlib
from typing import NamedTuple

KIND_MASK = 15
KEY_BITS = 51
KEY_MASK = (1 << KEY_BITS) - 1
ROOT = 1
"""FUSE's number of the root."""


class NodeKind(enum.IntEnum):
    """What a node is. The value is part of the inode number and must not change."""

    LABEL = 0
    """A label file in `formats/`. The key is the image's."""
    FIXED = 1
    """The folders and files that every mount has. The key is their place in the list."""
    DATASET = 2
    IMAGES = 3
    """`images/` of a dataset, or a virtual directory in it."""
    ANNOTATIONS = 4
    """`annotations/` of a dataset, or a virtual directory in it."""
    IMAGE = 5
    ANNOTATION = 6
    DOCUMENT = 7
    """`dataset.json` of a dataset."""
    LINK = 8
    """A symbolic link in `by-id/`. The key is its target's."""
    VIEW = 9
    """`by-status`, `by-split` or a folder in it. The key is the dataset's."""
    VIEW_IMAGES = 10
    """`images/` of a view, or a virtual directory in it. The key is the directory's."""
    VIEW_ANNOTATIONS = 11
    """`annotations/` of a view, or a virtual directory in it. The key is the directory's."""
    README = 12
    """`README.md` of a dataset."""
    EXPORT = 13
    """`exports/` of a dataset, an export in it, or a file or folder of an export's archive. The
    version bits tell which (library/archives/exports.py)."""
    FORMAT = 14
    """`formats/`, or a folder or file of a format in it. The key is the dataset's."""
    FORMAT_FOLDER = 15
    """A virtual directory in a format, or the folder of a tag. The key is the directory's, or
    `tag_key`."""


class Inode(NamedTuple):
    """The parts of an inode number."""

    kind: NodeKind
    key: int
    version: int

    @classmethod
    def of(cls, number: int) -> Inode | None:
        """Take `number` apart. None if no node can have it."""
        try:
            return cls(NodeKind(number & KIND_MASK), key_in(number), number >> 4 & 255)
        except ValueError:
            return None


def number(kind: NodeKind, key: int, version: int = 0) -> int:
    """The inode number of a node."""
    return key << 12 | (version & 255) << 4 | kind


def key_in(number: int) -> int:
    """The key in an inode number."""
    return number >> 12


def key_of(identity: str) -> int:
    """51 bits of a hash of an item's identity.

    The identity is an id in lower case, or `dataset id:path` for a directory. Among a million items
    the chance that two share a key is 2e-4. One of the two is not shown then.
    """
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & KEY_MASK
