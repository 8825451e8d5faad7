"""The control operation `warm`: fetch ahead what is below some paths, and tell how it goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import PurePosixPath
from typing import Any

import trio

from pictofs.control import messages
from pictofs.errors import Invalid
from pictofs.library.bulk.scope import Choice
from pictofs.library.bulk.warm import WarmJob, WarmRequest
from pictofs.library.library import Library
from pictofs.library.prefetch.prefetcher import WORKERS
from pictofs.model.shard import Shard

WORKERS_MOST = WORKERS


class WarmCommand:
    """Answers with the progress of the run, and last with its result, which holds `failures`.

    The run ends when the client leaves.
    """

    def __init__(self, library: Library, nursery: trio.Nursery) -> None:
        self._library = library
        self._nursery = nursery

    async def __call__(
        self, message: messages.WarmRequest
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Begin a run. Raises Invalid for a request without sense, and what ended the run early."""
        job = WarmJob(self._library, _request(message))

        # A task of its own: this generator may be left at any of its yields.
        self._nursery.start_soon(getattr(job, message.mode))
        try:
            while not job.finished.is_set():
                yield job.progress()
                await job.next_report()

            result = job.result()
            if job.error is None or result["files"]:
                yield result
            if job.error is not None:
                raise job.error
        finally:
            job.cancel()


def _request(message: messages.WarmRequest) -> WarmRequest:
    if not 1 <= message.workers <= WORKERS_MOST:
        raise Invalid(f"from 1 to {WORKERS_MOST} workers, not {message.workers}")

    kinds = None if message.kinds is None else frozenset(message.kinds)
    shard = None if message.shard is None else Shard(*message.shard)
    return WarmRequest(
        paths=tuple(PurePosixPath(path).parts for path in message.paths),
        choice=Choice(kinds, message.status, message.split, shard),
        workers=message.workers,
        bulk=message.bulk,
        wait=message.wait,
    )
