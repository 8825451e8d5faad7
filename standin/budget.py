"""The organization's request budget: so many in any sliding hour."""

from __future__ import annotations

from collections import deque

from standin.clock import Clock
from standin.routing import Refusal
from standin.switches import Switches

_HOUR = 3600.0
#: What an organization without a limit is told, the largest plan's figure.
_GENEROUS = 100_000


class Budget:
    """Counts requests to the API host. Fetches from storage are free."""

    def __init__(self, clock: Clock, switches: Switches) -> None:
        self._clock = clock
        self._switches = switches
        self._spent: deque[float] = deque()

    def spend(self) -> None:
        """Take one request off the budget; 429 with `Retry-After` when nothing is left."""
        now = self._forget()
        limit = self._switches.hourly_limit
        if limit is not None and len(self._spent) >= limit:
            wait = max(1, int(self._spent[0] + _HOUR - now) + 1) if self._spent else int(_HOUR)
            raise Refusal(
                429,
                "rate_limited",
                "Rate limit exceeded",
                headers={"Retry-After": str(wait)},
                details={"retry_after": wait},
            )
        self._spent.append(now)

    def headers(self) -> dict[str, str]:
        """`X-RateLimit-*` of an answer; none where the switch says so."""
        if not self._switches.rate_headers:
            return {}
        now = self._forget()
        limit = _GENEROUS if self._switches.hourly_limit is None else self._switches.hourly_limit
        reset = (self._spent[0] if self._spent else now) + _HOUR
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - len(self._spent))),
            "X-RateLimit-Reset": str(int(reset)),
        }

    def _forget(self) -> float:
        now = self._clock()
        while self._spent and self._spent[0] <= now - _HOUR:
            self._spent.popleft()
        return now
