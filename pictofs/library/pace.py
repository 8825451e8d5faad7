"""How many downloads that nobody waits for are made at once."""

from __future__ import annotations

import time

import trio

MOST = 24
"""Downloads at once. At 20 ms a round trip that is 1,200 files a second, more than one process can take in."""
LEAST = 3
"""Downloads at once when the loop is busy."""
TURN, FEEL_EVERY = 0.002, 0.01
"""Seconds that a turn of the loop may take before fewer downloads are made at once, and between two looks at it."""


class Pace:
    """A limit that follows how busy the loop is; `async with pace.limiter` around each download."""

    def __init__(self) -> None:
        self.limiter = trio.CapacityLimiter(MOST)
        self._felt_at = 0.0

    async def feel(self) -> None:
        """Suit the downloads at once to what the loop can take.

        A turn of the loop runs every task that is ready: with all workers busy on a near server it takes
        10 ms, and a listing of 3,000 names, which needs 40 turns, 400 ms. Where the server is far, the loop
        is idle and many downloads cost nobody anything.
        """
        start = time.perf_counter()
        if start - self._felt_at < FEEL_EVERY:
            return
        await trio.lowlevel.checkpoint()
        self._felt_at = time.perf_counter()
        limit = int(self.limiter.total_tokens)
        slow = self._felt_at - start > TURN
        self.limiter.total_tokens = max(LEAST, limit * 2 // 3) if slow else min(MOST, limit + 1)
