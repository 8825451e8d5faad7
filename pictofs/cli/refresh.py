"""`pictofs refresh`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mounts, running
from pictofs.cli.formatting import say
from pictofs.control.client import request
from pictofs.errors import PictofsError

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
    path = mounts.resolve(path)
    mountpoint = running.mountpoint_of(path)
    message = {"op": "refresh", "path": str(path.relative_to(mountpoint))}
    for _ in request(running.control_socket(mountpoint), message, REFRESH_SECONDS):
        pass

    say(f"{path} is fresh")


def show_change(base_url: str) -> None:
    """Have the user's mounts of a server look at its list of datasets anew: one request each.

    A mount that can't is left to its TTL, whatever keeps it from it.
    """
    for mount in mounts.all_mounts():
        status = mount.ours and running.read_status(mount.path)
        if not status or status.get("base_url") != base_url:
            continue

        with suppress(PictofsError):
            for _ in request(
                Path(str(status.get("control_socket"))), {"op": "datasets"}, CHANGE_SECONDS
            ):
                pass
