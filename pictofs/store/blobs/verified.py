"""What one process knows of the blobs in the cache: those it has verified, and those used
lately."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple, Self

from cachetools import LRUCache

from pictofs.clock import Clock

# Files remembered as verified: 15 MB. Forgetting one costs a checksum, 15 us for 100 KiB.
_REMEMBERED = 65_536

# A use is written to the disk if the one written last is older than this, in seconds.
_FRESH = 600


class FileStamp(NamedTuple):
    """A file, with what changes when its content does.

    The kernel moves ctime at every change of content, name or time; a program can't set it back.
    """

    inode: int
    ctime_ns: int
    size: int
    """Bytes."""
    crc32c: int
    """Of the content, without the footer."""

    @classmethod
    def of(cls, stat: os.stat_result, crc32c: int) -> Self:
        """The stamp of the file that `stat` describes."""
        return cls(stat.st_ino, stat.st_ctime_ns, stat.st_size, crc32c)


class VerifiedFiles:
    """The files that this process has verified or used. Any thread may call any method."""

    def __init__(self, root: int, clock: Clock) -> None:
        """`root` is the descriptor of the cache's directory."""
        self._root = root
        self._clock = clock
        self._verified: LRUCache[int, tuple[int, int, int]] = LRUCache(_REMEMBERED)
        self._lock = threading.Lock()
        self._used: dict[str, None] = {}

    def knows(self, stat: os.stat_result) -> int | None:
        """The CRC-32C of a verified file's content; None if the file is unknown, or has changed
        since.

        Inline, 1 us.
        """
        with self._lock:
            known = self._verified.get(stat.st_ino)
        if known is None or known[:2] != (stat.st_ctime_ns, stat.st_size):
            return None
        return known[2]

    def mark_verified(self, file: FileStamp) -> None:
        """Remember that the file, as `file` describes it, is sound. Inline, 1 us."""
        with self._lock:
            self._verified[file.inode] = file[1:]

    def use(self, path: str, stat: os.stat_result) -> None:
        """Note a use of the blob at `path`, to be written by `flush`. Inline, below 1 us."""
        if self._clock.wall() - stat.st_mtime > _FRESH:
            self._used[path] = None

    def renew(self, path: str) -> bool:
        """Write a use of the blob at `path` now; False if there is none. Inline, 15 us. Raises
        OSError."""
        try:
            self._touch(path, int(self._clock.wall() * 1e9))
        except FileNotFoundError:
            return False
        return True

    def flush(self) -> None:
        """Write the noted uses to the files' mtime, which orders eviction. Blocks, 10 us each;
        never fails.

        Not to atime, which the kernel sets by rules that the disk's mount options choose.
        """
        now = int(self._clock.wall() * 1e9)

        while self._used:
            try:
                path, _ = self._used.popitem()
                self._touch(path, now)
            except KeyError:
                return  # another thread took the last one
            except OSError:
                # Evicted meanwhile, or the disk is read-only: only the order of eviction suffers.
                continue

    def _touch(self, path: str, now: int) -> None:
        known = self.knows(os.stat(path, dir_fd=self._root, follow_symlinks=False))
        os.utime(path, ns=(now, now), dir_fd=self._root, follow_symlinks=False)

        # The touch has moved ctime: without this each one would cost a checksum.
        if known is not None:
            stat = os.stat(path, dir_fd=self._root, follow_symlinks=False)
            self.mark_verified(FileStamp.of(stat, known))
