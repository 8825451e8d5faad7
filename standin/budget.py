"""The organization's request budget: how many requests any sliding hour may have."""

from __future__ import annotations

from collections import deque

from standin.clock import Clock
from standin.routing import Refusal
from standin.switches import Switches

_HOUR = 3600.0
#: The limit that the headers name for an organization without one: that of the largest plan.
_GENEROUS = 100_000


class Budget:
    """Counts requests to the API host. Fetches from storage are free."""

    def __init__(self, clock: Clock, switches: Switches) -> None:
        self._clock = clock
        self._switches = switches
        self._spent: deque[float] = deque()

    def spend(self) -> None:
        """Take one request off the budget; 429 with `Retry-After` if nothing is left."""
        now = self._forget()
        limit = self._switches.hourly_limit
        if limit is not None and len(self._spent) >= limit:
            # A limit of 0 refuses even if nothing was spent.
            wait = int(_HOUR)
            if self._spent:
                wait = max(1, int(self._spent[0] + _HOUR - now) + 1)

            raise Refusal(
                429,
                "rate_limited",
                "Rate limit exceeded",
                headers={"Retry-After": str(wait)},
                details={"retry_after": wait},
            )

        self._spent.append(now)

    def headers(self) -> dict[str, str]:
        """The `X-RateLimit-*` headers of an answer; none if the switch says so."""
        if not self._switches.rate_headers:
            return {}

        now = self._forget()
        limit = self._switches.hourly_limit
        if limit is None:
            limit = _GENEROUS

        oldest = self._spent[0] if self._spent else now
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - len(self._spent))),
            "X-RateLimit-Reset": str(int(oldest + _HOUR)),
        }

    def _forget(self) -> float:
        now = self._clock()
        while self._spent and self._spent[0] <= now - _HOUR:
            self._spent.popleft()

        return now
