"""Converts times between the API's texts and nanoseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

_NS_MAX = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def time_ns(value: Any) -> int:
    """Nanoseconds since the epoch of an ISO 8601 text, 0 if `value` is none.

    A text without a time zone is in UTC.
    """
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        ns = (moment - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, TypeError, OverflowError):
        return 0

    return ns if 0 < ns < _NS_MAX else 0


def iso(ns: int) -> str:
    """The ISO 8601 text, to the microsecond, of nanoseconds since the epoch."""
    return (_EPOCH + timedelta(microseconds=ns // 1000)).isoformat()
