"""The cache folder before anything is written to it: ours, and without traps that someone laid in a shared place."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from pictofs.errors import Forbidden

INSIDE = ("content", "catalog", "run", "log")


def claim(cache_dir: Path) -> None:
    """Make `cache_dir`, closed to others, unless it is there. A disk that fails is left for the mount to name.

    Raises:
        Forbidden: it belongs to another user or anyone may write to it, or what lies in it is no folder of ours.
    """
    with suppress(OSError):
        cache_dir.mkdir(mode=0o700, parents=True)
    found = _stat(cache_dir, follow=True)
    if found is None:
        return
    if found.st_uid not in (0, os.geteuid()):
        raise Forbidden(
            f"the cache folder {cache_dir} belongs to another user: name one of yours by --cache-dir"
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise Forbidden(f"anyone may write to the cache folder {cache_dir}: chmod 700 {cache_dir}")
    for name in INSIDE:
        found = _stat(cache_dir / name, follow=False)
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise Forbidden(f"{cache_dir / name} is no folder (a symbolic link?): remove it")
        if found.st_uid != os.geteuid():
            raise Forbidden(f"{cache_dir / name} belongs to another user: name another place by --cache-dir")


def _stat(path: Path, *, follow: bool) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except OSError:
        return None
