"""Counts the HTTP traffic, and keeps track of the rate limit.

A request to the API costs one unit of the plan's hourly limit. A download from storage is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from pictofs.api.address import Locality
from pictofs.api.server_time import ServerTime
from pictofs.errors import PictofsError, Throttled, Unauthorized

Host = Literal["api", "storage"]

RESERVE_SHARE = 0.1
"""The share of the hourly limit that is kept for a person at a prompt."""
RESERVE_LEAST = 50
"""Requests kept on the smallest plan: enough to list some datasets and read a few files."""
UNANSWERED = "none"
"""Stands for the status if no answer came: the connection broke, or a deadline passed."""
_WINDOW_S = 3600.0
"""Seconds of the server's sliding window. A reset further away than that is not believed."""
_UNSTATED_RESET_S = 60.0
"""Seconds for which a spent limit counts if the answer named no reset time."""

PROBE_LIMIT_S = 60.0
"""Seconds between two probes of a spent limit: it may be raised before the server's reset time."""
PROBE_KEY = 15.0
"""Seconds between two probes of a refused key (401) or a used-up plan (402), which have no time."""
_REFUSAL_MAX_S = 60.0
"""Longest silence, in seconds, after a 429 that names no time. It starts at 1 s and doubles."""

_purpose: ContextVar[str] = ContextVar("purpose", default="foreground")
_yields: ContextVar[bool] = ContextVar("yields", default=False)
_insists: ContextVar[bool] = ContextVar("insists", default=False)


@dataclass
class _Refusal:
    """An answer that the server would repeat if it were asked again."""

    error: PictofsError
    until: float
    """Wall-clock seconds until which requests are refused here."""
    probe_at: float
    """Wall-clock seconds from which one request may be sent as a probe."""
    heard: int
    """Answers received before it. An answer to an earlier request does not disprove it."""

    def again(self, now: float) -> PictofsError:
        """The error to raise instead of sending a request."""
        kind = type(self.error)
        if isinstance(self.error, Throttled):
            return Throttled(f"{self.error.message}; not asked again", self.until - now)

        return kind(f"{self.error.message}; not asked again", hint=self.error.hint)


@contextmanager
def background(purpose: str = "background") -> Iterator[None]:
    """Mark the requests made inside, by child tasks too, as work that nobody waits for.

    Such a request raises `Throttled` instead of using the reserve. It is counted under `purpose`.
    """
    token = _purpose.set(purpose)
    yields = _yields.set(True)
    try:
        yield
    finally:
        _purpose.reset(token)
        _yields.reset(yields)


@contextmanager
def exempt_from_reserve() -> Iterator[None]:
    """Let requests inside background work use the reserve: they clean up what it began."""
    yields = _yields.set(False)
    try:
        yield
    finally:
        _yields.reset(yields)


@contextmanager
def insisting() -> Iterator[None]:
    """Send the requests made inside despite earlier refusals: a person has asked for them."""
    token = _insists.set(True)
    try:
        yield
    finally:
        _insists.reset(token)


def is_insisting() -> bool:
    """Whether the current task runs inside `insisting`."""
    return _insists.get()


def is_background() -> bool:
    """Whether the current task must leave the reserve alone."""
    return _yields.get()


