"""Until when a signed URL may be used."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DEFAULT_LIFE_S = 900.0
"""Seconds that a URL without a date is trusted: upload URLs live 15 minutes."""
LONGEST_LIFE_S = 7 * 86400.0
"""Seconds: no storage signs for longer."""
MARGIN_S = 30.0
"""Seconds before the end from which a URL is not used, so that a transfer that starts is not refused."""

_DATE = re.compile(r"[?&]X-(?:Goog|Amz)-Date=(\d{8}T\d{6}Z)(?=&|$)", re.IGNORECASE)
_LIFE = re.compile(r"[?&]X-(?:Goog|Amz)-Expires=(\d{1,7})(?=&|$)", re.IGNORECASE)
_UNIX = re.compile(r"[?&]Expires=(\d{9,11})(?=&|$)", re.IGNORECASE)


class UrlExpiry:
    """Reads expiry times for one answer of the API.

    URLs carry the server's time. `now` is the local wall clock when the answer came and `served` the server's
    own (its Date header; None if unsent): life left is measured on the server's clock and added to the local
    one, so that a clock that is off does not make every URL look expired.
    """

    def __init__(self, now: float, served: float | None) -> None:
        self._now = now
        self._served_is_known = served is not None
        self._served = now if served is None else served
        self._dates: dict[str, float] = {}

    def expires_at(self, url: str) -> float:
        """Local wall-clock seconds after which `url` is not to be used."""
        left = self._life(url)
        return self._now + left - min(MARGIN_S, max(0.0, left) / 4)

    def _life(self, url: str) -> float:
        date, life = _DATE.search(url), _LIFE.search(url)
        if date and life:
            whole = float(life.group(1))
            left = self._signed_at(date.group(1)) + whole - self._served
            # It was signed a moment ago, most likely. Where only the local clock says otherwise, that is off.
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
