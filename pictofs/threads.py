"""Blocking work in a thread, or here where no thread can be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from pictofs.errors import PictofsError

T = TypeVar("T")


class NoThread(PictofsError):
    """The limit of the user's processes is reached (ulimit -u, pids.max), or memory is."""


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """The result of `work(*args)`, or what it raises; on the event loop where no thread can be started.

    Everybody waits for it then, where otherwise nobody would ever get an answer.
    """
    try:
        return await only_in_thread(work, *args)
    except NoThread:
        return work(*args)


async def only_in_thread(work: Callable[..., T], *args: Any, abandon_on_cancel: bool = False) -> T:
    """The same for work that the event loop must not do. Raises NoThread before the work begins."""
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
