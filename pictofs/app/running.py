"""Running mounts, as other programs find them: by a path inside, by their status, by their socket.

Nothing here imports what a mount needs, so commands start fast.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pictofs.app import mount_table, probe
from pictofs.errors import Forbidden, MountFailed, NoSuchEntry, TimedOut

if TYPE_CHECKING:
    from pictofs.model.status import Status


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
        MountFailed: its status can't be read.
    """
    status = read_status(mountpoint, fork=fork)
    if status is not None and status.control_socket is not None:
        return Path(status.control_socket)

    owner = owner_else(mountpoint)
    if owner is not None:
        raise Forbidden(
            f"{mountpoint} is {owner}'s mount, and closed to you", hint="mount one of your own"
        )
    raise MountFailed(f"the mount at {mountpoint} takes no commands: it hangs")


def owner_else(mountpoint: Path) -> str | None:
    """Whose the mount at `mountpoint` is, by name; None if it is this user's."""
    mount = mount_table.mount_at(mountpoint)
    return mount.owner_name if mount is not None and mount.owner != os.geteuid() else None
