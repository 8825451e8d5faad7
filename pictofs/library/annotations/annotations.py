"""Annotation files: opened in the version of their row, fetched by a request each, kept by content.

A cached file is in one of three states. It is *fresh* if the server confirmed these bytes within
the time to live, and the dataset's `updated_at` has not moved since. It is *stale* if the listing,
or a person, said that it changed: a reader then waits for the new one. Otherwise it is *due*: it
may well be right, and asking can wait.

A due file is renewed at the next open: by an archive if one is on its way, otherwise by a request
of its own, unless that would touch the reserve of the rate limit. If neither can be had, the reader
gets the old version, and `AnnotationAges` tells how old it is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import google_crc32c
import trio
from cachetools import TTLCache

from pictofs.api.stats import background
from pictofs.clock import Clock
from pictofs.errors import DiskFull, NoSuchEntry, PictofsError, Stale, Throttled
from pictofs.library.annotations.ages import AnnotationAges
from pictofs.library.answers import Answers
from pictofs.library.connectivity import UNAVAILABLE
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.content import Content, ContentInMemory
from pictofs.library.single_flight import SingleFlight
from pictofs.library.stats import ReadStats
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable, Learned
from pictofs.store.catalog.rows import DatasetRow, ImageRow

RENEWAL_WAIT_S = 5.0
"""Seconds that a reader waits for the renewal of a cached file."""
RETRY_AFTER_S = 15.0
"""Seconds without any renewal after one failed: if the server is away, each open would wait."""
ONE_RETRY_AFTER_S = 300.0
"""Seconds without a renewal of a file whose renewal failed: the server may lack this one alone."""


class Kept(NamedTuple):
    """A file to keep."""

    image: ImageRow
    data: bytes
    checked: float
    """Wall-clock seconds; the server had it then or later."""
    revision: int | None = None
    """The catalog's `revision` before it was asked for; None: it does not matter."""


@dataclass(eq=False)
class _Arrival:
    """A file that has come."""

    image: ImageRow
    data: bytes
    checked: float
    revision: int
    version: int | None = None
    error: Exception | None = None


