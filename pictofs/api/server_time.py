"""What time it is at the server, as far as its answers tell: a clock that all nodes have in common.

A `Date` header is cut to whole seconds, and is some time on its way, so each answer says that it is
at least so late there. The latest of several is the best. Steps of this machine's clock do not
matter: it is told by the seconds that have passed since.
"""

from __future__ import annotations

WINDOW_S = 600.0
"""Seconds after which what an answer said is forgotten, or twice as long: clocks drift apart by
50 us a second at worst."""


class ServerTime:
    """Unix seconds by the server's clock; never ahead of it, but for its drift."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._ahead_before: float | None = None
        self._turned_at = 0.0

    def heard(self, served_at: float, now: float) -> None:
        """Note the `Date` of an answer. `now`: monotonic seconds when it came."""
        self._turn(now)
        ahead = served_at - now
        if self._ahead is None or ahead > self._ahead:
            self._ahead = ahead

    def at(self, now: float) -> float | None:
        """Unix seconds at the monotonic time `now`; None if no answer has told it."""
        self._turn(now)
        known = [each for each in (self._ahead, self._ahead_before) if each is not None]
        return now + max(known) if known else None

    def _turn(self, now: float) -> None:
        # What was heard last stays: it is better than nothing, and drifts by 0.2 s an hour.
        if self._ahead is not None and now - self._turned_at >= WINDOW_S:
            self._ahead_before = self._ahead
            self._ahead = None
            self._turned_at = now
