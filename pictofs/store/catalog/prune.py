"""Removing catalogs that nobody uses."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from pictofs.errors import DiskFull
from pictofs.store.catalog.database import SCHEMA_VERSION
from pictofs.store.catalog.database_state import State, turn, used_by_others

BUSY_WAIT_S = 1.0
"""Seconds to wait for a process that opens or closes a catalog, which is then in use."""

_VERSION = re.compile(r"\.v(\d+)(?:-\d+)?\.db$")


def prune(folder: Path, unused_since: float) -> tuple[int, int]:
    """Remove what lies in `folder` and no process has open: catalogs of older versions, those that
    were put aside, and those that nobody has used since `unused_since`, in seconds since the epoch.

    Other processes may open and close catalogs meanwhile.

    Returns: how many there were, and their bytes.

    Raises:
        OSError: the folder can't be read or written.
    """
    count = 0
    removed = 0

    for aside in folder.glob("*.db.broken-*"):
        count += 1
        removed += _remove(aside)

    for database in folder.glob("*.db"):
        version = _VERSION.search(database.name)
        is_old = version is None or int(version[1]) < SCHEMA_VERSION
        if not is_old and _last_use(database) >= unused_since:
            continue

        # A process that is in the way uses it.
        with suppress(DiskFull), turn(database, BUSY_WAIT_S):
            state = State(database)
            try:
                if state.alone() and not used_by_others(database):
                    count += 1
                    removed += sum(map(_remove, _files(database)))
            finally:
                state.close()

    return count, removed


def _files(database: Path) -> list[Path]:
    """The catalog and what SQLite keeps beside it; not the two files of locks, which stay."""
    return [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]


def _last_use(database: Path) -> float:
    """When it was opened, written or closed last, in seconds since the epoch."""
    times = []
    for path in (*_files(database), database.with_name(database.name + ".state")):
        with suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)

    return max(times, default=0.0)


def _remove(path: Path) -> int:
    """The bytes that this frees."""
    try:
        size = path.lstat().st_size
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return size
