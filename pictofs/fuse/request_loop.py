"""Has pyfuse3 take the next request at once if one is there, without a turn of trio's loop.

For each request pyfuse3's session loop takes a lock and waits until /dev/fuse is readable. By
trio's own primitives that is two turns of its scheduler, two `epoll_wait` and an `epoll_ctl`: 27 of
the 47 us of CPU that a bare pyfuse3 file system spends on an open and its release. While programs
read at full speed the next request is there already, and a `poll` of 1 us says so.

pyfuse3 looks `trio` up in its own module, where its asyncio mode puts something else; so does
`install`. All but the lock and the wait stay trio's.
"""

from __future__ import annotations

import select
from collections import deque
from time import perf_counter
from types import TracebackType
from typing import Any

import pyfuse3
import trio

SLICE_S = 0.001
"""Seconds for which requests may be taken without a turn of the scheduler.

Other tasks (the network's, the command line's) wait that long at most, and for the last request.
"""


def install() -> None:
    """Have pyfuse3 use this module from the next `pyfuse3.init` on."""
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]


class _Trio:
    """The module `trio` but for what is defined here."""

    def __init__(self) -> None:
        self.lowlevel = _LowLevel()
        self.Lock = ReadLock

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


class _LowLevel:
    """The module `trio.lowlevel` but for one function."""

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._slice_ends = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Return once `fd`, the session's only one, is readable."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)

        if perf_counter() < self._slice_ends and self._poll.poll(0):
            return

        await trio.lowlevel.wait_readable(fd)
        self._slice_ends = perf_counter() + SLICE_S


class ReadLock:
    """A lock that a task which finds it free takes at once.

    trio's hands itself over to the task that waits longest, and so makes each request change
    tasks. Here a task that is woken may find the lock taken again, and waits on: whoever has it
    reads requests, so none is left lying.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._woken = False
        """Whether a task was woken that has not run since."""

    async def __aenter__(self) -> None:
        while self._taken:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: Any, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._woken = False

        self._taken = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._taken = False
        if self._waiting and not self._woken:
            self._woken = True
            trio.lowlevel.reschedule(self._waiting.popleft())