class RequestStats:
    """Counts what `Api` and `Storage` do; one per process."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[Host, str, str]] = Counter()
        """Requests sent, retries included, by host, route template and purpose."""
        self.answers: Counter[tuple[Host, str, str, str]] = Counter()
        """Ended requests by host, route template, purpose, and HTTP status or `UNANSWERED`."""
        self.contact_at = 0.0
        """Wall-clock seconds of the API's last answer, whatever its status."""
        self.bytes_in: Counter[Host] = Counter()
        """Body bytes received, after decompression."""
        self.api_locality = Locality.PUBLIC
        """How near the API is, by its address when last reached without a proxy.

        Storage may be as near as that.
        """
        self.errors: Counter[str] = Counter()
        """Failures that callers got, by class name."""
        self.offset: float | None = None
        """Seconds that the API's clock is ahead of ours, by the last answer with a Date header."""
        self.server_time = ServerTime()
        self.in_flight = 0
        """Unanswered requests to the API. `remaining` does not include them yet."""
        self.retries = 0
        self.throttles = 0
        """Answers 429."""
        self.connections = 0
        """Connections opened to storage."""
        self.limit: int | None = None
        self.remaining: int | None = None
        self.reset_at = 0.0
        """Wall-clock seconds from which `remaining` is out of date."""
        self.throttled_until = 0.0
        """Wall-clock seconds until which the server asked for silence."""

        self._heard = 0  # answers so far
        self._believed = 0  # the number of the answer that set `remaining`
        self._refusals: dict[str, _Refusal] = {}  # by route; "" stands for all routes
        self._throttles_in_a_row = 0

    def sent(self, host: Host, route: str) -> None:
        """Count one request sent."""
        self.requests[host, route, _purpose.get()] += 1

    @contextmanager
    def ask(self, route: str) -> Iterator[int]:
        """Count the request to the API made inside, which ends with the head of its answer.

        Yields the number of answers heard before it was sent, for `answered`.
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
        """Count an answer of the API and note what it says about the rate limit.

        `now`: wall-clock seconds here. `served_at`: Unix seconds by the server's clock, if sent.
        `heard`: answers received before the request was sent.
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
            # An answer to a request sent before the refusal does not lift it.
            if refusal is not None and heard >= refusal.heard:
                del self._refusals[place]
                self.throttled_until = 0.0

        if not self._refusals:
            self._throttles_in_a_row = 0

    def ended(self, host: Host, route: str, status: str, count: int = 1) -> None:
        """Count `count` requests that ended with an HTTP status or `UNANSWERED`."""
        self.answers[host, route, _purpose.get(), status] += count

    def spent(self, purpose: str) -> int:
        """Requests sent to the API for `purpose`, retries included."""
        return sum(
            count
            for (host, _, why), count in self.requests.items()
            if host == "api" and why == purpose
        )

    def failed(self, error: PictofsError) -> None:
        """Count a failure that the caller will see."""
        self.errors[type(error).__name__] += 1

    def throttled(self, now: float, retry_after: float | None) -> None:
        """Count an answer 429 of the API; `retry_after` in seconds, `now` in wall-clock seconds."""
        self.throttles += 1
        if retry_after is not None:
            self.throttled_until = max(self.throttled_until, now + min(retry_after, _WINDOW_S))

    def refused(
        self, route: str, error: PictofsError, now: float, retry_after: float | None, chance: float
    ) -> float:
        """Remember a 401, 402 or 429, which the next request would get as well.

        `chance`, in [0, 1), is for jitter. Returns the seconds for which no request is sent, except
        for the probes that `refusal` lets pass.
        """
        # A plan can be used up for one operation only (402). The others concern all routes.
        place = "" if isinstance(error, Throttled | Unauthorized) else route
        known = self._refusals.get(place)
        if not isinstance(error, Throttled):
            silence = _WINDOW_S
            probe_after = PROBE_KEY
        else:
            silence = self._silence(now, retry_after, known)
            probe_after = PROBE_LIMIT_S

        probe_at = now + probe_after * (0.75 + 0.5 * chance)
        until = now + silence
        if (
            isinstance(error, Throttled)
            and known is not None
            and isinstance(known.error, Throttled)
        ):
            until = max(until, min(known.until, now + _WINDOW_S))

        self._refusals[place] = _Refusal(error, until, probe_at, self._heard)
        return until - now

    def _silence(self, now: float, retry_after: float | None, known: _Refusal | None) -> float:
        """Seconds without a request after a 429."""
        if retry_after is not None:
            return min(retry_after, _WINDOW_S)
        if self.remaining == 0 and self.reset_at > now:
            return self.reset_at - now

        # Requests that were sent together and refused together count once.
        if known is None or now >= known.until:
            self._throttles_in_a_row += 1

        return float(min(_REFUSAL_MAX_S, 2.0 ** (min(self._throttles_in_a_row, 10) - 1)))

    def refusal(self, route: str, now: float, chance: float) -> PictofsError | None:
        """The error that a request by `route` would get; None if it may be sent.

        Now and then one may be sent as a probe: the limit may have been raised, or the key renewed.
        """
        if _insists.get():
            return None

        for place in ("", route):
            known = self._refusals.get(place)
            # An end beyond the window means that the clock was set back: it counts for nothing.
            if known is None or not 0 < known.until - now <= _WINDOW_S:
                continue

            is_limit = isinstance(known.error, Throttled)
            if now < known.probe_at or (is_limit and _yields.get()):
                return known.again(now)

            probe_after = PROBE_LIMIT_S if is_limit else PROBE_KEY
            known.probe_at = now + probe_after * (0.75 + 0.5 * chance)

        return None

    def is_refusing(self, now: float) -> bool:
        """Whether some requests are refused without being sent."""
        return any(0 < each.until - now <= _WINDOW_S for each in self._refusals.values())

    def spent_until(self, now: float) -> float | None:
        """Wall-clock seconds at which the spent rate limit is there again; None if it is not spent.

        `now`: wall-clock seconds.
        """
        until = self.reset_at if self.remaining == 0 else 0.0
        known = self._refusals.get("")
        if known is not None and isinstance(known.error, Throttled):
            until = max(until, known.until)

        return until if 0 < until - now <= _WINDOW_S else None

    def limits(self, headers: Mapping[str, str], now: float, heard: int | None = None) -> None:
        """Remember `X-RateLimit-Limit`, `-Remaining` and `-Reset` (Unix seconds) if they were sent.

        `heard`: answers received before the request was sent.
        """
        remaining = _number(headers.get("x-ratelimit-remaining"))
        if remaining is None:
            return

        # A later request was answered first. A larger number in this answer is out of date.
        overtaken = heard is not None and heard < self._believed and now < self.reset_at
        if overtaken and remaining > (self.remaining or 0):
            return

        self._believed = self._heard
        self.limit = _number(headers.get("x-ratelimit-limit"))
        self.remaining = remaining

        reset = _number(headers.get("x-ratelimit-reset"))
        if reset is None:
            self.reset_at = now + _UNSTATED_RESET_S
        else:
            self.reset_at = min(float(reset), now + _WINDOW_S)

    def told(
        self,
        limit: int | None,
        remaining: int,
        *,
        reset_at: float,
        throttled_until: float,
        now: float,
    ) -> None:
        """Note what the server said of the rate limit to another node that has the same key.

        Only background work heeds it. Times are wall-clock seconds.
        """
        self.limit = limit
        self.remaining = remaining
        self.reset_at = min(reset_at, now + _WINDOW_S)
        self.throttled_until = max(self.throttled_until, min(throttled_until, now + _WINDOW_S))

    @property
    def reserve(self) -> int:
        """Requests that background work leaves to a person."""
        return max(RESERVE_LEAST, int((self.limit or 0) * RESERVE_SHARE))

    def admit(self, now: float) -> None:
        """Raise `Throttled` if a background request would use the reserve.

        `now`: wall-clock seconds. Foreground requests always pass.
        """
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


def _number(text: str | None) -> int | None:
    """A header's plain decimal number, or None."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 15:
        return None
    return int(text)
