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
from pictofs.library.bulk.format_download import FormatDownloadJob
from pictofs.model.formats import Format
from pictofs.store.folder import Folder


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
    api_key: ApiKey,
    root: Path,
    request: DownloadRequest,
    format_: Format | None,
    show: Callable[[dict[str, Any]], None],
) -> Ended:
    """Write a dataset to the folder `root`, and `show` now and then how far that is.

    `format_`: the layout; None: as in a mount, images and annotations.

    Raises PictofsError for what went wrong before the server was asked.
    """
    with Folder(root) as folder:
        try:
            return trio.run(_run, settings, api_key, folder, request, format_, show)
        except BaseExceptionGroup as group:
            # Of the nursery, however few are in it.
            raise only(group) from group


async def _run(
    settings: LibrarySettings,
    api_key: ApiKey,
    folder: Folder,
    request: DownloadRequest,
    format_: Format | None,
    show: Callable[[dict[str, Any]], None],
) -> Ended:
    interrupted = False

    async def stop_on_signals(job: DownloadJob, task_status: trio.TaskStatus[None]) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                interrupted = True
                job.cancel()

    async with open_library(settings, api_key) as (library, nursery):
        library.start(nursery, readers=False)
        job = DownloadJob(library, folder, request)
        if format_ is not None:
            job = FormatDownloadJob(library, folder, request, format_)
        await nursery.start(stop_on_signals, job)
        nursery.start_soon(job.run)

        while not job.finished.is_set():
            show(job.progress())
            await job.next_report()

    return Ended(job.result(), job.error, interrupted)
