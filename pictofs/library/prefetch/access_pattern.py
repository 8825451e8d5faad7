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
NEAR = 8
"""A read agrees with an order if more of the recent ones are among so many before it than among so
many behind it: several processes that share an order arrive in any order."""
RECENT = 16
"""Reads that count as recent ones."""
CERTAIN = 5
"""Reads in a row that decide an order, if each comes right behind the last one, or next to one of
the last RIGHT_BEHIND.

Of a hundred images in no order so many agree by chance once in 20,000.
"""
RIGHT_BEHIND = 8
LIKELY = 12
"""Reads in a row that decide an order, if each agrees with it.

Four processes of which each reads every fourth image may arrive as 3 1 2 0, 7 5 6 4 for as long as
they read: never are five in a row right behind each other.
"""
SPREAD = 256
"""Images within which processes that share an order are: eight workers with batches of 32."""
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
"""Reads in which an order is looked for: all of the first so many."""
LOOKED_AT_AGAIN = 32
"""The same of each further LOOKED_AT: a look costs 0.15 ms."""
KEPT = 1024
"""Images that follow in an order of which those that lie ready stay expected."""
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
        self.used = 0
        """Images that were fetched ahead and read, all of them."""

        self._recent: deque[ImageRow] = deque(maxlen=RECENT)
        self._right_behind = dict.fromkeys(ORDERS, 0)
        self._agreement = dict.fromkeys(ORDERS, 0)
        self._unordered_reads = 0
        """Reads in which no order was found."""
        self._unexpected = 0
        """Reads in a row of what was not fetched ahead."""
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
        if mark is None:
            return False

        self.used += 1
        # Without an order each image may come last.
        if self.order is not None:
            passed = self.ahead.give_up(mark - LAG)
            self.reads = max(min(self.reads, MODEST), self.reads - passed)

        return True

    def read(self, image: ImageRow, *, expected: bool) -> None:
        """An image is read that a reader waits for, or that was fetched ahead.

        `expected`: it was fetched ahead, or is about to be.
        """
        self.reads += 1
        self.total += 1
        self._folders.setdefault(image.directory, 0)
        self._unexpected = 0 if expected else self._unexpected + 1

        if self.order is None:
            self._unordered_reads += 1
            looked_at = self._unordered_reads
            if looked_at <= LOOKED_AT or looked_at % LOOKED_AT < LOOKED_AT_AGAIN:
                self._compare(image)
        elif not self._follows(image):
            self.reads = self.reads // 2
            self._lose_order()
        elif self._reached is None or self._reached.directory != image.directory:
            self._reached = image
        elif self._unexpected >= RECENT:
            # What is fetched lies elsewhere than what is read.
            self._begin_at(image, self.order, RECENT)

        self._recent.append(image)

    def skim(self) -> None:
        """A read, counted when it began, has ended with most of its image unread."""
        self.reads = max(0, self.reads - SKIM)

    def take_whole(self) -> None:
        """Every folder of the dataset counts as one that is read in."""
        for folder in self._catalog.directory_keys(self.dataset):
            self._folders.setdefault(folder, 0)

    def _lose_order(self) -> None:
        self.order = None
        self._reached = None
        self._unordered_reads = 0
        self._right_behind = dict.fromkeys(ORDERS, 0)
        self._agreement = dict.fromkeys(ORDERS, 0)

    def _compare(self, image: ImageRow) -> None:
        """Count which orders this read agrees with."""
        # The first image in a folder says nothing.
        if not any(row.directory == image.directory for row in self._recent):
            return

        for order in ORDERS:
            self._count(image, order)
            if self._right_behind[order] >= CERTAIN or self._agreement[order] >= LIKELY:
                self._begin_at(image, order, self._agreement[order])
                return

    def _count(self, image: ImageRow, order: str) -> None:
        before = self._beside(image, order, back=True)
        after = self._beside(image, order, back=False)
        recent = [row.key for row in self._recent]
        behind = sum(key in before for key in recent)
        in_front = sum(key in after for key in recent)

        right_behind = behind >= in_front and self._is_next(before)
        self._right_behind[order] = self._right_behind[order] + 1 if right_behind else 0

        agrees = right_behind or behind > in_front
        self._agreement[order] = self._agreement[order] + 1 if agrees else 0

    def _beside(self, image: ImageRow, order: str, *, back: bool) -> list[int]:
        return [row.key for row in self._catalog.next_images(image, order, NEAR, back=back)]

    def _is_next(self, before: list[int]) -> bool:
        """Whether a read of what comes after `before` comes right behind a recent one."""
        recent = [row.key for row in self._recent]
        return recent[-1] in before or any(key in before[:1] for key in recent[-RIGHT_BEHIND:])

    def _begin_at(self, image: ImageRow, order: str, reads: int) -> None:
        """Follow an order from the reader on that is furthest behind this read of it.

        `reads`: of the recent ones, those that are in this order.

        What lies ready and does not follow soon is given up. It was fetched before anybody knew the
        order, from the other end of the folder as it may be, and what takes its place is needed
        sooner.
        """
        recent = [row.key for row in self._recent][-reads:]
        behind = self._catalog.next_images(image, order, SPREAD, back=True)
        farthest = max((at for at, row in enumerate(behind, 1) if row.key in recent), default=0)

        self.order = order
        self._unexpected = 0
        self._reached = behind[farthest - 1] if farthest else image

        if self.ahead:
            follow = self._catalog.next_images(image, order, min(len(self.ahead), KEPT))
            self.ahead.keep({row.key for row in (*behind[:farthest], *follow)})

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

        before = self._beside(image, self.order, back=True)
        return any(row.key in before for row in self._recent)

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
