"""`pictofs refresh`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mount_table
from pictofs.cli.formatting import say
from pictofs.cli.status import read_status
from pictofs.control.client import request
from pictofs.errors import MountFailed, NoSuchEntry, PictofsError

REFRESH_SECONDS = 120.0
"""Listing a large dataset anew takes several requests."""
CHANGE_SECONDS = 5.0
"""Looking at the list of datasets takes one request."""


def refresh(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", show_default=False, help="A folder in a mount.")
    ],
) -> None:
    """Ask the server anew what PATH holds, now."""
    path = mount_table.resolve(path)
    mount = mount_table.mount_of(path)
    if mount is None or not mount.ours:
        raise NoSuchEntry(f"{path} lies in no pictofs mount")

    for _ in request(
        control_socket(mount.path),
        {"op": "refresh", "path": str(path.relative_to(mount.path))},
        REFRESH_SECONDS,
    ):
        pass

    say(f"{path} is fresh")


def control_socket(mountpoint: Path) -> Path:
    """Where the mount at `mountpoint` takes commands."""
    socket = (read_status(mountpoint) or {}).get("control_socket")
    if not isinstance(socket, str):
        raise MountFailed(
            f"the mount at {mountpoint} takes no commands: it is another user's, or it hangs"
        )
    return Path(socket)


def show_change(base_url: str) -> None:
    """Have the user's mounts of a server look at its list of datasets anew: one request each.

    A mount that can't is left to its TTL, whatever keeps it from it.
    """
    for mount in mount_table.all_mounts():
        status = mount.ours and read_status(mount.path)
        if not status or status.get("base_url") != base_url:
            continue

        with suppress(PictofsError):
            for _ in request(
                Path(str(status.get("control_socket"))), {"op": "datasets"}, CHANGE_SECONDS
            ):
                pass
