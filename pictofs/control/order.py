"""Tells a mount in which order images will be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pictofs.control.client import ask
from pictofs.control.messages import OrderReply, OrderRequest

REQUEST_PATHS_BYTES = 48_000
"""Bytes of paths in one request, which may have up to 64 KiB."""
REMEMBERED = 65_536
"""Folders whose place in the mount is remembered."""


@dataclass
class OrderProgress:
    """What the mount has understood so far, of all pieces; see `OrderReply`."""

    images: int = 0
    annotations: int = 0
    unknown: int = 0
    example: str | None = None
    ahead: int = 0
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
) -> Iterator[OrderProgress]:
    """Send an order to the mount that listens at `socket`, piece by piece.

    Yields what the mount has understood, after each piece. Raises what `ask` raises.

    `paths`: relative to the mount point; None for a path outside of it, which counts as unknown.
    `by`: the name of the sender, whose previous order is replaced at once. `ahead`: images to keep
    ahead of the reader; None: as many as the cache allows; 0: none. `bound`: whether the order ends
    with this process. `timeout`: seconds for one piece, the first of which may list datasets.
    """
    heard = OrderProgress()
    number: int | None = None
    pieces = _pieces(paths, heard)
    piece = next(pieces, [])

    while not heard.complete:
        following = next(pieces, None)
        message = OrderRequest(
            by, piece, order=number, ahead=ahead, last=following is None, bound=bound
        )
        reply = ask(socket, message, OrderReply, timeout)

        number = reply.order
        heard.images += reply.images
        heard.annotations += reply.annotations
        heard.unknown += reply.unknown
        heard.example = heard.example or reply.example
        heard.ahead = reply.ahead
        heard.complete = message.last
        yield heard
        piece = following or []


def _pieces(paths: Iterable[str | None], heard: OrderProgress) -> Iterator[list[str]]:
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
