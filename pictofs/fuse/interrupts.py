"""Which threads ask, and whether a signal tells them to end.

A request of theirs is then given up, so that they can.

Once the daemon has a request, its process can't be interrupted, not even by SIGKILL: the kernel
sends FUSE_INTERRUPT and waits for the answer. pyfuse3 keeps that to itself; but a signal that waits
to be delivered shows in /proc.
"""

from __future__ import annotations

import os
import re
from signal import Signals

import trio

POLL_S = 0.2
"""Seconds between looks while requests are under way.

A look costs 20 us for each thread that has one.
"""

END = sum(
    1 << number - 1 for number in (Signals.SIGHUP, Signals.SIGINT, Signals.SIGQUIT, Signals.SIGTERM)
)
"""Signals that tell a process to end, also if it handles them.

Not SIGALRM or SIGCHLD, say: a program that handles those goes on afterwards, and does not expect
EINTR from a file.
"""
KILL = 1 << Signals.SIGKILL - 1
"""What each thread has pending as well, when a signal that is not handled ends its process."""

_MASKS = re.compile(rb"SigPnd:\s*(\w+)\nShdPnd:\s*(\w+)\nSigBlk:\s*(\w+)\nSigIgn:\s*(\w+)\n")


class InterruptWatcher:
    """The requests under way. One more costs 0.4 us: no task, no timer of its own."""

    def __init__(self) -> None:
        self._threads: dict[trio.CancelScope, int] = {}
        self._signalled: set[int] = set()
        """Threads that were told to end at the last look."""
        self._uninterruptible: set[int] = set()
        """Those of them that were told at the look before, too, and can't.

        What they ask is not waited for.
        """
        self._news = trio.Event()

    def enter(self, scope: trio.CancelScope, thread: int) -> None:
        """A request begins. Its scope is cancelled if `thread` is told to end.

        `thread`: 0 if it is not known.
        """
        if thread in self._uninterruptible and is_told_to_end(thread):
            # Of a long read() that went half-way the kernel gives the half, and the program asks
            # for the rest.
            scope.cancel()
            return

        self._threads[scope] = thread
        if len(self._threads) == 1:
            self._news.set()

    def leave(self, scope: trio.CancelScope) -> bool:
        """A request ends; whether its thread was told to end."""
        return self._threads.pop(scope, None) is None

    async def watch(self) -> None:
        """Look after them until cancelled; sleep while there are none."""
        if not _shows_our_processes():
            return

        while True:
            if not self._threads:
                self._news = trio.Event()
                await self._news.wait()

            await trio.sleep(POLL_S)
            self.look()

    def look(self) -> None:
        """Give up the requests of threads that were told to end, and could not.

        They were told before the last look, and could not end since.
        """
        interrupts = {*self._threads.values(), *self._signalled} - {0}
        told = {thread for thread in interrupts if is_told_to_end(thread)}
        self._uninterruptible = told & self._signalled
        self._signalled = told

        for scope in [
            scope for scope, thread in self._threads.items() if thread in self._uninterruptible
        ]:
            del self._threads[scope]
            scope.cancel()


def is_told_to_end(thread: int) -> bool:
    """Whether a signal is pending that will end a thread's process, or is handled by it.

    False if the thread is gone. `thread` is what the header of a request has: not a process but a
    thread, which has a folder in /proc, too.
    """
    try:
        with open(f"/proc/{thread}/status", "rb", buffering=0) as file:
            found = _MASKS.search(file.read(4096))
    except OSError:
        return False
    if found is None:
        return False

    own, shared, blocked, ignored = (int(mask, 16) for mask in found.groups())
    return bool((own | shared) & END & ~blocked & ~ignored or own & KILL)


def _shows_our_processes() -> bool:
    """Whether /proc is that of our pid namespace, whose numbers requests have."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False
