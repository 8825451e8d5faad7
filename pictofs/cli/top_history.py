"""What a mount did lately: rates between its status documents, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]

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
        self._before: tuple[float, Facts] | None = None
        self._start: float | None = None

    def add(self, at: float, document: Facts | None) -> None:
        """Take in the status as it was `at`; None if there was none, and the lines have a gap."""
        self._start = at if self._start is None else self._start
        before = self._before
        self._before = None if document is None else (at, document)

        if document is None:
            self._samples.append(at)
        elif before is not None and at > before[0] and _same_process(before[1], document):
            self._samples.append(_rates(before, (at, document)))

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


def _same_process(one: Facts, other: Facts) -> bool:
    return (one["pid"], one["started_at"]) == (other["pid"], other["started_at"])


def _rates(before: tuple[float, Facts], after: tuple[float, Facts]) -> Sample:
    start, old = before
    end, new = after
    took = end - start

    operations = {
        kind: (counts["ended"] - old["operations"].get(kind, {}).get("ended", 0)) / took
        for kind, counts in new["operations"].items()
    }
    failed = sum(each["failed"] for each in new["operations"].values()) - sum(
        each["failed"] for each in old["operations"].values()
    )

    return Sample(
        at=end,
        storage=(new["bytes"]["storage"] - old["bytes"]["storage"]) / took,
        read=(new["bytes"]["read"] - old["bytes"]["read"]) / took,
        operations=operations,
        failed=failed / took,
        hits=new["cache"]["hits"] - old["cache"]["hits"],
        misses=new["cache"]["misses"] - old["cache"]["misses"],
    )
