"""Running mounts, as other programs find them: by a path inside, by their status, by their socket.

Nothing here imports what a mount needs, so commands start fast.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pictofs.app import mount_table, probe
from pictofs.errors import Forbidden, MountFailed, NoSuchEntry, TimedOut

if TYPE_CHECKING:
    from pictofs.model.status import Status

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """The process of a mount, by its id, and whether a signal has stopped it."""

    id: int
    stopped: bool


def mountpoint_of(path: Path) -> Path:
    """The mount point of the mount that `path` (see `mount_table.resolve`) lies in.

    Raises:
        NoSuchEntry: it lies in none that pictofs made.
    """
    mount = mount_table.mount_of(path)
    if mount is None or not mount.ours:
        raise NoSuchEntry(f"{path} lies in no pictofs mount")
    return mount.path


def read_document(mountpoint: Path, *, fork: bool = True) -> dict[str, Any] | None:
    """The status.json of the mount at `mountpoint`, as it is; None if it can't be read.

    `fork`: whether to read it in another process, so that a mount that hangs does not hang this
    one. A process with threads, or with much memory, had better not fork.
    """
    read = (mountpoint / ".pictofs/status.json").read_bytes
    try:
        text = probe.run_in_subprocess(probe.TIMEOUT_S, read) if fork else read()
        document = json.loads(text)
    except (OSError, TimedOut, ValueError):
        return None

    return document if isinstance(document, dict) else None


def read_status(mountpoint: Path, *, fork: bool = True) -> Status | None:
    """The same as a tree."""
    from pictofs.model.status import to_status  # noqa: PLC0415 - msgspec takes 5 ms to import

    document = read_document(mountpoint, fork=fork)
    return None if document is None else to_status(document)


def control_socket(mountpoint: Path, *, fork: bool = True) -> Path:
    """Where the mount at `mountpoint` takes commands. `fork`: see `read_document`.

    Raises:
        Forbidden: it is another user's, and closed to others.
        MountFailed: its process is gone or does not answer, or its status can't be read.
    """
    state = probe.state_of(mountpoint, fork=fork)
    if state != "live":
        problem, advice = trouble(mountpoint, state)
        raise MountFailed(f"the mount at {mountpoint} takes no commands: {problem}", hint=advice)

    status = read_status(mountpoint, fork=fork)
    if status is not None and status.control_socket is not None:
        return Path(status.control_socket)

    owner = owner_else(mountpoint)
    if owner is not None:
        raise Forbidden(
            f"{mountpoint} is {owner}'s mount, and closed to you", hint="mount one of your own"
        )
    raise MountFailed(f"the mount at {mountpoint} takes no commands: its status can't be read")


def trouble(mountpoint: Path, state: Literal["stale", "silent"]) -> tuple[str, str]:
    """What is wrong with the mount at `mountpoint`, which is not live, and what to do."""
    place = shlex.quote(str(mountpoint))
    if state == "stale":
        return "its process is gone", f"pictofs unmount {place}, or mount it again"

    unmount = f"pictofs unmount --lazy {place}"
    process = process_of(mountpoint)
    if process is None:
        return "its process does not answer", unmount
    if process.stopped:
        return f"its process {process.id} is stopped", f"kill -CONT {process.id}, or {unmount}"
    return f"its process {process.id} does not answer", unmount


def process_of(mountpoint: Path) -> Process | None:
    """The process of the mount at `mountpoint`, which is not touched.

    None if it can't be told: it is another user's, or the kernel does not say which connection an
    open /dev/fuse is.
    """
    mount = mount_table.mount_at(mountpoint)
    if mount is None:
        return None

    wanted = re.compile(rf"^fuse_connection:\s*{mount.device.partition(':')[2]}$", re.MULTILINE)
    for folder in sorted(PROC.glob("[1-9]*"), key=lambda each: int(each.name)):
        # Processes end while we look, and those of others are closed to us.
        with suppress(OSError):
            for link in Path(folder, "fd").iterdir():
                if os.readlink(link) != "/dev/fuse":
                    continue
                if wanted.search(Path(folder, "fdinfo", link.name).read_text()):
                    return Process(int(folder.name), _is_stopped(folder))

    return None


def _is_stopped(folder: Path) -> bool:
    # The state follows the name, which is in parentheses and may hold some itself.
    return Path(folder, "stat").read_text(errors="replace").rpartition(") ")[2][0] == "T"


def owner_else(mountpoint: Path) -> str | None:
    """Whose the mount at `mountpoint` is, by name; None if it is this user's."""
    mount = mount_table.mount_at(mountpoint)
    return mount.owner_name if mount is not None and mount.owner != os.geteuid() else None
