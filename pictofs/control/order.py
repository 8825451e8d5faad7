"""Tells a mount which images will be read next."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pictofs.control.client import request

REQUEST_PATHS_BYTES = 48_000
"""Bytes of paths in one request, which may have 64 KiB."""
REMEMBERED = 65_536
"""Folders that are remembered."""


@dataclass
class OrderReply:
    """What the mount has understood so far, in numbers of paths."""

    images: int = 0
    annotations: int = 0
    """Annotation files: each costs a request, and none is fetched ahead."""
    unknown: int = 0
    example: str | None = None
    """The first unknown one."""
    ahead: int = 0
    """Images that are kept ahead of the reader."""
    complete: bool = False


class MountRelativePath:
    """Spells paths as the mount does: relative to its mount point."""

    def __init__(self, mountpoint: Path, base: Path) -> None:
        """`mountpoint` and `base`, the folder that relative paths are relative to: absolute, no symbolic links."""
        self._prefix = f"{mountpoint}/".replace("//", "/")
        self._base = str(base)
        self._folders: dict[str, str | None] = {}

    def __call__(self, path: str) -> str | None:
        """`path` relative to the mount point; None where it lies elsewhere."""
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
            # In a mount there are no links; only one that leads into it takes a look at the folders.
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
    """Tell the mount that listens at `socket` an order, and yield what it has understood after each piece of it.

    `paths`: relative to the mount point; None for one outside of it, which counts as unknown. `by`: whose order it
    is; it takes the place of the last one by the same name at once. `ahead`: images to keep ahead of the reader,
    None for what the cache allows, 0 for none. `bound`: it ends with this process. `timeout`: seconds for one
    piece, the first of which may list datasets.

    Raises what `request` does.
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
    """Lists of paths that fit into a request each."""
    piece: list[str] = []
    size = 0
    for path in paths:
        length = REQUEST_PATHS_BYTES if path is None else len(json.dumps(path)) + 2
        if path is None or length >= REQUEST_PATHS_BYTES:
            heard.unknown += 1
            continue
        if size + length > REQUEST_PATHS_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(path)
        size += length
    if piece:
        yield piece
