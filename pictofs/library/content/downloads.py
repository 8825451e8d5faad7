"""Opens images: from the cache if they are there, else from the server, once for all who ask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from pictofs.clock import Clock
from pictofs.errors import Corrupt, DiskFull, NoSignedUrl, NoSuchEntry, PictofsError
from pictofs.library.content.cache import (
    BUSY_POLL_S,
    OTHERS_TIMEOUT_S,
    ContentCache,
    Stored,
    Unstored,
)
from pictofs.library.content.content import CachedContent, Content, ContentInMemory
from pictofs.library.content.passthrough import PassThrough
from pictofs.library.content.signed_urls import FetchMode
from pictofs.library.content.source import Source
from pictofs.library.content.stream import Stream, Streamed
from pictofs.library.content.whole import SMALL_BYTES, NotSmall
from pictofs.library.content.worker import NotTaken, Refused, Worker
from pictofs.library.prefetch.prefetcher import Prefetcher
from pictofs.library.single_flight import SingleFlight
from pictofs.library.stats import ReadStats
from pictofs.store.blobs.cache import Busy, CacheUnusable, PartialBlob
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
"""Bytes of a large file that are looked at in one go while it is fetched."""
ATTEMPTS = 4
"""Times that a small image is fetched into the cache for one reader, which may be gone from there
at once."""


class Downloads:
    """The contents of images."""

    def __init__(
        self,
        source: Source,
        cache: ContentCache,
        catalog: Catalog,
        images: ImageTable,
        single_flight: SingleFlight,
        nursery: trio.Nursery,
        read_stats: ReadStats,
        clock: Clock,
        prefetch: Callable[[Downloads], Prefetcher],
        worker: Worker | None,
    ) -> None:
        """`worker` fetches what is fetched ahead; this process does if there is none, or it has
        ended."""
        self.prefetch = prefetch(self)
        self._source = source
        self._cache = cache
        self._catalog = catalog
        self._images = images
        self._single_flight = single_flight
        self._nursery = nursery
        self._read_stats = read_stats
        self._clock = clock
        self._worker = worker
        self._streams: dict[str, Stream] = {}

    async def image(self, image: ImageRow) -> Content:
        """Open an image. Its `size` is exact, whatever the listing says."""
        content: Content | None = await self._cache.content(self._cache.image_blob_name(image))
        if content is not None:
            self._read_stats.hits += 1
            self.prefetch.hit(image.dataset, image.key)
        else:
            self._read_stats.misses += 1
            self.prefetch.miss(image)
            with self._read_stats.wait():
                content = await self._download(image)

        if content.size != image.known_size:
            try:
                with suppress(DiskFull):  # the bytes are right all the same
                    await self._cache.disk.call(self._images.learn_size, image.key, content.size)
            except BaseException:
                content.close()
                raise

        return content

    def reopen(self, dataset: int, image: int, path: str, size: int) -> CachedContent | None:
        """What `image` gives, without a wait, for an image of `size` bytes whose blob is at `path`.

        None if only `image` can tell.
        """
        content = self._cache.reopen(path, size)
        if content is not None:
            self._read_stats.hits += 1
            self.prefetch.hit(dataset, image)
        return content

    def _dataset(self, image: ImageRow) -> DatasetRow:
        dataset = self._catalog.dataset(image.dataset)
        if dataset is None:
            raise NoSuchEntry("the dataset is gone")
        return dataset

    async def _download(self, image: ImageRow) -> Content:
        dataset = self._dataset(image)
        patient = False
        for _ in range(ATTEMPTS):
            if not self.is_small(image):
                return await self._large(dataset, image)

            joined = self._single_flight.in_progress(("image", image.id))
            try:
                work = partial(self._small, dataset, image, FetchMode.READ)
                result = await self._single_flight.share(("image", image.id), work)
            except PictofsError:
                # It may have been fetched ahead, with less patience than a reader has.
                if joined and not patient:
                    patient = True
                    continue
                raise

            if isinstance(result, Unstored):
                return ContentInMemory(result.data)
            if isinstance(result, NotSmall):  # much larger than the listing says
                image = image._replace(true_size=result.size)
                continue

            content = await self._cache.content(self._cache.image_blob_name(image))
            if content is not None:
                return content
            # It was evicted in between: once more.

        # The cache loses it as soon as it has it: what comes now stays in memory.
        whole = await self._source.whole(dataset, image, FetchMode.READ)
        if isinstance(whole, NotSmall):
            return await self._pass_through(dataset, image)
        return ContentInMemory(whole.data)

    def is_small(self, image: ImageRow) -> bool:
        """Whether an image is fetched whole before it is read, and not streamed."""
        return (image.known_size or 0) <= SMALL_BYTES

    def has(self, image: ImageRow) -> bool:
        """Whether the cache has an image, or it is on its way. Inline."""
        return self._single_flight.in_progress(("image", image.id)) or self._cache.has(
            self._cache.image_blob_name(image)
        )

    def is_kept(self, image: ImageRow) -> bool:
        """Whether the cache has an image. Inline."""
        return self._cache.has(self._cache.image_blob_name(image))

    def renew(self, image: ImageRow) -> bool:
        """What `has` says; one that is there counts as used now, and is evicted late. Inline."""
        under_way = self._single_flight.in_progress(("image", image.id))
        return under_way or self._cache.renew(self._cache.image_blob_name(image))

    async def fetch_ahead(self, image: ImageRow, *, via_api: bool) -> bool:
        """Fetch a small image into the cache.

        Returns False if it is large, costs a request of its own, or another process keeps it from
        the cache.

        `via_api`: such a request may be made. Raises DiskFull if nothing can be kept, Throttled if
        the rest of the budget is for readers.
        """
        if not self._cache.usable:
            raise DiskFull("the disk takes nothing now")

        work = partial(self._small_ahead, self._dataset(image), image, via_api)
        try:
            result = await self._single_flight.share(("image", image.id), work)
        except NoSignedUrl:
            return False

        if isinstance(result, Unstored) and not self._cache.usable:
            raise DiskFull("the disk takes nothing now")
        return isinstance(result, Stored)

    async def fetch(self, image: ImageRow) -> None:
        """Fetch an image of any size into the cache, by a request of its own if nothing else helps.

        Raises DiskFull if it can't be kept, and what keeps it from coming.
        """
        if self.is_small(image) and await self.fetch_ahead(image, via_api=True):
            return

        # Large, by the listing or in truth: whoever reads it through sees it complete.
        content = await self._download(image)
        try:
            if not isinstance(content, PassThrough):
                offset = 0
                while offset < content.size:
                    piece = await content.read(offset, CHUNK_BYTES)
                    if not piece:
                        raise Corrupt(f"{image.entry} was cut while it was read")
                    offset += len(piece)
        finally:
            content.close()

        if not self.is_kept(image):
            raise DiskFull("the cache can't take it")

    async def _small_ahead(
        self, dataset: DatasetRow, image: ImageRow, via_api: bool
    ) -> Stored | Unstored | NotSmall:
        """Fetch a small image for which nobody waits yet, by the worker if it takes it."""
        if self._worker is not None:
            with suppress(NotTaken):
                work = partial(self._fetch_elsewhere, self._worker, dataset, image)
                return await self._source.retried(image.entry, work)
        return await self._small(dataset, image, FetchMode.BULK if via_api else FetchMode.AHEAD)

    async def _small(
        self, dataset: DatasetRow, image: ImageRow, mode: FetchMode
    ) -> Stored | Unstored | NotSmall:
        """Fetch a small image into the cache."""
        return await self._cache.store(
            self._cache.image_blob_name(image),
            image.known_size or 0,
            partial(self._source.whole, dataset, image, mode),
        )

    async def _fetch_elsewhere(
        self, worker: Worker, dataset: DatasetRow, image: ImageRow
    ) -> Stored | NotSmall:
        """Have the worker fetch a small image. Raises NotTaken."""
        signed = await self._source.urls.find(dataset, image, FetchMode.AHEAD)
        if signed is None:
            raise NotTaken

        try:
            made = await worker.fetch(
                self._cache.image_blob_name(image), signed.url, image.known_size or 0
            )
        except Refused as refused:
            self._source.urls.reject(dataset, image, signed)
            raise refused.error from None
        except DiskFull as error:
            self._cache.failed(error)
            raise

        self._source.urls.taken(dataset, image)
        if isinstance(made, Stored) and made.file is not None:
            self._cache.blob_cache.mark_verified(made.file)
        return made

    async def _large(self, dataset: DatasetRow, image: ImageRow) -> Content:
        blob_name = self._cache.image_blob_name(image)
        give_up = self._clock.monotonic() + OTHERS_TIMEOUT_S
        if (image.known_size or 0) > self._cache.blob_cache.limit:
            return await self._pass_through(dataset, image)
        while True:
            stream = self._streams.get(image.id)
            if stream is None or not stream.usable:
                try:
                    # Not of the listing's size, for which much would be evicted: an answer tells
                    # how much it is.
                    partial_blob = await self._cache.open_partial_now(blob_name, 0)
                except Busy:
                    # A stream of ours begins or ends just now, or another process is at it, perhaps
                    # for long.
                    found = await self._cache.content(blob_name)
                    if found is not None:
                        return found
                    if self._clock.monotonic() >= give_up:
                        return await self._pass_through(dataset, image)
                    await self._clock.sleep(BUSY_POLL_S)
                    continue
                if partial_blob is None:
                    return await self._pass_through(dataset, image)
                stream = self._begin_stream(dataset, image, partial_blob)
            try:
                return await _join(stream)
            except DiskFull as error:
                if isinstance(error, CacheUnusable):
                    self._cache.failed(error)
                return await self._pass_through(dataset, image)

    def _begin_stream(
        self, dataset: DatasetRow, image: ImageRow, partial_blob: PartialBlob
    ) -> Stream:
        stream = Stream(
            image.entry,
            image.known_size,
            partial_blob,
            self._cache.disk,
            partial(self._source.open, dataset, image, FetchMode.STREAM),
            self._source,
            self._nursery,
        )
        self._streams[image.id] = stream
        return stream

    async def _pass_through(self, dataset: DatasetRow, image: ImageRow) -> Content:
        content = PassThrough(
            image.entry,
            image.known_size,
            partial(self._source.open, dataset, image, FetchMode.STREAM),
            self._source,
            self._single_flight,
        )
        try:
            await content.begin()
        except BaseException:
            content.close()
            raise
        return content

    def sweep_streams(self) -> None:
        """Forget streams that have ended."""
        for image_id in [each for each, stream in self._streams.items() if not stream.usable]:
            del self._streams[image_id]


async def _join(stream: Stream) -> Content:
    content = Streamed(stream)
    try:
        await stream.begin()
    except BaseException:
        content.close()
        raise
    content.size = stream.size
    return content
