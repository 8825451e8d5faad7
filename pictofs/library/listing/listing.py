"""What exists: the datasets, their directories and their images, as fresh as the TTL asks, for few requests."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
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
    InvalidResponse,
    NoSuchEntry,
    NotSupported,
)
from pictofs.library.connectivity import UNAVAILABLE, Connectivity
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.pager import PASSES, ListingInProgress, ListingPage, list_pages
from pictofs.library.server_traits import ServerTraits
from pictofs.library.single_flight import SingleFlight
from pictofs.model.names import QUOTE, storable, unescape
from pictofs.model.records import Dataset, Image
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import Observation
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
UNRENEWED = (*UNAVAILABLE, Forbidden, DiskFull)
"""What leaves a listing as it was: no answer, none for this key, or no disk to write it to."""
REFRESH_WAIT_S = 1.0
"""Seconds that a look at something cached waits for its renewal; what is slower goes on behind it."""
COMMAND_REFRESH_WAIT_S = 5.0
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
        single_flight: SingleFlight,
        connectivity: Connectivity,
        invalidations: DentryInvalidations,
        clock: Clock,
        ttl: float,
        traits: ServerTraits,
        *,
        frozen: bool = False,
    ) -> None:
        """`ttl`: seconds for which a listing is fresh. `frozen`: what is known is fresh for ever."""
        self._api, self._catalog, self._images = api, catalog, images
        self._single_flight, self._connectivity, self._invalidations, self._clock = (
            single_flight,
            connectivity,
            invalidations,
            clock,
        )
        self._ttl, self._frozen = ttl, frozen
        self._shown: set[str] = set()
        self._traits = traits
        self._in_progress: dict[
            int, ListingInProgress
        ] = {}  # by the key of a dataset or of a directory
        self._refreshes = (
            0  # what was asked before the last one may be older than what is wanted now
        )
        self._spent: dict[
            int, int
        ] = {}  # requests for single folders or names, by dataset since its listing
        # Names that were asked for alone, with the answer: found or not. Bounded, and fresh by its TTL.
        self._answers: TTLCache[tuple[int, str], bool] = TTLCache(
            65_536, max(ttl, 1e-6), clock.monotonic
        )

    # Datasets.

    async def datasets(self, *, strict: bool = False, patience: float = REFRESH_WAIT_S) -> None:
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
            await self._renew(
                "datasets", self._read_datasets, have=checked is not None, patience=patience
            )

    async def _read_datasets(self) -> None:
        for _ in range(PASSES):
            revision, at = self._catalog.revision, self._clock.wall()
            found = await self._all_datasets()
            gone = await in_thread(self._catalog.put_datasets, found, at, revision, self._heard())
            if gone is not None:
                self._answers.clear()
                self._invalidations.tell(gone)
                return
            # It was changed from here meanwhile, and what was read may lack that.
        log.info("the list of datasets was changed while it was read, %d times in a row", PASSES)

    def _heard(self) -> Observation:
        return Observation(self._clock.wall(), self._api.clock_ahead)

    async def _all_datasets(self) -> list[Dataset]:
        try:
            return await read_datasets(self._api.datasets)
        except NoSuchEntry as error:  # a proxy's 404, or another host: no word on any dataset
            raise InvalidResponse(
                f"there is no list of datasets: is the base URL right? {error}"
            ) from error

    def shown(self, names: Iterable[str]) -> None:
        """The kernel is told that these datasets exist."""
        self._shown.update(names)

    def renamed(self) -> set[str]:
        """Names that the kernel was told of, and that no dataset has any more."""
        gone = {name for name in self._shown if self._catalog.dataset_by_entry(name) is None}
        self._shown -= gone
        return gone

    async def invalidate(self, dataset: int | None) -> None:
        """Have the next look at a dataset, or at the list of them, ask the server. None: at all of them.

        What is on its way already is not waited for: it may be older, or never come.
        """
        await in_thread(self._catalog.expire, dataset)
        self._refreshes += 1

    def _under_way(self, key: int) -> ListingInProgress | None:
        """The pass over a dataset or a directory, if it has begun since the last refresh."""
        found = self._in_progress.get(key)
        return found if found is not None and found.refreshes == self._refreshes else None

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
        if self._connectivity.backing_off:
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
            await self._renew(("tree", key, self._refreshes), work, have=known and not strict)
        return row

    async def _read_tree(self, row: DatasetRow) -> None:
        at = self._clock.wall()
        found = await self._api.directory_tree(row.id)
        gone = await in_thread(
            self._catalog.put_directories, row.key, row.id, found, row.signature, at
        )
        self._invalidations.tell(gone)

    # Images.

    async def folder(self, directory: DirectoryRow) -> ListingInProgress | None:
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
        if had and self._connectivity.backing_off:
            return None
        in_progress_listing = self._under_way(dataset.key) or self._under_way(directory.key)
        if in_progress_listing is None:
            in_progress_listing = self._begin(dataset, current)
        if had:
            # What was listed once is shown whole: a renewal under way must not make a folder look half full.
            await _wait_for_refresh(in_progress_listing)
            if (
                isinstance(in_progress_listing.error, UNAVAILABLE)
                or not in_progress_listing.finished.is_set()
            ):
                return None
            # A pass that began before the last change may not have seen it.
            return (
                await self.folder(directory)
                if in_progress_listing.signature != dataset.signature
                else in_progress_listing
            )
        if current.key in in_progress_listing.old:
            await in_progress_listing.finished.wait()
        return in_progress_listing

    async def whole(self, key: int) -> DatasetRow:
        """A dataset with every image in the catalog: what was listed before where the server is slow or away."""
        dataset = await self.tree(key)
        had = dataset.listed_signature is not None
        if not self.is_listed(dataset) and not (had and self._connectivity.backing_off):
            in_progress_listing = self._under_way(key) or self._list_dataset(dataset)
            await (
                _wait_for_refresh(in_progress_listing)
                if had
                else in_progress_listing.finished.wait()
            )
            if in_progress_listing.error is not None and not (
                had and isinstance(in_progress_listing.error, UNAVAILABLE)
            ):
                raise in_progress_listing.error
            if (
                in_progress_listing.error is None
                and in_progress_listing.finished.is_set()
                and in_progress_listing.signature != dataset.signature
            ):
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
        if not self._current(
            dataset.listed_at, dataset.listed_signature, dataset.signature, strict=strict
        ):
            in_progress_listing = self._under_way(key) or self._list_dataset(dataset)
            await in_progress_listing.finished.wait()
            if in_progress_listing.error is not None and (
                strict or dataset.listed_signature is None
            ):
                raise in_progress_listing.error
            if (
                in_progress_listing.error is None
                and in_progress_listing.signature != dataset.signature
            ):
                await self.all_images(key, strict=strict)

    def is_listed(self, dataset: DatasetRow) -> bool:
        """Whether every image of a dataset is in the catalog, and fresh."""
        return self._current(dataset.listed_at, dataset.listed_signature, dataset.signature)

    def _is_listed(self, dataset: DatasetRow, directory: DirectoryRow) -> bool:
        return self.is_listed(dataset) or self._current(
            directory.listed_at, directory.listed_signature, dataset.signature
        )

    def _begin(self, dataset: DatasetRow, directory: DirectoryRow) -> ListingInProgress:
        count = (
            directory.image_count
            if directory.parent is not None
            else self._catalog.root_images(dataset.key)
        )
        alone = max(1, math.ceil(count / IMAGE_PAGE))
        whole = max(1, math.ceil(dataset.image_count / self._page_size))
        if alone < whole and self._can_ask(directory) and self._spend(dataset, alone, whole):
            return self._list_directory(dataset, directory)
        return self._list_dataset(dataset)

    def _can_ask(self, directory: DirectoryRow) -> bool:
        """Whether the server can be asked for a directory by its path: one with an escape need not be its word."""
        if (
            self._traits.get("rows") == "summary"
        ):  # all images are shown in the root, wherever they lie
            return False
        return QUOTE not in directory.path and len(directory.path) <= QUERY_PATH_MAX

    def _spend(self, dataset: DatasetRow, cost: int, whole: int) -> bool:
        """Whether to pay `cost` requests for a part, with `whole` as the price of it all: never twice that."""
        spent = self._spent.get(dataset.key, 0)
        if spent + cost > whole:
            return False
        self._spent[dataset.key] = spent + cost
        return True

    def _list_dataset(self, dataset: DatasetRow) -> ListingInProgress:
        self._spent.pop(dataset.key, None)
        return self._launch(dataset, None)

    def _list_directory(self, dataset: DatasetRow, directory: DirectoryRow) -> ListingInProgress:
        return self._launch(dataset, directory)

    @property
    def _page_size(self) -> int:
        """Images of one request of a whole dataset's listing."""
        return IMAGE_PAGE if self._traits.get("listing") == "pages" else EMBED_PAGE

    def _embedded(self, dataset: DatasetRow) -> Callable[[int], Awaitable[ListingPage]]:
        """Pages of the embedded listing. Raises `_NotEmbedded` where the server has none that is whole."""
        first: list[str] = []

        async def page(offset: int) -> ListingPage:
            found, images = await self._api.dataset_images(dataset.id, offset, EMBED_PAGE)
            if images is None or images.summary:
                raise _NotEmbedded
            ids = [image.id for image in images.rows]
            if (
                offset and ids and ids == first
            ):  # the offset is not heeded: what is behind can't be had
                raise _NotEmbedded
            if offset == 0:
                first[:] = ids
            return ListingPage(images, images.total, found)

        return page

    def _paged(
        self, dataset: DatasetRow, directory: DirectoryRow | None
    ) -> Callable[[int], Awaitable[ListingPage]]:
        """Pages of `GET /images/`, of a dataset or of one directory."""
        path = directory and directory.path

        async def page(offset: int) -> ListingPage:
            images = await self._api.images(
                dataset.id, directory=path, offset=offset, limit=IMAGE_PAGE
            )
            if images.rows:
                await self._traits.choose("rows", "summary" if images.summary else "full")
            return ListingPage(images, images.total, None)

        return page

    async def _fill_somehow(
        self,
        dataset: DatasetRow,
        directory: DirectoryRow | None,
        in_progress_listing: ListingInProgress,
    ) -> None:
        if directory is None and self._traits.get("listing") != "pages":
            try:
                await self._fill(
                    dataset, None, EMBED_PAGE, self._embedded(dataset), in_progress_listing
                )
            except (_NotEmbedded, Invalid, NotSupported):  # not given, or refused
                pass
            else:
                await self._traits.choose("listing", "embedded")
                return
        key = None if directory is None else directory.key
        await self._fill(
            dataset, key, IMAGE_PAGE, self._paged(dataset, directory), in_progress_listing
        )
        if directory is None:  # chosen only now: a route that fails is no way out
            await self._traits.choose("listing", "pages")

    def _launch(self, dataset: DatasetRow, directory: DirectoryRow | None) -> ListingInProgress:
        key = dataset.key if directory is None else directory.key
        in_progress_listing = self._in_progress[key] = ListingInProgress(
            dataset.signature,
            self._refreshes,
            old=self._catalog.directories_with_images(dataset.key),
        )

        async def work() -> None:
            try:
                await self._fill_somehow(dataset, directory, in_progress_listing)
                self._connectivity.answered()
            except Exception as error:
                if isinstance(error, UNAVAILABLE):
                    self._connectivity.failed(error)
                in_progress_listing.fail(error)
            finally:
                if self._in_progress.get(key) is in_progress_listing:
                    del self._in_progress[key]
                in_progress_listing.finished.set()
                in_progress_listing.advance()

        self._single_flight.launch(("list", key, self._refreshes), work)
        return in_progress_listing

    async def _fill(
        self,
        dataset: DatasetRow,
        directory: int | None,
        limit: int,
        page: Callable[[int], Awaitable[ListingPage]],
        in_progress_listing: ListingInProgress,
    ) -> None:
        at = self._clock.wall()
        moves = dataset.listed_signature is not None  # before that no entry was ever promised

        def put(images: list[Image], seen: int) -> None:
            self._invalidations.tell_from_thread(
                self._images.put(dataset.key, dataset.id, images, seen, moves=moves)
            )

        def seen_in(seen: int) -> int:
            return self._images.seen_in(dataset.key, seen, directory)

        begin_pass, expected = self._images.begin_pass, dataset.image_count
        result = await list_pages(
            page, limit, begin_pass, put, seen_in, in_progress_listing, expected
        )
        signature = dataset.signature
        if result.dataset is not None:
            signature = result.dataset.signature
            put_dataset = partial(
                self._catalog.put_dataset, result.dataset, self._heard(), known=dataset.signature
            )
            self._invalidations.tell(await in_thread(put_dataset))
        gone = await in_thread(
            partial(
                self._images.sweep,
                dataset.key,
                result.seen,
                directory=directory,
                signature=signature,
                at=at,
            )
        )
        self._answers.clear()
        self._invalidations.tell(gone)

    # One name.

    async def image(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image listed as `entry`, for at most one request; None when there is none."""
        return await self._find(directory, entry, unescape(entry), self._catalog.image_by_entry)

    async def image_of_annotation(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image whose annotation file is listed as `entry`, for at most one request."""
        filename = unescape(entry[:-5]) if entry.endswith(".json") else None
        if not entry.endswith(".json"):
            return None
        return await self._find(directory, entry, filename, self._catalog.image_by_annotation_name)

    async def revalidate(self, image: ImageRow) -> ImageRow | None:
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
        if self._is_listed(dataset, current) or (
            row is not None and self._connectivity.backing_off
        ):
            return row
        if (
            filename is None or storable(filename) != filename or not self._can_ask(directory)
        ):  # only a listing knows what the entry stands for
            await self._filled(current)
            return read(directory.key, entry)
        answer = self._answers.get((directory.key, filename))
        if answer is not None and answer == (row is not None):
            return row
        in_progress_listing = self._under_way(dataset.key)
        if in_progress_listing is not None and row is not None:
            # What is known serves if the pass is slow.
            await _wait_for_refresh(in_progress_listing)
            ended = in_progress_listing.finished.is_set() and in_progress_listing.error is None
            if ended and in_progress_listing.signature != dataset.signature:
                # It began before the last change, and may not have seen it.
                return await self._find(directory, entry, filename, read)
            return read(directory.key, entry)

        whole = max(2, math.ceil(dataset.image_count / self._page_size))
        if in_progress_listing is not None or not self._spend(dataset, 1, whole):
            await self._wait_for(current, entry, read)
        else:
            work = partial(self._ask, dataset, current, filename)
            await self._renew(("name", directory.key, filename), work, have=row is not None)
        return read(directory.key, entry)

    async def _ask(self, dataset: DatasetRow, directory: DirectoryRow, filename: str) -> None:
        found = await self._api.images(
            dataset.id, directory=directory.path, filename=filename, limit=10
        )
        if found.summary:
            await self._traits.choose("rows", "summary")
            await self._filled(directory)
            return
        seen = self._catalog.meta("pass") or 0
        rows = [
            image
            for image in found.rows
            if image.directory == directory.path and image.filename == filename
        ]
        gone = await in_thread(
            self._images.put_answer, dataset.key, dataset.id, directory.key, filename, rows, seen
        )
        self._answers[directory.key, filename] = bool(rows)
        self._invalidations.tell(gone)

    async def _filled(self, directory: DirectoryRow) -> None:
        in_progress_listing = await self.folder(directory)
        if in_progress_listing is not None:
            await in_progress_listing.finished.wait()
            if in_progress_listing.error is not None:
                raise in_progress_listing.error

    async def _wait_for(
        self, directory: DirectoryRow, entry: str, read: Callable[[int, str], ImageRow | None]
    ) -> None:
        """Wait for a pass to bring one name, or to end."""
        in_progress_listing = self._under_way(directory.dataset) or await self.folder(directory)
        while in_progress_listing is not None and read(directory.key, entry) is None:
            if in_progress_listing.finished.is_set():
                if in_progress_listing.error is not None:
                    raise in_progress_listing.error
                return
            await in_progress_listing.more()

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
        patience: float = REFRESH_WAIT_S,
    ) -> None:
        """Do `work` once for all who want it. With `have`, what is cached serves when the server is slow or away."""
        if not have or is_insisting():
            patience = math.inf
        elif self._connectivity.backing_off:
            return
        try:
            with trio.move_on_after(patience) as waiting:
                await self._single_flight.share(key, partial(self._told, work))
            if waiting.cancelled_caught:
                self._connectivity.delayed(patience)
        except UNRENEWED:
            if not have:
                raise

    async def _told(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, and let the reach know how it went, whoever still waits for it."""
        try:
            await work()
        except UNRENEWED as error:
            self._connectivity.failed(error)
            raise
        self._connectivity.answered()


async def _wait_for_refresh(in_progress_listing: ListingInProgress) -> None:
    """Wait for a renewal, for as long as a person would who has something to look at meanwhile."""
    if not in_progress_listing.slow:
        with trio.move_on_after(REFRESH_WAIT_S):
            await in_progress_listing.finished.wait()
        in_progress_listing.slow = not in_progress_listing.finished.is_set()
