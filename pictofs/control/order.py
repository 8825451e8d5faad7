"""Tells a mount in which order images will be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pictofs.control.client import request

REQUEST_PATHS_BYTES = 48_000
"""Bytes of paths in one request, which may have up to 64 KiB."""
REMEMBERED = 65_536
"""Folders whose place in the mount is remembered."""


@dataclass
class OrderReply:
    """How many paths the mount has understood so far."""

    images: int = 0
    annotations: int = 0
    """Annotation files. They are not fetched ahead, because each costs a request."""
    unknown: int = 0
    example: str | None = None
    """The first unknown path."""
    ahead: int = 0
    """Images that the mount keeps ahead of the reader."""
    complete: bool = False


class MountRelativePath:
    """Makes paths relative to the mount point."""

    def __init__(self, mountpoint: Path, base: Path) -> None:
        """`mountpoint`, and `base`, to which relative paths refer: absolute, without symlinks."""
        self._prefix = f"{mountpoint}/".replace("//", "/")
        self._base = str(base)
        self._folders: dict[str, str | None] = {}

    def __call__(self, path: str) -> str | None:
        """`path` relative to the mount point; None if it lies elsewhere."""
        folder, slash, name = path.rpartition("/")
        if folder not in self._folders:
            if len(self._folders) >= REMEMBERED:
                self._folders.clear()
            self._folders[folder] = self._place(folder + slash)

        place = self._folders[folder]
        return None if place is None else place + name

    def _place(self, folder: str) -> str | None:
        """The folder below the mount point, with a slash at its end."""
        spelled = os.path.join(self._base, folder)
        for way in (os.path.normpath, os.path.realpath):
            # Symbolic links matter only outside the mount and before `..`: only then does realpath
            # look at the folders.
            if way is os.path.normpath and ".." in folder.split("/"):
                continue

            place = way(spelled) + "/"
            if place.startswith(self._prefix):
                return place[len(self._prefix) :]

        return None


def send_order(
    socket: Path,
    paths: Iterable[str | None],
    *,
    by: str,
    ahead: int | None,
    bound: bool,
    timeout: float,
) -> Iterator[OrderReply]:
    """Send an order to the mount that listens at `socket`, piece by piece.

    Yields what the mount has understood, after each piece. Raises what `request` raises.

    `paths`: relative to the mount point; None for a path outside of it, which counts as unknown.
    `by`: the name of the sender, whose previous order is replaced at once. `ahead`: images to keep
    ahead of the reader; None: as many as the cache allows; 0: none. `bound`: whether the order ends
    with this process. `timeout`: seconds for one piece, the first of which may list datasets.
    """
    heard = OrderReply()
    number: int | None = None
    pieces = _pieces(paths, heard)
    piece = next(pieces, [])

    while not heard.complete:
        following = next(pieces, None)
        message = {
            "op": "order",
            "by": by,
            "order": number,
            "ahead": ahead,
            "bound": bound,
            "paths": piece,
            "last": following is None,
        }

        for answer in request(socket, message, timeout):
            number = int(answer["order"])
            heard.images += int(answer["images"])
            heard.annotations += int(answer["annotations"])
            heard.unknown += int(answer["unknown"])
            heard.example = heard.example or answer["example"]
            heard.ahead = int(answer["ahead"])

        heard.complete = following is None
        yield heard
        piece = following or []


def _pieces(paths: Iterable[str | None], heard: OrderReply) -> Iterator[list[str]]:
    """Lists of paths, each of which fits into a request. Counts the other paths as unknown."""
    piece: list[str] = []
    size = 0

    for path in paths:
        if path is None:
            heard.unknown += 1
            continue

        length = len(json.dumps(path)) + 2
        if length >= REQUEST_PATHS_BYTES:
            heard.unknown += 1
            continue

        if size + length > REQUEST_PATHS_BYTES:
            yield piece
            piece = []
            size = 0

        piece.append(path)
        size += length

    if piece:
        yield piece
