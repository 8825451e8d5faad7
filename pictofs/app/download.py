"""A download, from settings to its last file: a library of its own, and no mount."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from pictofs.api.key import ApiKey
from pictofs.app.library import only, open_library
from pictofs.config import LibrarySettings
from pictofs.library.bulk.download import DownloadJob, DownloadRequest
from pictofs.store.folder import Folder

TELL_EVERY_S = 0.25
"""Seconds between two progress objects."""


@dataclass
class Ended:
    """How a download ended."""

    result: dict[str, Any]
    """See `DownloadJob.result`."""
    error: Exception | None
    """What ended it early."""
    interrupted: bool
    """Whether that was SIGINT or SIGTERM."""


def download(
    settings: LibrarySettings,
    key: ApiKey,
    root: Path,
    wanted: DownloadRequest,
    show: Callable[[dict[str, Any]], None],
) -> Ended:
    """Write a dataset to the folder `root`, and `show` now and then how far that is.

    Raises PictofsError for what went wrong before the server was asked.
    """
    with Folder(root) as folder:
        try:
            return trio.run(_run, settings, key, folder, wanted, show)
        except BaseExceptionGroup as group:
            # Of the nursery, however few are in it.
            raise only(group) from group


async def _run(
    settings: LibrarySettings,
    key: ApiKey,
    folder: Folder,
    wanted: DownloadRequest,
    show: Callable[[dict[str, Any]], None],
) -> Ended:
    interrupted = False

    async def stop_on_signals(run: DownloadJob, task_status: trio.TaskStatus[None]) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                interrupted = True
                run.cancel()

    async with open_library(settings, key) as (library, nursery):
        library.start(nursery, readers=False)
        run = DownloadJob(library, folder, wanted)
        await nursery.start(stop_on_signals, run)
        nursery.start_soon(run.run)

        while not run.finished.is_set():
            show(run.progress())
            with trio.move_on_after(TELL_EVERY_S):
                await run.finished.wait()

    return Ended(run.result(), run.error, interrupted)