class Annotations:
    """The contents of annotation files."""

    def __init__(
        self,
        answers: Answers,
        cache: ContentCache,
        catalog: Catalog,
        images: ImageTable,
        single_flight: SingleFlight,
        read_stats: ReadStats,
        clock: Clock,
        *,
        ttl: float,
        renews: bool,
    ) -> None:
        """`ttl`: seconds after which a file is due; 0: only if the server says so. `renews`:
        whether due files are renewed at all."""
        self.on_miss: list[Callable[[ImageRow], None]] = []
        """Called inline with each image whose file a reader waits for."""
        self.on_hit: list[Callable[[ImageRow], None]] = []
        """Called inline with each image whose file is opened from the cache."""
        self.archive: Callable[[int, float], Awaitable[None]] | None = None
        """Waits for the archive that is on its way to a dataset: takes its key, and seconds."""
        self.ages = AnnotationAges(clock, ttl)
        self._answers = answers
        self._cache = cache
        self._catalog = catalog
        self._images = images
        self._single_flight = single_flight
        self._read_stats = read_stats
        self._clock = clock
        self._ttl = ttl
        self._renews = renews
        self._arrivals: list[_Arrival] = []
        """Files that have come and are not kept yet."""
        self._keeping = trio.Lock()
        self._rest_until = 0.0
        self._failed: TTLCache[int, bool] = TTLCache(4096, ONE_RETRY_AFTER_S, clock.monotonic)

    # What is known. Inline.

    @property
    def fresh_since(self) -> float | None:
        """Wall-clock seconds: a file that was confirmed before is due, whatever the dataset says.
        None if no file ever is."""
        if not self._renews:
            return None
        return self._clock.wall() - self._ttl if self._ttl else 0.0

    def is_due(self, image: ImageRow) -> bool:
        """Whether it is time to ask the server for a cached file again."""
        return self._renews and self._is_due(image, self._catalog.annotations_due(image.dataset))

    def may_change(self, image: ImageRow, dataset: DatasetRow) -> bool:
        """Whether the next `open` may bring another version of a file that was fetched before.

        1 us.
        """
        if image.annotation_size is None:
            return False
        if image.annotation_stale:
            return True
        return self._renews and self._is_due(image, dataset.annotations_due or 0.0)

    def _is_due(self, image: ImageRow, since: float) -> bool:
        if image.annotation_checked is None:
            return True

        age = self._clock.wall() - image.annotation_checked
        if self._ttl and not 0 <= age < self._ttl:
            return True

        return image.annotation_checked < since

    def is_cached(self, image: ImageRow) -> bool:
        """Whether the file is cached, and nothing says that it has changed."""
        known = image.annotation_size is not None and not image.annotation_stale
        return known and self._cache.has(self._cache.annotation_blob_name(image))

    def has(self, image: ImageRow) -> bool:
        """Whether the file is cached and fresh."""
        return self.is_cached(image) and not self.is_due(image)

    def is_right(self, image: ImageRow) -> bool:
        """Whether the row's length and checksum are the server's file's, as far as is known."""
        return (
            image.annotation_size is not None
            and not image.annotation_stale
            and not self.is_due(image)
        )

    def is_coming(self, image: ImageRow) -> bool:
        """Whether the file is being fetched by a request of its own."""
        return self._single_flight.in_progress(("annotation", image.id))

    # What readers get.

    async def open(self, image: ImageRow) -> Content:
        """Open an annotation file in the version of its row.

        Raises Stale if the server has another version by now: the path then leads to a new inode.
        """
        if self.is_cached(image):
            waited = self.is_due(image) and await self._renew(image)
            content = await self._cached(image)
            if content is not None:
                self._count(image, waited=waited)
                return content

        self._read_stats.misses += 1
        for tell in self.on_miss:
            tell(image)

        try:
            with self._read_stats.wait():
                data, version = await self._fetched(image)
        except UNAVAILABLE:
            # The old version is better than none.
            content = await self._cached(image) if image.annotation_size is not None else None
            if content is None:
                raise

            self.ages.held_back(image.key)
            self.ages.given(image.key, image.annotation_checked)
            return content

        if version not in (None, image.annotation_version):
            raise Stale(f"{image.annotation_name} has a new version")
        self.ages.given(image.key, self._clock.wall())
        return ContentInMemory(data)

    async def _cached(self, image: ImageRow) -> Content | None:
        return await self._cache.content(self._cache.annotation_blob_name(image))

    def _count(self, image: ImageRow, *, waited: bool) -> None:
        if waited:
            self._read_stats.misses += 1
        else:
            self._read_stats.hits += 1
            for tell in self.on_hit:
                tell(image)

        # A renewal has changed the time at which the file was confirmed.
        now = self._catalog.image(image.key) if waited else None
        self.ages.given(image.key, (now or image).annotation_checked)

    # Renewal.

    async def _renew(self, image: ImageRow) -> bool:
        """Have a due file confirmed, or leave it as it is if that can't be done now.

        Returns whether it was tried. Raises Stale if the server has another version.
        """
        if self._clock.monotonic() < self._rest_until or image.key in self._failed:
            self.ages.held_back(image.key)
            return False

        for tell in self.on_miss:
            tell(image)

        with self._read_stats.wait():
            if self.archive is not None:
                await self.archive(image.dataset, RENEWAL_WAIT_S)

            now = self._catalog.image(image.key)
            if now is not None and self.is_due(now):
                await self._renew_alone(now)
                now = self._catalog.image(image.key)

        if now is None or now.annotation_version == image.annotation_version:
            return True
        raise Stale(f"{image.annotation_name} has a new version")

    async def _renew_alone(self, image: ImageRow) -> None:
        try:
            with trio.move_on_after(RENEWAL_WAIT_S) as waiting, background("renewal"):
                _, version = await self._single_flight.share(
                    ("annotation", image.id), partial(self._fetch, image)
                )
                if version is not None:
                    self.ages.renewed += 1
                    return
        except Throttled as error:
            self._rest(RETRY_AFTER_S if error.retry_after is None else error.retry_after)
        except NoSuchEntry:
            # The server answers, so other files are renewed; the next listing tells whether the
            # image is gone.
            self._failed[image.key] = True
        except PictofsError:
            self._failed[image.key] = True
            self._rest(RETRY_AFTER_S)
        else:
            # No answer in time, or no room on the disk for it: the next would fare no better.
            if waiting.cancelled_caught:
                self._failed[image.key] = True
            self._rest(RETRY_AFTER_S)

        self.ages.held_back(image.key)

    def _rest(self, seconds: float) -> None:
        """Renew nothing for `seconds`, at most `RETRY_AFTER_S`: an archive may be there by then."""
        self._rest_until = self._clock.monotonic() + min(seconds, RETRY_AFTER_S)

    # What is fetched.

    async def fetch(self, image: ImageRow) -> bytes:
        """Fetch a file into the cache for one request, or share the request under way."""
        data, _ = await self._single_flight.share(
            ("annotation", image.id), partial(self._fetch, image)
        )
        return data

    async def take(self, image: ImageRow) -> bytes:
        """Fetch a file for one request, for a caller that keeps it outside the cache.

        The catalog learns of it. Don't use this where readers wait: the catalog is written inline.
        """
        revision = self._catalog.revision
        data, checked = await self._asked(image)
        self.ages.came(image.key)

        learned = [Learned(image.key, len(data), google_crc32c.value(data), checked, revision)]
        now_ns = int(self._clock.wall() * 1e9)
        work = partial(self._images.learn_annotations, learned, now_ns)
        with suppress(DiskFull):
            # Inline it takes 150 us; a thread alone would take half of that.
            await self._cache.disk.run(0, work)

        return data

    async def _fetched(self, image: ImageRow) -> tuple[bytes, int | None]:
        while True:
            joined = self._single_flight.in_progress(("annotation", image.id))
            try:
                return await self._single_flight.share(
                    ("annotation", image.id), partial(self._fetch, image)
                )
            except Throttled:
                # A request that was begun to fetch ahead is refused before a reader's would be.
                if not joined:
                    raise

    async def _fetch(self, image: ImageRow) -> tuple[bytes, int | None]:
        revision = self._catalog.revision
        data, checked = await self._asked(image)
        return data, await self._keep_together(_Arrival(image, data, checked, revision))

    async def _asked(self, image: ImageRow) -> tuple[bytes, float]:
        """A file, and wall-clock seconds: the server had it then, or later.

        Another node may have asked for it, if it is as new as one that this node has, or knows of.
        """
        # As it is now: what a listing has said since is part of the record's name.
        image = self._catalog.image(image.key) or image
        heard = await self._answers.annotation(image, self._since(image), self._ttl)
        if heard.is_own:
            self.ages.singles += 1
        else:
            self.ages.shared += 1

        return heard.value, self._clock.wall() - heard.age

    def _since(self, image: ImageRow) -> float:
        """Wall-clock seconds: what was asked for before, by whichever node, does not serve."""
        return max(
            image.annotation_checked or 0.0,
            image.annotation_stale,
            self._catalog.annotations_due(image.dataset),
            self._clock.wall() - (self._ttl or math.inf),
        )

    async def share(self, found: Sequence[Kept]) -> None:
        """Share files that came by an export."""
        for image, data, checked, _ in found:
            age = self._clock.wall() - checked
            if not await self._answers.put_annotation(image, data, age, self._ttl):
                return

    async def take_shared(self, images: Sequence[ImageRow]) -> int:
        """Keep the files of images that other nodes have shared. Returns how many there were."""
        revision = self._catalog.revision
        asked = [(image, self._since(image)) for image in images if not self.is_coming(image)]
        heard = await self._answers.annotations(asked)
        now = self._clock.wall()
        found = [
            Kept(image, each.value, now - each.age, revision)
            for (image, _), each in zip(asked, heard, strict=True)
            if each is not None
        ]
        # Something newer that has come meanwhile is left as it is.
        versions = await self.keep(found, archived=True)
        self.ages.shared += sum(version is not None for version in versions)
        return len(found)

    async def _keep_together(self, arrival: _Arrival) -> int | None:
        """What `keep` does for one file, at once with all others that have come meanwhile.

        A thread and a transaction for each would cost 0.5 ms of the 2.3 that a file costs.
        """
        self._arrivals.append(arrival)

        async with self._keeping:
            if arrival in self._arrivals:
                arrivals = self._arrivals
                self._arrivals = []
                await self._keep_all(arrivals)

        if arrival.error is not None:
            raise arrival.error
        return arrival.version

    async def _keep_all(self, arrivals: list[_Arrival]) -> None:
        found = [Kept(each.image, each.data, each.checked, each.revision) for each in arrivals]
        try:
            versions = await self.keep(found)
        except Exception as error:
            for each in arrivals:
                each.error = error
        else:
            for each, version in zip(arrivals, versions, strict=True):
                each.version = version

    async def keep(self, found: Sequence[Kept], *, archived: bool = False) -> list[int | None]:
        """Put contents into the catalog and the cache.

        `archived`: see
        `ImageTable.learn_annotations`. Returns the version of each; None if the image is gone,
        something newer is known, or the catalog can't be written. If the disk does not take a
        content, only its size and version are learned.
        """
        now_ns = int(self._clock.wall() * 1e9)
        usable = self._cache.usable

        def publish() -> list[int | None]:
            learned = []
            for image, data, checked, revision in found:
                crc32c = google_crc32c.value(data)
                key = self._cache.annotation_blob_name(image, crc32c)

                # A renewal that brings the same bytes, as most do, writes no second blob, unless
                # the first one is damaged: it could not be read without the server.
                same = (
                    crc32c == image.annotation_crc32c
                    and len(data) == image.annotation_size
                    and self._cache.holds(key)
                )
                if usable and not same:
                    try:
                        self._cache.blob_cache.put(key, data, crc32c).close()
                    except DiskFull as error:
                        self._cache.failed(error)

                learned.append(Learned(image.key, len(data), crc32c, checked, revision))

            with suppress(DiskFull):
                return self._images.learn_annotations(learned, now_ns, archived=archived)
            return [None] * len(learned)

        versions = await self._cache.disk.call(publish)
        for each, version in zip(found, versions, strict=True):
            if version is not None:
                self.ages.came(each.image.key)

        return versions
