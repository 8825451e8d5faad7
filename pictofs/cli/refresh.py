"""`pictofs refresh`."""

# ruff: noqa: PLC0415 - msgspec is imported when a mount is talked to

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mount_table, running
from pictofs.cli.formatting import say
from pictofs.errors import PictofsError

REFRESH_SECONDS = 120.0
"""Listing a large dataset anew takes several requests."""
CHANGE_SECONDS = 5.0
"""Looking at the list of datasets takes one request."""


def refresh(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", show_default=False, parser=Path, help="A folder in a mount."
        ),
    ],
) -> None:
    """Ask the server anew what PATH holds, now."""
    from pictofs.control.client import ask
    from pictofs.control.messages import RefreshReply, RefreshRequest

    path = mount_table.resolve(path)
    mountpoint = running.mountpoint_of(path)
    message = RefreshRequest(str(path.relative_to(mountpoint)))
    ask(running.control_socket(mountpoint), message, RefreshReply, REFRESH_SECONDS)

    say(f"{path} is fresh")


def show_change(base_url: str) -> None:
    """Have the user's mounts of a server look at its list of datasets anew: one request each.

    A mount that can't is left to its TTL, whatever keeps it from it.
    """
    from pictofs.control.client import ask
    from pictofs.control.messages import DatasetsReply, DatasetsRequest

    for mount in mount_table.all_mounts():
        status = running.read_status(mount.path) if mount.ours else None
        if status is None or status.base_url != base_url or status.control_socket is None:
            continue

        with suppress(PictofsError):
            socket = Path(status.control_socket)
            ask(socket, DatasetsRequest(), DatasetsReply, CHANGE_SECONDS)
