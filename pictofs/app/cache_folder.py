"""The cache folder before anything is written to it.

It has to be ours, and without traps that someone laid in a shared place.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from pictofs.config import home_folder
from pictofs.errors import Forbidden

INSIDE = ("content", "catalog", "run", "log")
_FOREIGN_WRITERS = stat.S_IWGRP | stat.S_IWOTH


def claim(cache_dir: Path) -> None:
    """Make `cache_dir`, closed to others, unless it is there.

    A disk that fails is left for the mount to name.

    Raises:
        Forbidden: it belongs to another user or others may write to it, or what lies in it is not
            a folder of ours.
    """
    with suppress(OSError):
        cache_dir.mkdir(mode=0o700, parents=True)

    found = _stat(cache_dir, follow=True)
    if found is None:
        return
    if found.st_uid not in (0, os.geteuid()):
        raise Forbidden(
            f"the cache folder {cache_dir} belongs to the user {_user(found.st_uid)}",
            hint="name one of yours by --cache-dir",
        )

    for name in INSIDE:
        inside = _stat(cache_dir / name, follow=False)
        if inside is not None and not stat.S_ISDIR(inside.st_mode):
            raise Forbidden(
                f"{cache_dir / name} is not a folder (a symbolic link?)", hint="remove it"
            )

    _close_to_others(cache_dir, found)
    _check_owner(cache_dir)


def _close_to_others(cache_dir: Path, found: os.stat_result) -> None:
    """Take the right to write from others.

    A user who may rename what is in the folder may put something in its place. A sticky folder, as
    /tmp is, lets nobody rename what is ours. A folder that holds other things, too, may be shared
    on purpose, so that its owner has to decide.
    """
    if not found.st_mode & _FOREIGN_WRITERS or found.st_mode & stat.S_ISVTX:
        return

    if found.st_uid == os.geteuid():
        with suppress(OSError):
            if set(os.listdir(cache_dir)) <= set(INSIDE):
                cache_dir.chmod(stat.S_IMODE(found.st_mode) & ~_FOREIGN_WRITERS)
                return

    raise Forbidden(
        f"others may write to the cache folder {cache_dir}",
        hint=f"chmod go-w {shlex.quote(str(cache_dir))}",
    )


def _check_owner(cache_dir: Path) -> None:
    """Raise Forbidden unless all that a command writes to is ours.

    The blobs themselves, perhaps a million, are not looked at: they lie in folders that are.
    Outside the user's home it may be the cache of a live mount, which must not be taken away.
    """
    for path in _known(cache_dir):
        found = _stat(path, follow=False)
        if found is not None and found.st_uid != os.geteuid():
            owner = _user(found.st_uid)
            if not _is_at_home(cache_dir):
                raise Forbidden(
                    f"{path} belongs to the user {owner}",
                    hint="name another cache folder by --cache-dir",
                )
            raise Forbidden(
                f"{path} belongs to the user {owner}, as sudo leaves it",
                hint=f"sudo chown -R {_user(os.geteuid())} {shlex.quote(str(cache_dir))}, "
                "or name another place by --cache-dir",
            )


def _known(cache_dir: Path) -> list[Path]:
    """The folders in the cache and what is directly in them.

    The cache itself is among them if it is root's and we can't write to it.
    """
    known = []
    found = _stat(cache_dir, follow=True)
    is_root_s = found is not None and found.st_uid == 0 != os.geteuid()
    if is_root_s and not os.access(cache_dir, os.W_OK | os.X_OK):
        known.append(cache_dir)

    for name in INSIDE:
        folder = cache_dir / name
        known.append(folder)
        with suppress(OSError):
            known += [folder / each for each in os.listdir(folder)]

    return known


def _is_at_home(cache_dir: Path) -> bool:
    """Whether it lies below the user's home."""
    home = os.path.realpath(home_folder())
    return Path(home) in Path(os.path.realpath(cache_dir)).parents


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _stat(path: Path, *, follow: bool) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except OSError:
        return None
