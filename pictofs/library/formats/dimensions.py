"""Width and height of images of which the listing does not tell them, from their first bytes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from pictofs.errors import DiskFull, Invalid
from pictofs.formats import header
from pictofs.formats.header import HEAD_BYTES
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.signed_urls import FetchMode
from pictofs.library.content.source import Source
from pictofs.library.single_flight import SingleFlight
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import ImageRow


class Dimensions:
    """Learns sizes in pixels, once for each image."""

    def __init__(
        self,
        catalog: Catalog,
        images: ImageTable,
        cache: ContentCache,
        source: Source,
        single_flight: SingleFlight,
    ) -> None:
        self._catalog = catalog
        self._images = images
        self._cache = cache
        self._source = source
        self._single_flight = single_flight
        self.unknowable: set[int] = set()
        """Keys of images whose first bytes don't tell."""

    async def learn(self, key: int) -> None:
        """Have the catalog know the size of an image, for one download of its head at most.

        Raises what keeps that from coming.
        """
        await self._single_flight.share(("dimensions", key), partial(self._learn, key))

    async def _learn(self, key: int) -> None:
        image = self._catalog.image(key)
        if image is None or key in self.unknowable or (image.width and image.height):
            return

        found = header.size(await self._head(image))
        if found is None:
            self.unknowable.add(key)
            return

        with suppress(DiskFull):
            await self._cache.disk.call(self._images.learn_dimensions, key, *found)

    async def _head(self, image: ImageRow) -> bytes:
        """The first bytes of an image, from the cache or from storage."""
        content = await self._cache.content(self._cache.image_blob_name(image))
        if content is not None:
            try:
                return content.pread(0, HEAD_BYTES)
            finally:
                content.close()

        return await self._source.retried(image.entry, partial(self._receive, image))

    async def _receive(self, image: ImageRow) -> bytes:
        dataset = self._catalog.dataset(image.dataset)
        if dataset is None:
            return b""

        head = bytearray()
        # 416: an empty file has no range at all.
        with suppress(Invalid):
            async with self._source.open(dataset, image, FetchMode.BULK, end=HEAD_BYTES) as body:
                while len(head) < HEAD_BYTES and (piece := await body.receive()):
                    head += piece

        return bytes(head)
