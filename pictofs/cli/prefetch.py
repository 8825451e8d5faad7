"""`pictofs prefetch`."""

# ruff: noqa: PLC0415 - msgspec is imported when a mount is talked to

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from pictofs.app import mount_table, running
from pictofs.cli.failure import warn
from pictofs.cli.formatting import say
from pictofs.errors import Invalid, NoSuchEntry
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from pictofs.control.order import OrderProgress

PIECE_SECONDS = 120.0
"""Listing a large dataset takes several requests."""
BLOCK = 1 << 16


def prefetch(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            parser=Path,  # typer's own asks the mount, which may hang, or be closed to this user
            help="A folder in a mount; paths in FILE that are not absolute are relative to it.",
        ),
    ],
    order: Annotated[
        str,
        typer.Option(
            "--order",
            metavar="FILE",
            show_default=False,
            help="The images in the order in which they will be read, one path a line, "
            "or each ended by NUL; - for standard input. An empty one ends the last.",
        ),
    ],
    ahead: Annotated[
        int | None,
        typer.Option(
            "--ahead",
            metavar="N",
            min=0,
            show_default=False,
            help="Images to keep ahead of the reader. 0 ends the last order. "
            "Default: what a quarter of the cache holds.",
        ),
    ] = None,
) -> None:
    """Tell a mount which images will be read next: they are fetched in that order, ahead of the
    reader.

    The order takes the place of the last one at once, and ends when its last image is read.
    """
    from pictofs.control.order import MountRelativePath, OrderProgress, send_order

    base = mount_table.resolve(path)
    mountpoint = running.mountpoint_of(base)
    socket = running.control_socket(mountpoint)
    spelling = MountRelativePath(mountpoint, base)
    heard = OrderProgress()

    with ExitStack() as stack:
        stream = _opened(order, stack)
        names = _lines(stream) if ahead != 0 else iter(())
        paths = map(spelling, names)

        for each in send_order(
            socket, paths, by="", ahead=ahead, bound=False, timeout=PIECE_SECONDS
        ):
            heard = each

    _report(heard)


def _opened(name: str, stack: ExitStack) -> BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(name, "rb"))
    except OSError as error:
        raise Invalid(f"can't read {name}: {error.strerror}") from None


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The paths; a name may hold any byte but NUL, so `find -print0` is heard too."""
    rest = b""
    end = b""
    while block := stream.read(BLOCK):
        end = end or (b"\0" if b"\0" in block else b"\n")
        *whole, rest = (rest + block).split(end)
        yield from map(os.fsdecode, filter(None, whole))

    if rest:
        yield os.fsdecode(rest)


def _report(heard: OrderProgress) -> None:
    if heard.unknown:
        example = f", the first of them {heard.example}" if heard.example else ""
        warn(f"{counted(heard.unknown, 'path')} to no image of this mount{example}")
    if heard.annotations:
        files = counted(heard.annotations, "annotation file")
        warn(f"left out: {files}, each of which would cost a request")

    if heard.images:
        say(
            f"{counted(heard.images, 'image')} will be fetched in this order, "
            f"up to {heard.ahead:,} ahead of the reader"
        )
    elif heard.unknown or heard.annotations:
        raise NoSuchEntry("the order names no image of this mount; nothing is fetched by it")
    else:
        say("no order is followed any more")
