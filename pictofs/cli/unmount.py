"""`pictofs unmount`."""

from __future__ import annotations

from typing import Annotated

import typer

from pictofs.app import mounts
from pictofs.cli.options import Mountpoint


def unmount(
    mountpoint: Mountpoint,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy", metavar="", help="Take it out of sight now; it ends when its last user leaves."
        ),
    ] = False,
) -> None:
    """Unmount MOUNTPOINT. One that died is cleaned up, too."""
    path = mounts.resolve(mountpoint)
    mounts.unmount(path, lazy=lazy)
    print(f"{path} is unmounted")
