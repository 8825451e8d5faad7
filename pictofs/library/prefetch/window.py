"""What is fetched ahead, whoever says what that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container


class PrefetchWindow:
    """What was not read yet: row ids of images that lie ready, or are about to.

    They are in the order in which they were asked for. Each has a mark, which grows from one to the
    next, so that those that were passed over can be given up: they must not take the place of
    others for good.
    """

    def __init__(self) -> None:
        self._marks: dict[int, int] = {}
        self._fetched: set[int] = set()

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, key: int) -> bool:
        return key in self._marks

    def add(self, key: int, mark: int) -> None:
        """One more."""
        self._marks[key] = mark

    def came(self, key: int) -> None:
        """One of them was fetched. The others lay ready before they were expected."""
        if key in self._marks:
            self._fetched.add(key)

    def fetched(self, key: int) -> bool:
        """Whether an image is one of them, and was fetched."""
        return key in self._fetched

    def take(self, key: int) -> int | None:
        """An image is read, or is not there after all: its mark, None if it was not expected."""
        self._fetched.discard(key)
        return self._marks.pop(key, None)

    def give_up(self, mark: int) -> int:
        """Expect none any more that is marked lower, as far as they come first.

        Returns: how many those were.
        """
        passed = 0
        while self._marks:
            oldest = next(iter(self._marks))
            if self._marks[oldest] >= mark:
                break

            self.take(oldest)
            passed += 1

        return passed

    def keep(self, keys: Container[int]) -> None:
        """Expect none any more but those of `keys`."""
        for key in [each for each in self._marks if each not in keys]:
            self.take(key)

    def clear(self) -> None:
        """Expect nothing."""
        self._marks.clear()
        self._fetched.clear()


class Plan(ABC):
    """Something that says what to fetch next: a pattern in the reads, or an order that was told."""

    via_api = False
    """Whether its images are worth a request of their own, where no batch of URLs names them."""

    def __init__(self) -> None:
        self.ahead = PrefetchWindow()
        self.failures = 0
        """In a row."""
        self.rest_until = 0.0
        """Seconds of the monotonic clock before which nothing of it is fetched."""

    @abstractmethod
    def expect(self, key: int) -> None:
        """An image will lie ready."""
