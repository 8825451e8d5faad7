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

TELL_EVERY_S = 0.25
"""Seconds between two progress objects: so soon a client that has left is noticed, too."""
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
            wanted = msgspec.convert(request, WarmMessage)
        except msgspec.ValidationError as error:
            raise Invalid(f"the request can't be understood: {error}") from None

        run = WarmJob(self._library, _wish(wanted))

        # A task of its own: this generator may be left at any of its yields.
        self._nursery.start_soon(getattr(run, wanted.mode))
        try:
            while not run.finished.is_set():
                yield run.progress()
                with trio.move_on_after(TELL_EVERY_S):
                    await run.finished.wait()

            result = run.result()
            if run.error is None or result["files"]:
                yield result
            if run.error is not None:
                raise run.error
        finally:
            run.cancel()


def _wish(wanted: WarmMessage) -> WarmRequest:
    if not 1 <= wanted.workers <= WORKERS_MOST:
        raise Invalid(f"from 1 to {WORKERS_MOST} workers, not {wanted.workers}")

    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    return WarmRequest(
        paths=tuple(PurePosixPath(path).parts for path in wanted.paths),
        choice=Choice(kinds, wanted.status, wanted.split),
        workers=wanted.workers,
        bulk=wanted.bulk,
        wait=wanted.wait,
    )
