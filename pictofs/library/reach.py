"""Whether the API can be reached, as far as the last attempts tell."""

from __future__ import annotations

import logging

from pictofs.clock import Clock
from pictofs.errors import (
    Nonsense,
    Offline,
    PictofsError,
    QuotaSpent,
    ServerFault,
    Throttled,
    TimedOut,
    Unauthorized,
)

log = logging.getLogger(__name__)

REST = 15.0
"""Seconds for which what is cached is served without asking again, after the server did not answer."""

AWAY = (Offline, TimedOut, ServerFault, Throttled, Unauthorized, QuotaSpent, Nonsense)
"""What does not say that an item is gone: cached data stays valid. A captive portal's page is Nonsense."""


class Reach:
    """Remembers since when the server has been away, and paces the questions that could be left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ask_again = 0.0
        self.offline_since: float | None = None
        """Wall-clock seconds; None while the server answers."""
        self.error: PictofsError | None = None
        """Why, as long as it lasts."""

    @property
    def resting(self) -> bool:
        """Whether a question that a cached answer can replace should not be asked now."""
        return self.offline_since is not None and self._clock.monotonic() < self._ask_again

    def answered(self) -> None:
        """The server answered."""
        if self.offline_since is not None:
            log.info("the server answers again, after %.0f s", self._clock.wall() - self.offline_since)
        self.offline_since = self.error = None

    def failed(self, error: PictofsError) -> None:
        """The server did not answer, or refuses the key."""
        self._ask_again = self._clock.monotonic() + REST
        self.error = error
        if self.offline_since is None:
            self.offline_since = self._clock.wall()
            log.warning("serving from the cache alone: %s", error)
