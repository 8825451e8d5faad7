"""A mount, from settings to unmounting."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec
import trio

from pictofs import __version__
from pictofs.api.key import ApiKey
from pictofs.api.retries import API_CALL
from pictofs.app import mount_table, mounting, systemd
from pictofs.app.library import only, open_library
from pictofs.app.logs import log_accesses, log_path, reopen
from pictofs.app.metrics import Metrics
from pictofs.app.orders import Orders
from pictofs.app.readme import README
from pictofs.app.warm import WarmCommand
from pictofs.config import MountSettings
from pictofs.control.messages import (
    DatasetsReply,
    DatasetsRequest,
    OrderRequest,
    RefreshReply,
    RefreshRequest,
    Request,
    StatusRequest,
    WarmRequest,
)
from pictofs.control.place import new_shared_socket, new_socket
from pictofs.control.server import ControlServer, Handler
from pictofs.errors import PictofsError, Unauthorized
from pictofs.fuse.access import AccessLog
from pictofs.fuse.operations import Operations
from pictofs.fuse.session import Session
from pictofs.library.library import Library
from pictofs.library.listing.listing import COMMAND_REFRESH_WAIT_S
from pictofs.model.status import OperationStatus, Status
from pictofs.vfs.place import Places
from pictofs.vfs.tree import Tree

log = logging.getLogger(__name__)


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""What ends a mount; in the foreground SIGHUP does, too."""
SWITCH_S = 0.0005
"""Seconds that a thread may keep the loop from the interpreter.

That may happen after each of the loop's system calls.
"""


