"""How much disk the cache takes: the bound, the free-space reserve, and the ledger that processes
share."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from pictofs.errors import DiskFull, PictofsError

SHARDS = 256
"""Fan-out directories of the cache."""

_BLOCK = 4096
_PAGE = SHARDS * 16  # bytes of the ledger: 256 byte counts, then 256 file counts, each int64
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

# Seconds between two attempts at another process's lock.
_POLL = 0.002

# After a wait in vain, calls wait only `_GLANCE` seconds, for `_STUCK` seconds: they would queue
# up.
_STUCK = 5.0
_GLANCE = 0.05

# Seconds of holding a lock after which the holder lets others have a turn.
_LONG = 0.005


class CacheUnusable(DiskFull):
    """The cache's disk does not work: full, read-only, gone. Reads can go on without the cache."""


class WouldBlock(PictofsError):
    """What must be done at once would take a wait: for another process, or for an eviction."""


def allocated_size(file_size: int) -> int:
    """The bytes that a file of `file_size` bytes counts for: whole blocks, as the disk gives them
    out.

    Annotations of 1 KiB take four times their length; a bound on lengths would not bound the disk.
    """
    return -(-file_size // _BLOCK) * _BLOCK


@dataclass(frozen=True, slots=True)
class Usage:
    """What the cache takes now (`bytes` in `files` blobs) and at most (`limit`), its disk's free
    bytes, and how many of them must stay free (`kept`)."""

    bytes: int
    files: int
    limit: int
    free: int
    kept: int

    @property
    def room(self) -> int:
        """Bytes that the disk lets the cache take, what it takes now included."""
        return max(0, self.bytes + self.free - self.kept)


class Lock:
    """A lock file in the cache's root, with one holder among all threads of all processes.

    The kernel frees it when the holder dies. Waiting ends after `patience` seconds with
    CacheUnusable, so that a stopped process can't hang this one; calls in the 5 s after that hardly
    wait.
    """

    def __init__(self, root: int, name: str, patience: float) -> None:
        """`root` is the descriptor of the cache's directory.

        `patience`: seconds to wait; 0: wait for nobody, and raise WouldBlock.
        """
        self._root = root
        self._name = name
        self._patience = patience
        self._thread = threading.Lock()
        self._since = 0.0
        self._stuck_until = 0.0
        self.fd = -1

    def _wait(self) -> float:
        """Seconds to wait for the lock."""
        if time.monotonic() < self._stuck_until:
            return min(self._patience, _GLANCE)
        return self._patience

    def __enter__(self) -> Self:
        if not self._thread.acquire(timeout=self._wait()):
            self._refuse()
            raise CacheUnusable(f"the cache's {self._name} lock is held too long")

        try:
            self._acquire()
        except BaseException:
            self._thread.release()
            raise

        self._since = time.monotonic()
        return self

    def _acquire(self) -> None:
        # At least twice: the file may be a new one at the second attempt.
        for _ in range(max(2, int(self._wait() / _POLL))):
            if self.fd < 0:
                self.fd = os.open(self._name, _OPEN, 0o600, dir_fd=self._root)

            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._refuse()
                time.sleep(_POLL)
                continue

            # Someone may have emptied the directory: a lock on a file without a name excludes
            # nobody.
            if os.fstat(self.fd).st_nlink:
                return
            self.close()

        self._stuck_until = time.monotonic() + _STUCK
        raise CacheUnusable(
            f"the cache's {self._name} lock is held too long by another process;"
            " if one is stopped, resume or end it"
        )

    def _refuse(self) -> None:
        if not self._patience:
            raise WouldBlock(f"the cache's {self._name} lock is held")

    def __exit__(self, *_: object) -> None:
        held_long = time.monotonic() - self._since > _LONG
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        self._thread.release()

        # A scan takes the lock again at once, and processes that poll would never get it.
        if held_long:
            time.sleep(2 * _POLL)

    def close(self) -> None:
        """Close the descriptor."""
        fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)


class Ledger(Lock):
    """The bytes and blobs in each fan-out directory, temp files included, for all processes of the
    cache.

    Read and change it only inside `with ledger:` (12 us), together with the files that it counts.
    Raise a count before its file grows, and lower it after the file is gone: a crash in between
    leaves the count too high, never too low, until the next recount.
    """

    def __init__(
        self, root: int, measure: Callable[[int], tuple[int, int]], patience: float
    ) -> None:
        """`measure` counts a directory anew, and returns (bytes, blobs)."""
        super().__init__(root, "usage", patience)
        self._measure = measure
        self._page = array("q")

    def _acquire(self) -> None:
        super()._acquire()
        try:
            self._load()
        except BaseException:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            raise

    def _load(self) -> None:
        """Read the counts, or count anew if they make no sense."""
        counts = _read(self.fd)
        if counts is None:
            counts = array("q", bytes(_PAGE))
            for shard in range(SHARDS):
                counts[shard], counts[SHARDS + shard] = self._measure(shard)
            os.pwrite(self.fd, counts.tobytes(), 0)

        self._page = counts

    def peek(self) -> tuple[int, int] | None:
        """Bytes and blobs as the ledger has them, without its lock, which a stopped process may
        hold.

        They are right but for a file that some process is counting. None if the ledger must be
        counted anew first. Raises OSError.
        """
        try:
            fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        except FileNotFoundError:
            return None

        try:
            counts = _read(fd)
        finally:
            os.close(fd)

        if counts is None:
            return None

        return sum(counts[:SHARDS]), sum(counts[SHARDS:])

    @property
    def taken(self) -> int:
        """All bytes counted."""
        return sum(self._page[:SHARDS])

    @property
    def blobs(self) -> int:
        """All blobs counted."""
        return sum(self._page[SHARDS:])

    def add(self, shard: int, size: int, files: int = 0) -> None:
        """Count `size` bytes and `files` blobs more (or fewer) in directory `shard`. Raises
        OSError."""
        total_size = max(0, self._page[shard] + size)
        total_files = max(0, self._page[SHARDS + shard] + files)
        self.put(shard, total_size, total_files)

    def put(self, shard: int, size: int, files: int) -> None:
        """Set the counts of directory `shard`. Raises OSError."""
        for index, value in ((shard, size), (SHARDS + shard, files)):
            if self._page[index] != value:
                self._page[index] = value
                os.pwrite(self.fd, self._page[index : index + 1].tobytes(), index * 8)


def _read(fd: int) -> array[int] | None:
    """The counts of a ledger's file; None if they make no sense. Raises OSError."""
    page = os.pread(fd, _PAGE, 0)
    counts = array("q", page if len(page) == _PAGE else b"")
    return counts if counts and min(counts) >= 0 else None
