"""Finds a place for a mount's socket: a folder that nobody else can write to or replace."""

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
SHARED = Path("/run/pictofs")
"""Root's sockets that others may connect to."""


def new_shared_socket(mountpoint: Path) -> Path:
    """A free path for the socket of this process's mount, which every user can reach.

    Its folder is made: `/run/pictofs`, or `/tmp/pictofs-<uid>-shared` for others than root.

    Raises:
        Forbidden: other users can change the folder.
        MountFailed: no folder can be made.
    """
    short = SHORT.with_name(f"{SHORT.name}-shared")
    for folder in (SHARED, short) if os.geteuid() == 0 else (short,):
        try:
            folder.mkdir(mode=0o711, exist_ok=True)
        except FileExistsError:
            pass  # as in `new_socket`
        except OSError:
            continue

        check_private(folder, but=0o055)

        # A mount in the background keeps all that it makes to itself, by its umask.
        folder.chmod(0o711)
        return folder / _name(mountpoint)

    raise MountFailed(f"no folder for the mount's socket can be made, not even {short}")


def new_socket(mountpoint: Path, cache_dir: Path, environ: Mapping[str, str]) -> Path:
    """A free path for the socket of this process's mount. Its folder is made.

    The folder is `$XDG_RUNTIME_DIR/pictofs`, `CACHE_DIR/run` or `/tmp/pictofs-<uid>`: the first
    that can be made and whose path is not too long.

    Raises:
        Forbidden: other users can use the folder.
        MountFailed: no folder can be made.
    """
    name = _name(mountpoint)
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


def _name(mountpoint: Path) -> str:
    digest = hashlib.blake2b(os.fsencode(mountpoint), digest_size=6).hexdigest()
    return f"{os.getpid()}-{digest}.sock"


def _is_ours(folder: str) -> bool:
    """Whether `folder` exists and belongs to this user."""
    try:
        owner = os.stat(folder).st_uid
    except OSError:
        return False

    return os.path.isabs(folder) and owner == os.geteuid()


def check_private(folder: Path, *, but: int = 0) -> None:
    """Raise Forbidden unless `folder` is a real folder of this user and closed to all others.

    `but`: bits of the mode that others may have.
    """
    found = folder.lstat()

    if not stat.S_ISDIR(found.st_mode):
        raise Forbidden(f"{folder} is no folder (a symbolic link?): remove it")
    if found.st_uid != os.geteuid():
        raise Forbidden(
            f"{folder} belongs to another user: remove it, "
            "or set XDG_RUNTIME_DIR to a folder of yours"
        )
    if stat.S_IMODE(found.st_mode) & 0o077 & ~but:
        raise Forbidden(f"{folder} is open to other users: chmod 700 {folder}")
