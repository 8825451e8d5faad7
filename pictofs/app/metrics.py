"""What a mount knows of itself, as Prometheus reads it.

Nothing is counted here, and nobody is asked.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import accumulate

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pictofs import __version__
from pictofs.app.metrics_server import MetricsServer
from pictofs.errors import Conflict, MountFailed, PictofsError
from pictofs.fuse.stats import BOUNDS, OperationStats
from pictofs.library.library import Library
from pictofs.model.printable import printable
from pictofs.store.shared.stats import LATENCY_BOUNDS_S

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class Metrics(Collector):
    """Every figure of a mount, taken where it is counted at the moment of asking.

    Each names the mount point, so that several mounts can be told apart in one place.
    """

    def __init__(
        self,
        library: Library,
        operations: Mapping[str, OperationStats],
        *,
        mountpoint: str,
        open_files: Callable[[], int],
        bugs: Callable[[], int],
    ) -> None:
        self._library = library
        self._operations = operations
        self._mountpoint = printable(mountpoint)
        self._open_files = open_files
        self._bugs = bugs

        self._registry = CollectorRegistry()
        self._registry.register(self)

        # Not among ours: their names are those of every process, whose collector alone tells
        # them apart.
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def text(self) -> bytes:
        """The text exposition, format 0.0.4."""
        return generate_latest(self._registry)

    def text_of_process(self) -> bytes:
        """The same, with the figures of this process: for whoever scrapes it alone."""
        return self.text() + generate_latest(self._process)

    def collect(self) -> Iterable[Metric]:
        """Every family, as it is at one moment of the loop, which asks."""
        families = list(self._families())
        for family in families:
            family.samples = [
                sample._replace(labels={"mountpoint": self._mountpoint, **sample.labels})
                for sample in family.samples
            ]
        return families

    def _families(self) -> Iterator[Metric]:
        yield _gauge("info", "The mount.", 1, version=__version__)
        yield from self._kernel()
        yield from self._cache()
        yield from self._traffic()
        yield from self._server()
        yield from self._shared()

    def _kernel(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "pictofs_operations",
            "Requests of the kernel that have ended.",
            labels=["operation", "errno"],
        )
        took = HistogramMetricFamily(
            "pictofs_operation_duration_seconds", "How long they took.", labels=["operation"]
        )
        under_way = GaugeMetricFamily(
            "pictofs_operations_in_flight",
            "Requests of the kernel under way.",
            labels=["operation"],
        )

        bounds = [*map(str, BOUNDS), "+Inf"]
        for name, counts in self._operations.items():
            for code, count in counts.outcomes.items():
                outcome = errno.errorcode.get(code, str(code)) if code else "OK"
                ended.add_metric([name, outcome], count)
            buckets = list(zip(bounds, map(float, accumulate(counts.buckets)), strict=True))
            took.add_metric([name], buckets, counts.seconds)
            under_way.add_metric([name], counts.under_way)

        yield from (ended, took, under_way)

        read_stats = self._library.read_stats
        yield _counter(
            "read_bytes",
            "Bytes given to readers; the kernel's page cache gives more.",
            read_stats.bytes_read,
        )
        yield _gauge("readers_waiting", "Opens that wait for the server.", read_stats.waiting)
        yield _gauge("open_files", "File handles.", self._open_files())
        yield _counter("bugs", "Failures without a name, which readers see as EIO.", self._bugs())

    def _cache(self) -> Iterator[Metric]:
        blob_cache = self._library.cache.blob_cache
        read_stats = self._library.read_stats
        yield _counter("cache_hits", "Opens that the cache answered.", read_stats.hits)
        yield _counter("cache_misses", "Opens that needed the server.", read_stats.misses)

        evicted, evicted_bytes = self._library.evicted
        yield _counter("cache_evictions", "Files that this mount removed to make room.", evicted)
        yield _counter("cache_evicted_bytes", "Bytes of them.", evicted_bytes)
        yield _counter(
            "cache_damaged", "Files whose checksum was wrong, removed.", blob_cache.damaged
        )

        # A disk that fails takes these away and no others.
        with suppress(PictofsError):
            usage = blob_cache.usage()
            yield _gauge("cache_bytes", "What the cache takes, of all its mounts.", usage.bytes)
            yield _gauge("cache_files", "Files in it.", usage.files)
            yield _gauge("cache_limit_bytes", "What it may take.", usage.limit)
            yield _gauge("cache_disk_free_bytes", "What its disk has free.", usage.free)

        fetched = CounterMetricFamily(
            "pictofs_prefetch_fetched", "Files fetched before they were read.", labels=["kind"]
        )
        used = CounterMetricFamily(
            "pictofs_prefetch_used", "Those of them that were read.", labels=["kind"]
        )
        for kind, ahead in (
            ("images", self._library.downloads.prefetch),
            ("annotations", self._library.annotation_prefetch),
        ):
            fetched.add_metric([kind], ahead.fetched)
            used.add_metric([kind], ahead.used)

        yield from (fetched, used)

        ages = self._library.annotations.ages
        if ages.age is not None:
            yield _gauge(
                "annotation_oldest_age_seconds",
                "Since when the oldest annotation file given lately was not confirmed by the server.",
                ages.age,
            )
        yield _counter(
            "annotation_renewals", "Annotation files asked for again because of age.", ages.renewed
        )
        yield _gauge(
            "annotation_renewals_held_back",
            "Annotation files given although they are due, and not renewed since.",
            ages.held,
        )

    def _traffic(self) -> Iterator[Metric]:
        request_stats = self._library.request_stats
        api = CounterMetricFamily(
            "pictofs_api_requests",
            "Requests to the API, retries included. Status none: no answer came.",
            labels=["method", "route", "purpose", "status"],
        )
        storage = CounterMetricFamily(
            "pictofs_storage_requests",
            "Requests to storage, likewise.",
            labels=["purpose", "status"],
        )

        for (host, name, purpose, status), count in request_stats.answers.items():
            if host == "api":
                method, _, route = name.partition(" ")
                api.add_metric([method, route, purpose, status], count)
            else:
                storage.add_metric([purpose, status], count)

        yield from (api, storage)

        yield _gauge(
            "api_requests_in_flight",
            "Requests to the API without an answer yet.",
            request_stats.in_flight,
        )
        yield _counter(
            "api_received_bytes", "Bytes of the API's answers.", request_stats.bytes_in["api"]
        )
        yield _counter(
            "storage_received_bytes",
            "Bytes of storage's answers.",
            request_stats.bytes_in["storage"],
        )
        yield _counter(
            "storage_connections", "Connections opened to storage.", request_stats.connections
        )
        yield _counter("request_retries", "Requests made again.", request_stats.retries)

        failures = CounterMetricFamily(
            "pictofs_request_failures",
            "Requests that failed for good, by the error's name.",
            labels=["error"],
        )
        for error, count in request_stats.errors.items():
            failures.add_metric([error], count)

        yield failures

    def _server(self) -> Iterator[Metric]:
        request_stats = self._library.request_stats
        connectivity = self._library.connectivity
        yield _gauge(
            "server_reachable",
            "Whether the API answers, as far as is known.",
            connectivity.offline_since is None,
        )

        if request_stats.contact_at:
            yield _gauge(
                "server_last_contact_timestamp_seconds",
                "When the API answered last.",
                request_stats.contact_at,
            )

        if request_stats.offset is not None:
            yield _gauge(
                "server_clock_offset_seconds",
                "How far the API's clock is ahead of this machine's.",
                request_stats.offset,
            )

        # What the API has not told is left out: a made-up limit would raise alarms.
        if request_stats.limit is not None:
            yield _gauge(
                "rate_limit_requests", "Requests of an hour, as the API says.", request_stats.limit
            )

        if request_stats.remaining is not None:
            yield _gauge(
                "rate_remaining_requests", "Requests left of them.", request_stats.remaining
            )
            yield _gauge(
                "rate_reserve_requests",
                "Those that background work leaves alone.",
                request_stats.reserve,
            )
            yield _gauge(
                "rate_reset_timestamp_seconds", "When all are there again.", request_stats.reset_at
            )

    def _shared(self) -> Iterator[Metric]:
        if self._library.shared is None:
            return

        stats = self._library.shared.stats()
        yield _gauge(
            "shared_engine_available",
            "Whether the shared engine answers, as far as is known.",
            stats.breaker == "closed",
        )
        yield _counter("shared_hits", "Records of other nodes that were used.", stats.hits)
        yield _counter(
            "shared_misses", "Records that were not there, or did not serve.", stats.misses
        )
        yield _counter(
            "shared_unusable",
            "Those of them that were not sealed by this key, or not of this time.",
            stats.unusable + stats.outdated,
        )
        yield _counter("shared_puts", "Records that the shared engine took.", stats.puts)
        yield _counter("shared_dropped", "Records that it did not take.", stats.dropped)
        yield _counter(
            "shared_turns", "Questions to the API for which other nodes waited.", stats.leases
        )
        yield _counter(
            "shared_errors", "Calls that it refused, or did not answer in time.", stats.errors
        )
        yield _counter("shared_breaker_opened", "How often it was left alone.", stats.opened)

        took = HistogramMetricFamily(
            "pictofs_shared_call_duration_seconds", "How long its answers took."
        )
        bounds = [*map(str, LATENCY_BOUNDS_S), "+Inf"]
        counts = map(float, accumulate(stats.buckets))
        took.add_metric([], list(zip(bounds, counts, strict=True)), stats.seconds)
        yield took

    @asynccontextmanager
    async def served(self, port: int) -> AsyncIterator[None]:
        """`/metrics` is answered at `port` of the loopback inside.

        Raises:
            Conflict: something else listens there.
            MountFailed: it can't be listened at.
        """
        try:
            (listener,) = await trio.open_tcp_listeners(port, host=LOOPBACK)
        except OSError as error:
            kind = Conflict if error.errno == errno.EADDRINUSE else MountFailed
            raise kind(
                f"metrics can't be served at {LOOPBACK}:{port}: {error.strerror}; "
                "name another port by --metrics-port"
            ) from None

        log.info("metrics are served at http://%s:%s/metrics", LOOPBACK, port)

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(MetricsServer(self.text_of_process).serve, listener)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()


def _gauge(name: str, help: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"pictofs_{name}", help, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"pictofs_{name}", help, value)
