"""Work that nobody waits for, and the request budget.

The work rests when the budget is spent, and goes on afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pictofs.api.stats import RequestStats, exempt_from_reserve
from pictofs.clock import Clock
from pictofs.errors import Throttled
from pictofs.model.printable import clock_text

log = logging.getLogger(__name__)
T = TypeVar("T")

UNSTATED_S = 60.0
"""Seconds of rest after a throttle that does not say how long."""
POLL_S = 15.0
"""Seconds slept at once while the budget is spent."""
RESTS_MOST = 5
"""Rests in a row without a file that came, if there is budget left."""


class RequestBudget:
    """The rests of one run, or of a part of it."""

    def __init__(self, request_stats: RequestStats, clock: Clock, *, wait: bool) -> None:
        """`wait`: whether to wait when the budget is spent, and not end."""
        self._request_stats = request_stats
        self._clock = clock
        self._wait = wait
        self._until = 0.0
        self._rests = 0
        self.reason: str | None = None
        """Why it rests, or did last; None for the request budget."""

    @property
    def until(self) -> float | None:
        """Wall-clock seconds until when it rests, None while it does not."""
        return self._until if self._until > self._clock.wall() else None

    def progressed(self) -> None:
        """A file came."""
        self._rests = 0

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, once the budget allows it if that is waited for.

        Raises Throttled if that is not waited for; its cause is what the server failed with, if it
        is not the budget.
        """
        while True:
            while (left := self._until - self._clock.wall()) > 0:
                await self._clock.sleep(min(left, POLL_S))

            try:
                return await work()
            except Throttled as error:
                is_spent = self._is_spent()
                if not self._wait and is_spent:
                    raise self._stopped(error) from None

                # Workers that are refused together rest once.
                self._rests += self.until is None
                if not is_spent and (not self._wait or self._rests > RESTS_MOST):
                    raise

                self.reason = None if is_spent else str(error.__cause__ or error.message)
                wait = UNSTATED_S if error.retry_after is None else max(1.0, error.retry_after)
                log.info("resting for %.0f s: %s", wait, error)
                self._until = max(self._until, self._clock.wall() + wait)

    async def listing(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin a listing only while there is budget to spare, and then end it.

        Readers may wait for it, too.
        """

        async def admitted() -> None:
            self._request_stats.admit(self._clock.wall())
            with exempt_from_reserve():
                await work()

        await self.run(admitted)

    def _stopped(self, error: Throttled) -> Throttled:
        """`error` in figures, if the server has told them."""
        stats = self._request_stats
        if stats.remaining is None or stats.limit is None:
            return error

        left = stats.remaining - stats.in_flight
        if left > stats.reserve:
            # The server asked for silence, with requests left.
            return error

        return Throttled(
            f"stopped: {max(0, left):,} of {stats.limit:,} requests left, which are kept for "
            f"interactive use; full at {clock_text(stats.reset_at)}"
        )

    def _is_spent(self) -> bool:
        """Whether it is the request budget that is waited for.

        That comes back, other than a server that fails.
        """
        try:
            self._request_stats.admit(self._clock.wall())
        except Throttled:
            return True
        return False
