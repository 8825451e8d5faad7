"""What a mount did lately: rates between its statuses, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pictofs.model.status import BytesStatus, CacheStatus, OperationStatus, Status

LONGEST_S = 300.0
"""Seconds that are remembered."""
SPANS_S = (60.0, 120.0, 180.0, LONGEST_S)
"""Seconds that a chart may show."""
RECENT_S = 10.0
"""Seconds whose opens make the hit rate of now."""


@dataclass(frozen=True)
class Sample:
    """Rates a second, up to the moment `at` in seconds on any clock."""

    at: float
    storage: float
    """Bytes that came from storage."""
    read: float
    """Bytes given to readers."""
    operations: Mapping[str, float]
    """By kind."""
    failed: float
    """Operations that failed."""
    hits: int
    misses: int
    """Opens since the sample before."""

    @property
    def total(self) -> float:
        """Operations of all kinds."""
        return sum(self.operations.values())


class History:
    """The last minutes."""

    def __init__(self) -> None:
        self._samples: deque[Sample | float] = deque()
        """If nothing was known, only the moment."""
        self._before: tuple[float, Status] | None = None
        self._start: float | None = None

    def add(self, at: float, status: Status | None) -> None:
        """Take in the status as it was `at`; None if there was none, and the lines have a gap."""
        self._start = at if self._start is None else self._start
        before = self._before
        self._before = None if status is None else (at, status)

        if status is None:
            self._samples.append(at)
        elif before is not None and at > before[0] and _same_process(before[1], status):
            self._samples.append(_rates(before, (at, status)))

        while self._samples and _moment(self._samples[0]) < at - LONGEST_S:
            self._samples.popleft()

    @property
    def last(self) -> Sample | None:
        """The newest rates; None if the mount is away."""
        sample = self._samples[-1] if self._samples else None
        return sample if isinstance(sample, Sample) else None

    def span(self, now: float) -> float:
        """Seconds worth showing."""
        age = 0.0 if self._start is None else now - self._start
        return next((span for span in SPANS_S if age <= span), LONGEST_S)

    def samples(self) -> Iterator[tuple[float, Sample | None]]:
        """Moments, and the rates if they are known."""
        for each in self._samples:
            yield (_moment(each), each if isinstance(each, Sample) else None)

    def opens(self) -> tuple[int, int]:
        """Of the last seconds: those that the cache answered, and those that needed the server."""
        since = _moment(self._samples[-1]) - RECENT_S if self._samples else 0.0
        recent = [each for each in self._samples if isinstance(each, Sample) and each.at > since]
        return sum(each.hits for each in recent), sum(each.misses for each in recent)


def _moment(each: Sample | float) -> float:
    return each.at if isinstance(each, Sample) else each


def _same_process(one: Status, other: Status) -> bool:
    return (one.pid, one.started_at) == (other.pid, other.started_at)


def _rates(before: tuple[float, Status], after: tuple[float, Status]) -> Sample:
    start, old = before
    end, new = after
    took = end - start

    operations = {
        kind: (counts.ended - old.operations.get(kind, OperationStatus()).ended) / took
        for kind, counts in new.operations.items()
    }
    failed = sum(each.failed for each in new.operations.values()) - sum(
        each.failed for each in old.operations.values()
    )

    moved = new.bytes or BytesStatus()
    moved_before = old.bytes or BytesStatus()
    cache = new.cache or CacheStatus()
    cache_before = old.cache or CacheStatus()

    return Sample(
        at=end,
        storage=(moved.storage - moved_before.storage) / took,
        read=(moved.read - moved_before.read) / took,
        operations=operations,
        failed=failed / took,
        hits=(cache.hits or 0) - (cache_before.hits or 0),
        misses=(cache.misses or 0) - (cache_before.misses or 0),
    )
