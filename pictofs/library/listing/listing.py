"""What exists: the datasets, their directories and their images, as fresh as the TTL asks, for few requests."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio
from cachetools import TTLCache

from pictofs.api.client import Api
from pictofs.api.paging import read_datasets
from pictofs.api.stats import is_insisting
from pictofs.clock import Clock
from pictofs.errors import (
    DiskFull,
    Forbidden,
    Invalid,
    Nonsense,
    NoSuchEntry,
    NotSupported,
)
from pictofs.library.connectivity import AWAY, Reach
from pictofs.library.listing.invalidation import Changes
from pictofs.library.listing.pager import PASSES, Filling, Pages, fill
from pictofs.library.server_traits import Traits
from pictofs.library.single_flight import Flights
from pictofs.model.names import QUOTE, storable, unescape
from pictofs.model.records import Dataset, Image
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import Heard
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)
T = TypeVar("T")

NO_DATASET = -1
"""The key of none."""
EMBED_PAGE = 10_000
"""Images of one embedded page (`GET /datasets/{d}?include_images=true`), its cap."""
IMAGE_PAGE = 1000
"""Images of one page of `GET /images/`, its cap."""
RELIST_AFTER = 12
"""TTLs after which a dataset whose signature never moved is listed again: a move, a new status or another
split need not show in it. With the default TTL that is an hour, and a request an hour per 10,000 images."""
UNRENEWED = (*AWAY, Forbidden, DiskFull)
"""What leaves a listing as it was: no answer, none for this key, or no disk to write it to."""
PATIENCE = 1.0
"""Seconds that a look at something cached waits for its renewal; what is slower goes on behind it."""
COMMAND_PATIENCE = 5.0
"""The same where more hangs on it than what a folder shows: at the start of a mount or a run, after a change."""


QUERY_PATH_MAX = 2048
"""Characters of a directory's path in a query; proxies refuse a URL of 8 KiB, and each may become nine."""


class _NotEmbedded(Exception):
    """The server has no embedded listing, or none that says where images lie."""


