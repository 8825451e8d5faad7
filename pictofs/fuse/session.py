"""One mount's life in the kernel: made, served, unmounted."""

from __future__ import annotations

import logging
from pathlib import Path

import pyfuse3
import trio
import trio.lowlevel

from pictofs.errors import MountFailed
from pictofs.fuse.operations import Operations
from pictofs.store.rows import Gone

log = logging.getLogger(__name__)

MAX_TASKS = 512
"""Requests handled at once. With the default of 99 and 50 ms of delay a mount served half as many files."""


class Session:
    """A mount point in the kernel."""

    def __init__(self, operations: Operations, mountpoint: Path, *, allow_other: bool) -> None:
        """Mount. Raises MountFailed."""
        options = set(pyfuse3.default_options)
        options |= {"fsname=pictofs", "subtype=pictofs", "ro", "default_permissions"}
        if allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as error:
            raise MountFailed(f"{mountpoint} can't be mounted: {error}") from error
        self._clean = False
        self._serving = trio.CancelScope()

    async def serve(self) -> None:
        """Answer the kernel until the mount is unmounted or `stop` is called."""
        with self._serving:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        self._clean = True

    def stop(self) -> None:
        """Ask `serve` to end. Requests under way are dropped: one that waits for the server could take long."""
        pyfuse3.terminate()
        self._serving.cancel()

    def close(self) -> None:
        """Unmount; after a crash leave the mount point broken: an empty folder would pass for a dataset."""
        pyfuse3.close(unmount=self._clean)


async def forget_entries(incoming: trio.MemoryReceiveChannel[Gone]) -> None:
    """Pass on to the kernel what folders no longer have. Never from inside a handler: that can deadlock."""
    async for parent, entry in incoming:
        try:
            pyfuse3.invalidate_entry_async(
                pyfuse3.InodeT(parent), pyfuse3.FileNameT(entry.encode()), ignore_enoent=True
            )
        except OSError as error:
            log.debug("the kernel did not take a change: %s", error)
        await trio.lowlevel.checkpoint()
