"""Requests of the kernel in numbers: how many of each kind, how they ended, how long they took."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper bounds in seconds of all buckets but the last.

A cached open takes 0.1 ms, a deadline is 30 s.
"""


class OperationStats:
    """Requests of one kind."""

    __slots__ = ("buckets", "outcomes", "seconds", "under_way")

    def __init__(self) -> None:
        self.outcomes: dict[int, int] = {}
        """How many ended with each errno; 0 is success."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        """How many took up to each of BOUNDS, but not up to the one before."""
        self.seconds = 0.0
        """What they took in all."""
        self.under_way = 0

    @property
    def total(self) -> int:
        """How many have ended."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """How many have ended with an errno."""
        return self.total - self.outcomes.get(0, 0)

    def done(self, errno: int, seconds: float) -> None:
        """Count one that has ended. 0.4 us: four of them come with each file."""
        self.under_way -= 1
        self.outcomes[errno] = self.outcomes.get(errno, 0) + 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
