"""The cache of content: immutable blobs on the local disk, shared by all processes that open it.

    root/usage, root/eviction      the ledger, and the lock of the process that evicts
    root/00 .. root/ff/<name>      blobs: content and footer
    root/00 .. root/ff/<name>~...  temp files, each locked by its writer while that lives

There is no fsync: a power cut may tear a file, which its checksum then shows.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pictofs.clock import Clock
from pictofs.config import FreeSpace
from pictofs.errors import Corrupt, Invalid
from pictofs.store.blobs.blob import FOOTER_SIZE, TEMP_MARK, Blob, BlobPath, read_footer
from pictofs.store.blobs.ledger import SHARDS, CacheUnusable, Usage, WouldBlock
from pictofs.store.blobs.partial import Busy, PartialBlob
from pictofs.store.blobs.space import SpaceManager, disk_errors
from pictofs.store.blobs.verified import FileStamp, VerifiedFiles
from pictofs.store.checksum import checksum

__all__ = [
    "Audit",
    "Blob",
    "BlobCache",
    "Busy",
    "CacheUnusable",
    "FileStamp",
    "PartialBlob",
    "Usage",
    "WouldBlock",
]

_log = logging.getLogger(__name__)

# O_NONBLOCK: a named pipe in a blob's place must not hang the event loop.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# Bytes of content up to which it is verified inline: 100 us, what a hop to a thread costs.
_INLINE = 1 << 20


@dataclass(slots=True)
class Audit:
    """What `verify` found: blobs checked, bytes of sound content, damaged blobs and litter
    removed."""

    blobs: int = 0
    bytes: int = 0
    damaged: int = 0
    litter: int = 0


class BlobCache:
    """The cache directory.

    `open`, `usage` and `flush_uses` never wait for another process. Methods that say "Blocks" may
    wait for locks, scan and evict, and belong in a thread. Every failure is a PictofsError.
    """

    def __init__(self, root: Path, *, limit: int, reserve: FreeSpace, clock: Clock) -> None:
        """Open or make the directory `root` for at most `limit` bytes, temp files included.

        Blocks briefly. Run `recount` in a thread soon after.

        Raises:
            Invalid: the directory is a link, or belongs to another user.
            CacheUnusable: the disk fails.
        """
        self.path = root
        self._root = _open_root(root)
        self.limit = limit
        self.reserve = reserve
        self._clock = clock

        self._verified = VerifiedFiles(self._root, clock)
        self._space = SpaceManager(self._root, limit, reserve, self._verified.flush)
        self._space_at_once = SpaceManager(
            self._root, limit, reserve, self._verified.flush, at_once=True
        )

        self.damaged = 0
        """Blobs that this process found damaged and dropped."""

    def open(self, blob_name: str) -> Blob | None:
        """The blob of `blob_name`, or None if it is not here or was damaged, and is dropped then.

        Inline: 15 us if this process has verified it before. Otherwise content of up to 1 MiB is
        read to verify it; larger content is left for the caller to `verify` in a thread. Raises
        CacheUnusable, TooManyFiles.
        """
        place = BlobPath.of_name(blob_name)
        with disk_errors("opening"):
            try:
                fd = os.open(place.path, _READ, dir_fd=self._root)
            except FileNotFoundError:
                return None
            except OSError as error:
                # A symbolic link in a blob's place is damage, any other error a fault of the disk.
                if error.errno != errno.ELOOP:
                    raise
                self._drop(place)
                return None

        blob: Blob | None = None
        try:
            blob = self._believe(blob_name, place, fd)
        except (OSError, Corrupt):
            self._drop(place)
        finally:
            if blob is None:
                os.close(fd)

        return blob

    def path_of(self, blob_name: str) -> str:
        """The file of the blob of `blob_name`, relative to the cache's directory."""
        return BlobPath.of_name(blob_name).path

    def reopen(self, path: str, size: int) -> Blob | None:
        """The blob of `size` bytes at `path`, if this process has verified it; else None.

        Inline, 10 us. Raises CacheUnusable, TooManyFiles.
        """
        with disk_errors("opening"):
            try:
                fd = os.open(path, _READ, dir_fd=self._root)
            except FileNotFoundError:
                return None

            blob: Blob | None = None
            try:
                stat = os.fstat(fd)
                known = self._verified.knows(stat)
                if known is not None and stat.st_size - FOOTER_SIZE == size:
                    self._verified.use(path, stat)
                    blob = Blob(path, fd, size, known, None)
            finally:
                if blob is None:
                    os.close(fd)

        return blob

    def _believe(self, blob_name: str, place: BlobPath, fd: int) -> Blob:
        """The blob in an open file, verified if it is small. Raises Corrupt, OSError."""
        stat = os.fstat(fd)
        self._verified.use(place.path, stat)
        size = stat.st_size - FOOTER_SIZE

        known = self._verified.knows(stat)
        if known is not None:
            return Blob(blob_name, fd, size, known, None)

        crc = read_footer(fd, stat.st_size, place)
        file = FileStamp.of(stat, crc)
        if size > _INLINE:
            return Blob(blob_name, fd, size, crc, partial(self._settle, place, file))
        if checksum(fd, size) != crc:
            raise Corrupt(f"cached content of {blob_name} is damaged")

        self._verified.mark_verified(file)
        return Blob(blob_name, fd, size, crc, None)

    def _settle(self, place: BlobPath, file: FileStamp, intact: bool) -> None:
        if intact:
            self._verified.mark_verified(file)
        else:
            self._drop(place)

    def _drop(self, place: BlobPath) -> None:
        """Unlink a damaged blob, but leave it in the ledger, whose lock the event loop must not
        wait for.

        The count stays too high until the next recount.
        """
        if not self.damaged:
            _log.warning(
                "dropped a damaged file from the cache: %s (more of them are only counted)",
                place.path,
            )

        self.damaged += 1
        with suppress(OSError):
            os.unlink(place.path, dir_fd=self._root)

    def has(self, blob_name: str) -> bool:
        """Whether there is a blob of `blob_name`, sound or not. Inline, 5 us. Raises CacheUnusable."""
        return self._space.holds(BlobPath.of_name(blob_name).path)

    def renew(self, blob_name: str) -> bool:
        """Whether there is a blob of `blob_name`. It then counts as used now, as it soon will be.

        Inline, 15 us. Raises CacheUnusable.
        """
        with disk_errors("looking"):
            return self._verified.renew(BlobPath.of_name(blob_name).path)

    def open_partial(
        self, blob_name: str, size: int | None, *, at_once: bool = False
    ) -> PartialBlob:
        """Start a download that no other process or reader has under way. Blocks.

        Args:
            blob_name: the blob's name.
            size: bytes of its content; None if not known yet.
            at_once: wait for nobody and evict nothing, 60 us, but raise WouldBlock. The methods
                of the partial blob do the same until its `take_time` is called.

        Raises:
            Busy: another one has it under way, or the blob is here by now.
            WouldBlock: with `at_once`, it would take a wait or an eviction.
            DiskFull: it can't fit.
            CacheUnusable: the disk fails.
        """
        self._follow()
        place = BlobPath.of_name(blob_name)
        partial_blob = PartialBlob(blob_name, place, self._space, self._verified, self._clock)
        if at_once:
            partial_blob.space = self._space_at_once

        partial_blob.start("", size or 0)
        try:
            if self._space.holds(place.path):
                raise Busy(f"{blob_name} was just downloaded")

            # Otherwise the free space would not show what is on its way.
            partial_blob.allocate()
        except BaseException:
            partial_blob.abandon()
            raise

        return partial_blob

    def put(self, blob_name: str, data: bytes, crc32c: int | None) -> Blob:
        """Store small content in one call, and return it open. Others may store it too. Blocks.

        Raises Corrupt if the checksum of `data` is not `crc32c`, DiskFull, CacheUnusable.
        """
        with self.open_private_partial(blob_name, len(data)) as partial_blob:
            partial_blob.write(0, data)
            return partial_blob.commit(len(data), crc32c)

    def mark_verified(self, file: FileStamp) -> None:
        """Trust another process that the file, as `file` describes it, is a sound blob. Inline, 1
        us."""
        self._verified.mark_verified(file)

    def open_private_partial(self, blob_name: str, size: int) -> PartialBlob:
        """Start a download that others may have under way too. Blocks. Raises DiskFull,
        CacheUnusable."""
        self._follow()
        partial_blob = PartialBlob(
            blob_name, BlobPath.of_name(blob_name), self._space, self._verified, self._clock
        )

        while True:
            # Busy: between its creation and its lock a sweep took the file for a dead writer's.
            with suppress(Busy):
                return partial_blob.start(os.urandom(6).hex(), size)

    def _follow(self) -> None:
        """Go on in a new folder if the old one was removed or moved, as by `rm -rf`. 3 us.

        All code here knows the folder by the number of one descriptor, which is made to lead to the
        new folder. Raises CacheUnusable.
        """
        with disk_errors(f"opening {self.path}"):
            ours = os.fstat(self._root)
            try:
                found = os.lstat(self.path)
            except FileNotFoundError:
                found = None

            if found is not None and (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                return

            fd = _open_root_again(self.path)
            try:
                os.dup2(fd, self._root, inheritable=False)
            finally:
                os.close(fd)

        _log.warning("the cache %s was removed or moved; going on in a new one", self.path)

    def remove(self, blob_name: str) -> bool:
        """Drop the blob of `blob_name`; False if it was not here. Blocks. Raises CacheUnusable."""
        return self._space.remove(BlobPath.of_name(blob_name).path, blobs=1)

    def usage(self) -> Usage:
        """How much space the cache takes, 20 us. Waits for nobody.

        Raises CacheUnusable, and WouldBlock if another process has just begun to count.
        """
        return self._space_at_once.usage()

    @property
    def evicted(self) -> tuple[int, int]:
        """Blobs that this process removed to make room, and their bytes."""
        return self._space.evicted, self._space.evicted_bytes

    def flush_uses(self) -> None:
        """Write to the disk which blobs were used, for the order of eviction. Blocks; never
        fails."""
        self._verified.flush()

    def recount(self) -> int:
        """Correct the count of bytes after crashes, and remove the temp files of dead processes.

        Returns how many temp files were removed. Blocks for a scan. Raises CacheUnusable.
        """
        return self._space.recount()

    def clear(self) -> int:
        """Remove all blobs, but no download under way; how many. Blocks. Raises CacheUnusable."""
        return self._space.clear()

    def verify(self, report: Callable[[Audit], None]) -> Audit:
        """Check the content of all blobs, and remove damaged ones and litter. Blocks for long.

        `report` is called with the counts so far after each of 256 directories. Raises
        CacheUnusable.
        """
        audit = Audit()
        for shard in range(SHARDS):
            with disk_errors("verifying"):
                for entry in list(self._space.listing(shard)):
                    if not entry.is_dir(follow_symlinks=False) and TEMP_MARK not in entry.name:
                        self._audit(shard, entry.name, audit)

            report(audit)

        audit.litter += self.recount()
        return audit

    def _audit(self, shard: int, name: str, audit: Audit) -> None:
        place = BlobPath.of_file(shard, name)
        if place is None:
            audit.litter += self._space.remove(f"{shard:02x}/{name}", blobs=1)
            return

        audit.blobs += 1
        try:
            audit.bytes += self._content_size(place)
        except FileNotFoundError:
            audit.blobs -= 1  # evicted meanwhile
        except (OSError, Corrupt):
            self.damaged += 1
            audit.damaged += self._space.remove(place.path, blobs=1)

    def _content_size(self, place: BlobPath) -> int:
        """Bytes of a blob's content, which is verified. Raises Corrupt, OSError."""
        fd = os.open(place.path, _READ, dir_fd=self._root)
        try:
            stat = os.fstat(fd)
            crc = read_footer(fd, stat.st_size, place)
            if checksum(fd, stat.st_size - FOOTER_SIZE) != crc:
                raise Corrupt(f"cached content of {place.path} is damaged")

            self._verified.mark_verified(FileStamp.of(stat, crc))
            return stat.st_size - FOOTER_SIZE
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the descriptors. Open blobs stay readable."""
        self._space.close()
        self._space_at_once.close()
        os.close(self._root)


def _open_root(root: Path) -> int:
    with disk_errors(f"opening {root}"):
        root.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            root.mkdir(mode=0o700)

        if root.is_symlink() or not root.is_dir():
            raise Invalid(f"the cache {root} must be a directory, and not a link to one")

        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _make_private(fd, root)
        except BaseException:
            os.close(fd)
            raise

        return fd


def _open_root_again(root: Path) -> int:
    """Make the cache folder and the one above it again, which were removed under a live mount.

    Not the folders further up: one may have been a disk's mount point.
    """
    with suppress(FileExistsError):
        root.parent.mkdir(mode=0o700)

    above = root.parent.stat()
    if above.st_uid not in (0, os.geteuid()) or above.st_mode & 0o022:
        raise CacheUnusable(f"the cache {root.parent} was made anew, and others may write to it")

    return _open_root(root)


def _make_private(fd: int, root: Path) -> None:
    stat = os.fstat(fd)
    if stat.st_uid != os.geteuid():
        raise Invalid(f"the cache {root} belongs to another user (uid {stat.st_uid})")
    if stat.st_mode & 0o7777 != 0o700:
        os.fchmod(fd, 0o700)
