"""`pictofs unmount`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mount_table, mounting, running
from pictofs.cli import completion
from pictofs.cli.formatting import say


def unmount(
    mountpoint: Annotated[
        Path,
        typer.Argument(
            metavar="MOUNTPOINT",
            show_default=False,
            parser=Path,  # typer's own asks the mount, which may hang
            autocompletion=completion.mount_points,
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
    owner = running.owner_else(path)

    # Whoever types it in the mount would else find this command among those who use it.
    os.chdir("/")
    mounting.unmount(path, lazy=lazy)

    say(f"{path}, {owner}'s mount, is unmounted" if owner else f"{path} is unmounted")
