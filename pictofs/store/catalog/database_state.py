"""What is known of a database's file from outside of it: who has it open, and whether it is whole.

SQLite trusts any file that is well formed. A file that mixes two moments (a copy made while a mount
was writing, a power cut, a `-wal` that was lost or is of another day) is often well formed, and
then gives names of one moment and rows of another. Its pages do not show this. So each file has to
be proven, in one of two ways:

    sealed   the last process that closed it noted the length and the checksum of the whole file
    live     by device, inode and time of birth it is the file that processes have written to since
             this boot: what the kernel has taken over survives a killed process, but no power cut

Two files lie beside NAME, and are never removed. `NAME.state` holds that note, and every process
that has the database open holds a shared lock on it. `NAME.lock` is locked while a process opens or
closes the database.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pictofs.errors import DiskFull
from pictofs.store.checksum import checksum

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_POLL = 0.02  # seconds between two attempts at a lock that another process holds
# Written in one piece, so that a killed process leaves the old state or the new one.
_STATE_BYTES = 512

# Where SQLite holds a lock on a file in WAL mode for as long as a connection is open (its os.h).
_SQLITE_SHARED_FIRST = 0x40000002
_SQLITE_SHARED_SIZE = 510

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX_BTIME_OFFSET = 80

FileId = list[int]
"""Device, inode and time of birth. Not the inode alone: ext4 gives a freed one to the next file."""


class State:
    """The note beside one database, and this process's share in the lock on it."""

    def __init__(self, database: Path) -> None:
        """Open or make the note. Raises OSError."""
        self._database = database
        self._wal = database.with_name(database.name + "-wal")
        self._fd = os.open(database.with_name(database.name + ".state"), _OPEN, 0o600)

    def alone(self) -> bool:
        """Whether no other process has the database open. If so, none can open it until `share`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Have the database open together with others, until `close`."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._fd)

    def invalidate(self) -> str | None:
        """Why the file can't be trusted; None if it is proven to be whole. Raises OSError.

        Call it while `alone`, and before this process opens the file.
        """
        state = self._read()
        if "seal" in state:
            if state["seal"] == _seal(self._database):
                return None
            return "it is not what was closed last"

        if "live" not in state:
            return "nothing tells that it is whole"
        if state["live"] != _file_id(self._database):
            return "it is a copy of a file that was in use"
        if state.get("boot") != boot_id():
            return "the machine went down while it was in use"

        # Without its -wal a file lacks what was not yet carried over: perhaps half of a change.
        if state.get("wal") and state["wal"] != _file_id(self._wal):
            return "its -wal is not the one that belongs to it"

        return None

    @property
    def was_sealed(self) -> bool:
        """Whether the last process closed the file. If so, a -wal that is there now is not its
        own."""
        return "seal" in self._read()

    def is_live(self) -> bool:
        """Whether the file of this name is the one that the holders of the lock have open."""
        return self._read().get("live") == _file_id(self._database)

    def live(self) -> None:
        """Note that the file is being written to. Raises OSError."""
        self._write(
            {"boot": boot_id(), "live": _file_id(self._database), "wal": _file_id(self._wal)}
        )

    def closing(self) -> None:
        """Note that the -wal may disappear at any moment. Raises OSError."""
        self._write({"boot": boot_id(), "live": _file_id(self._database)})

    def seal(self) -> None:
        """Note that the file is whole now: 0.15 s for a million images. Raises OSError."""
        self._write({"seal": _seal(self._database)})

    def distrust(self) -> None:
        """Have the file put aside by the next process that opens it alone. Raises OSError."""
        self._write({})

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(os.pread(self._fd, _STATE_BYTES, 0))
        except ValueError:
            return {}
        return state if isinstance(state, dict) else {}

    def _write(self, state: dict[str, Any]) -> None:
        os.pwrite(self._fd, json.dumps(state).encode().ljust(_STATE_BYTES), 0)


@contextmanager
def turn(database: Path, patience: float) -> Iterator[None]:
    """Open or close a database inside this block: one process at a time can be in it.

    Raises:
        DiskFull: another process has been in it for `patience` seconds; a stopped one stays for
        ever.
        OSError: the disk fails.
    """
    lock = database.with_name(database.name + ".lock")
    fd = os.open(lock, _OPEN, 0o600)

    try:
        give_up = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise DiskFull(
                        "another process has been opening or closing the catalog for"
                        f" {patience:g} s; if it is stopped, resume or end it"
                        f" (it is shown by: fuser -v {lock})"
                    ) from None

            time.sleep(_POLL)

        yield
    finally:
        os.close(fd)


def used_by_others(database: Path) -> bool:
    """Whether another process has the database open without our lock: an older pictofs, another
    program.

    Call it before this process opens the file: closing a file releases its locks. Raises OSError.
    """
    fd = os.open(database, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _SQLITE_SHARED_SIZE, _SQLITE_SHARED_FIRST)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(fd)

    return False


def boot_id() -> str:
    """What identifies this boot of the machine; if that is unknown, a value that equals no
    other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(8).hex()


def _seal(path: Path) -> list[int]:
    """Length and CRC-32C of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        return [size, checksum(fd, size)]
    finally:
        os.close(fd)


def _file_id(path: Path) -> FileId | None:
    """What identifies a file; None if there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return [found.st_dev, found.st_ino, _born_ns(path)]


def _born_ns(path: Path) -> int:
    """When a file was made, in nanoseconds since the epoch; 0 if kernel, disk or libc don't tell.

    Python has no call for it.
    """
    found = ctypes.create_string_buffer(256)
    try:
        failed = ctypes.CDLL(None).statx(
            _AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, found
        )
    except (OSError, AttributeError):
        return 0

    (mask,) = struct.unpack_from("<I", found, 0)
    if failed or not mask & _STATX_BTIME:
        return 0

    seconds, nanoseconds = struct.unpack_from("<qI", found, _STATX_BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
