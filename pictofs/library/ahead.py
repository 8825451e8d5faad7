"""What is fetched ahead, whoever says what that is."""

from __future__ import annotations

SLACK = 256
"""Reads by which one may come later than its turn: several workers, each in a batch of its own."""


class Ahead:
    """What was not read yet: keys of images that lie ready, or are about to, in the order in which they are expected.

    One that is not read in twice the reads that were due before it was passed over: it must not take the place of
    others for good.
    """

    def __init__(self) -> None:
        self._due: dict[int, int] = {}  # key -> the count of reads at which it is given up
        self._reads = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: int) -> bool:
        return key in self._due

    def add(self, key: int) -> None:
        """One more, to be read after all that are here."""
        self._due[key] = self._reads + 2 * len(self._due) + SLACK

    def use(self, key: int) -> bool:
        """An image is read; whether it was here."""
        return self._due.pop(key, None) is not None

    def drop(self, key: int) -> None:
        """It could not be fetched, or is no longer there."""
        self._due.pop(key, None)

    def count_read(self) -> int:
        """Count a read; how many were given up by it, at most two."""
        self._reads += 1
        given_up = 0
        while self._due and given_up < 2:
            oldest = next(iter(self._due))
            if self._due[oldest] > self._reads:
                break
            del self._due[oldest]
            given_up += 1
        return given_up

    def clear(self) -> None:
        """Expect nothing."""
        self._due.clear()


class Plan:
    """Something that says what to fetch next: a pattern in the reads, or an order that was told."""

    def __init__(self) -> None:
        self.ahead = Ahead()
        self.failures = 0
        """In a row."""
        self.rest_until = 0.0
        """Seconds of the monotonic clock before which nothing of it is fetched."""
