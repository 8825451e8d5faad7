"""Time and chance, as an object that tests can replace, so that they never sleep.

`monotonic` and `sleep` are for waiting and measuring. `wall` is for times that are stored or
compared with the server's.
"""

from __future__ import annotations

import random
import time
from typing import Protocol

import trio


class Clock(Protocol):
    """The source of time and chance."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some start. Never goes back, and runs while the machine sleeps."""

    def chance(self) -> float:
        """A number in [0, 1), for jitter."""

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run for `seconds`."""


class SystemClock:
    """The machine's own time."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot, including sleep, during which idle connections and caches age."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def chance(self) -> float:
        """A number in [0, 1)."""
        return random.random()

    async def sleep(self, seconds: float) -> None:
        """Sleep on trio's clock."""
        await trio.sleep(seconds)
