"""Runs blocking work in a thread, or on the event loop if no thread can be started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from pictofs.errors import PictofsError

T = TypeVar("T")


class NoThread(PictofsError):
    """The user's process limit (ulimit -u, pids.max) or the memory is used up."""


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """The result of `work(*args)`, or what it raises.

    If no thread can be started, `work` blocks the event loop: that is better than no answer.
    """
    try:
        return await only_in_thread(work, *args)
    except NoThread:
        return work(*args)


async def only_in_thread(work: Callable[..., T], *args: Any, abandon_on_cancel: bool = False) -> T:
    """Like `in_thread`, but never blocks: raises NoThread if no thread can be started.

    `abandon_on_cancel` is as in `trio.to_thread.run_sync`.
    """
    began = False

    def counted() -> T:
        nonlocal began
        began = True
        return work(*args)

    try:
        return await trio.to_thread.run_sync(counted, abandon_on_cancel=abandon_on_cancel)
    except (RuntimeError, MemoryError, OSError) as error:
        if began:
            raise
        raise NoThread(f"no thread can be started: {error}") from error
