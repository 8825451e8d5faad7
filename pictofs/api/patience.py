"""How long one call keeps trying."""

from __future__ import annotations

import trio

from pictofs.clock import Clock

BACKOFF = 1.0
"""Seconds before the first retry; it doubles with each."""
BACKOFF_MAX = 30.0


class Patience:
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
        backoff = min(BACKOFF * 2.0 ** min(self._attempt, 10), BACKOFF_MAX) * (
            0.75 + 0.5 * self._clock.chance()
        )
        delay = max(backoff, asked or 0.0)
        if delay > self.left:
            return False
        self._attempt += 1
        self._budget -= delay
        await self._clock.sleep(delay)
        return True
