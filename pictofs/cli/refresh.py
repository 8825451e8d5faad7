"""`pictofs refresh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mounts
from pictofs.cli.status import read_status
from pictofs.control.client import request
from pictofs.errors import MountFailed, NoSuchEntry

REFRESH_SECONDS = 120.0
"""Listing a large dataset anew takes several requests."""


def refresh(
    path: Annotated[Path, typer.Argument(metavar="PATH", show_default=False, help="A folder in a mount.")],
) -> None:
    """Ask the server anew what PATH holds, now."""
    path = mounts.resolve(path)
    mount = mounts.mount_of(path)
    if mount is None or not mount.ours:
        raise NoSuchEntry(f"{path} lies in no pictofs mount")
    for _ in request(
        control_socket(mount.path),
        {"op": "refresh", "path": str(path.relative_to(mount.path))},
        REFRESH_SECONDS,
    ):
        pass
    print(f"{path} is fresh")


def control_socket(mountpoint: Path) -> Path:
    """Where the mount at `mountpoint` takes commands."""
    socket = (read_status(mountpoint) or {}).get("control_socket")
    if not isinstance(socket, str):
        raise MountFailed(f"the mount at {mountpoint} takes no commands: it is another user's, or it hangs")
    return Path(socket)
