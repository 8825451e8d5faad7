"""What the demo shows: real commands on the mount, and what they cost."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pictofs.app.running import read_status
from pictofs.cli.formatting import printable
from pictofs.model.plural import counted

LINES = 12
"""Of a command's output; the rest is counted."""

# Known by the sample's rule, so that finding them costs nothing.
_IMAGE = "datasets/street-signs/images/cam1/frame-0000.jpg"
_ANNOTATION = "datasets/street-signs/annotations/cam1/frame-0000.jpg.json"

_STEPS = (
    ("The organization is a folder. Its datasets:", "ls datasets"),
    (
        "Images lie in the dataset's own directories:",
        "find datasets/street-signs -maxdepth 2 | sort",
    ),
    (
        "Names, sizes and times come with the listing, not one by one:",
        "ls -l datasets/street-signs/images/cam1",
    ),
    (
        "Annotations are JSON, as the vendor's SDK downloads them. One box of an image:",
        f"grep -A 11 '\"speed limit\"' {_ANNOTATION}",
    ),
    ("Image bytes are the original bytes, fetched when read:", f"md5sum {_IMAGE}"),
    ("The second time they come from the cache:", f"md5sum {_IMAGE}"),
    (
        "The same files, chosen by status or split, are in folders that no listing shows:",
        "cd datasets/street-signs && ls by-status by-split",
    ),
    (
        "So is what trainers read, made from the annotations: YOLO, COCO and others:",
        "cd datasets/street-signs/formats && ls && cat yolo/labels/val/cam1/frame-0000.txt",
    ),
)


def show_steps(mountpoint: Path) -> None:
    """Run the steps below `mountpoint`, and show each with its output and the requests it took."""
    console = Console(highlight=False)

    for remark, command in _STEPS:
        before = _requests(mountpoint)
        _step(console, mountpoint, remark, command)
        cost = _requests(mountpoint) - before
        console.print(Text(f"  ({counted(cost, 'request')})\n", style="dim"))


def show_what_to_try(mountpoint: Path, url: str, api_key: str) -> None:
    """What to try while the mount is there.

    `url` and `api_key`: of the server behind it, for mounts and commands of the user's own.
    """
    console = Console(highlight=False)
    console.print(
        Text(
            f"It stays at {mountpoint} until you press Ctrl-C. In another terminal, try:",
            style="bold",
        )
    )

    place = shlex.quote(str(mountpoint))
    for command in (
        "pictofs status",
        f"cp -r {place}/datasets/street-signs /tmp/",
        f"du -sh {place}/datasets/*",
        f"grep -l stop -r {place}/datasets/street-signs/annotations/night",
    ):
        console.print(Text(f"  {command}", style="cyan"), soft_wrap=True)

    console.print(
        Text("\nOr mount it yourself, as `pictofs help mount` does, after:", style="bold")
    )
    for variable, value in (("PICTOGRAPH_BASE_URL", url), ("PICTOGRAPH_API_KEY", api_key)):
        console.print(Text(f"  export {variable}={value}", style="cyan"), soft_wrap=True)


def _step(console: Console, mountpoint: Path, remark: str, command: str) -> None:
    console.print(Text(remark, style="bold"))
    console.print(Text(f"$ {command}", style="cyan"), soft_wrap=True)
    done = subprocess.run(  # noqa: S602 - our own words, in a shell as a person would type them
        command,
        shell=True,
        cwd=mountpoint,
        text=True,
        errors="replace",
        capture_output=True,
        check=False,
    )

    lines = (done.stdout + done.stderr).splitlines()
    for line in lines[:LINES]:
        console.print(Text(printable(line)), soft_wrap=True)

    if len(lines) > LINES:
        console.print(Text(f"... and {len(lines) - LINES} more lines", style="dim"))


def _requests(mountpoint: Path) -> int:
    status = read_status(mountpoint)
    if status is None or status.requests is None:
        return 0
    return status.requests.api + status.requests.storage
