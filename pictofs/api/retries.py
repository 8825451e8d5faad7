"""How often a call is retried, and how long it waits for an answer on a kept connection."""

from __future__ import annotations

import trio

from pictofs.clock import Clock
from pictofs.errors import TimedOut

BACKOFF_S = 1.0
"""Seconds before the first retry. They double with each further one."""
BACKOFF_MAX = 30.0
SLOWER = 3.0
"""A kept connection may take this many times as long as the slowest of the last answers."""
FORGET = 0.9
"""The time of the slowest answer is multiplied by this with each further answer."""
WINDOW_S = 30.0
"""Seconds of waiting over which the speed of a body is measured."""
SLOWEST_BYTES = 1024.0
"""Bytes a second. A body that is slower for a whole window is given up."""


class RetryPolicy:
    """The retries that one call has left, in number and in seconds of waiting."""

    def __init__(self, clock: Clock, max_retries: int, max_wait: float) -> None:
        self._clock = clock
        self._max_retries = max_retries
        self._attempt = 0
        self._budget = max_wait

    @property
    def left(self) -> float:
        """Seconds that this call may still wait: its budget, or less if the deadline is nearer."""
        return min(self._budget, trio.current_effective_deadline() - trio.current_time())

    async def wait(self, asked: float | None) -> bool:
        """Sleep before the next attempt. Returns False at once if there is to be none.

        `asked` is the server's Retry-After in seconds. It never shortens the backoff: a server that
        says 0 would be hammered.
        """
        if self._attempt >= self._max_retries:
            return False

        backoff = min(BACKOFF_S * 2.0 ** min(self._attempt, 10), BACKOFF_MAX)
        backoff *= 0.75 + 0.5 * self._clock.chance()
        delay = max(backoff, asked or 0.0)
        if delay > self.left:
            return False

        self._attempt += 1
        self._budget -= delay

        await self._clock.sleep(delay)
        return True


class ReusedConnectionTimeout:
    """How long a kept connection may be silent before a new one is tried.

    An idle connection may have died without a sign (sleep, another network, a relay that forgot
    it). A slow server must not get every request twice, so the limit follows its last answers.
    """

    def __init__(self, least: float, most: float) -> None:
        """`least`, `most`: the bounds, in seconds. A new connection gets `most`."""
        self._least = min(least, most / 2)
        self._most = most
        self._slowest = 0.0

    @property
    def seconds(self) -> float:
        """The present limit."""
        return min(self._most, max(self._least, SLOWER * self._slowest))

    def took(self, seconds: float) -> None:
        """Note an answer that began after `seconds`."""
        self._slowest = max(seconds, self._slowest * FORGET)


class Pace:
    """Detects a body that trickles, so that nobody waits days for its end."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._received = 0

    def came(self, size: int, waited: float) -> None:
        """Note `size` bytes that came after `waited` seconds. Raises `TimedOut` if too slow."""
        self._received += size
        self._waited += waited
        if self._waited < WINDOW_S:
            return
        if self._received < SLOWEST_BYTES * self._waited:
            raise TimedOut(f"{self._received} bytes came in {self._waited:.0f} s: too slow")

        self._waited = 0.0
        self._received = 0
