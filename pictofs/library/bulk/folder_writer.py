"""Brings single files into a plain folder.

What the cache has comes from there, the rest from the server, past the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import google_crc32c
import trio

from pictofs.errors import Corrupt, DiskFull, Invalid, NoSuchEntry
from pictofs.library.content.disk import INLINE_MAX_BYTES, Disk
from pictofs.library.content.signed_urls import FetchMode
from pictofs.library.content.whole import Whole, agrees, answers_differ, checksum_differs
from pictofs.library.library import Library
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from pictofs.store.folder import Folder, PartialFile

CAUTION_S = 0.5
"""Seconds for which a slow disk, as one over a network is, is left to a thread.

No reader waits for the loop here.
"""
Path = tuple[str, ...]
"""Where a file goes, in parts from the folder on."""


class _LargeTransfer:
    """A large file on its way: what of it is in its partial file."""

    def __init__(self, partial_file: PartialFile) -> None:
        self.partial_file = partial_file
        self.size = 0
        self.crc32c = 0
        self.total: int | None = None
        self.expected: int | None = None
        """CRC-32C of the whole, as storage says."""
        self.etag: str | None = None
        self.version: str | None = None
        """What tells that an answer goes on with what is there; None: nothing does."""
        self.delimited = True
        """Whether the server marked the end."""
        self.doubted = False
        """Whether an answer was not believed, so that the surest way is to be taken."""

    def is_believed(self, listed: int | None) -> bool:
        """Whether no other answer has to say the same."""
        return self.expected is not None or agrees(self.size, listed, self.delimited)


class FolderWriter:
    """Files of datasets on their way into `folder`."""

    def __init__(self, library: Library, folder: Folder) -> None:
        self._library = library
        self._folder = folder
        self._source = library.source
        self._annotations = library.annotations
        self._cache = library.cache
        self._catalog = library.catalog

        self._disk = Disk(CAUTION_S)
        self._arriving: set[_LargeTransfer] = set()

    async def serve(self) -> None:
        """Write what is not written inline. Somebody must run it."""
        await self._disk.serve()

    @property
    def arriving(self) -> int:
        """Bytes of large files that are not there yet as a whole."""
        return sum(arrival.size for arrival in self._arriving)

    # What is there.

    def has_image(self, image: ImageRow, path: Path) -> bool:
        """Whether the image is there: a file of its size and time. Inline."""
        size = image.known_size
        return size is not None and self._folder.holds(path, size, image.created_ns)

    def has_annotation_file(self, image: ImageRow, path: Path) -> bool:
        """Whether the annotation file is there. Inline.

        It holds the bytes that the server gave last, if the server has said nothing new since.
        """
        if (
            image.annotation_size is None
            or image.annotation_crc32c is None
            or not self._annotations.is_right(image)
        ):
            return False

        return self._folder.holds_content(path, image.annotation_size, image.annotation_crc32c)

    # What is brought. Each raises what keeps it from coming, what `PartialFile.commit` does, and
    # Throttled if the rest of the budget is for others.

    async def image(self, image: ImageRow, path: Path) -> None:
        """Bring an image."""
        size = await self._from_cache(self._cache.image_blob_name(image), path, image.created_ns)
        if size is None:
            size = await self._fetched(image, path)

        if size != image.known_size:
            # The disk of the catalog is full: the file is right all the same.
            with suppress(DiskFull):
                await self._cache.disk.call(self._library.images.learn_size, image.key, size)

    async def annotation_file(self, image: ImageRow, path: Path) -> None:
        """Bring an annotation file."""
        if self._annotations.has(image):
            name = self._cache.annotation_blob_name(image)
            size = await self._from_cache(name, path, _annotation_time(image))
            if size is not None:
                return

        data = await self._annotations.take(image)
        now = self._catalog.image(image.key) or image
        await self._put(path, data, _annotation_time(now))

    async def label(self, image: ImageRow, path: Path, data: bytes) -> None:
        """Bring a file that was made of an image's annotation file."""
        await self._put(path, data, _annotation_time(image))

    async def built(self, blob_name: str, path: Path, mtime_ns: int) -> None:
        """Bring a blob, unless its content is there already.

        Raises NoSuchEntry if the cache has lost it.
        """
        blob = await self._cache.verified(blob_name)
        if blob is None:
            raise NoSuchEntry(f"{'/'.join(path)} went from the cache: try again")

        with blob:
            size = blob.size
            if not self._folder.holds_content(path, size, blob.crc32c):
                await self._disk.call(_copy, self._folder, blob.fd, size, path, mtime_ns)

    async def link(self, there: Path, path: Path) -> bool:
        """Give a file that is there a second name; False if the file system has no hard links."""
        return await self._disk.call(self._folder.link, there, path)

    async def _from_cache(self, key: str, path: Path, mtime_ns: int) -> int | None:
        """Copy a blob; its size, None if there is none."""
        blob = await self._cache.verified(key)
        if blob is None:
            return None

        try:
            await self._written(blob.size, _copy, self._folder, blob.fd, blob.size, path, mtime_ns)
            return blob.size
        finally:
            blob.close()

    async def _put(self, path: Path, data: bytes, mtime_ns: int) -> None:
        await self._written(len(data), self._folder.put, path, data, mtime_ns)

    async def _written(self, size: int, work: Callable[..., None], *args: Any) -> None:
        await self._disk.run(size, partial(work, *args))

    async def _fetched(self, image: ImageRow, path: Path) -> int:
        """Fetch an image from the server; its size."""
        dataset = self._catalog.dataset(image.dataset)
        if dataset is None:
            raise NoSuchEntry("the dataset is gone")

        if (image.known_size or 0) <= INLINE_MAX_BYTES:
            whole = await self._source.whole(dataset, image, FetchMode.BULK)
            if isinstance(whole, Whole):
                await self._put(path, whole.data, image.created_ns)
                return len(whole.data)

        arrival = _LargeTransfer(await self._disk.call(self._folder.partial_file))
        self._arriving.add(arrival)
        try:
            await self._source.retried(image.entry, partial(self._receive, dataset, image, arrival))
            await self._disk.call(arrival.partial_file.commit, path, image.created_ns)
            return arrival.size
        finally:
            self._arriving.discard(arrival)
            with trio.CancelScope(shield=True):
                await self._disk.call(arrival.partial_file.close)

    async def _receive(self, dataset: DatasetRow, image: ImageRow, arrival: _LargeTransfer) -> None:
        """Take in a large image, or the rest of it if the server goes on. Raises Corrupt."""
        try:
            await self._take(dataset, image, arrival)
            _check(image, arrival)
            if not arrival.is_believed(image.known_size):
                await self._prove(dataset, image, arrival)
        except (Corrupt, Invalid) as error:
            # Nothing of it is to be believed.
            arrival.version = None
            raise Corrupt(str(error)) from error

    async def _take(self, dataset: DatasetRow, image: ImageRow, arrival: _LargeTransfer) -> None:
        """Take in one answer.

        Raises Invalid if the server no longer has as much as has arrived.
        """
        start = arrival.size if arrival.version else 0
        async with self._source.open(
            dataset,
            image,
            start=start,
            if_range=arrival.etag if start else None,
            mode=FetchMode.BULK,
            proof=arrival.doubted,
        ) as body:
            if not body.ranged:
                if arrival.size:
                    await self._disk.call(arrival.partial_file.truncate)
                arrival.size = 0
                arrival.crc32c = 0
                arrival.total = body.total
                arrival.expected = body.crc32c
                arrival.etag = body.etag
                arrival.version = body.version
                arrival.delimited = body.delimited
            elif body.total not in (None, arrival.total) or body.version != arrival.version:
                raise Corrupt(f"{image.entry} changed while it was fetched")

            while piece := await body.receive():
                await self._written(len(piece), arrival.partial_file.write, arrival.size, piece)
                arrival.crc32c = google_crc32c.extend(arrival.crc32c, piece)
                arrival.size += len(piece)

    async def _prove(self, dataset: DatasetRow, image: ImageRow, arrival: _LargeTransfer) -> None:
        """Have another answer tell whether the first one is right.

        No checksum came, and the length is not the listing's, or may be that of a cut.
        """
        arrival.doubted = True

        size = 0
        crc32c = 0
        async with self._source.open(dataset, image, mode=FetchMode.BULK, proof=True) as body:
            while size <= arrival.size and (piece := await body.receive()):
                crc32c = google_crc32c.extend(crc32c, piece)
                size += len(piece)

        if (size, crc32c) != (arrival.size, arrival.crc32c):
            raise answers_differ(image.entry)


def _annotation_time(image: ImageRow) -> int:
    """The time of an annotation file, as a mount shows it."""
    return image.created_ns if image.annotation_ns is None else image.annotation_ns


def _check(image: ImageRow, arrival: _LargeTransfer) -> None:
    """Raise Corrupt if the server has promised something else."""
    if arrival.total not in (None, arrival.size):
        raise Corrupt(f"{image.entry}: {arrival.size} bytes arrived of {arrival.total}")
    if arrival.expected not in (None, arrival.crc32c):
        raise checksum_differs(image.entry)


def _copy(folder: Folder, fd: int, size: int, path: Path, mtime_ns: int) -> None:
    with folder.partial_file() as partial_file:
        partial_file.copy(fd, size)
        partial_file.commit(path, mtime_ns)
