"""Inode numbers of the files of a whole dataset: another one for each content.

A file has a number before anybody knows its content, which takes every annotation file. So a number
gets its content when the file is opened under it first. `cp` asks for that: it skips a file that
has another number when it is open than when it was looked at. Once that content may be out of date,
the path leads to another number, which has no content yet.

If it is only found out at `open`, that is Stale, and the kernel looks the path up again, but once:
the second Stale would reach the program. So whoever was told Stale is owed the content that was
made for it, although the inputs may have changed again by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import NamedTuple

from pictofs.clock import Clock
from pictofs.errors import NoSuchEntry, Stale
from pictofs.model.formats import NODES, REVISION_PLACE, Role, base_and_place, version_of
from pictofs.model.inode import Inode, NodeKind, key_of

OWED_S = 5.0
"""Seconds in which a program opens again what it was told Stale for: the kernel does so at once."""


class WholeFile(NamedTuple):
    """A file of a whole dataset."""

    dataset: int
    """Its key."""
    base: str | None
    """The status that it is of; None: the whole dataset."""
    place: int
    """Of its node."""


class BuiltFile(NamedTuple):
    """A file of a whole dataset as it was made."""

    blob: str
    """The name of its blob."""
    size: int
    """Bytes."""
    changed_ns: int
    """When the newest of what went in changed, in nanoseconds since the epoch."""


@dataclass(slots=True)
class _Revision:
    inode: Inode
    built: BuiltFile | None = None
    """The content; None until somebody opens the file."""
    owed: int = 0
    """How many were told Stale, and have not opened the file again."""
    owed_until: float = 0.0
    """Seconds of the monotonic clock."""

    def takes(self, blob: str | None) -> bool:
        """Whether that content may be shown under this number."""
        return self.built is None or self.built.blob == blob


class FileRevisions:
    """Which content each inode number stands for. 0.5 KB for each file that was opened."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # An NFS client may remember numbers of an earlier mount.
        self._mount = token_hex(8)
        self._numbers: Iterator[int] = count(1)
        self._revisions: dict[WholeFile, _Revision] = {}
        self._files: dict[int, WholeFile] = {}
        """By the key in the number, for all but the first."""

    def file(self, inode: Inode) -> WholeFile:
        """The file that an inode is of. Raises NoSuchEntry; Stale if it has another number now."""
        base, place = _base_and_place(inode)
        if place == REVISION_PLACE:
            found = self._files.get(inode.key)
            if found is None:
                raise Stale("the file has another content")
            return found

        if place >= len(NODES) or NODES[place].role is not Role.BUILT:
            raise NoSuchEntry("there is no such file")
        return WholeFile(inode.key, base, place)

    def first(self, inode: Inode) -> Inode:
        """The inode that a file had before any other, and that follows from its path; that of
        anything else as it is. Raises NoSuchEntry, Stale."""
        if inode.kind is not NodeKind.FORMAT or _base_and_place(inode)[1] != REVISION_PLACE:
            return inode
        return _first(self.file(inode))

    def shown(self, file: WholeFile, blob: str | None) -> Inode:
        """The inode that the path leads to now. `blob`: the content, as far as it is known."""
        revision = self._revisions.get(file)
        if revision is None:
            return _first(file)
        if not revision.takes(blob) and not self._is_owed(revision):
            revision = self._advance(file)
        return revision.inode

    def owed(self, file: WholeFile, inode: Inode) -> BuiltFile | None:
        """The content that `open` owes to one who was told Stale, who then has it; None if it owes
        none.

        Raises Stale if the file has another number now.
        """
        revision = self._revisions.get(file)
        current = _first(file) if revision is None else revision.inode
        if current != inode:
            raise Stale("the file has another content")
        if revision is None or not self._is_owed(revision):
            return None

        revision.owed -= 1
        return revision.built

    def opened(self, file: WholeFile, inode: Inode, built: BuiltFile) -> bool:
        """Note the content that `inode` was opened for. Returns whether it is the first that was
        shown under this number.

        Raises Stale if the number stands for another content.
        """
        revision = self._revisions.setdefault(file, _Revision(_first(file)))
        is_first = revision.built is None
        if not revision.takes(built.blob):
            revision = self._advance(file)
        revision.built = built

        if revision.inode != inode:
            if not self._is_owed(revision):
                revision.owed = 0
            revision.owed += 1
            revision.owed_until = self._clock.monotonic() + OWED_S
            raise Stale("the file has another content")

        return is_first

    def _is_owed(self, revision: _Revision) -> bool:
        return revision.owed > 0 and self._clock.monotonic() < revision.owed_until

    def _advance(self, file: WholeFile) -> _Revision:
        """Give a file the next number, which has no content yet."""
        before = self._revisions[file]
        self._files.pop(before.inode.key, None)

        key = key_of(f"{self._mount}:{next(self._numbers)}")
        inode = Inode(NodeKind.FORMAT, key, version_of(file.base, REVISION_PLACE))
        self._files[key] = file
        revision = _Revision(inode, owed=before.owed, owed_until=before.owed_until)
        self._revisions[file] = revision
        return revision


def _first(file: WholeFile) -> Inode:
    return Inode(NodeKind.FORMAT, file.dataset, version_of(file.base, file.place))


def _base_and_place(inode: Inode) -> tuple[str | None, int]:
    try:
        return base_and_place(inode.version)
    except IndexError:
        raise NoSuchEntry("there is no such file") from None
