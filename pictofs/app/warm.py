"""The control operation `warm`: fetch ahead what is below some paths, and tell how it goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
import trio

from pictofs.errors import Invalid
from pictofs.library.bulk.scope import Choice, Kind
from pictofs.library.bulk.warm import WarmJob, WarmRequest
from pictofs.library.library import Library
from pictofs.library.prefetch.prefetcher import WORKERS

WORKERS_MOST = WORKERS


class WarmMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A request as the command line sends it."""

    op: str
    paths: list[str]
    """Below the mount point; `.` is all of it."""
    mode: Literal["fetch", "look", "evict"] = "fetch"
    kinds: list[Kind] | None = None
    status: str | None = None
    split: str | None = None
    workers: int = 16
    bulk: bool = False
    wait: bool = True
    peer: int = 0
    """The process that asks."""


class WarmCommand:
    """Answers with the progress of the run, and last with its result, which holds `failures`.

    The run ends when the client leaves.
    """

    def __init__(self, library: Library, nursery: trio.Nursery) -> None:
        self._library = library
        self._nursery = nursery

    async def __call__(self, request: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """Begin a run. Raises Invalid for a request without sense, and what ended the run early."""
        try:
            message = msgspec.convert(request, WarmMessage)
        except msgspec.ValidationError as error:
            raise Invalid(f"the request can't be understood: {error}") from None

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


def _request(message: WarmMessage) -> WarmRequest:
    if not 1 <= message.workers <= WORKERS_MOST:
        raise Invalid(f"from 1 to {WORKERS_MOST} workers, not {message.workers}")

    kinds = None if message.kinds is None else frozenset(message.kinds)
    return WarmRequest(
        paths=tuple(PurePosixPath(path).parts for path in message.paths),
        choice=Choice(kinds, message.status, message.split),
        workers=message.workers,
        bulk=message.bulk,
        wait=message.wait,
    )
