"""The stand-in's time, which tests may move."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's wall clock plus an offset: URL expiry and budget windows follow it."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def __call__(self) -> float:
        """Seconds since the epoch, as the stand-in sees them."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        """Move time forward (or back, with a negative number)."""
        self.offset += seconds


def iso(moment: float | None) -> str | None:
    """An epoch moment as ISO 8601 with its time zone; None stays None."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()
