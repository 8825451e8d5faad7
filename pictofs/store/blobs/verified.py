"""What one process knows of the blobs in the cache: which it has verified, which were used lately."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple, Self

from cachetools import LRUCache

from pictofs.clock import Clock

_REMEMBERED = 65_536  # verdicts; 15 MB. Forgetting one costs a checksum: 15 us for 100 KiB
_FRESH = 600  # seconds: a use is written to disk when the last one written is older than this


class FileStamp(NamedTuple):
    """A file, and what changes when it does.

    The kernel moves ctime with every change of content, name or time; a program can't set it back.
    """

    inode: int
    ctime_ns: int
    size: int
    """Bytes."""
    crc32c: int
    """Of the content, without the footer."""

    @classmethod
    def of(cls, stat: os.stat_result, crc32c: int) -> Self:
        """Of the file that `stat` tells of."""
        return cls(stat.st_ino, stat.st_ctime_ns, stat.st_size, crc32c)


class VerifiedFiles:
    """Verdicts and uses of this process. Any thread may call any method."""

    def __init__(self, root: int, clock: Clock) -> None:
        """`root` is the descriptor of the cache's directory."""
        self._root = root
        self._clock = clock
        self._verified: LRUCache[int, tuple[int, int, int]] = LRUCache(_REMEMBERED)
        self._lock = threading.Lock()
        self._used: dict[str, None] = {}

    def knows(self, stat: os.stat_result) -> int | None:
        """The CRC-32C of the content of a verified file; None if it is another one, or has changed since.

        Inline, 1 us.
        """
        with self._lock:
            known = self._verified.get(stat.st_ino)
        if known is None or known[:2] != (stat.st_ctime_ns, stat.st_size):
            return None
        return known[2]

    def mark_verified(self, file: FileStamp) -> None:
        """Remember that the file, as it was then, is sound. Inline, 1 us."""
        with self._lock:
            self._verified[file.inode] = file[1:]

    def use(self, path: str, stat: os.stat_result) -> None:
        """Note a use of the blob at `path`, to be written by `flush`. Inline, below 1 us."""
        if self._clock.wall() - stat.st_mtime > _FRESH:
            self._used[path] = None

    def renew(self, path: str) -> bool:
        """Write a use of the blob at `path` now; False where there is none. Inline, 15 us. Raises OSError."""
        try:
            self._touch(path, int(self._clock.wall() * 1e9))
        except FileNotFoundError:
            return False
        return True

    def flush(self) -> None:
        """Write the noted uses to the files' mtime, which orders eviction. Blocks (10 us each); never fails.

        mtime and not atime: the kernel sets atime by rules that the mount options of the disk choose.
        """
        now = int(self._clock.wall() * 1e9)
        while self._used:
            try:
                path, _ = self._used.popitem()
                self._touch(path, now)
            except KeyError:
                return  # another thread took the last one
            except OSError:
                continue  # evicted meanwhile, or a read-only disk: the order of eviction suffers, no more

    def _touch(self, path: str, now: int) -> None:
        known = self.knows(os.stat(path, dir_fd=self._root, follow_symlinks=False))
        os.utime(path, ns=(now, now), dir_fd=self._root, follow_symlinks=False)
        if known is not None:  # the touch moved ctime; without this each would cost a checksum
            self.mark_verified(FileStamp.of(os.stat(path, dir_fd=self._root, follow_symlinks=False), known))
