"""The stand-in's time, which tests may move."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's wall clock plus an offset in seconds.

    The expiry of URLs and the request budget follow it.
    """

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def __call__(self) -> float:
        """Seconds since the epoch, as the stand-in sees them."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move time forward (or back, with a negative number)."""
        self.offset += seconds


def iso(moment: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None stays None."""
    if moment is None:
        return None

    return datetime.fromtimestamp(moment, UTC).isoformat()
