"""Blocking calls of many tasks: made inline while the disk is quick, else together in one thread.

To hand a call to a thread and back costs 100 to 300 us, more than storing 100 KiB. While one batch
is made, the calls for the next one gather: under load many files share a thread's turn, and a lone
call is made at once. Small writes are made on the event loop as long as the disk takes them
quickly: passing the interpreter lock to a thread and back costs as much again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from pictofs.errors import DiskFull
from pictofs.store.blobs.cache import WouldBlock
from pictofs.threads import in_thread

T = TypeVar("T")

SLOW_S = 0.05
"""The disk counts as slow if one inline call takes more than this many seconds: the event loop must
not stand still."""
INLINE_MAX_BYTES = 1 << 20
"""Bytes up to which a file is written inline, on a quick disk: 130 us for 100 KiB."""
CAUTION_S = 5.0
"""Seconds for which a slow disk is left to the thread, if there are readers who would notice that
the event loop stands still."""
MOST = 32
"""Calls in one batch: at 0.2 ms each, the first of them is answered after 6 ms at the latest."""


class Disk:
    """A queue in front of a thread. Calls are made one at a time, in order.

    Every call ends, even if no thread can be started: it is made on the event loop then.
    """

    def __init__(self, caution: float = CAUTION_S) -> None:
        """`caution`: seconds for which a slow disk is left to the thread."""
        self._caution = caution
        self._waiting: list[_Call] = []
        self._wake = trio.Event()
        self._slow_until = 0.0
        self._ended = False

    def quick(self, work: Callable[..., T], *args: Any) -> T:
        """The result of `work(*args)`, called now on the event loop.

        Raises WouldBlock, without a call, if the disk was slow lately.
        """
        start = time.perf_counter()
        if start < self._slow_until:
            raise WouldBlock("the disk is slow")

        try:
            return work(*args)
        finally:
            now = time.perf_counter()
            if now - start > SLOW_S:
                self._slow_until = now + self._caution

    async def run(
        self, size: int, inline: Callable[[], T], threaded: Callable[[], T] | None = None
    ) -> T:
        """The result of what writes `size` bytes: on the event loop if little, on a quick disk.

        `threaded`: what is called in the thread, if that may wait and `inline` raises WouldBlock
        where it would have to; None: the same.
        """
        if size <= INLINE_MAX_BYTES:
            with suppress(WouldBlock):
                return self.quick(inline)
        return await self.call(threaded or inline)

    async def call(self, work: Callable[..., T], *args: Any) -> T:
        """The result of `work(*args)`, called in the thread, or what it raises.

        A call that has begun is not cancelled.
        """
        call = _Call(work, args)
        self._waiting.append(call)
        self._wake.set()
        if self._ended:
            await self._make_waiting()

        try:
            await call.done.wait()
        except trio.Cancelled:
            if call in self._waiting:
                self._waiting.remove(call)
                raise

            with trio.CancelScope(shield=True):
                await call.done.wait()

        if call.error is not None:
            raise call.error

        result: T = call.value
        return result

    async def serve(self) -> None:
        """Make the calls, for as long as the library lives. After that each caller makes its
        own."""
        self._ended = False
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._make_waiting()
        finally:
            self._ended = True
            await self._make_waiting()

    async def _make_waiting(self) -> None:
        # Somebody waits for the end of each call that has begun.
        with trio.CancelScope(shield=True):
            while self._waiting:
                batch = self._waiting[:MOST]
                self._waiting = self._waiting[MOST:]
                try:
                    await in_thread(_make, batch)
                finally:
                    for call in batch:
                        call.done.set()


_NOT_MADE = DiskFull("the disk was not asked: no thread could be started")


class _Call:
    __slots__ = ("args", "done", "error", "value", "work")

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.work = work
        self.args = args
        self.done = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = _NOT_MADE


def _make(batch: list[_Call]) -> None:
    for call in batch:
        try:
            call.value = call.work(*call.args)
            call.error = None
        except BaseException as error:  # also an extension's panic: somebody waits for the call
            call.error = error
