"""A mount, from settings to unmounting."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from pictofs import __version__
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.meter import Meter
from pictofs.api.nonetwork import NoNetwork
from pictofs.api.storage import Storage
from pictofs.app.orders import Orders
from pictofs.app.warm import WarmCommand
from pictofs.clock import SystemClock
from pictofs.config import MountSettings
from pictofs.control.place import new_socket
from pictofs.control.server import ControlServer, Handler
from pictofs.errors import PictofsError, Unauthorized
from pictofs.fuse.operations import Operations
from pictofs.fuse.session import Session
from pictofs.library.library import Library
from pictofs.store.catalog import Catalog
from pictofs.store.shelf import Shelf
from pictofs.vfs.tree import Tree

log = logging.getLogger(__name__)

ATTEMPT = 1 / 3
"""Share of an operation's deadline that one silent connection may take, so that another can be tried."""


def serve(settings: MountSettings, key: ApiKey, on_ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted, or until SIGINT or SIGTERM.

    Calls `on_ready` once the mount answers. Raises PictofsError for what went wrong before.
    """
    try:
        trio.run(_Mount(settings, key, on_ready).run)
    except BaseExceptionGroup as group:  # of the nursery, however few are in it
        raise _only(group) from group


class _Mount:
    def __init__(self, settings: MountSettings, key: ApiKey, on_ready: Callable[[], None]) -> None:
        self._settings, self._key, self._on_ready = settings, key, on_ready
        self._started = time.time()

    async def run(self) -> None:
        settings, clock, meter = self._settings, SystemClock(), Meter()
        server = _fingerprint(settings.base_url)
        shelf = Shelf(
            settings.shelf_dir,
            limit=settings.cache_size,
            reserve=settings.min_free,
            clock=clock,
        )
        catalog = Catalog(_catalog_path(settings, server, self._key))
        api = Api(
            settings.base_url,
            self._key,
            clock=clock,
            meter=meter,
            timeout=settings.timeout * ATTEMPT,
            max_retries=0 if settings.offline else settings.max_retries,
            allow_plain_http=settings.allow_plain_http,
            transport=NoNetwork() if settings.offline else None,
        )
        storage = Storage(
            clock=clock,
            meter=meter,
            connect_timeout=settings.timeout * ATTEMPT,
            inactivity_timeout=settings.timeout * ATTEMPT,
            allow_plain_http=settings.allow_plain_http,
        )
        try:
            async with api, storage, trio.open_nursery() as nursery:
                library = Library(
                    api,
                    storage,
                    catalog,
                    shelf,
                    nursery,
                    clock,
                    meter,
                    ttl=settings.metadata_ttl,
                    max_retries=settings.max_retries,
                    server=server,
                    prefetch=settings.prefetch,
                    frozen=settings.frozen,
                    cache_size=settings.cache_size,
                    bulk_annotations=settings.bulk_annotations == "export",
                )
                library.start(nursery)
                await self._check_access(library)
                await self._serve(library, nursery)
                nursery.cancel_scope.cancel()
        finally:
            catalog.close()
            shelf.close()

    async def _check_access(self, library: Library) -> None:
        """One request, which the mount needs anyway. A cached organization is mounted without a server."""
        await library.listing.datasets()
        if isinstance(library.reach.error, Unauthorized):
            raise library.reach.error

    async def _serve(self, library: Library, nursery: trio.Nursery) -> None:
        settings = self._settings
        socket = new_socket(settings.mountpoint, settings.cache_dir, os.environ)

        def status() -> dict[str, Any]:
            return {
                "version": 1,
                "pictofs": __version__,
                "pid": os.getpid(),
                "mountpoint": str(settings.mountpoint),
                "base_url": settings.base_url,
                "started_at": self._started,
                "control_socket": str(socket),
                "open_files": tree.open_files,
                "bugs": operations.bugs,
                **library.status(settings.cache_dir),
            }

        tree = Tree(
            library,
            status=status,
            exact_annotation_sizes=settings.annotation_sizes == "exact",
            started_ns=int(self._started * 1e9),
        )
        operations = Operations(
            tree, timeout=settings.timeout, uid=settings.uid, gid=settings.gid, umask=settings.umask
        )
        handlers: dict[str, Handler] = {
            "refresh": _Refresh(library),
            "warm": WarmCommand(library, nursery),
            "order": Orders(library, nursery),
        }
        await nursery.start(ControlServer(socket, handlers).serve)
        session = Session(operations, settings.mountpoint, allow_other=settings.allow_other)
        try:
            nursery.start_soon(session.forget_entries, library.changes.incoming)
            await nursery.start(_stop_on_signals, session)
            self._on_ready()
            log.info("mounted %s at %s", settings.base_url, settings.mountpoint)
            await session.serve()
        finally:
            session.close()
            tree.close_all()
        log.info("unmounted %s", settings.mountpoint)


class _Refresh:
    """The control operation `refresh`: a path below the mount point, `.` for everything."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        parts = Path(str(request.get("path", "."))).parts
        entry = parts[1] if len(parts) > 1 and parts[0] == "datasets" else None
        return {"datasets": await self._library.refresh(entry)}


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure with a name, or else the first one, or the whole group."""
    named = group.subgroup(PictofsError) or group
    error: BaseException = named
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _stop_on_signals(
    session: Session, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            session.stop()


def _fingerprint(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _catalog_path(settings: MountSettings, server: str, key: ApiKey) -> Path:
    """One catalog for each server and key: another key may see other items.

    The name holds a hash of the key with 64 bits, of which nothing of the key can be told.
    """
    owner = hashlib.blake2b(key.reveal().encode(), digest_size=8, person=b"pictofs-catalog"[:16]).hexdigest()
    folder = settings.cache_dir / "catalog"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise PictofsError(f"the cache folder {folder} can't be used: {error.strerror}") from error
    return folder / f"{server}-{owner}.db"
