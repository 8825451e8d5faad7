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
"""Seconds for which the cache is served without asking again after the server did not answer."""
SLOW_S = 5.0
"""Seconds after which a server that has not answered counts as away rather than slow."""
UNAVAILABLE = (
    ServerUnreachable,
    TimedOut,
    ServerFault,
    Throttled,
    Unauthorized,
    QuotaExceeded,
    InvalidResponse,
)
"""Errors that do not say that an item is gone: cached data stays valid.

InvalidResponse is one of them, as it may come from the page of a captive portal.
"""


class Connectivity:
    """Remembers since when the server has been away, and holds back needless requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ask_again = 0.0
        self._failed_at: float | None = None
        # Monotonic and wall-clock seconds.
        self._waiting_since: tuple[float, float] | None = None
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
        """Why the server is away; None while it answers."""
        if self._error is None and self.offline_since is not None:
            return TimedOut(f"no answer within {SLOW_S:g} s")

        return self._error

    @property
    def backing_off(self) -> bool:
        """Whether to make no request now that a cached answer can replace."""
        return self._clock.monotonic() < self._ask_again

    def answered(self) -> None:
        """Note that the server answered."""
        since = self.offline_since
        if since is not None:
            log.info("the server answers again, after %.0f s", self._clock.wall() - since)

        self._failed_at = self._error = self._waiting_since = None
        self._ask_again = 0.0

    def failed(self, error: PictofsError) -> None:
        """Note that the server did not answer, or refuses the key."""
        self._ask_again = self._clock.monotonic() + RETRY_AFTER_S
        self._error = error
        if self._failed_at is None:
            self._failed_at = self.offline_since or self._clock.wall()
            log.warning("serving from the cache alone: %s", error)

    def delayed(self, waited: float) -> None:
        """Note that the server has not answered for `waited` seconds.

        From now on nobody waits for it who has a cached answer.
        """
        now = self._clock.monotonic()
        self._ask_again = now + RETRY_AFTER_S
        if self._waiting_since is None:
            self._waiting_since = now - waited, self._clock.wall() - waited
