"""`pictofs unmount`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mount_table, mounting
from pictofs.cli import completion
from pictofs.cli.formatting import say


def unmount(
    mountpoint: Annotated[
        Path,
        typer.Argument(
            metavar="MOUNTPOINT", show_default=False, autocompletion=completion.mount_points
        ),
    ],
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy",
            metavar="",
            help="Take it out of sight now; it ends when its last user leaves.",
        ),
    ] = False,
) -> None:
    """Unmount MOUNTPOINT. One that died is cleaned up, too."""
    path = mount_table.resolve(mountpoint)
    mounting.unmount(path, lazy=lazy)
    say(f"{path} is unmounted")
