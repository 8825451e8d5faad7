"""Whether the API can be reached, as far as the last attempts tell."""

from __future__ import annotations

import logging

from pictofs.clock import Clock
from pictofs.errors import (
    InvalidResponse,
    PictofsError,
    QuotaExceeded,
    ServerFault,
    ServerUnreachable,
    Throttled,
    TimedOut,
    Unauthorized,
)

log = logging.getLogger(__name__)

RETRY_AFTER_S = 15.0
"""Seconds for which what is cached is served without asking again, after the server did not answer."""

SLOW_S = 5.0
"""Seconds after which a server that has not answered counts as away, and not as slow."""

UNAVAILABLE = (
    ServerUnreachable,
    TimedOut,
    ServerFault,
    Throttled,
    Unauthorized,
    QuotaExceeded,
    InvalidResponse,
)
"""What does not say that an item is gone: cached data stays valid. A captive portal's page is InvalidResponse."""


class Connectivity:
    """Remembers since when the server has been away, and paces the questions that could be left out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ask_again = 0.0
        self._failed_at: float | None = None
        self._waiting_since: tuple[float, float] | None = None  # monotonic and wall-clock seconds
        self._error: PictofsError | None = None

    @property
    def offline_since(self) -> float | None:
        """Wall-clock seconds; None while the server answers."""
        if self._failed_at is None and self._waiting_since is not None:
            monotonic, wall = self._waiting_since
            return wall if self._clock.monotonic() - monotonic >= SLOW_S else None
        return self._failed_at

    @property
    def error(self) -> PictofsError | None:
        """Why, as long as it lasts."""
        if self._error is None and self.offline_since is not None:
            return TimedOut(f"no answer within {SLOW_S:g} s")
        return self._error

    @property
    def backing_off(self) -> bool:
        """Whether a question that a cached answer can replace should not be asked now."""
        return self._clock.monotonic() < self._ask_again

    def answered(self) -> None:
        """The server answered."""
        since = self.offline_since
        if since is not None:
            log.info("the server answers again, after %.0f s", self._clock.wall() - since)
        self._failed_at = self._error = self._waiting_since = None
        self._ask_again = 0.0

    def failed(self, error: PictofsError) -> None:
        """The server did not answer, or refuses the key."""
        self._ask_again = self._clock.monotonic() + RETRY_AFTER_S
        self._error = error
        if self._failed_at is None:
            self._failed_at = self.offline_since or self._clock.wall()
            log.warning("serving from the cache alone: %s", error)

    def delayed(self, waited: float) -> None:
        """The server has not answered for `waited` seconds. Who can do with what is cached waits no more."""
        now = self._clock.monotonic()
        self._ask_again = now + RETRY_AFTER_S
        if self._waiting_since is None:
            self._waiting_since = now - waited, self._clock.wall() - waited
