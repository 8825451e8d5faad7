"""The library: what the file system gets from the server and the disk."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from pictofs.api.client import Api
from pictofs.api.stats import RequestStats, insisting
from pictofs.api.storage import Storage
from pictofs.clock import Clock
from pictofs.errors import NoSuchEntry, PictofsError
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.annotations.archive import Bounds
from pictofs.library.annotations.export import Exports
from pictofs.library.annotations.export_list import ExportList
from pictofs.library.annotations.prefetch import ANNOTATIONS, AnnotationFetcher
from pictofs.library.answers import Answers
from pictofs.library.archives.exports import ExportArchives
from pictofs.library.connectivity import Connectivity
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.disk import Disk
from pictofs.library.content.downloads import Downloads
from pictofs.library.content.signed_urls import SignedUrlCache
from pictofs.library.content.source import Source
from pictofs.library.content.via_api import ApiRoutes
from pictofs.library.content.worker import Setup, Worker
from pictofs.library.formats.builder import Builder
from pictofs.library.formats.dimensions import Dimensions
from pictofs.library.formats.formats import Formats
from pictofs.library.formats.names import FormatNames
from pictofs.library.formats.revisions import FileRevisions
from pictofs.library.generations import ALL
from pictofs.library.listing.by_id import IdLookup
from pictofs.library.listing.edits import Edits
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import COMMAND_REFRESH_WAIT_S, NO_DATASET, Listing
from pictofs.library.listing.selections import Selections
from pictofs.library.prefetch.prefetcher import Prefetcher, PrefetchMode
from pictofs.library.server_traits import ServerTraits
from pictofs.library.shared_budget import SharedBudget
from pictofs.library.single_flight import SingleFlight
from pictofs.library.stats import ReadStats
from pictofs.model.inode import key_of
from pictofs.model.status import (
    BytesStatus,
    CacheStatus,
    FormatStatus,
    RateStatus,
    RequestsStatus,
    SharedStatus,
    Status,
    WaitingStatus,
)
from pictofs.store.blobs.cache import BlobCache
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import DATASETS
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import RemovedDentry
from pictofs.store.shared.port import SharedStore
from pictofs.store.shared.stats import SharedStats
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

EXPORT_BOUNDS = Bounds()
ANNOTATION_TTL_S = 86_400.0
"""Seconds for which an annotation file is fresh, unless the user says otherwise."""
OPERATION_S = 30.0
"""Seconds that an operation may take, unless the user says otherwise."""
FOLLOW_EVERY_S = 2.0
"""Seconds between two looks at what other nodes have refreshed and spent, give or take a quarter by chance."""
RESTART_AFTER_S = 1.0
"""Seconds before a task that failed is started again."""
TEND_EVERY_S = 60.0
"""Seconds between rounds of housekeeping."""


class Shared(NamedTuple):
    """The engine by which nodes share."""

    store: SharedStore
    name: str
    """Its URL, without a user and a password."""
    stats: Callable[[], SharedStats]


class Library:
    """What exists (`listing`, `catalog`) and its bytes (`downloads`, `annotations`, `archives`)."""

    def __init__(
        self,
        api: Api,
        storage: Storage,
        catalog: Catalog,
        blob_cache: BlobCache,
        nursery: trio.Nursery,
        clock: Clock,
        request_stats: RequestStats,
        *,
        ttl: float,
        annotation_ttl: float = ANNOTATION_TTL_S,
        max_retries: int,
        server: str,
        prefetch: PrefetchMode,
        cache_size: int,
        frozen: bool = False,
        offline: bool = False,
        writable: bool = False,
        bulk_annotations: bool = False,
        export_bounds: Bounds = EXPORT_BOUNDS,
        worker: Setup | None = None,
        shared: Shared | None = None,
        timeout: float = OPERATION_S,
    ) -> None:
        """`ttl`: seconds for which a listing is fresh; `annotation_ttl`: the same of an annotation
        file (0: until the server says otherwise). `offline`: the server is never asked.

        `cache_size`: bytes. `server`: a few hex digits that tell this server's ids from another's.
        `writable`: whether datasets may be changed. `bulk_annotations`: whether reads may begin an
        export. `worker`: how to run a process that fetches ahead in place of this one.
        `shared`: what the nodes of a cluster share; None: this node is by itself. `timeout`: seconds
        that an operation may take.
        """
        self.catalog = catalog
        catalog.database.wall = clock.wall
        self.invalidations = DentryInvalidations()
        self.read_stats = ReadStats()
        self.connectivity = Connectivity(clock)
        self.clock = clock
        self.request_stats = request_stats
        self._blob_cache = blob_cache
        self.cache_size = cache_size
        self.images = ImageTable(catalog.database)
        single_flight = SingleFlight(nursery)
        self._frozen = frozen
        self.shared = shared
        store = None if shared is None else shared.store
        self.answers = Answers(api, catalog, clock, request_stats, store, ttl=ttl, timeout=timeout)
        self._budget: SharedBudget | None = None
        if store is not None:
            self._budget = SharedBudget(store, request_stats, clock)
            api.share_budget(self._budget)
        self.urls = SignedUrlCache(self.answers, single_flight, clock)
        self.traits = ServerTraits(catalog, clock)
        api_routes = ApiRoutes(api, catalog, self.traits)
        self.source = source = Source(api_routes, storage, self.urls, clock, max_retries)

        self.listing = Listing(
            api,
            self.answers,
            catalog,
            self.images,
            single_flight,
            self.connectivity,
            self.invalidations,
            clock,
            ttl,
            self.traits,
            frozen=frozen,
        )
        self.edits: Edits | None = None
        """None if nothing may be changed."""
        if writable:
            self.edits = Edits(
                api,
                catalog,
                self.listing,
                single_flight,
                self.connectivity,
                self.invalidations,
                clock,
                max_retries,
                self.traits,
                self.answers.generations,
            )

        self.selections = Selections(
            catalog, self.images, self.listing, single_flight, self.invalidations
        )
        names = FormatNames(catalog, self.images, self.listing, single_flight, self.invalidations)

        def forget(dataset: int) -> None:
            self.selections.forget(dataset)
            names.forget(dataset)

        self.id_lookup = IdLookup(
            api,
            catalog,
            self.images,
            self.listing,
            forget,
            single_flight,
            self.invalidations,
            self.connectivity,
            self.traits,
        )

        self._disk = Disk()
        self.worker = None if worker is None else Worker(worker, request_stats, clock)
        self.cache = cache = ContentCache(blob_cache, self._disk, clock, server)

        def prefetcher(downloads: Downloads) -> Prefetcher:
            return Prefetcher(
                catalog, downloads, self.listing.all_images, clock, prefetch, cache_size
            )

        self.downloads = Downloads(
            source,
            cache,
            catalog,
            self.images,
            single_flight,
            nursery,
            self.read_stats,
            clock,
            prefetcher,
            self.worker,
        )

        self.annotations = Annotations(
            self.answers,
            cache,
            catalog,
            self.images,
            single_flight,
            self.read_stats,
            clock,
            ttl=annotation_ttl,
            renews=not frozen and not offline,
        )
        self.exports = Exports(
            api,
            self.answers,
            storage,
            source,
            self.listing,
            catalog,
            cache,
            self.annotations,
            single_flight,
            clock,
            automatic=bulk_annotations,
            finds=not offline,
            found=ExportList(api, self.answers, catalog, clock, annotation_ttl),
            bounds=export_bounds,
        )
        dimensions = Dimensions(catalog, self.images, cache, source, single_flight)
        builder = Builder(
            catalog,
            cache,
            self.annotations,
            self.exports,
            dimensions,
            self.listing,
            single_flight,
            source,
            clock,
        )
        self.formats = Formats(
            catalog,
            cache,
            self.annotations,
            names,
            dimensions,
            builder,
            FileRevisions(clock),
        )
        self.archives = ExportArchives(
            api,
            storage,
            source,
            self.listing,
            catalog,
            cache,
            single_flight,
            self.connectivity,
            self.invalidations,
            self.read_stats,
            clock,
            ttl=ttl,
            frozen=frozen,
        )
        self.annotation_prefetch = Prefetcher(
            catalog,
            AnnotationFetcher(catalog, self.annotations, self.exports.is_running),
            self.listing.all_images,
            clock,
            "off" if prefetch == "off" else "auto",
            cache_size,
            ANNOTATIONS,
        )
        self.annotations.on_miss += (self.exports.missed, self.annotation_prefetch.miss)
        self.annotations.on_hit.append(
            lambda image: self.annotation_prefetch.hit(image.dataset, image.key)
        )
        self.annotations.archive = self.exports.wait

    @property
    def evicted(self) -> tuple[int, int]:
        """Blobs that this mount removed to make room, and their bytes."""
        files, size = self._blob_cache.evicted
        if self.worker is not None:
            files += self.worker.evicted[0]
            size += self.worker.evicted[1]

        return files, size

    def start(self, nursery: trio.Nursery, *, readers: bool = True) -> None:
        """Start the tasks that live as long as the library.

        `readers`: whether this process opens files. If not, it fetches nothing ahead, and leaves
        the housekeeping of the cache to a mount.
        """
        tasks: list[Callable[[], Awaitable[None]]] = [self._disk.serve]
        if readers:
            tasks += [self.downloads.prefetch.run, self.annotation_prefetch.run, self.tend]

        if self.answers.generations is not None:
            tasks.append(self._follow_nodes)
        for task in tasks:
            nursery.start_soon(self.keep, task)
        if self.worker is not None:
            nursery.start_soon(self.keep, self.worker.run)

    async def keep(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task of the library; start it again if it fails: a bug must not end the mount."""
        while True:
            try:
                return await task()
            except Exception:
                log.exception("%s failed in a way that should not happen; please report this", task)

            await self.clock.sleep(RESTART_AFTER_S)

    async def tend(self) -> None:
        """Keep house for as long as the mount lives.

        The cache's ledger is corrected once, as a crash may have left it wrong. From then on, ended
        streams are removed, and the recency of blobs is written down.
        """
        # If it fails, the first download tells the user.
        with suppress(PictofsError):
            await in_thread(self._blob_cache.recount)

        while True:
            await self.clock.sleep(TEND_EVERY_S)
            self.downloads.sweep_streams()
            await in_thread(self._blob_cache.flush_uses)

    async def _follow_nodes(self) -> None:
        """Learn what is left of the rate limit, and have what another node has refreshed asked for
        again at the next look (F5)."""
        generations = self.answers.generations
        grown: set[str] = set()
        while generations is not None:
            if self._budget is not None and self.answers.is_sharing:
                await self._budget.look()
            grown.update(await generations.look())
            # What is known to a frozen mount stays as it is.
            for dataset in () if self._frozen else sorted(grown):
                key = None if dataset == ALL else key_of(dataset)
                log.info("another node has refreshed %s", "everything" if key is None else dataset)
                # A full disk is tried again.
                with suppress(PictofsError):
                    await self.listing.invalidate_elsewhere(key)
                    await self._forget_entries(key)
                    grown.discard(dataset)

            await self.clock.sleep(FOLLOW_EVERY_S * (0.75 + 0.5 * self.clock.chance()))

    async def _forget_entries(self, key: int | None) -> None:
        """Have the kernel forget what it was told of a dataset, by its key, or of all of them."""
        rows = self.catalog.datasets_after(0, 1 << 30)
        for row in rows:
            if key not in (None, row.key):
                continue
            self.invalidations.tell([RemovedDentry(DATASETS, row.entry)])
            # As in `refresh`.
            if row.listed_signature is None:
                self.invalidations.tell(await in_thread(self.images.entries, row.key))

    async def refresh(self, entry: str | None) -> int:
        """Ask the server again for one dataset, by its entry, or for all that were ever listed.

        Returns how many datasets were listed again. Raises NoSuchEntry for an unknown one, and what
        keeps the server from answering. It is asked even if it has just refused: a person wants to
        know.
        """
        with insisting():
            return await self._refresh(entry)

    async def _refresh(self, entry: str | None) -> int:
        key = None
        known = None
        if entry is not None:
            known = self.catalog.dataset_by_entry(entry)
            key = known.key if known else NO_DATASET

        if entry is None:
            await self._raise_generations([ALL])
        else:
            await self._raise_generations([known.id.lower()] if known else ())
        await self.listing.invalidate(key)
        self.archives.invalidate(key)
        await self.listing.datasets()
        if self.connectivity.error is not None:
            raise self.connectivity.error

        rows = self.catalog.datasets_after(0, 1 << 30)
        if entry is not None:
            rows = [row for row in rows if row.entry == entry]
            if not rows:
                raise NoSuchEntry(f"there is no dataset {entry!r}")
            if known is None:
                await self._raise_generations([rows[0].id.lower()])

        # With an entry the kernel drops the whole tree below it. Another mount of the cache may
        # have learned of a new name before, and told its own kernel alone.
        names = {row.entry for row in rows} | self.listing.renamed()
        self.invalidations.tell(RemovedDentry(DATASETS, name) for name in names)

        listed = [row for row in rows if row.listed_signature is not None]
        for row in rows:
            # An open file keeps its entry in the kernel: these are told one by one.
            if row.listed_signature is None:
                self.invalidations.tell(await in_thread(self.images.entries, row.key))

        for row in listed:
            await self.listing.all_images(row.key)

        return len(listed)

    async def refresh_list(self) -> None:
        """Ask the server again which datasets there are, and nothing else."""
        await self._raise_generations(())
        await self.listing.invalidate(NO_DATASET)
        await self.listing.datasets(patience=COMMAND_REFRESH_WAIT_S)

    async def _raise_generations(self, names: Iterable[str]) -> None:
        """Have no node take what was asked for before; see `Generations.raised`."""
        if self.answers.generations is not None:
            await self.answers.generations.raised(names)

    def fill_status(self, status: Status, cache_dir: Path) -> None:
        """Fill in what the library knows."""
        stats = self.request_stats
        requests = RequestsStatus()
        for (host, route, _), count in sorted(stats.requests.items()):
            if host == "api":
                requests.api += count
                requests.by_route[route] = requests.by_route.get(route, 0) + count
            else:
                requests.storage += count

        error = self.connectivity.error
        status.online = self.connectivity.offline_since is None
        status.offline_since = self.connectivity.offline_since
        status.offline_reason = str(error) if error else None

        status.requests = requests
        status.retries = stats.retries
        status.errors = dict(stats.errors)
        status.bytes = BytesStatus(
            downloaded=sum(stats.bytes_in.values()),
            storage=stats.bytes_in["storage"],
            read=self.read_stats.bytes_read,
        )
        status.waiting = WaitingStatus(readers=self.read_stats.waiting, api=stats.in_flight)

        status.cache = self._cache_status(cache_dir)
        status.prefetch = self.downloads.prefetch.status()
        status.annotations = self.annotations.ages.status()
        status.formats = self._format_status()
        status.server = self.traits.all()
        status.shared = self._shared_status()
        status.rate = RateStatus(
            limit=stats.limit,
            remaining=stats.remaining,
            reset_at=stats.reset_at or None,
            reserve=stats.reserve,
            spent_until=stats.spent_until(self.clock.wall()),
        )

    def _shared_status(self) -> SharedStatus | None:
        if self.shared is None:
            return None

        stats = self.shared.stats()
        return SharedStatus(
            engine=self.shared.name,
            state=stats.breaker,
            reason=stats.reason,
            hits=stats.hits,
            misses=stats.misses,
            unusable=stats.unusable + stats.outdated,
            puts=stats.puts,
            dropped=stats.dropped,
            turns=stats.leases,
            errors=stats.errors,
            opened=stats.opened,
            calls=stats.calls,
            seconds=stats.seconds,
        )

    def _format_status(self) -> list[FormatStatus]:
        found = []
        for dataset, base, format_, losses in self.formats.builder.losses():
            row = self.catalog.dataset(dataset)
            if row is not None:
                found.append(
                    FormatStatus(
                        dataset=row.entry,
                        of_status=base,
                        format=format_,
                        images=losses.images,
                        labels=losses.labels,
                        left_out=losses.counts,
                    )
                )

        return found

    def _cache_status(self, cache_dir: Path) -> CacheStatus:
        status = CacheStatus(
            dir=str(cache_dir), hits=self.read_stats.hits, misses=self.read_stats.misses
        )
        try:
            usage = self._blob_cache.usage()
        except PictofsError as error:
            status.error = str(error)
        else:
            status.used = usage.bytes
            status.limit = usage.limit
            status.files = usage.files
            status.free = usage.free

        return status
