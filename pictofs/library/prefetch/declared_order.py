"""An order of reading that the user told."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from pictofs.library.prefetch.window import Plan

SLACK = 256
"""Reads by which an image may come later than its turn.

Several workers read, each in a batch of its own.
"""
TRIM = 1 << 16
"""Row ids that were taken, after which their memory is given back."""
REACH = 4096
"""Places in which an image is looked for that is read before it was fetched: 40 us."""
OVERTAKEN = 64
NEAR = 512
"""So many of these in a row, each so many places from the one before, show where the reader is."""


class DeclaredOrder(Plan):
    """Row ids of images in the order in which they will be read, and how far they are fetched.

    What is fetched ahead is counted, not placed: each image of it that is read allows one more. So
    nothing is lost if several workers read a few batches at a time, if an image comes twice, if
    some are left out, or if somebody else reads the same images in another order.
    """

    via_api = True

    def __init__(self, name: str, number: int) -> None:
        """`name`: its teller's. `number`: tells it from every other order of this mount."""
        super().__init__()
        self.name = name
        self.number = number

        self.datasets: set[int] = set()
        """Those that it has images of."""
        self.asked: int | None = None
        """Images to keep ahead, as the user wishes; None: what the cache allows."""
        self.images = 0
        """Images in it, each as often as it comes."""
        self.complete = False
        """Whether no more is to come."""
        self.used_at = 0.0
        """Seconds of the monotonic clock at which it was last told, or an image of it last read."""

        self._reads = 0
        self._keys = array("q")
        self._next = 0
        self._trimmed = 0
        self._early: set[int] = set()
        self._overtaken = 0
        self._overtaken_at = 0

    def extend(self, keys: Iterable[int]) -> None:
        """More images, behind the last one."""
        before = len(self._keys)
        self._keys.extend(keys)
        self.images += len(self._keys) - before

    @property
    def left(self) -> int:
        """Images that are not fetched yet."""
        return len(self._keys) - self._next

    @property
    def finished(self) -> bool:
        """Whether its end is reached."""
        return self.complete and not self.left and not self.ahead

    def take(self) -> int:
        """The next row id. Not to be called if none is left."""
        key = self._keys[self._next]
        self._next += 1
        if self._next == TRIM:
            self._skip_to(self._next)
        return key

    def expect(self, key: int) -> None:
        """An image will lie ready.

        It is given up when twice the reads have passed that were due before it.
        """
        self.ahead.add(key, self._reads + 2 * len(self.ahead) + SLACK)

    def read(self, key: int) -> bool:
        """An image of one of its datasets is read. Whether it was expected."""
        expected = self.ahead.take(key) is not None
        if expected:
            self._overtaken = 0
        else:
            self._look_ahead(key)

        # At the end of an order what is left out would be waited for: there every read counts.
        if expected or (self.complete and not self.left):
            self._reads += 1
            self.ahead.give_up(self._reads)

        return expected

    def was_read(self, key: int) -> bool:
        """Whether an image that was just taken was read already.

        It is forgotten: it may come again.
        """
        if key in self._early:
            self._early.discard(key)
            return True
        return False

    def _look_ahead(self, key: int) -> None:
        """Count a read that came before its image was fetched.

        Go on from there if we are far behind.
        """
        try:
            found = self._keys.index(key, self._next, self._next + REACH)
        except ValueError:
            return

        self._early.add(key)

        place = self._trimmed + found
        if abs(place - self._overtaken_at) > NEAR:
            self._overtaken = 0
        self._overtaken += 1
        self._overtaken_at = place

        if self._overtaken >= OVERTAKEN:
            self.ahead.clear()
            self._early.difference_update(self._keys[self._next : found + 1])
            self._skip_to(found + 1)

    def _skip_to(self, place: int) -> None:
        del self._keys[:place]
        self._next = 0
        self._trimmed += place