def serve(settings: MountSettings, api_key: ApiKey, on_ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted, or until SIGINT or SIGTERM.

    Calls `on_ready` once the mount answers. Raises PictofsError for what went wrong before.
    """
    sys.setswitchinterval(SWITCH_S)
    try:
        trio.run(_Mount(settings, api_key, on_ready).run)
    except BaseExceptionGroup as group:
        # Of the nursery, however few are in it.
        raise only(group) from group


class _Mount:
    def __init__(
        self, settings: MountSettings, api_key: ApiKey, on_ready: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._api_key = api_key
        self._on_ready = on_ready
        self._started = time.time()

    async def run(self) -> None:
        settings = self._settings
        opened = open_library(
            settings,
            self._api_key,
            prefetch=settings.prefetch,
            frozen=settings.frozen,
            offline=settings.offline,
            writable=settings.writable,
            bulk_annotations=settings.bulk_annotations == "export",
            worker=True,
        )

        async with opened as (library, nursery):
            library.start(nursery)
            await self._check_access(library)
            await self._serve(library, nursery)

    async def _check_access(self, library: Library) -> None:
        """One request, which the mount needs anyway.

        A cached organization is mounted without a server.
        """
        await library.listing.datasets(patience=COMMAND_REFRESH_WAIT_S)
        if isinstance(library.connectivity.error, Unauthorized):
            raise library.connectivity.error

    async def _serve(self, library: Library, nursery: trio.Nursery) -> None:
        settings = self._settings
        if settings.allow_other:
            socket = new_shared_socket(settings.mountpoint)
        else:
            socket = new_socket(settings.mountpoint, settings.cache_dir, os.environ)

        def status() -> Status:
            found = Status(
                version=1,
                pictofs=__version__,
                pid=os.getpid(),
                mountpoint=str(settings.mountpoint),
                base_url=settings.base_url,
                started_at=self._started,
                control_socket=str(socket),
                log=_log_file(settings),
                open_files=tree.open_files,
                bugs=operations.bugs,
                operations={
                    name: OperationStatus(counts.total, counts.failed, counts.under_way)
                    for name, counts in operations.counts.items()
                },
            )
            library.fill_status(found, settings.cache_dir)
            found.rate.wait = max(
                settings.wait_for_limit, min(settings.timeout, API_CALL.total_wait)
            )
            return found

        def document() -> bytes:
            return json.dumps(msgspec.to_builtins(status()), indent=2).encode() + b"\n"

        def exposition() -> bytes:
            return metrics.text()

        tree = Tree(
            library,
            documents={
                "README.md": lambda: README,
                "status.json": document,
                "metrics": exposition,
            },
            exact_annotation_sizes=settings.annotation_sizes == "exact",
            started_ns=int(self._started * 1e9),
        )
        operations = Operations(
            tree,
            timeout=settings.timeout,
            uid=settings.uid,
            gid=settings.gid,
            umask=settings.umask,
            wait_for_limit=settings.wait_for_limit,
            writable=settings.writable,
        )
        if settings.access_log is not None:
            log_accesses(settings)
            operations.log_access = AccessLog(tree, Places(library))

        metrics = Metrics(
            library,
            operations.counts,
            mountpoint=str(settings.mountpoint),
            open_files=lambda: tree.open_files,
            bugs=lambda: operations.bugs,
        )

        handlers: dict[type[Request], Handler] = {
            RefreshRequest: _Refresh(library),
            StatusRequest: _Status(status),
            DatasetsRequest: _Datasets(library, frozen=settings.frozen),
            WarmRequest: WarmCommand(library, nursery),
            OrderRequest: Orders(library, nursery),
        }
        # Whoever may read may look, and say what they will read.
        for_guests = (StatusRequest, OrderRequest) if settings.allow_other else ()
        await nursery.start(ControlServer(socket, handlers, for_guests=for_guests).serve)

        port = settings.metrics_port
        async with metrics.served(port) if port else nullcontext():
            stopping = _Stopping(foreground=settings.foreground)
            await nursery.start(stopping.listen)

            if settings.fuse_fd is None:
                mounting.check_free(settings.mountpoint)
            session = Session(
                operations,
                settings.mountpoint,
                writable=settings.writable,
                allow_other=settings.allow_other,
                fd=settings.fuse_fd,
            )
            made = mount_table.mount_at(settings.mountpoint)

            try:
                nursery.start_soon(_read_ahead, settings.mountpoint, operations.asked)
                nursery.start_soon(session.forget_entries, library.invalidations.incoming)
                nursery.start_soon(operations.interrupts.watch)
                stopping.use(session)
                self._on_ready()
                log.info("mounted %s at %s", settings.base_url, settings.mountpoint)
                self._tell_systemd(
                    "READY=1", f"STATUS={settings.base_url} is mounted at {settings.mountpoint}"
                )
                await session.serve(_looker(made))
            except PictofsError as error:
                # In the background what ends the process is logged anyway.
                if settings.foreground:
                    log.error("%s", error)
                raise
            finally:
                self._tell_systemd("STOPPING=1")
                session.close()
                tree.close_all()
                if settings.fuse_fd is not None and session.clean:
                    mounting.take_away(made)

        log.info("unmounted %s", settings.mountpoint)

    def _tell_systemd(self, *lines: str) -> None:
        # In the background we may run in somebody else's unit.
        if self._settings.foreground:
            systemd.tell(*lines)


class _Status:
    """The control operation `status`.

    It answers with status.json, without a request of the kernel that it would count.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    async def __call__(self, request: StatusRequest) -> Status:
        return self._status()


def _log_file(settings: MountSettings) -> str | None:
    """The file that this process logs to; None for a terminal."""
    if settings.foreground and settings.log_file is None:
        return None
    return str(log_path(settings))


def _looker(made: mount_table.Mount | None) -> Callable[[], bool]:
    """Tells whether a mount is still there, somewhere. It is not touched for that."""

    def is_mounted() -> bool:
        return made is not None and any(
            each.device == made.device for each in mount_table.all_mounts()
        )

    return is_mounted


async def _read_ahead(mountpoint: Path, asked: trio.Event) -> None:
    """Have the kernel read ahead further, once the mount has been asked for something.

    The answer to INIT, which comes before any request, resets that to 128 KiB. The mount must not
    ask itself: if it is killed meanwhile, its own thread waits for an answer for ever, holds
    /dev/fuse open, and so hangs every program that looks at the mount.
    """
    await asked.wait()
    with suppress(OSError):
        mounting.set_read_ahead(mountpoint)


class _Refresh:
    """The control operation `refresh`."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def __call__(self, request: RefreshRequest) -> RefreshReply:
        parts = Path(request.path).parts
        entry = parts[1] if len(parts) > 1 and parts[0] == "datasets" else None
        return RefreshReply(await self._library.refresh(entry))


class _Datasets:
    """The control operation `datasets`."""

    def __init__(self, library: Library, *, frozen: bool) -> None:
        self._library = library
        self._frozen = frozen

    async def __call__(self, request: DatasetsRequest) -> DatasetsReply:
        # A frozen mount shows what was, whoever changes it.
        if not self._frozen:
            await self._library.refresh_list()
        return DatasetsReply()


class _Stopping:
    """Ends the mount in order by a signal.

    Any other end by one would leave the mount point broken.
    """

    def __init__(self, *, foreground: bool) -> None:
        self._foreground = foreground
        self._session: Session | None = None
        self._stopped = False

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """From before it is mounted until the end."""
        with trio.open_signal_receiver(*self._signals()) as signals:
            task_status.started()
            async for number in signals:
                self._hear(signal.Signals(number))

    def use(self, session: Session) -> None:
        """It is mounted: what is to be stopped, at once if a signal came before."""
        self._session = session
        if self._stopped:
            session.stop()

    def _signals(self) -> list[signal.Signals]:
        heard = [*STOPS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
        if self._foreground and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
            heard.remove(signal.SIGHUP)
        return heard

    def _hear(self, number: signal.Signals) -> None:
        if number in STOPS or (number == signal.SIGHUP and self._foreground):
            log.info("stopping on %s", number.name)
            self._stopped = True
            if self._session is not None:
                self._session.stop()
        elif number == signal.SIGHUP:
            reopen()
            log.info("the log goes on in a file of its name, by SIGHUP")
        # Others would end the process, and mean nothing to it.
