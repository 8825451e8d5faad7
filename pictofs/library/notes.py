"""Annotation files: opened in the version of their row, fetched for one request each, kept by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import google_crc32c

from pictofs.api.client import Api
from pictofs.clock import Clock
from pictofs.errors import DiskFull, Stale, Throttled
from pictofs.library.cache import Cache
from pictofs.library.content import Content, InMemory
from pictofs.library.flights import Flights
from pictofs.library.reach import AWAY
from pictofs.library.tally import Tally
from pictofs.store.images import ImageTable, Learned
from pictofs.store.rows import ImageRow
from pictofs.store.shelf import WouldBlock


class Notes:
    """The contents of annotation files."""

    def __init__(
        self,
        api: Api,
        cache: Cache,
        images: ImageTable,
        flights: Flights,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self.on_miss: list[Callable[[ImageRow], None]] = []
        self.on_hit: list[Callable[[ImageRow], None]] = []
        """Whoever wants to hear of each file that a reader waits for, and of each that is cached. Inline."""
        self._api, self._cache, self._images = api, cache, images
        self._flights, self._tally, self._clock = flights, tally, clock

    async def open(self, image: ImageRow) -> Content:
        """Open an annotation file in the version of its row.

        Raises Stale when the server has another version by now: the path then leads to a new inode.
        """
        if image.note_size is not None and not image.note_stale:
            content = await self._cache.content(self._cache.note_key(image))
            if content is not None:
                self._tally.hits += 1
                for tell in self.on_hit:
                    tell(image)
                return content
        self._tally.misses += 1
        for tell in self.on_miss:
            tell(image)
        try:
            with self._tally.wait():
                data, version = await self._fetched(image)
        except AWAY:
            # The old version is better than none.
            old = image.note_size is not None
            content = await self._cache.content(self._cache.note_key(image)) if old else None
            if content is None:
                raise
            return content
        if version != image.note_version:
            raise Stale(f"{image.note_entry} has a new version")
        return InMemory(data)

    def has(self, image: ImageRow) -> bool:
        """Whether the file is cached, and no newer version is known of. Inline."""
        known = image.note_size is not None and not image.note_stale
        return known and self._cache.has(self._cache.note_key(image))

    def is_coming(self, image: ImageRow) -> bool:
        """Whether the file is being fetched by a request of its own."""
        return self._flights.is_flying(("note", image.id))

    async def fetch(self, image: ImageRow) -> bytes:
        """Fetch a file onto the shelf, for one request, or share the one under way."""
        data, _ = await self._flights.share(("note", image.id), partial(self._fetch, image))
        return data

    async def take(self, image: ImageRow) -> bytes:
        """Fetch a file, for one request, for whoever keeps it elsewhere: the catalog learns of it, the shelf does
        not get it. Not where readers wait: the catalog is written inline."""
        data = await self._api.annotation_file(image.id)
        learned = [Learned(image.key, len(data), google_crc32c.value(data))]
        work = partial(self._images.learn_notes, learned, int(self._clock.wall() * 1e9))
        with suppress(DiskFull):
            try:
                self._cache.disk.quick(work)  # 150 us, half of which a thread would take
            except WouldBlock:
                await self._cache.disk.call(work)
        return data

    async def _fetched(self, image: ImageRow) -> tuple[bytes, int]:
        while True:
            joined = self._flights.is_flying(("note", image.id))
            try:
                return await self._flights.share(("note", image.id), partial(self._fetch, image))
            except Throttled:
                if not joined:
                    raise
                # It was fetched ahead, which ends before what a reader may still spend.

    async def _fetch(self, image: ImageRow) -> tuple[bytes, int]:
        data = await self._api.annotation_file(image.id)
        (version,) = await self.keep([(image, data)])
        return data, image.note_version if version is None else version

    async def keep(self, found: Sequence[tuple[ImageRow, bytes]], *, shelve: bool = True) -> list[int | None]:
        """Put contents that the server gave just now into the catalog and, with `shelve`, onto the shelf.

        Returns the version of each, None where the image is gone or the catalog can't be written. Contents
        that the disk does not take are left out, and only their size and version are learned.
        """
        now_ns = int(self._clock.wall() * 1e9)
        usable = self._cache.usable

        def publish() -> list[int | None]:
            learned = []
            for image, data in found:
                crc32c = google_crc32c.value(data)
                if usable:
                    try:
                        self._cache.shelf.put(self._cache.note_key(image, crc32c), data, crc32c).close()
                    except DiskFull as error:
                        self._cache.failed(error)
                learned.append(Learned(image.key, len(data), crc32c))
            with suppress(DiskFull):
                return self._images.learn_notes(learned, now_ns)
            return [None] * len(learned)

        return await self._cache.disk.call(publish)
