"""What a node has asked of the shared engine, in numbers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import msgspec

LATENCY_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 1.0)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket has what took longer."""


class SharedStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since this node began to share, and the state of now."""

    hits: int
    """Records that were there and right."""
    misses: int
    """Records that were not there, or could not be asked for; the next two are among them."""
    unusable: int
    """Values that were not sealed by this key for this name: garbage, truncated, of another name,
    key or format."""
    outdated: int
    """Records that were there past their time, or are of a time to come: clocks differ."""
    errors: int
    """Calls that were refused, or had no answer in time."""
    skipped: int
    """Calls that were not made because the engine is left alone."""
    puts: int
    """Records that the engine took."""
    dropped: int
    """Records that were not sent, or not taken."""
    queued: int
    """Records that wait to be sent."""
    leases: int
    """Turns that this node had, of which other nodes knew."""
    alone: int
    """Turns that this node took without the engine."""
    lost: int
    """Leases that were another node's, or nobody's, when they were given back."""
    waits: int
    """Waits for another node's turn."""
    calls: int
    """Calls that were answered."""
    seconds: float
    """Seconds that the answered calls took together."""
    buckets: tuple[int, ...]
    """Answered calls by `LATENCY_BOUNDS_S`, not cumulated."""
    breaker: str
    """`connecting`, `closed` (it answers), `open` (left alone) or `probing`."""
    reason: str | None
    """Why it is left alone, in words; None while it answers."""
    opened: int
    """How often it was left alone."""


@dataclass
class Counts:
    """The same while it is being counted."""

    hits: int = 0
    misses: int = 0
    unusable: int = 0
    outdated: int = 0
    errors: int = 0
    skipped: int = 0
    puts: int = 0
    dropped: int = 0
    leases: int = 0
    alone: int = 0
    lost: int = 0
    waits: int = 0
    calls: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))

    def took(self, seconds: float) -> None:
        """Count an answered call."""
        self.calls += 1
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1
