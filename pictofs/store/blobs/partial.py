"""A blob on its way in: a locked temp file that becomes a blob or is removed."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Self

import google_crc32c

from pictofs.clock import Clock
from pictofs.errors import Corrupt, PictofsError
from pictofs.store.blobs.blob import FOOTER_SIZE, TEMP_MARK, Blob, BlobPath, encode_footer
from pictofs.store.blobs.ledger import CacheUnusable
from pictofs.store.blobs.space import SpaceManager, disk_errors, lock_temp
from pictofs.store.blobs.verified import FileStamp, VerifiedFiles
from pictofs.store.checksum import checksum

_CREATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Busy(PictofsError):
    """Another reader, here or in another process, is downloading this blob, or has just finished.

    Open it again in a moment. If it is still missing then and nobody is busy, download it.
    """

    errno = errno.EBUSY


class PartialBlob:
    """A download under way, for one thread at a time. All methods but `pread` may block: use a
    thread.

    The temp file is as long as the room claimed for it, so that a recount by any process sees the
    claim. As a context manager it abandons itself unless committed.
    """

    def __init__(
        self,
        blob_name: str,
        place: BlobPath,
        space: SpaceManager,
        seen: VerifiedFiles,
        clock: Clock,
    ) -> None:
        """Only the cache makes one, and then calls `start`."""
        self.blob_name = blob_name
        self.fd = -1

        self._place = place
        self.space = self._space = space
        self._verified = seen
        self._clock = clock

        self._temp = ""
        self._held = 0
        """Bytes claimed, the footer included."""
        self._end = 0
        """Bytes of content up to the last one written."""
        self._crc = 0
        self._summed: int | None = 0
        """The bytes that `_crc` covers; None if they were not written in order."""

    def start(self, token: str, size: int) -> Self:
        """Lock the temp file that `token` names and claim room for `size` bytes.

        Raises Busy, DiskFull, CacheUnusable.
        """
        self._temp = f"{self._place.path}{TEMP_MARK}{token}"
        with disk_errors("starting a download"):
            self._open_temp()
            try:
                self._reserve(size)
            except BaseException:
                self.abandon()
                raise

        return self

    def _open_temp(self) -> None:
        """Make an empty, locked temp file, in place of one that a dead process may have begun."""
        while True:
            self.fd = self._create()
            try:
                if not lock_temp(self.space.root, self.fd, self._temp):
                    raise Busy(f"{self.blob_name} is being downloaded")
                if os.fstat(self.fd).st_size == 0:
                    return

                self.space.remove(self._temp, blobs=0)
            except BaseException:
                self._close()
                raise

            self._close()

    def _create(self) -> int:
        try:
            return os.open(self._temp, _CREATE, 0o600, dir_fd=self.space.root)
        except FileNotFoundError:
            # It is the first file of its directory, or someone has emptied the cache.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._temp[:2], 0o700, dir_fd=self.space.root)
            return os.open(self._temp, _CREATE, 0o600, dir_fd=self.space.root)

    def _reserve(self, size: int) -> None:
        self.space.reserve(self._place.shard, self.fd, self._held, size + FOOTER_SIZE)
        self._held = size + FOOTER_SIZE

    def take_time(self) -> None:
        """Wait for locks and evict from now on: all methods but `pread` then belong in a thread."""
        self.space = self._space

    def grow(self, size: int) -> None:
        """Claim room for `size` bytes of content in all. Raises DiskFull, CacheUnusable."""
        if size + FOOTER_SIZE > self._held:
            self._reserve(size)

    def restart(self) -> None:
        """Forget all that was written. The room stays claimed."""
        self._end = self._crc = self._summed = 0

    def allocate(self) -> None:
        """Allocate the claimed room on the disk, so that a full disk shows before the download.

        Raises CacheUnusable.
        """
        with disk_errors("allocating"):
            os.posix_fallocate(self.fd, 0, self._held)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`, claiming more room if need be. Raises DiskFull,
        CacheUnusable."""
        end = offset + len(data)
        self.grow(end)
        self._write(offset, data)

        if self._summed == offset:
            self._crc = google_crc32c.extend(self._crc, data)
            self._summed = end
        else:
            self._summed = None

        self._end = max(self._end, end)

    def _write(self, offset: int, data: bytes) -> None:
        with disk_errors("writing"):
            done = os.pwrite(self.fd, data, offset)
            while done < len(data):
                done += os.pwrite(self.fd, data[done:], offset + done)

    def pread(self, offset: int, length: int) -> bytes:
        """The bytes written there. Ask only for ranges known to be written: others read as zeros.

        Inline. Raises CacheUnusable.
        """
        with disk_errors("reading"):
            return os.pread(self.fd, max(0, min(length, self._end - offset)), offset)

    def commit(self, size: int, crc32c: int | None) -> Blob:
        """Publish the content of `size` bytes, all written, and return it open. The blob takes over
        `fd`.

        Raises Corrupt if the length is not `size` or the checksum not `crc32c` (None: unknown), and
        CacheUnusable. The partial blob must then still be abandoned.
        """
        if size != self._end:
            raise Corrupt(f"{self.blob_name} has {self._end} bytes and should have {size}")

        with disk_errors("publishing"):
            crc = self._crc if self._summed == size else checksum(self.fd, size)
            if crc32c not in (None, crc):
                raise Corrupt(f"{self.blob_name} has another checksum than the server says")

            self._write(size, encode_footer(self._place, size, crc))
            # By the cache's clock: the time of last use orders eviction.
            now = int(self._clock.wall() * 1e9)
            os.utime(self.fd, ns=(now, now))
            self.space.publish(
                self.fd, self._temp, self._place.path, self._held, size + FOOTER_SIZE
            )
            self._verified.mark_verified(FileStamp.of(os.fstat(self.fd), crc))

        fd = self.fd
        self.fd = -1
        return Blob(self.blob_name, fd, size, crc, None)

    def abandon(self) -> None:
        """Drop the temp file unless committed. Never fails: a recount removes what a broken disk
        keeps."""
        if self.fd < 0:
            return

        try:
            with contextlib.suppress(CacheUnusable):
                self.space.remove(self._temp, blobs=0)
        finally:
            self._close()

    def _close(self) -> None:
        fd = self.fd
        self.fd = -1
        os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()
