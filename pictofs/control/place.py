"""Finds a place for a mount's socket: a folder that nobody else can enter or replace."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pictofs.errors import Forbidden, MountFailed

MAX_PATH_BYTES = 100
"""Bytes. The kernel takes 107 for the path of a unix socket."""

SHORT = Path(f"/tmp/pictofs-{os.geteuid()}")  # noqa: S108 - one of another user's making is refused


def new_socket(mountpoint: Path, cache_dir: Path, environ: Mapping[str, str]) -> Path:
    """A free path for the socket of this process's mount. Its folder is made.

    The folder is `$XDG_RUNTIME_DIR/pictofs`, `CACHE_DIR/run` or `/tmp/pictofs-<uid>`: the first
    that can be made and whose path is not too long.

    Raises:
        Forbidden: other users can use the folder.
        MountFailed: no folder can be made.
    """
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=6).hexdigest()
    name = f"{os.getpid()}-{digest}.sock"
    runtime = environ.get("XDG_RUNTIME_DIR", "")

    # Only the login manager makes a runtime folder, so one that is missing (su, cron) stays so.
    # sudo leaves another user's in the environment: what root makes there, its owner can't use.
    folders = [Path(runtime, "pictofs")] if _is_ours(runtime) else []
    folders += [cache_dir / "run", SHORT]

    for folder in folders:
        if len(os.fsencode(folder / name)) > MAX_PATH_BYTES:
            continue

        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # something that is not a folder: `check_private` reports it
        except OSError:
            continue

        check_private(folder)
        return folder / name

    raise MountFailed(
        f"no folder for the mount's socket can be made, not even {SHORT}: "
        "set XDG_RUNTIME_DIR to a folder of yours"
    )


def _is_ours(folder: str) -> bool:
    """Whether `folder` exists and belongs to this user."""
    try:
        owner = os.stat(folder).st_uid
    except OSError:
        return False

    return os.path.isabs(folder) and owner == os.geteuid()


def check_private(folder: Path) -> None:
    """Raise Forbidden unless `folder` is a real folder of this user and closed to all others."""
    found = folder.lstat()

    if not stat.S_ISDIR(found.st_mode):
        raise Forbidden(f"{folder} is no folder (a symbolic link?): remove it")
    if found.st_uid != os.geteuid():
        raise Forbidden(
            f"{folder} belongs to another user: remove it, "
            "or set XDG_RUNTIME_DIR to a folder of yours"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Forbidden(f"{folder} is open to other users: chmod 700 {folder}")
