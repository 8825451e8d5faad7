"""How one dataset is being read, as far as the reads tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pictofs.library.prefetch.window import Plan
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow

FIRST = 4
"""Reads of a dataset before anything is fetched ahead: a lone `cat` costs nothing more."""
PER_READ = 8
"""Images that may lie unused for each one that was read: the window doubles every eighth read."""
NEAR = 6
"""A read counts as the next one in an order when it is one of so many behind the last one."""
RECENT = 8
"""Reads of which it may be right behind one.

Several processes read in one order, each at a place of its own.
"""
CERTAIN = 5
"""Reads in a row that decide an order.

Of a hundred images in no order so many agree by chance once in 20,000.
"""
LAG = 64
"""Images by which a process may be behind another one.

What is left out is given up so much later.
"""
SKIM = 2
"""Reads that one takes back which left most of its image unread: itself, and one before it.

So a program that looks at the heads of files opens no window, however many it has open at once, and
a mix grows one if most are read whole.
"""
MODEST = 16
"""Reads to which their count shrinks if what was fetched ahead is not read."""
LOOKED_AT = 256
"""Reads in which an order is looked for."""
PAGE = 24

ORDERS = ("seq", "entry", "key")
"""Columns of images, by which they may be read in order.

`seq`: as `ls -U` and os.scandir give names. `entry`: sorted, as glob and ImageFolder do. `key`: by
inode number, as cp and tar do.
"""


class AccessPattern(Plan):
    """How a dataset is being read, and how far it is fetched."""

    def __init__(self, catalog: Catalog, dataset: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.reads = 0
        """Downloads that readers waited for, and uses of what was fetched ahead.

        They become fewer if it was not used.
        """
        self.order: str | None = None
        self.read_at = 0.0
        """Seconds of the monotonic clock."""
        self.total = 0
        """The same as `reads`, all of them."""
        self.expected = 0
        """Images that were to be fetched ahead, all of them."""

        self._catalog = catalog
        self._recent: deque[ImageRow] = deque(maxlen=RECENT)
        self._agreement = dict.fromkeys(ORDERS, 0)
        self._folders: dict[int, int] = {}
        """How far each one that was read in is fetched (a `seq`), without order."""
        self._reached: ImageRow | None = None
        """How far an ordered read is fetched."""

    @property
    def window(self) -> int:
        """Images that may lie unused, as far as the reads go."""
        return PER_READ * self.reads if self.reads >= FIRST else 0

    def expect(self, key: int) -> None:
        """An image will lie ready."""
        self.expected += 1
        self.ahead.add(key, self.expected)

    def use(self, key: int) -> bool:
        """An image is read that was there; whether it was fetched for that."""
        mark = self.ahead.take(key)

        # Without an order each image may come last.
        if mark is not None and self.order is not None:
            passed = self.ahead.give_up(mark - LAG)
            self.reads = max(min(self.reads, MODEST), self.reads - passed)

        return mark is not None

    def read(self, image: ImageRow) -> None:
        """An image is read that a reader waits for, or that was fetched ahead."""
        self.reads += 1
        self.total += 1
        self._folders.setdefault(image.directory, 0)

        if self.order is None:
            if self.reads <= LOOKED_AT:
                self._compare(image)
        elif not self._follows(image):
            self.order = None
            self._reached = None
            self.reads = self.reads // 2
            self._agreement = dict.fromkeys(ORDERS, 0)
        elif self._reached is None or self._reached.directory != image.directory:
            self._reached = image

        self._recent.append(image)

    def skim(self) -> None:
        """A read, counted when it began, has ended with most of its image unread."""
        self.reads = max(0, self.reads - SKIM)

    def take_whole(self) -> None:
        """Every folder of the dataset counts as one that is read in."""
        for folder in self._catalog.directory_keys(self.dataset):
            self._folders.setdefault(folder, 0)

    def _compare(self, image: ImageRow) -> None:
        """Count which orders this read agrees with."""
        # The first image in a folder says nothing.
        if not any(row.directory == image.directory for row in self._recent):
            return

        for order in ORDERS:
            if self._is_next(image, order):
                self._agreement[order] += 1
            else:
                self._agreement[order] = 0

            if self._agreement[order] >= CERTAIN:
                self.order = order
                self._reached = image
                return

    def _is_next(self, image: ImageRow, order: str) -> bool:
        before = [row.key for row in self._catalog.next_images(image, order, NEAR, back=True)]
        near = bool(self._recent) and self._recent[-1].key in before
        return near or any(row.key in before[:1] for row in self._recent)

    def _follows(self, image: ImageRow) -> bool:
        """Whether an ordered read went on in its order: it was fetched ahead, or is not far."""
        assert self.order is not None

        # The next folder: its images follow in the same order.
        if not any(row.directory == image.directory for row in self._recent):
            return True

        reached = self._reached
        in_reach = reached is not None and reached.directory == image.directory
        if in_reach and getattr(image, self.order) <= getattr(reached, self.order):
            return True

        return self._is_next(image, self.order)

    def upcoming(self, *, whole: bool) -> Iterator[ImageRow]:
        """What may be read next, each image once; `whole`: also if there is no order."""
        if self.order is not None:
            yield from self._ordered(self.order)
        elif whole:
            yield from self._unordered()

    def _ordered(self, order: str) -> Iterator[ImageRow]:
        while self._reached is not None:
            rows = self._catalog.next_images(self._reached, order, PAGE)
            if not rows:
                return

            for row in rows:
                self._reached = row
                yield row

    def _unordered(self) -> Iterator[ImageRow]:
        for folder, seq in list(self._folders.items()):
            while rows := self._catalog.images_after(folder, seq, PAGE):
                for row in rows:
                    self._folders[folder] = seq = row.seq  # noqa: PLW2901
                    yield row