class Listing:
    """The catalog kept fresh. Each method makes at most the requests that the catalog can't answer."""

    def __init__(
        self,
        api: Api,
        catalog: Catalog,
        images: ImageTable,
        flights: Flights,
        reach: Reach,
        changes: Changes,
        clock: Clock,
        ttl: float,
        traits: Traits,
        *,
        frozen: bool = False,
    ) -> None:
        """`ttl`: seconds for which a listing is fresh. `frozen`: what is known is fresh for ever."""
        self._api, self._catalog, self._images = api, catalog, images
        self._flights, self._reach, self._changes, self._clock = flights, reach, changes, clock
        self._ttl, self._frozen = ttl, frozen
        self._traits = traits
        self._fillings: dict[int, Filling] = {}  # by the key of a dataset or of a directory
        self._spent: dict[int, int] = {}  # requests for single folders or names, by dataset since its listing
        # Names that were asked for alone, with the answer: found or not. Bounded, and fresh by its TTL.
        self._answers: TTLCache[tuple[int, str], bool] = TTLCache(65_536, max(ttl, 1e-6), clock.monotonic)

    # Datasets.

    async def datasets(self, *, strict: bool = False, patience: float = PATIENCE) -> None:
        """Make sure that the list of datasets is fresh, or as good as it gets while the server is away.

        `strict`: ask now, and raise what keeps the server from answering. `patience`: seconds to wait for it where
        the list is known.
        """
        checked = self._catalog.meta("checked_at")
        if strict:
            await self._renew("datasets", self._read_datasets, have=False)
            return
        if checked and self._frozen:
            return
        if not checked or not 0 <= self._clock.wall() - checked < self._ttl:
            await self._renew("datasets", self._read_datasets, have=checked is not None, patience=patience)

    async def _read_datasets(self) -> None:
        for _ in range(PASSES):
            edition, at = self._catalog.edition, self._clock.wall()
            found = await self._all_datasets()
            gone = await in_thread(self._catalog.put_datasets, found, at, edition, self._heard())
            if gone is not None:
                self._answers.clear()
                self._changes.tell(gone)
                return
            # It was changed from here meanwhile, and what was read may lack that.
        log.info("the list of datasets was changed while it was read, %d times in a row", PASSES)

    def _heard(self) -> Heard:
        return Heard(self._clock.wall(), self._api.clock_ahead)

    async def _all_datasets(self) -> list[Dataset]:
        try:
            return await read_datasets(self._api.datasets)
        except NoSuchEntry as error:  # a proxy's 404, or another host: no word on any dataset
            raise Nonsense(f"there is no list of datasets: is the base URL right? {error}") from error

    async def doubt(self) -> None:
        """Have the next look at the list of datasets ask the server."""
        await in_thread(self._catalog.expire, NO_DATASET)

    async def dataset(self, key: int) -> DatasetRow:
        """A dataset as fresh as the TTL asks. Raises NoSuchEntry when it is gone."""
        await self.datasets()
        row = self._catalog.dataset(key)
        if row is None:
            raise NoSuchEntry("the dataset is gone")
        return row

    @property
    def fresh_for(self) -> float:
        """Seconds for which the kernel may keep an entry without asking: until the list is checked again."""
        if self._frozen:
            return self._ttl
        if self._reach.resting:
            return 1.0
        checked = self._catalog.meta("checked_at") or 0.0
        return min(self._ttl, max(0.0, checked + self._ttl - self._clock.wall()))

    # Directories.

    async def tree(self, key: int, *, strict: bool = False) -> DatasetRow:
        """Make sure that a dataset's directories are known and fresh. `strict`: see `all_images`."""
        row = await self.dataset(key)
        if not self._current(row.tree_at, row.tree_signature, row.signature, strict=strict):
            work = partial(self._read_tree, row)
            known = row.tree_at is not None or row.tree_signature is not None
            await self._renew(("tree", key), work, have=known and not strict)
        return row

    async def _read_tree(self, row: DatasetRow) -> None:
        at = self._clock.wall()
        found = await self._api.directory_tree(row.id)
        gone = await in_thread(self._catalog.put_directories, row.key, row.id, found, row.signature, at)
        self._changes.tell(gone)

    # Images.

    async def folder(self, directory: DirectoryRow) -> Filling | None:
        """Make sure that a directory's images are known, or on their way.

        Returns the pass that brings them, None when all are in the catalog. The pass covers the whole dataset
        unless the directory alone costs fewer requests, summed over what was spent that way before.
        """
        dataset = await self.tree(directory.dataset)
        current = self._catalog.directory(directory.key)
        if current is None:
            raise NoSuchEntry("the directory is gone")
        if self._is_listed(dataset, current):
            return None
        had = dataset.listed_signature is not None or current.listed_signature is not None
        if had and self._reach.resting:
            return None
        filling = self._fillings.get(dataset.key) or self._fillings.get(directory.key)
        if filling is None:
            filling = self._begin(dataset, current)
        if had:
            # What was listed once is shown whole: a renewal under way must not make a folder look half full.
            await _be_patient(filling)
            if isinstance(filling.error, AWAY) or not filling.finished.is_set():
                return None
            # A pass that began before the last change may not have seen it.
            return await self.folder(directory) if filling.signature != dataset.signature else filling
        if current.key in filling.old:
            await filling.finished.wait()
        return filling

    async def whole(self, key: int) -> DatasetRow:
        """A dataset with every image in the catalog: what was listed before where the server is slow or away."""
        dataset = await self.tree(key)
        had = dataset.listed_signature is not None
        if not self.is_listed(dataset) and not (had and self._reach.resting):
            filling = self._fillings.get(key) or self._list_dataset(dataset)
            await (_be_patient(filling) if had else filling.finished.wait())
            if filling.error is not None and not (had and isinstance(filling.error, AWAY)):
                raise filling.error
            if filling.error is None and filling.finished.is_set() and filling.signature != dataset.signature:
                return await self.whole(key)
        row = self._catalog.dataset(key)
        if row is None:
            raise NoSuchEntry("the dataset is gone")
        return row

    async def all_images(self, key: int, *, strict: bool = False) -> None:
        """Wait until every image of a dataset is in the catalog.

        `strict`: a listing of before the TTL is renewed, whatever the signature says, and what keeps it from that
        is raised, where the old one would do otherwise.
        """
        dataset = await self.tree(key, strict=strict)
        if not self._current(dataset.listed_at, dataset.listed_signature, dataset.signature, strict=strict):
            filling = self._fillings.get(key) or self._list_dataset(dataset)
            await filling.finished.wait()
            if filling.error is not None and (strict or dataset.listed_signature is None):
                raise filling.error
            if filling.error is None and filling.signature != dataset.signature:
                await self.all_images(key, strict=strict)

    def is_listed(self, dataset: DatasetRow) -> bool:
        """Whether every image of a dataset is in the catalog, and fresh."""
        return self._current(dataset.listed_at, dataset.listed_signature, dataset.signature)

    def _is_listed(self, dataset: DatasetRow, directory: DirectoryRow) -> bool:
        return self.is_listed(dataset) or self._current(
            directory.listed_at, directory.listed_signature, dataset.signature
        )

    def _begin(self, dataset: DatasetRow, directory: DirectoryRow) -> Filling:
        count = (
            directory.image_count if directory.parent is not None else self._catalog.root_images(dataset.key)
        )
        alone = max(1, math.ceil(count / IMAGE_PAGE))
        whole = max(1, math.ceil(dataset.image_count / self._page_size))
        if alone < whole and self._can_ask(directory) and self._spend(dataset, alone, whole):
            return self._list_directory(dataset, directory)
        return self._list_dataset(dataset)

    def _can_ask(self, directory: DirectoryRow) -> bool:
        """Whether the server can be asked for a directory by its path: one with an escape need not be its word."""
        if self._traits.get("rows") == "summary":  # all images are shown in the root, wherever they lie
            return False
        return QUOTE not in directory.path and len(directory.path) <= QUERY_PATH_MAX

    def _spend(self, dataset: DatasetRow, cost: int, whole: int) -> bool:
        """Whether to pay `cost` requests for a part, with `whole` as the price of it all: never twice that."""
        spent = self._spent.get(dataset.key, 0)
        if spent + cost > whole:
            return False
        self._spent[dataset.key] = spent + cost
        return True

    def _list_dataset(self, dataset: DatasetRow) -> Filling:
        self._spent.pop(dataset.key, None)
        return self._launch(dataset, None)

    def _list_directory(self, dataset: DatasetRow, directory: DirectoryRow) -> Filling:
        return self._launch(dataset, directory)

    @property
    def _page_size(self) -> int:
        """Images of one request of a whole dataset's listing."""
        return IMAGE_PAGE if self._traits.get("listing") == "pages" else EMBED_PAGE

    def _embedded(self, dataset: DatasetRow) -> Callable[[int], Awaitable[Pages]]:
        """Pages of the embedded listing. Raises `_NotEmbedded` where the server has none that is whole."""
        first: list[str] = []

        async def page(offset: int) -> Pages:
            found, images = await self._api.dataset_images(dataset.id, offset, EMBED_PAGE)
            if images is None or images.summary:
                raise _NotEmbedded
            ids = [image.id for image in images.rows]
            if offset and ids and ids == first:  # the offset is not heeded: what is behind can't be had
                raise _NotEmbedded
            if offset == 0:
                first[:] = ids
            return Pages(images, images.total, found)

        return page

    def _paged(
        self, dataset: DatasetRow, directory: DirectoryRow | None
    ) -> Callable[[int], Awaitable[Pages]]:
        """Pages of `GET /images/`, of a dataset or of one directory."""
        path = directory and directory.path

        async def page(offset: int) -> Pages:
            images = await self._api.images(dataset.id, directory=path, offset=offset, limit=IMAGE_PAGE)
            if images.rows:
                await self._traits.choose("rows", "summary" if images.summary else "full")
            return Pages(images, images.total, None)

        return page

    async def _fill_somehow(
        self, dataset: DatasetRow, directory: DirectoryRow | None, filling: Filling
    ) -> None:
        if directory is None and self._traits.get("listing") != "pages":
            try:
                await self._fill(dataset, None, EMBED_PAGE, self._embedded(dataset), filling)
            except (_NotEmbedded, Invalid, NotSupported):  # not given, or refused
                pass
            else:
                await self._traits.choose("listing", "embedded")
                return
        key = None if directory is None else directory.key
        await self._fill(dataset, key, IMAGE_PAGE, self._paged(dataset, directory), filling)
        if directory is None:  # chosen only now: a route that fails is no way out
            await self._traits.choose("listing", "pages")

    def _launch(self, dataset: DatasetRow, directory: DirectoryRow | None) -> Filling:
        key = dataset.key if directory is None else directory.key
        filling = self._fillings[key] = Filling(
            dataset.signature, old=self._catalog.directories_with_images(dataset.key)
        )

        async def work() -> None:
            try:
                await self._fill_somehow(dataset, directory, filling)
                self._reach.answered()
            except Exception as error:
                if isinstance(error, AWAY):
                    self._reach.failed(error)
                filling.fail(error)
            finally:
                del self._fillings[key]
                filling.finished.set()
                filling.advance()

        self._flights.launch(("list", key), work)
        return filling

    async def _fill(
        self,
        dataset: DatasetRow,
        directory: int | None,
        limit: int,
        page: Callable[[int], Awaitable[Pages]],
        filling: Filling,
    ) -> None:
        at = self._clock.wall()
        moves = dataset.listed_signature is not None  # before that no entry was ever promised

        def put(images: list[Image], seen: int) -> None:
            self._changes.tell_from_thread(
                self._images.put(dataset.key, dataset.id, images, seen, moves=moves)
            )

        def seen_in(seen: int) -> int:
            return self._images.seen_in(dataset.key, seen, directory)

        begin_pass, expected = self._images.begin_pass, dataset.image_count
        result = await fill(page, limit, begin_pass, put, seen_in, filling, expected)
        signature = dataset.signature
        if result.dataset is not None:
            signature = result.dataset.signature
            put_dataset = partial(
                self._catalog.put_dataset, result.dataset, self._heard(), known=dataset.signature
            )
            self._changes.tell(await in_thread(put_dataset))
        gone = await in_thread(
            partial(
                self._images.sweep, dataset.key, result.seen, directory=directory, signature=signature, at=at
            )
        )
        self._answers.clear()
        self._changes.tell(gone)

    # One name.

    async def image(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image listed as `entry`, for at most one request; None when there is none."""
        return await self._find(directory, entry, unescape(entry), self._catalog.image_by_entry)

    async def noted_image(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image whose annotation file is listed as `entry`, for at most one request."""
        filename = unescape(entry[:-5]) if entry.endswith(".json") else None
        if not entry.endswith(".json"):
            return None
        return await self._find(directory, entry, filename, self._catalog.image_by_note_entry)

    async def confirmed(self, image: ImageRow) -> ImageRow | None:
        """An image that is known, as fresh as a look at its path has it; None when it is no longer there."""
        directory = self._catalog.directory(image.directory)
        if directory is None:
            return None

        def read(folder: int, _: str) -> ImageRow | None:
            row = self._catalog.image(image.key)
            return row if row is not None and row.directory == folder else None

        name = unescape(image.entry)
        if name is None and QUOTE not in image.name:  # a tag stands in the entry
            name = image.name
        return await self._find(directory, image.entry, name, read)

    async def _find(
        self,
        directory: DirectoryRow,
        entry: str,
        filename: str | None,
        read: Callable[[int, str], ImageRow | None],
    ) -> ImageRow | None:
        dataset = await self.tree(directory.dataset)
        current = self._catalog.directory(directory.key)
        if current is None:
            return None
        row = read(directory.key, entry)
        if self._is_listed(dataset, current) or (row is not None and self._reach.resting):
            return row
        if (
            filename is None or storable(filename) != filename or not self._can_ask(directory)
        ):  # only a listing knows what the entry stands for
            await self._filled(current)
            return read(directory.key, entry)
        answer = self._answers.get((directory.key, filename))
        if answer is not None and answer == (row is not None):
            return row
        filling = self._fillings.get(dataset.key)
        if filling is not None and row is not None:
            # What is known serves if the pass is slow.
            await _be_patient(filling)
            ended = filling.finished.is_set() and filling.error is None
            if ended and filling.signature != dataset.signature:
                # It began before the last change, and may not have seen it.
                return await self._find(directory, entry, filename, read)
            return read(directory.key, entry)

        whole = max(2, math.ceil(dataset.image_count / self._page_size))
        if filling is not None or not self._spend(dataset, 1, whole):
            await self._wait_for(current, entry, read)
        else:
            work = partial(self._ask, dataset, current, filename)
            await self._renew(("name", directory.key, filename), work, have=row is not None)
        return read(directory.key, entry)

    async def _ask(self, dataset: DatasetRow, directory: DirectoryRow, filename: str) -> None:
        found = await self._api.images(dataset.id, directory=directory.path, filename=filename, limit=10)
        if found.summary:
            await self._traits.choose("rows", "summary")
            await self._filled(directory)
            return
        seen = self._catalog.meta("pass") or 0
        rows = [
            image for image in found.rows if image.directory == directory.path and image.filename == filename
        ]
        gone = await in_thread(
            self._images.put_answer, dataset.key, dataset.id, directory.key, filename, rows, seen
        )
        self._answers[directory.key, filename] = bool(rows)
        self._changes.tell(gone)

    async def _filled(self, directory: DirectoryRow) -> None:
        filling = await self.folder(directory)
        if filling is not None:
            await filling.finished.wait()
            if filling.error is not None:
                raise filling.error

    async def _wait_for(
        self, directory: DirectoryRow, entry: str, read: Callable[[int, str], ImageRow | None]
    ) -> None:
        """Wait for a pass to bring one name, or to end."""
        filling = self._fillings.get(directory.dataset) or await self.folder(directory)
        while filling is not None and read(directory.key, entry) is None:
            if filling.finished.is_set():
                if filling.error is not None:
                    raise filling.error
                return
            await filling.more()

    # Freshness.

    def _current(
        self, at: float | None, signature: str | None, now_signature: str, *, strict: bool = False
    ) -> bool:
        if at is None or self._frozen:
            return at is not None
        if signature != now_signature:
            return False
        return 0 <= self._clock.wall() - at < self._ttl * (1 if strict else RELIST_AFTER)

    async def _renew(
        self,
        key: object,
        work: Callable[[], Awaitable[None]],
        *,
        have: bool,
        patience: float = PATIENCE,
    ) -> None:
        """Do `work` once for all who want it. With `have`, what is cached serves when the server is slow or away."""
        if not have or is_insisting():
            patience = math.inf
        elif self._reach.resting:
            return
        try:
            with trio.move_on_after(patience) as waiting:
                await self._flights.share(key, partial(self._told, work))
            if waiting.cancelled_caught:
                self._reach.delayed(patience)
        except UNRENEWED:
            if not have:
                raise

    async def _told(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, and let the reach know how it went, whoever still waits for it."""
        try:
            await work()
        except UNRENEWED as error:
            self._reach.failed(error)
            raise
        self._reach.answered()


async def _be_patient(filling: Filling) -> None:
    """Wait for a renewal, for as long as a person would who has something to look at meanwhile."""
    if not filling.slow:
        with trio.move_on_after(PATIENCE):
            await filling.finished.wait()
        filling.slow = not filling.finished.is_set()
