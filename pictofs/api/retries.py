"""How long one call keeps trying, and how long it waits for an answer before it tries another way."""

from __future__ import annotations

import trio

from pictofs.clock import Clock
from pictofs.errors import TimedOut

BACKOFF_S = 1.0
"""Seconds before the first retry; it doubles with each."""
BACKOFF_MAX = 30.0
SLOWER = 3.0
"""A kept connection is given up when it takes this many times as long as the slowest of the last answers."""
FORGET = 0.9
"""What is left, with each answer, of the time that the slowest took."""
WINDOW_S = 30.0
"""Seconds of waiting over which the speed of a body is looked at."""
SLOWEST_BYTES = 1024.0
"""Bytes a second: what comes slower than this for a whole WINDOW does not count as coming."""


class RetryPolicy:
    """The retries that one call has left, in number and in seconds of waiting."""

    def __init__(self, clock: Clock, max_retries: int, max_wait: float) -> None:
        self._clock = clock
        self._max_retries = max_retries
        self._attempt = 0
        self._budget = max_wait

    @property
    def left(self) -> float:
        """Seconds that this call may still wait: its budget, or less where the caller's deadline is near."""
        return min(self._budget, trio.current_effective_deadline() - trio.current_time())

    async def wait(self, asked: float | None) -> bool:
        """Sleep before the next attempt; False, at once, where there is to be none.

        `asked` is the server's Retry-After in seconds. It never shortens the backoff: a server that says 0
        would be hammered.
        """
        if self._attempt >= self._max_retries:
            return False
        backoff = min(BACKOFF_S * 2.0 ** min(self._attempt, 10), BACKOFF_MAX) * (
            0.75 + 0.5 * self._clock.chance()
        )
        delay = max(backoff, asked or 0.0)
        if delay > self.left:
            return False
        self._attempt += 1
        self._budget -= delay
        await self._clock.sleep(delay)
        return True


class ReusedConnectionTimeout:
    """How long a kept connection may be silent before another one is asked in its place.

    A connection that lay idle may be dead (sleep, another network, a relay that forgot it) without a sign of it. A
    server that is slow must not be asked twice for each answer, so its last answers tell how slow it is.
    """

    def __init__(self, least: float, most: float) -> None:
        """`least`, `most`: seconds; `most` is what a new connection gets."""
        self._least, self._most = min(least, most / 2), most
        self._slowest = 0.0

    @property
    def seconds(self) -> float:
        """The silence that is borne now."""
        return min(self._most, max(self._least, SLOWER * self._slowest))

    def took(self, seconds: float) -> None:
        """An answer began after `seconds`."""
        self._slowest = max(seconds, self._slowest * FORGET)


class Pace:
    """Tells a body that drips, so that nobody waits for its end for days."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._received = 0

    def came(self, size: int, waited: float) -> None:
        """`size` bytes came after `waited` seconds. Raises `TimedOut` where that is too slow, for long."""
        self._received += size
        self._waited += waited
        if self._waited < WINDOW_S:
            return
        if self._received < SLOWEST_BYTES * self._waited:
            raise TimedOut(f"{self._received} bytes came in {self._waited:.0f} s: too slow")
        self._waited, self._received = 0.0, 0
