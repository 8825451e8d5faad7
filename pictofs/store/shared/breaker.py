"""When the engine is asked, and when it is left alone because it has just failed."""

from __future__ import annotations

from typing import Literal

from pictofs.clock import Clock

REST_S = 15.0
"""Seconds for which the engine is not asked after it failed, give or take a quarter by chance: 64
nodes that lost it together do not come back together."""
FAILURES = 3
"""Calls in a row without an answer in time after which the engine counts as away. One may be chance:
a busy machine, a lost packet."""

State = Literal["connecting", "closed", "open", "probing"]


class Breaker:
    """Closed while the engine answers, open for a rest after it failed, probing after the rest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._rest_until = 0.0
        self.state: State = "connecting"
        self.reason: str | None = None
        """Why it opened last, in words; None while it is closed."""
        self.opened = 0
        """How often it opened."""

    @property
    def is_resting(self) -> bool:
        """Whether calls are answered without asking."""
        return self.state in ("open", "probing")

    @property
    def rest_left(self) -> float:
        """Seconds until a probe may be sent."""
        return max(0.0, self._rest_until - self._clock.monotonic())

    def probe(self) -> None:
        """Note that the rest is over, and that one connection is tried."""
        if self.state == "open":
            self.state = "probing"

    def answered(self) -> None:
        """Note an answer in time, whatever it said."""
        self._failures = 0

    def close(self) -> None:
        """Note that a connection was made and answers."""
        self._failures = 0
        self.state = "closed"
        self.reason = None

    def failed(self, reason: str) -> bool:
        """Note a call without an answer in time. Returns whether the breaker opened."""
        self._failures += 1
        if self._failures < FAILURES:
            return False

        self.open(reason)
        return True

    def open(self, reason: str) -> None:
        """Rest from now on."""
        self._failures = 0
        self._rest_until = self._clock.monotonic() + REST_S * (0.75 + 0.5 * self._clock.chance())
        self.state = "open"
        self.reason = reason
        self.opened += 1
