"""What the HTTP traffic costs, and what is left of the rate limit.

One request to the API is one unit of the plan's hourly limit; a download from storage is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from pictofs.api.address import Locality
from pictofs.errors import PictofsError, Throttled, Unauthorized

Host = Literal["api", "storage"]

RESERVE_SHARE = 0.1
"""The part of the hourly limit that is kept for a person at a prompt."""
RESERVE_LEAST = 50
"""Requests kept on the smallest plan: a listing of some datasets and a few files."""
UNANSWERED = "none"
"""In the place of a status, where no answer came: a broken connection, a deadline."""
_WINDOW_S = 3600.0
"""Seconds of the server's sliding window: no reset is believed to be further away."""
_UNSTATED_RESET_S = 60.0
"""Seconds after which an answer without a reset time is too old to hold anyone back."""

PROBE_LIMIT_S = 60.0
"""Seconds between two requests that look whether a spent limit was raised, before the time that the server named."""
PROBE_KEY = 15.0
"""The same for a key that is refused (401) and a plan that is used up (402): they name no time."""
_REFUSAL_MAX_S = 60.0
"""Seconds of silence after answers 429 that name no time; the first one is followed by 1 s, the next by twice that."""

_purpose: ContextVar[str] = ContextVar("purpose", default="foreground")
_yields: ContextVar[bool] = ContextVar("yields", default=False)
_insists: ContextVar[bool] = ContextVar("insists", default=False)


@dataclass
class _Refusal:
    """What the server has said that it will say again."""

    error: PictofsError
    until: float
    """Wall-clock seconds; afterwards it is asked as usual."""
    probe_at: float
    """When one request may look whether it still holds."""
    heard: int
    """Answers that were heard by then: one that was asked for earlier proves nothing."""

    def again(self, now: float) -> PictofsError:
        """The error to raise in place of a request."""
        kind = type(self.error)
        if isinstance(self.error, Throttled):
            left = self.until - now
            text = str(self.error).partition("; try again in ")[0]
            return Throttled(f"{text}; not asked again, try again in {left:.0f} s", left)
        return kind(f"{self.error}; not asked again")


@contextmanager
def background(purpose: str = "background") -> Iterator[None]:
    """Mark the requests made inside, child tasks included, as work that nobody waits for.

    Such a request raises `Throttled` instead of eating the reserve. It is counted under `purpose`.
    """
    token, yields = _purpose.set(purpose), _yields.set(True)
    try:
        yield
    finally:
        _purpose.reset(token)
        _yields.reset(yields)


@contextmanager
def exempt_from_reserve() -> Iterator[None]:
    """Let the requests made inside background work pass: they put right what it has begun."""
    yields = _yields.set(False)
    try:
        yield
    finally:
        _yields.reset(yields)


@contextmanager
def insisting() -> Iterator[None]:
    """Let the requests made inside pass whatever the server has refused before: a person has asked for them."""
    token = _insists.set(True)
    try:
        yield
    finally:
        _insists.reset(token)


def is_insisting() -> bool:
    """Whether a person has asked for what is done here."""
    return _insists.get()


def is_background() -> bool:
    """Whether requests made here leave the reserve alone."""
    return _yields.get()


