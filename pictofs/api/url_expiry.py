"""Tells until when a signed URL may be used."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DEFAULT_LIFE_S = 900.0
"""Seconds for which a URL without a date is used: upload URLs live for 15 minutes."""
LONGEST_LIFE_S = 7 * 86400.0
"""Seconds. No storage signs a URL for longer."""
MARGIN_S = 30.0
"""A URL is not used in its last seconds, so that a transfer that starts is not refused."""

_DATE = re.compile(r"[?&]X-(?:Goog|Amz)-Date=(\d{8}T\d{6}Z)(?=&|$)", re.IGNORECASE)
_LIFE = re.compile(r"[?&]X-(?:Goog|Amz)-Expires=(\d{1,7})(?=&|$)", re.IGNORECASE)
_UNIX = re.compile(r"[?&]Expires=(\d{9,11})(?=&|$)", re.IGNORECASE)


class UrlExpiry:
    """Reads the expiry times of the URLs in one answer of the API.

    `now` is the local wall clock when the answer came, `served` the server's (its Date header; None
    if unsent). URLs carry the server's time, so what is left of a URL's life is measured by the
    server's clock and added to the local one. A local clock that is off does no harm.
    """

    def __init__(self, now: float, served: float | None) -> None:
        self._now = now
        self._served_is_known = served is not None
        self._served = now if served is None else served
        self._dates: dict[str, float] = {}

    def expires_at(self, url: str) -> float:
        """Local wall-clock seconds after which `url` must not be used."""
        left = self._life(url)
        # The margin takes at most a quarter of what is left.
        return self._now + left - min(MARGIN_S, max(0.0, left) / 4)

    def _life(self, url: str) -> float:
        date = _DATE.search(url)
        life = _LIFE.search(url)
        if date and life:
            whole = float(life.group(1))
            left = self._signed_at(date.group(1)) + whole - self._served
            # A URL was most likely signed just now. Without a Date header, blame the local clock.
            if not self._served_is_known and not 0.0 < left <= whole:
                left = whole

            return min(left, whole, LONGEST_LIFE_S)

        if unix := _UNIX.search(url):
            return min(float(unix.group(1)) - self._served, LONGEST_LIFE_S)

        return DEFAULT_LIFE_S

    def _signed_at(self, text: str) -> float:
        """Unix seconds of `20260301T090000Z`; the URLs of one answer share a few."""
        moment = self._dates.get(text)
        if moment is None:
            try:
                moment = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
            except ValueError:
                moment = self._served

            self._dates[text] = moment

        return moment
