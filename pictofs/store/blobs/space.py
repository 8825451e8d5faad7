"""Space on the disk: keeps to the bound and the reserve, evicts old blobs, removes dead temp
files."""

from __future__ import annotations

import errno
import fcntl
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from stat import S_ISREG

from pictofs.config import FreeSpace
from pictofs.errors import DiskFull, TooManyFiles
from pictofs.store.blobs.blob import TEMP_MARK
from pictofs.store.blobs.ledger import (
    SHARDS,
    CacheUnusable,
    Ledger,
    Lock,
    Usage,
    WouldBlock,
    allocated_size,
)

_RW = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# Seconds to wait for other processes. The ledger is held for milliseconds, longer only by a stopped
# process; making room in a cache of a million files takes some seconds.
_LEDGER_WAIT = 2.0
_EVICTION_WAIT = 10.0

# Evict a tenth more than needed: one scan then pays for many files.
_SLACK = 10

# Another process may take the room that was just made, as it need not wait for it. Not more rounds:
# if removing files frees nothing (they are open elsewhere), the cache would be emptied in vain.
_ROUNDS = 3


# A class, as a generator would cost 2 us, eight times a file. Its name is like contextlib.suppress.
class disk_errors:  # noqa: N801
    """Raise CacheUnusable, or TooManyFiles, in place of OSError."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            # No fault of the disk: other files will be closed again.
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise TooManyFiles(
                    f"too many open files at {self._doing} in the cache:"
                    " raise the hard limit (ulimit -Hn)"
                ) from error

            raise CacheUnusable(
                f"the cache disk fails at {self._doing}: {error.strerror or error}"
            ) from error


class SpaceManager:
    """The space of one cache, shared with other processes. Every method may block: run it in a
    thread.

    All methods raise CacheUnusable if the disk does not work, or a lock can't be had.
    """

    def __init__(
        self,
        root: int,
        limit: int,
        reserve: FreeSpace,
        flush_uses: Callable[[], None],
        *,
        at_once: bool = False,
    ) -> None:
        """`root` is the descriptor of the cache's directory; `limit` is in bytes.

        `at_once`: neither wait for a lock nor evict, but raise WouldBlock.
        """
        self.root = root

        self._at_once = at_once
        self.ledger = Ledger(root, self._measure, 0 if at_once else _LEDGER_WAIT)
        self._limit = limit
        self._reserve = reserve
        self._flush_uses = flush_uses
        self._eviction = Lock(root, "eviction", _EVICTION_WAIT)

        # Blobs that this process removed to make room, and their bytes.
        self.evicted = self.evicted_bytes = 0

    def usage(self) -> Usage:
        """What is taken and what is free, 20 us. Waits for the ledger only if it must be counted
        anew."""
        with disk_errors("statfs"):
            disk = os.statvfs(self.root)

            counted = self.ledger.peek()
            if counted is None:
                with self.ledger as ledger:
                    counted = ledger.taken, ledger.blobs

            free = disk.f_bavail * disk.f_frsize
            kept = self._reserve.of(disk.f_blocks * disk.f_frsize)
            return Usage(*counted, self._limit, free, kept)

    def reserve(self, shard: int, fd: int, held: int, wanted: int) -> None:
        """Make the temp file `fd` in directory `shard`, now `held` bytes long, `wanted` bytes long.

        Evicts if there is no room. Raises DiskFull if that can't make enough.
        """
        need = allocated_size(wanted) - allocated_size(held)

        if allocated_size(wanted) > self._limit:
            raise DiskFull(f"{wanted} bytes are more than the cache may hold ({self._limit})")

        with disk_errors("making room"):
            if not self._take(shard, fd, wanted, need):
                if self._at_once:
                    raise WouldBlock("room must be made first")

                self._flush_uses()
                with self._eviction:
                    self._take_by_evicting(shard, fd, wanted, need)

    def _take_by_evicting(self, shard: int, fd: int, wanted: int, need: int) -> None:
        """Make room by removing the blobs unused for longest, and take it; one process at a
        time."""
        for _ in range(_ROUNDS):
            # Before evicting: the process that we waited for may have made room for us too.
            if self._take(shard, fd, wanted, need):
                return
            if not self._evict(need):
                break

        if not self._take(shard, fd, wanted, need):
            raise DiskFull(
                "the cache can't make room: its bound or the free space to keep is reached"
            )

    def _take(self, shard: int, fd: int, wanted: int, need: int) -> bool:
        with self.ledger as ledger:
            if self._excess(ledger, need) > 0:
                return False

            ledger.add(shard, need)
            # Inside the lock, and sparse: another process's recount sees the claim in the file's
            # length.
            os.ftruncate(fd, wanted)
            return True

    def _excess(self, ledger: Ledger, need: int) -> int:
        """The bytes that must go before `need` more may come."""
        disk = os.statvfs(self.root)
        total = disk.f_blocks * disk.f_frsize
        free = disk.f_bavail * disk.f_frsize
        short = need + self._reserve.of(total) - free
        return max(ledger.taken + need - self._limit, short)

    def publish(self, fd: int, temp: str, path: str, held: int, final: int) -> None:
        """Cut the temp file from `held` to `final` bytes, and rename it to `path`, over an older
        blob."""
        shard = int(path[:2], 16)
        with disk_errors("publishing"), self.ledger as ledger:
            if final != held:
                os.ftruncate(fd, final)
                ledger.add(shard, allocated_size(final) - allocated_size(held))

            replaced = self._size(path)
            os.rename(temp, path, src_dir_fd=self.root, dst_dir_fd=self.root)
            if replaced is None:
                ledger.add(shard, 0, 1)
            else:
                ledger.add(shard, -allocated_size(replaced))

    def _size(self, path: str) -> int | None:
        try:
            return os.stat(path, dir_fd=self.root, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def remove(self, path: str, blobs: int) -> bool:
        """Unlink a file that counts as `blobs` blobs (0: a temp file); False if it was not
        there."""
        with disk_errors("removing"), self.ledger as ledger:
            size = self._size(path)
            if size is None:
                return False

            # The count is lowered only after that: a crash between must not leave it too low.
            os.unlink(path, dir_fd=self.root)
            ledger.add(int(path[:2], 16), -allocated_size(size), -blobs)
            return True

    def holds(self, path: str) -> bool:
        """Whether there is a file at `path`."""
        with disk_errors("looking"):
            return self._size(path) is not None

    def clear(self) -> int:
        """Remove all blobs; how many."""
        with disk_errors("clearing"):
            return sum(self._clear(shard) for shard in range(SHARDS))

    def _clear(self, shard: int) -> int:
        times = array("d")
        sizes = array("q")
        self._recount(shard, times, sizes)
        self._drop_from(shard, sum(sizes), float("inf"))
        return len(sizes)

    def listing(self, shard: int) -> Iterator[os.DirEntry[str]]:
        """The files in directory `shard`; none if it does not exist. Raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{shard:02x}", flags, dir_fd=self.root)
        except FileNotFoundError:
            return

        try:
            with os.scandir(fd) as entries:
                yield from entries
        finally:
            os.close(fd)

    def _files(self, shard: int) -> Iterator[tuple[str, os.stat_result]]:
        for entry in self.listing(shard):
            try:
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # another process removed it

            if S_ISREG(stat.st_mode):
                yield entry.name, stat

    def _measure(self, shard: int) -> tuple[int, int]:
        size = blobs = 0
        for name, stat in self._files(shard):
            size += allocated_size(stat.st_size)
            blobs += TEMP_MARK not in name
        return size, blobs

    def recount(self) -> int:
        """Remove the temp files of dead processes, and set the ledger to what is there.

        Returns how many temp files were removed.
        """
        with disk_errors("counting"):
            return sum(self._recount(shard, array("d"), array("q")) for shard in range(SHARDS))

    def _recount(self, shard: int, times: array[float], sizes: array[int]) -> int:
        """Recount one directory; how many temp files of dead processes were removed.

        Each blob's time of last use (seconds since the epoch) is appended to `times`, and what it
        counts for in the ledger (bytes) to `sizes`.
        """
        taken = blobs = swept = 0
        with self.ledger as ledger:
            for name, stat in self._files(shard):
                if TEMP_MARK not in name:
                    times.append(stat.st_mtime)
                    sizes.append(allocated_size(stat.st_size))
                    blobs += 1
                elif self._sweep(f"{shard:02x}/{name}"):
                    swept += 1
                    continue

                taken += allocated_size(stat.st_size)

            ledger.put(shard, taken, blobs)

        return swept

    def _sweep(self, temp: str) -> bool:
        """Unlink a temp file unless its writer lives; whether it was unlinked."""
        try:
            fd = os.open(temp, _RW, dir_fd=self.root)
        except FileNotFoundError:
            return False

        try:
            if lock_temp(self.root, fd, temp):
                os.unlink(temp, dir_fd=self.root)
                return True

            return False
        finally:
            os.close(fd)

    def _evict(self, need: int) -> bool:
        """Remove the blobs unused for longest until `need` bytes fit and a tenth of the bound is
        free.

        False, with none removed, if all of them would not be enough.
        """
        # Before the scan: on a disk that others have filled, every download comes here.
        with self.ledger as ledger:
            if self._excess(ledger, need) > ledger.taken:
                return False

        times = array("d")
        sizes = array("q")
        for shard in range(SHARDS):
            self._recount(shard, times, sizes)

        with self.ledger as ledger:
            excess = self._excess(ledger, need)

        evictable = sum(sizes)
        if 0 < excess <= evictable:
            target = min(evictable, excess + min(self._limit, evictable) // _SLACK)
            self._drop(target, _cutoff(times, sizes, target))

        return excess <= evictable

    def _drop(self, target: int, cutoff: float) -> None:
        """Remove blobs last used at `cutoff` or before until `target` bytes are gone.

        The times are read again, so that a blob used since the count stays.
        """
        for shard in range(SHARDS):
            if target <= 0:
                return

            freed, blobs = self._drop_from(shard, target, cutoff)
            target -= freed
            self.evicted += blobs
            self.evicted_bytes += freed

    def _drop_from(self, shard: int, target: int, cutoff: float) -> tuple[int, int]:
        """Remove such blobs from one directory; how many bytes and how many blobs."""
        freed = blobs = 0
        with self.ledger as ledger:
            for name, stat in self._files(shard):
                if freed < target and stat.st_mtime <= cutoff and TEMP_MARK not in name:
                    # It is gone already if a reader found it damaged: the ledger does not know.
                    with suppress(FileNotFoundError):
                        os.unlink(f"{shard:02x}/{name}", dir_fd=self.root)

                    freed += allocated_size(stat.st_size)
                    blobs += 1

            ledger.add(shard, -freed, -blobs)

        return freed, blobs

    def close(self) -> None:
        """Close the descriptors."""
        self.ledger.close()
        self._eviction.close()


def lock_temp(root: int, fd: int, temp: str) -> bool:
    """Whether `fd` now holds the lock on the file that `temp` names.

    False if its writer lives, or if the file was renamed or removed after `fd` was opened. Does not
    block. Raises OSError.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        named = os.stat(temp, dir_fd=root, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return named.st_ino == os.fstat(fd).st_ino


def _cutoff(times: array[float], sizes: array[int], target: int) -> float:
    """The time of last use (seconds) up to which blobs must go to free `target` bytes."""
    freed = 0
    for index in sorted(range(len(times)), key=times.__getitem__):
        freed += sizes[index]
        if freed >= target:
            return times[index]
    return float("inf")
