"""One mount's life in the kernel: made, served, unmounted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyfuse3
import trio

from pictofs.errors import MountFailed, PictofsError
from pictofs.fuse.operations import Operations
from pictofs.fuse.reason import Reason, heard
from pictofs.fuse.request_loop import install
from pictofs.store.catalog.rows import RemovedDentry
from pictofs.threads import NoThread, only_in_thread

log = logging.getLogger(__name__)

MAX_TASKS = 512
"""Requests handled at once.

With the default of 99 and 50 ms of delay a mount served half as many files.
"""


THREAD_RETRY_AFTER_S = 1.0
"""Seconds between attempts to start a thread, if the limit of processes is reached."""
BATCH = 64
"""Entries that one hop to a thread makes the kernel forget."""
UNMOUNT_TIME = 1.0
UNMOUNT_LOOK = 0.02
"""Seconds that `umount -f` may take, and between looks at it.

The time is that from breaking the connection off to removing the mount.
"""
SHUTDOWN_TIMEOUT_S = 1.0
"""Seconds that closing waits for a notification under way."""


class Session:
    """A mount point in the kernel."""

    def __init__(
        self,
        operations: Operations,
        mountpoint: Path,
        *,
        writable: bool,
        allow_other: bool,
        fd: int | None = None,
    ) -> None:
        """Mount. Unless `writable` the kernel itself refuses every change. Raises MountFailed.

        `fd`: an open /dev/fuse that somebody else has mounted, with options of their own. It is
        served, and closed in the end; nothing is mounted or unmounted.
        """
        options = set(pyfuse3.default_options)
        options |= {"fsname=pictofs", "subtype=pictofs", "default_permissions"}
        if not writable:
            options.add("ro")
        if allow_other:
            options.add("allow_other")

        # libfuse takes a mount point of this form for a descriptor, and mounts nothing.
        place = str(mountpoint) if fd is None else f"/dev/fd/{fd}"

        install()
        reason = Reason()
        try:
            with heard() as reason:
                pyfuse3.init(operations, place, options)
        except RuntimeError as error:
            raise MountFailed(f"{mountpoint} can't be mounted: {reason.text or error}") from error

        self._unmounts = fd is None
        self.clean = False
        """Whether it has ended in order."""
        self._stopped = False
        self._serving = trio.CancelScope()
        self._telling = threading.Lock()
        self._closed = False

    async def serve(self, is_mounted: Callable[[], bool]) -> None:
        """Answer the kernel until the mount is unmounted or `stop` is called.

        Raises PictofsError if the kernel has broken the connection off, which looks like an
        unmount but for the mount that stays: `is_mounted` tells whether it is there.
        """
        with self._serving:
            await pyfuse3.main(max_tasks=MAX_TASKS)

        if not self._stopped and await self._stays(is_mounted):
            raise PictofsError(
                "the kernel has aborted the connection of this mount (somebody wrote to"
                " /sys/fs/fuse/connections, or ran `umount -f`),"
                " and every access fails from now on;"
                " `pictofs mount` or `pictofs unmount` there cleans it up"
            )

        self.clean = True

    async def _stays(self, is_mounted: Callable[[], bool]) -> bool:
        """Whether a mount without a connection is there to stay.

        `umount -f` aborts first and unmounts then.
        """
        for _ in range(round(UNMOUNT_TIME / UNMOUNT_LOOK)):
            if not is_mounted():
                return False
            await trio.sleep(UNMOUNT_LOOK)

        return is_mounted()

    def stop(self) -> None:
        """Ask `serve` to end.

        Requests under way are dropped: one that waits for the server could take long.
        """
        self._stopped = True
        pyfuse3.terminate()
        self._serving.cancel()

    def close(self) -> None:
        """Unmount; after a crash leave the mount point broken.

        An empty folder would pass for a dataset.
        """
        # Not while a thread is in a notification. The kernel may hold one until a request is
        # answered, which nobody does any more: hence the bound.
        told = self._telling.acquire(timeout=SHUTDOWN_TIMEOUT_S)

        self._closed = True
        pyfuse3.close(unmount=self.clean and self._unmounts)
        if told:
            self._telling.release()

    async def forget_entries(self, incoming: trio.MemoryReceiveChannel[RemovedDentry]) -> None:
        """Pass on to the kernel what folders no longer have, until cancelled."""
        async for first in incoming:
            batch = [first]
            with suppress(trio.WouldBlock):
                while len(batch) < BATCH:
                    batch.append(incoming.receive_nowait())

            # In a thread: on the loop, which answers requests, it can deadlock.
            while True:
                try:
                    await only_in_thread(self._forget, batch, abandon_on_cancel=True)
                    break
                except NoThread:
                    await trio.sleep(THREAD_RETRY_AFTER_S)

    def _forget(self, batch: list[RemovedDentry]) -> None:
        for parent, entry in batch:
            with self._telling:
                if self._closed:
                    return

                try:
                    pyfuse3.invalidate_entry(
                        pyfuse3.InodeT(parent), pyfuse3.FileNameT(entry.encode())
                    )
                except FileNotFoundError:
                    # The kernel had not heard of it.
                    pass
                except OSError as error:
                    log.debug("the kernel did not take a change: %s", error)
