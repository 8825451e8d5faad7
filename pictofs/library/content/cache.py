"""The blob cache as the library uses it: the names of blobs, and how to go on if the disk fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from pictofs.clock import Clock
from pictofs.errors import Corrupt, DiskFull, PictofsError, TooManyFiles
from pictofs.library.content.content import CachedContent
from pictofs.library.content.disk import Disk
from pictofs.library.content.whole import NotSmall, Whole
from pictofs.store.blobs.cache import Blob, BlobCache, Busy, FileStamp, PartialBlob
from pictofs.store.catalog.rows import ImageRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

BUSY_POLL_S = 0.02
"""Seconds between looks at a download that another process makes."""
OTHERS_TIMEOUT_S = 2.0
"""Seconds that a reader waits for a file that another process downloads: that process may be
stopped."""
DISK_RETRY_AFTER_S = 30.0
"""Seconds for which the disk is left alone after it took no more."""


class Stored(NamedTuple):
    """A small file is in the cache."""

    file: FileStamp | None
    """The file that was made; None if another process has made it meanwhile."""


class Unstored(NamedTuple):
    """A small file has come and is not in the cache: the disk takes nothing, or another process
    keeps it."""

    data: bytes


def annotation_blob_name(server: str, image: ImageRow, crc32c: int | None = None) -> str:
    """The name of an annotation file's blob; see `ContentCache`."""
    return f"{server}-{image.id}.{image.annotation_crc32c if crc32c is None else crc32c:08x}"


class ContentCache:
    """Blobs of images and annotation files, by row."""

    def __init__(self, blob_cache: BlobCache, disk: Disk, clock: Clock, server: str) -> None:
        """`server`: a few hex digits that tell this server's ids from those of another one."""
        self.blob_cache = blob_cache
        self.disk = disk
        self._clock = clock
        self.server = server
        self._again = 0.0

    def image_blob_name(self, image: ImageRow) -> str:
        """The name of an image's blob."""
        return f"{self.server}-{image.id}"

    def image_path(self, image: ImageRow) -> str:
        """An image's blob, for `reopen`."""
        return self.blob_cache.path_of(self.image_blob_name(image))

    def annotation_blob_name(self, image: ImageRow, crc32c: int | None = None) -> str:
        """The name of an annotation file's blob, in the version of the row or with that checksum.

        By content, not by version: catalogs of two keys count versions each for itself.
        """
        return annotation_blob_name(self.server, image, crc32c)

    def blob_name(self, identity: str) -> str:
        """The name of the blob of something else, by a text that no two versions of it share."""
        return f"{self.server}-{identity}"

    @property
    def usable(self) -> bool:
        """Whether the disk takes something, as far as is known."""
        return self._clock.monotonic() >= self._again

    def has(self, blob_name: str) -> bool:
        """Whether there is a blob, verified or not. Inline."""
        try:
            return self.blob_cache.has(blob_name)
        except PictofsError:
            return False

    def holds(self, blob_name: str) -> bool:
        """Whether there is a sound blob. Blocks; a damaged one is dropped."""
        try:
            blob = self.blob_cache.open(blob_name)
            if blob is None:
                return False
            with blob:
                if not blob.verified:
                    blob.verify()
        except PictofsError:
            return False
        return True

    def renew(self, blob_name: str) -> bool:
        """What `has` says; a blob that is there counts as used now. Inline."""
        try:
            return self.blob_cache.renew(blob_name)
        except PictofsError:
            return False

    def blob(self, blob_name: str) -> Blob | None:
        """The blob, perhaps not verified yet; None if there is none, or the disk fails.

        Raises TooManyFiles: fetching what is there already would need a descriptor as well.
        """
        try:
            return self.blob_cache.open(blob_name)
        except TooManyFiles:
            raise
        except PictofsError as error:
            self.failed(error)
            return None

    def reopen(self, path: str, size: int) -> CachedContent | None:
        """The content of `size` bytes in the blob at `path`; None if `content` has to look."""
        try:
            blob = self.blob_cache.reopen(path, size)
        except PictofsError:
            return None
        return None if blob is None else CachedContent(blob)

    async def content(self, blob_name: str) -> CachedContent | None:
        """The verified content; None if there is none."""
        blob = await self.verified(blob_name)
        return None if blob is None else CachedContent(blob)

    async def verified(self, blob_name: str) -> Blob | None:
        """The blob, verified; None if there is none."""
        blob = self.blob(blob_name)
        if blob is None or blob.verified:
            return blob

        try:
            await in_thread(blob.verify)
        except Corrupt:
            blob.close()
            return None
        except BaseException:
            blob.close()
            raise
        return blob

    async def open_partial(self, blob_name: str, size: int) -> PartialBlob | Blob | None:
        """Start a download into the cache.

        Returns the blob itself if another process has brought it meanwhile, None if the disk fails.
        """
        for _ in range(round(OTHERS_TIMEOUT_S / BUSY_POLL_S)):
            try:
                return await self.open_partial_now(blob_name, size)
            except Busy:
                found = self.blob(blob_name)
                if found is not None:
                    return found
                await self._clock.sleep(BUSY_POLL_S)

        try:
            return await self.disk.call(self.blob_cache.open_private_partial, blob_name, size)
        except DiskFull as error:
            self.failed(error)
            return None

    async def open_partial_now(self, blob_name: str, size: int) -> PartialBlob | None:
        """What `open_partial` does, but raises Busy and does not wait."""
        if not self.usable:
            return None

        try:
            begin = partial(self.blob_cache.open_partial, blob_name, size)
            return await self.disk.run(size, partial(begin, at_once=True), begin)
        except DiskFull as error:
            self.failed(error)
            return None

    async def store(
        self, blob_name: str, size: int, receive: Callable[[], Awaitable[Whole | NotSmall]]
    ) -> Stored | Unstored | NotSmall:
        """Fetch a small file into the cache as the blob `blob_name`.

        Args:
            blob_name: the blob's name.
            size: bytes, as far as they are known.
            receive: `receive_whole` or the like.

        Raises: what `receive` raises.
        """
        partial_blob = await self.open_partial(blob_name, size)
        if isinstance(partial_blob, Blob):
            partial_blob.close()
            return Stored(None)

        kept = False
        try:
            whole = await receive()
            if isinstance(whole, NotSmall):
                return whole
            if partial_blob is None:
                return Unstored(whole.data)

            try:
                file = await self.disk.run(
                    len(whole.data),
                    partial(_publish, partial_blob, whole),
                    partial(_publish_patiently, partial_blob, whole),
                )
            except DiskFull as error:
                self.failed(error)
                return Unstored(whole.data)
            kept = True
            return Stored(file)
        finally:
            if partial_blob is not None and not kept:
                partial_blob.take_time()
                with trio.CancelScope(shield=True):
                    await self.disk.call(partial_blob.abandon)

    def failed(self, error: PictofsError) -> None:
        """The disk took no more, or gave nothing: leave it alone for a while."""
        if self.usable:
            log.warning("reading past the cache: %s", error)
        self._again = self._clock.monotonic() + DISK_RETRY_AFTER_S


def _publish_patiently(partial_blob: PartialBlob, whole: Whole) -> FileStamp:
    partial_blob.take_time()
    return _publish(partial_blob, whole)


def _publish(partial_blob: PartialBlob, whole: Whole) -> FileStamp:
    """Make a blob of a partial one. Raises DiskFull and Corrupt; it is then still to be
    abandoned."""
    partial_blob.write(0, whole.data)
    with partial_blob.commit(len(whole.data), whole.crc32c) as blob:
        return FileStamp.of(os.fstat(blob.fd), blob.crc32c)
