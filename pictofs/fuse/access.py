"""A line for each request of the kernel.

It says what was asked, of which file, how that ended, and how long it took.
"""

from __future__ import annotations

import errno
import logging
from typing import Any

from pictofs.vfs.place import Places
from pictofs.vfs.tree import Tree

log = logging.getLogger(__name__)
_bugs = logging.getLogger("pictofs.fuse")

_OF_ALL = frozenset({"statfs"})
"""Requests about the whole mount."""
_BY_HANDLE = frozenset({"read", "readdir", "write", "flush", "fsync"})
"""Requests about what is open; all others name an inode, or an entry of one:"""
_ENTRIES = frozenset({"lookup", "mkdir", "rmdir", "rename", "create", "mknod", "symlink", "unlink"})


class AccessLog:
    """Logs requests as they end, as records whose `fields` say everything."""

    def __init__(self, tree: Tree, places: Places) -> None:
        self._tree = tree
        self._places = places

    def __call__(
        self, operation: str, arguments: tuple[Any, ...], answer: Any, code: int, seconds: float
    ) -> None:
        """Log a request: its handler's name and arguments, and what was answered.

        `code`: the errno, 0 for success.
        """
        try:
            self._note(operation, arguments, answer, code, seconds)
        except Exception:
            # It would end the mount.
            _bugs.exception(
                "the access log lacks a line, which should not happen; please report this"
            )

    def _note(
        self, operation: str, arguments: tuple[Any, ...], answer: Any, code: int, seconds: float
    ) -> None:
        # A file that was read is closed.
        if operation == "flush" and self._tree.written(arguments[0]) is None:
            return

        fields: dict[str, Any] = {
            "operation": operation,
            "errno": errno.errorcode.get(code, str(code)) if code else "OK",
            "seconds": round(seconds, 6),
            "bytes": _carried(operation, answer),
            "path": self._path(operation, arguments),
        }
        if operation == "rename":
            fields["to"] = self._places.entry(arguments[2], arguments[3])

        log.info("%s", operation, extra={"fields": fields})

    def _path(self, operation: str, arguments: tuple[Any, ...]) -> str:
        if operation in _OF_ALL:
            return "/"
        if operation in _BY_HANDLE:
            return self._places.path(self._tree.inode_of(arguments[0]))
        if operation in _ENTRIES:
            return self._places.entry(arguments[0], arguments[1])
        return self._places.path(arguments[0])


def _carried(operation: str, answer: Any) -> int:
    """How many bytes of a file a request has carried."""
    if answer is None:
        return 0
    if operation == "read":
        return len(answer)
    if operation == "write":
        return int(answer)
    return 0
