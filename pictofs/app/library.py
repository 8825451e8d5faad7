"""A library, put together from settings."""

from __future__ import annotations

import hashlib
import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from pictofs.api.client import Api
from pictofs.api.http_transport import NoNetwork
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.clock import SystemClock
from pictofs.config import LibrarySettings
from pictofs.errors import PictofsError
from pictofs.library.content.worker import Setup
from pictofs.library.library import Library, Shared
from pictofs.library.prefetch.prefetcher import PrefetchMode
from pictofs.store.blobs.cache import BlobCache
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.database import SCHEMA_VERSION
from pictofs.store.catalog.inherit import inherit, is_unused, siblings
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Seconds at the end in which what other nodes wait for is sent."""
ATTEMPT = 1 / 3
"""Share of an operation's deadline that one silent connection may take.

The rest is left for another one to be tried.
"""


@asynccontextmanager
async def open_library(
    settings: LibrarySettings,
    api_key: ApiKey,
    *,
    prefetch: PrefetchMode = "off",
    frozen: bool = False,
    offline: bool = False,
    writable: bool = False,
    bulk_annotations: bool = False,
    worker: bool = False,
) -> AsyncIterator[tuple[Library, trio.Nursery]]:
    """A library with the user's cache and catalog, and the nursery that it lives in.

    The nursery is cancelled at the end. `worker`: whether a process of its own fetches ahead.
    `start` is left to the caller. What the body raises comes out in groups, see `only`. Raises
    PictofsError if the cache can't be used.
    """
    _raise_file_limit()
    clock = SystemClock()
    request_stats = RequestStats()
    server = _fingerprint(settings.base_url)

    blob_cache = BlobCache(
        settings.blobs_dir, limit=settings.cache_size, reserve=settings.min_free, clock=clock
    )
    catalog = Catalog(_made(catalog_path(settings, api_key)))

    api = Api(
        settings.base_url,
        api_key,
        clock=clock,
        request_stats=request_stats,
        timeout=settings.timeout * ATTEMPT,
        max_retries=0 if offline else settings.max_retries,
        allow_plain_http=settings.allow_plain_http,
        transport=NoNetwork() if offline else None,
    )
    storage = Storage(
        clock=clock,
        request_stats=request_stats,
        connect_timeout=settings.timeout * ATTEMPT,
        inactivity_timeout=settings.timeout * ATTEMPT,
        allow_plain_http=settings.allow_plain_http,
    )

    engine = None
    if settings.engine is not None and not offline:
        # Imported with the option alone, and after the fork: it takes half a second.
        from pictofs.store.shared.engine import SharedEngine  # noqa: PLC0415

        engine = SharedEngine(
            settings.engine,
            api_key.reveal(),
            settings.base_url,
            clock=clock,
            common_time=lambda: request_stats.server_time.at(clock.monotonic()) or clock.wall(),
        )

    try:
        async with api, storage, trio.open_nursery() as nursery:
            if not offline and is_unused(catalog):
                await _inherit(catalog, api, settings.timeout)

            library = Library(
                api,
                storage,
                catalog,
                blob_cache,
                nursery,
                clock,
                request_stats,
                ttl=settings.metadata_ttl,
                annotation_ttl=settings.annotation_ttl,
                max_retries=settings.max_retries,
                server=server,
                prefetch=prefetch,
                frozen=frozen,
                offline=offline,
                cache_size=settings.cache_size,
                writable=writable,
                bulk_annotations=bulk_annotations,
                worker=_setup(settings) if worker else None,
                shared=None
                if engine is None
                else Shared(engine, str(settings.engine), engine.stats),
                timeout=settings.timeout,
            )
            if engine is not None:
                nursery.start_soon(library.keep, engine.run)

            yield library, nursery
            if engine is not None:
                await engine.flush(FLUSH_S)
            nursery.cancel_scope.cancel()
    finally:
        catalog.close()
        blob_cache.close()


async def _inherit(catalog: Catalog, api: Api, patience: float) -> None:
    """Take over what another key of the same organization has listed and fetched, if there is any.

    It costs one request, where there is another key's catalog of this server. Whatever keeps it from
    being done, the catalog begins empty. `patience`: seconds for the request.
    """
    others = siblings(catalog.database.path)
    if not others:
        return

    organization = None
    with suppress(PictofsError), trio.move_on_after(patience):
        page = await api.datasets(limit=1)
        organization = next((row.raw.get("organization_id") for row in page.rows), None)

    if not isinstance(organization, str):
        return

    for other in others:
        with suppress(PictofsError):
            if await in_thread(inherit, catalog, other, organization):
                log.info("another key of the same organization was used before: %s", other)
                return


def _raise_file_limit() -> None:
    """Have as many files open as this process may.

    Each file that a reader has open is one of ours.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _setup(settings: LibrarySettings) -> Setup:
    return Setup(
        root=str(settings.blobs_dir),
        limit=settings.cache_size,
        reserve=settings.min_free,
        timeout=settings.timeout * ATTEMPT,
        allow_plain_http=settings.allow_plain_http,
    )


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure with a name, or else the first one, or the whole group."""
    named = group.subgroup(PictofsError) or group
    error: BaseException = named
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fingerprint(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def catalog_path(settings: LibrarySettings, api_key: ApiKey) -> Path:
    """The catalog of a server and a key: another key may see other items.

    Each version of its tables has one, too: an older pictofs that is still mounted, or is started
    again, keeps its own.

    The name holds a hash of the API key with 64 bits, of which nothing of the key can be told.
    """
    owner = hashlib.blake2b(
        api_key.reveal().encode(), digest_size=8, person=b"pictofs-catalog"[:16]
    ).hexdigest()
    name = f"{_fingerprint(settings.base_url)}-{owner}.v{SCHEMA_VERSION}.db"
    return settings.cache_dir / "catalog" / name


def _made(path: Path) -> Path:
    """`path`, whose folder is there now. Raises PictofsError."""
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise PictofsError(f"the cache folder {folder} can't be used: {error.strerror}") from error
    return path
