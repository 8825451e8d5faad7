"""The hourly limit of requests, which all nodes with one key spend together.

What the server said last of it to any node is told to all. Near the reserve each background request
of a node is taken from a number that they have in common, so that together they leave the reserve
alone. Requests that somebody waits for are never held back by it.

The number lives for 10 s and begins anew with what the next one to take has heard from the server,
because the server's window slides. What other nodes had under way in that moment is not in it.
"""

from __future__ import annotations

import msgspec

from pictofs.api.stats import RequestStats, is_background
from pictofs.clock import Clock
from pictofs.errors import Throttled
from pictofs.store.shared.port import SharedStore

LIMIT = "1/limit"
LIMIT_S = 120.0
"""Seconds for which what the server said is shared."""
TOLD_EVERY_S = 0.5
"""Seconds between two times that a node tells it."""
NEAR = 1000
"""Requests above the reserve from which on they are counted together."""
LEFT_S = 10.0
"""Seconds for which the number lives."""


class _Limit(msgspec.Struct, array_like=True):
    """What the server said. Times are seconds from then on: clocks differ."""

    limit: int
    remaining: int
    reset_in: float
    silence: float
    """0: it did not ask for any."""


class SharedBudget:
    """One node's part in it."""

    def __init__(self, store: SharedStore, request_stats: RequestStats, clock: Clock) -> None:
        self._store = store
        self._request_stats = request_stats
        self._clock = clock
        self._tell_at = 0.0
        self._silence_until = 0.0
        self._is_untold = False

    async def take(self) -> None:
        """Count a background request. Raises Throttled if it would use the reserve."""
        stats = self._request_stats
        now = self._clock.wall()
        if stats.remaining is None or not is_background() or now >= stats.reset_at:
            return

        left = stats.remaining - stats.in_flight
        common = stats.server_time.at(self._clock.monotonic())
        if left > stats.reserve + NEAR or common is None:
            return

        minute = round((common + stats.reset_at - now) / 60)
        found = await self._store.count(
            f"1/left/{minute}",
            ttl=LEFT_S,
            start=max(0, left),
            at_most=stats.remaining,
            change=-1,
            keep=stats.reserve,
        )
        if found is not None and not found.changed:
            raise Throttled(
                "background work of all nodes waits: what is left of the rate limit is kept for "
                "interactive use",
                retry_after=stats.reset_at - now,
            )

    def heard(self) -> None:
        """Tell the others what the server has just said, now or at the next look. Inline."""
        stats = self._request_stats
        self._is_untold = stats.remaining is not None
        is_silenced = stats.throttled_until > self._silence_until
        if is_silenced or self._clock.monotonic() >= self._tell_at:
            self._tell()

    def _tell(self) -> None:
        stats = self._request_stats
        # Others could not tell how old it is.
        is_timed = stats.server_time.at(self._clock.monotonic()) is not None
        if stats.remaining is None or not is_timed:
            return

        self._is_untold = False
        self._tell_at = self._clock.monotonic() + TOLD_EVERY_S
        self._silence_until = stats.throttled_until
        heard_at = stats.contact_at
        said = _Limit(
            stats.limit or 0,
            stats.remaining,
            max(0.0, stats.reset_at - heard_at),
            max(0.0, stats.throttled_until - heard_at),
        )
        age = max(0.0, self._clock.wall() - heard_at)
        self._store.put(LIMIT, msgspec.msgpack.encode(said), LIMIT_S, age=age)

    async def look(self) -> None:
        """Learn what the server said last to another node, if that is news."""
        if self._is_untold:
            self._tell()

        record = (await self._store.get([LIMIT])).get(LIMIT)
        stats = self._request_stats
        now = self._clock.wall()
        if record is None or now - record.age <= stats.contact_at:
            return

        try:
            said = msgspec.msgpack.decode(record.value, type=_Limit)
        except msgspec.MsgspecError:
            return

        stats.told(
            said.limit or None,
            said.remaining,
            reset_at=now + said.reset_in - record.age,
            throttled_until=now + said.silence - record.age if said.silence else 0.0,
            now=now,
        )