class RequestStats:
    """Counts what `Api` and `Storage` do; one per process."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[Host, str, str]] = Counter()
        """Requests sent, retries included, by host, route template and purpose."""
        self.answers: Counter[tuple[Host, str, str, str]] = Counter()
        """How they ended: the same, and the HTTP status, or `UNANSWERED`."""
        self.contact_at = 0.0
        """Wall-clock seconds of the last answer of the API, whatever it said."""
        self.bytes_in: Counter[Host] = Counter()
        """Body bytes received, after decompression."""
        self.api_locality = Locality.PUBLIC
        """How near the API is, by the address that it was last reached at without a proxy: storage may be as near."""
        self.errors: Counter[str] = Counter()
        """Failures that left this package, by class name."""
        self.offset: float | None = None
        """Seconds that the API's clock is ahead of ours, as its last answer that told the time has it."""
        self.in_flight = 0
        """Requests to the API that are not answered yet: `remaining` does not know of them."""
        self.retries = 0
        self.throttles = 0
        """Answers 429."""
        self.connections = 0
        """Connections opened to storage."""
        self.limit: int | None = None
        self.remaining: int | None = None
        self.reset_at = 0.0
        """Wall-clock seconds at which `remaining` is out of date."""
        self.throttled_until = 0.0
        """Wall-clock seconds before which the server asked for silence."""
        self._heard = self._believed = 0  # answers so far, and which of them told what remains
        self._refusals: dict[str, _Refusal] = {}  # by route; "" for all of them
        self._throttles_in_a_row = 0

    def sent(self, host: Host, route: str) -> None:
        """Count one request on its way."""
        self.requests[host, route, _purpose.get()] += 1

    @contextmanager
    def ask(self, route: str) -> Iterator[int]:
        """A request to the API is made inside, until the head of its answer is there.

        Gives how many answers had been heard by then, for `answered`.
        """
        self.sent("api", route)
        self.in_flight += 1
        try:
            yield self._heard
        except BaseException:
            self.ended("api", route, UNANSWERED)
            raise
        finally:
            self.in_flight -= 1

    def answered(
        self,
        route: str,
        status: int,
        headers: Mapping[str, str],
        now: float,
        served_at: float | None,
        heard: int,
    ) -> None:
        """Count an answer of the API and take in what it says of the rate limit.

        `now`: wall-clock seconds here; `served_at`: there, where it was told. `heard`: how many answers had been
        heard when it was asked for.
        """
        self.ended("api", route, str(status))
        self.contact_at = now
        if served_at is not None:
            self.offset = served_at - now
        self._heard += 1
        self.limits(headers, now, heard)
        if status in (401, 402, 429):
            return
        for place in ("", route):
            refusal = self._refusals.get(place)
            if refusal is not None and heard >= refusal.heard:
                del self._refusals[place]
                self.throttled_until = 0.0
        if not self._refusals:
            self._throttles_in_a_row = 0

    def ended(self, host: Host, route: str, status: str, count: int = 1) -> None:
        """Count how a request, or `count` of them, ended: the HTTP status, or `UNANSWERED`."""
        self.answers[host, route, _purpose.get(), status] += count

    def spent(self, purpose: str) -> int:
        """Requests sent to the API for `purpose`, retries included."""
        return sum(
            count for (host, _, why), count in self.requests.items() if host == "api" and why == purpose
        )

    def failed(self, error: PictofsError) -> None:
        """Count a failure that the caller gets to see."""
        self.errors[type(error).__name__] += 1

    def throttled(self, now: float, retry_after: float | None) -> None:
        """Count an answer 429 of the API; `retry_after` in seconds, `now` in wall-clock seconds."""
        self.throttles += 1
        if retry_after is not None:
            self.throttled_until = max(self.throttled_until, now + min(retry_after, _WINDOW_S))

    def refused(
        self, route: str, error: PictofsError, now: float, retry_after: float | None, chance: float
    ) -> float:
        """Remember an answer 401, 402 or 429, which the next request would get, too.

        `chance`, in [0, 1), is for jitter. Returns the seconds for which the server is left alone; no matter how
        long, a request may look in between (`refusal`).
        """
        # A plan that is used up for one thing is not for all of them.
        place = "" if isinstance(error, Throttled | Unauthorized) else route
        known = self._refusals.get(place)
        if not isinstance(error, Throttled):
            silence, probe_after = _WINDOW_S, PROBE_KEY
        else:
            silence, probe_after = self._silence(now, retry_after, known), PROBE_LIMIT_S
        probe_at = now + probe_after * (0.75 + 0.5 * chance)
        until = now + silence
        if isinstance(error, Throttled) and known is not None and isinstance(known.error, Throttled):
            until = max(until, min(known.until, now + _WINDOW_S))
        self._refusals[place] = _Refusal(error, until, probe_at, self._heard)
        return until - now

    def _silence(self, now: float, retry_after: float | None, known: _Refusal | None) -> float:
        """Seconds without a request after an answer 429."""
        if retry_after is not None:
            return min(retry_after, _WINDOW_S)
        if self.remaining == 0 and self.reset_at > now:
            return self.reset_at - now
        # Several requests that were under way together are one refusal.
        if known is None or now >= known.until:
            self._throttles_in_a_row += 1
        return float(min(_REFUSAL_MAX_S, 2.0 ** (min(self._throttles_in_a_row, 10) - 1)))

    def refusal(self, route: str, now: float, chance: float) -> PictofsError | None:
        """What a request by `route` would be refused with; None where it may be sent.

        Once in a while one may be sent all the same: the limit may have been raised, the key renewed.
        """
        if _insists.get():
            return None
        for place in ("", route):
            known = self._refusals.get(place)
            if known is None or not 0 < known.until - now <= _WINDOW_S:
                continue
            is_limit = isinstance(known.error, Throttled)
            if now < known.probe_at or (is_limit and _yields.get()):
                return known.again(now)
            known.probe_at = now + (PROBE_LIMIT_S if is_limit else PROBE_KEY) * (0.75 + 0.5 * chance)
        return None

    def is_refusing(self, now: float) -> bool:
        """Whether some requests are refused without being sent."""
        return any(0 < each.until - now <= _WINDOW_S for each in self._refusals.values())

    def limits(self, headers: Mapping[str, str], now: float, heard: int | None = None) -> None:
        """Remember `X-RateLimit-Limit`, `-Remaining` and `-Reset` (Unix seconds), where they are sent.

        Not from an answer that says more than one before it, unless it was asked for after that one (`heard`): it
        was overtaken on its way.
        """
        remaining = _number(headers.get("x-ratelimit-remaining"))
        if remaining is None:
            return
        overtaken = heard is not None and heard < self._believed and now < self.reset_at
        if overtaken and remaining > (self.remaining or 0):
            return
        self._believed = self._heard
        self.limit = _number(headers.get("x-ratelimit-limit"))
        self.remaining = remaining
        reset = _number(headers.get("x-ratelimit-reset"))
        self.reset_at = now + _UNSTATED_RESET_S if reset is None else min(float(reset), now + _WINDOW_S)

    @property
    def reserve(self) -> int:
        """Requests that background work leaves to a person."""
        return max(RESERVE_LEAST, int((self.limit or 0) * RESERVE_SHARE))

    def admit(self, now: float) -> None:
        """Raise `Throttled` where a background request would eat the reserve; foreground always passes."""
        if not _yields.get():
            return
        until = self.throttled_until
        if self.remaining is not None and self.remaining - self.in_flight <= self.reserve:
            until = max(until, self.reset_at)
        if now < until:
            raise Throttled(
                "background work waits: what is left of the rate limit is kept for interactive use",
                retry_after=until - now,
            )

    def snapshot(self) -> dict[str, Any]:
        """Everything as JSON-ready values, for `status --json`."""
        return {
            "requests": [
                {"host": host, "route": route, "purpose": purpose, "count": count}
                for (host, route, purpose), count in sorted(self.requests.items())
            ],
            "bytes_in": dict(self.bytes_in),
            "errors": dict(self.errors),
            "retries": self.retries,
            "throttles": self.throttles,
            "storage_connections": self.connections,
            "rate_limit": {
                "limit": self.limit,
                "remaining": self.remaining,
                "reset_at": self.reset_at or None,
                "reserve": self.reserve,
            },
        }


def _number(text: str | None) -> int | None:
    """A header's plain decimal number, or None."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 15:
        return None
    return int(text)
