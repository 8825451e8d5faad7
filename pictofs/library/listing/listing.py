"""What exists: the datasets, their directories and their images.

All are as fresh as the TTL asks, for few requests.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import trio
from cachetools import TTLCache

from pictofs.api.client import Api
from pictofs.api.stats import is_insisting
from pictofs.clock import Clock
from pictofs.errors import (
    DiskFull,
    Forbidden,
    InvalidResponse,
    NoSuchEntry,
)
from pictofs.library.answers import Answers, Heard
from pictofs.library.connectivity import UNAVAILABLE, Connectivity
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.pager import PASSES, ListingInProgress
from pictofs.library.listing.passes import IMAGE_PAGE, ListingPasses
from pictofs.library.server_traits import ServerTraits
from pictofs.library.single_flight import SingleFlight
from pictofs.model.names import QUOTE, storable, unescape
from pictofs.model.records import Dataset
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import Observation
from pictofs.store.catalog.dentries import format_entries
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)
T = TypeVar("T")

NO_DATASET = -1
"""The key of no dataset."""
RELIST_AFTER = 12
"""TTLs after which a dataset is listed again although its signature never changed.

A move, a new status or another split need not show in the signature. With the default TTL this is
an hour: one request an hour per 10,000 images.
"""
UNRENEWED = (*UNAVAILABLE, Forbidden, DiskFull)
"""Errors that leave a listing as it was: no answer, none for this key, or no room on the disk."""
REFRESH_WAIT_S = 1.0
"""Seconds that a look at something cached waits for its renewal; a slower one goes on behind it."""
COMMAND_REFRESH_WAIT_S = 5.0
"""The same at the start of a mount or a run and after a change: more depends on it there."""
QUERY_PATH_MAX = 2048
"""Characters of a directory's path in a query.

Proxies refuse a URL of 8 KiB, and one character may become nine in it.
"""


class Listing:
    """The catalog kept fresh. Each method requests at most what the catalog can't answer."""

    def __init__(
        self,
        api: Api,
        answers: Answers,
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
        """`ttl`: seconds for which a listing is fresh. `frozen`: what is known stays fresh."""
        self._api = api
        self._answers = answers
        self._catalog = catalog
        self._images = images
        self._single_flight = single_flight
        self._connectivity = connectivity
        self._invalidations = invalidations
        self._clock = clock
        self._ttl = ttl
        self._frozen = frozen
        self._shown: set[str] = set()
        self._traits = traits
        # Requests for single folders or names since the dataset was listed, by its key.
        self._spent: dict[int, int] = {}
        # Names that were asked for alone, whether each was found, and until when that is believed
        # (monotonic seconds): another node may have asked some time ago.
        self._names: TTLCache[tuple[int, str], tuple[bool, float]] = TTLCache(
            65_536, max(ttl, 1e-6), clock.monotonic
        )
        self._passes = ListingPasses(
            api,
            answers,
            catalog,
            images,
            single_flight,
            connectivity,
            invalidations,
            clock,
            traits,
            self._names.clear,
        )

    # Datasets.

    async def datasets(self, *, strict: bool = False, patience: float = REFRESH_WAIT_S) -> None:
        """Make sure that the list of datasets is fresh, or as fresh as it can be while the server
        is away.

        `strict`: ask now, and raise what keeps the server from answering. `patience`: seconds to
        wait for the server if the list is known.
        """
        checked = self._catalog.meta("checked_at")
        if strict:
            work = partial(self._read_datasets, strict=True)
            await self.renew("datasets now", work, have=False)
            return
        if checked and self._frozen:
            return

        if not checked or not 0 <= self._clock.wall() - checked < self._ttl:
            await self.renew(
                "datasets", self._read_datasets, have=checked is not None, patience=patience
            )

    async def _read_datasets(self, *, strict: bool = False) -> bool:
        """Read the list. Returns whether the server was asked."""
        has_asked = False
        for _ in range(PASSES):
            revision = self._catalog.revision
            heard = await self._all_datasets(strict=strict)
            has_asked |= heard.is_own
            now = self._clock.wall()
            observation = Observation(now, self._api.clock_ahead)

            # None: this mount changed the list meanwhile, and what was read may lack the change.
            gone = await in_thread(
                self._catalog.put_datasets, heard.value, now - heard.age, revision, observation
            )
            if gone is not None:
                self._names.clear()
                self._invalidations.tell(gone)
                return has_asked

        log.info("the list of datasets was changed while it was read, %d times in a row", PASSES)
        return has_asked

    async def _all_datasets(self, *, strict: bool) -> Heard[list[Dataset]]:
        known = bool(self._catalog.meta("checked_at"))
        try:
            return await self._answers.datasets(strict=strict, known=known)
        except NoSuchEntry as error:
            # A 404 from a proxy or another host says nothing about any dataset.
            raise InvalidResponse(
                f"there is no list of datasets: is the base URL right? {error}"
            ) from error

    def shown(self, names: Iterable[str]) -> None:
        """Note that the kernel is told of these datasets."""
        self._shown.update(names)

    def renamed(self) -> set[str]:
        """Names that the kernel was told of, and that no dataset has any more."""
        gone = {name for name in self._shown if self._catalog.dataset_by_entry(name) is None}
        self._shown -= gone
        return gone

    async def invalidate(self, dataset: int | None) -> None:
        """Have the next look at a dataset, or at the list of datasets, ask the server.

        `dataset`: its key; None: all of them. No request under way is waited for: its answer may be
        older, or never come.
        """
        await in_thread(self._catalog.expire, dataset)
        self._passes.refreshes += 1

    async def invalidate_elsewhere(self, dataset: int | None) -> None:
        """Do what `invalidate` does, because another node did."""
        await in_thread(partial(self._catalog.expire, dataset, elsewhere=True))
        self._passes.refreshes += 1

    async def dataset(self, key: int) -> DatasetRow:
        """A dataset as fresh as the TTL asks. Raises NoSuchEntry when it is gone."""
        await self.datasets()
        row = self._catalog.dataset(key)
        if row is None:
            raise NoSuchEntry("the dataset is gone")
        return row

    @property
    def fresh_for(self) -> float:
        """Seconds for which the kernel may keep an entry: until the list is checked again."""
        if self._frozen:
            return self._ttl
        if self._connectivity.backing_off:
            return 1.0

        checked = self._catalog.meta("checked_at") or 0.0
        return min(self._ttl, max(0.0, checked + self._ttl - self._clock.wall()))

    # Directories.

    async def tree(self, key: int, *, strict: bool = False) -> DatasetRow:
        """Make sure that a dataset's directories are known, fresh. `strict`: see `all_images`."""
        row = await self.dataset(key)
        if not self._current(row.tree_at, row.tree_signature, row.signature, strict=strict):
            work = partial(self._read_tree, row)
            known = row.tree_at is not None or row.tree_signature is not None
            await self.renew(("tree", key, self._passes.refreshes), work, have=known and not strict)

        return row

    async def _read_tree(self, row: DatasetRow) -> bool:
        """Read a dataset's directories. Returns whether the server was asked."""
        heard = await self._answers.tree(row.id, row.signature, known_at=row.tree_at)
        at = self._clock.wall() - heard.age
        gone = await in_thread(
            self._catalog.put_directories, row.key, row.id, heard.value, row.signature, at
        )
        self._invalidations.tell(gone)
        if gone:
            self._invalidations.tell(format_entries(row.key))
        return heard.is_own

    # Images.

    async def folder(self, directory: DirectoryRow) -> ListingInProgress | None:
        """Make sure that a directory's images are known, or on their way.

        Returns the pass that brings them, None if all are in the catalog. The pass covers the whole
        dataset unless the directory alone costs fewer requests, counting those spent on single
        directories and names since the last listing. Raises NoSuchEntry.
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

        listing_pass = self._passes.under_way(dataset.key) or self._passes.under_way(directory.key)
        if listing_pass is None:
            listing_pass = self._begin(dataset, current)

        if had:
            # What was listed before is shown whole: a folder must not look half full meanwhile.
            await _wait_for_refresh(listing_pass)
            is_unavailable = isinstance(listing_pass.error, UNAVAILABLE)
            if is_unavailable or not listing_pass.finished.is_set():
                return None

            # A pass that began before the last change may not have seen it.
            if listing_pass.signature != dataset.signature:
                return await self.folder(directory)
            return listing_pass

        if current.key in listing_pass.old:
            await listing_pass.finished.wait()

        return listing_pass

    async def whole(self, key: int) -> DatasetRow:
        """A dataset with every image in the catalog.

        If the server is slow or away, they are those of an earlier listing. Raises NoSuchEntry.
        """
        dataset = await self.tree(key)
        had = dataset.listed_signature is not None
        if not self.is_listed(dataset) and not (had and self._connectivity.backing_off):
            listing_pass = self._passes.under_way(key) or self._list_dataset(dataset)
            if had:
                await _wait_for_refresh(listing_pass)
            else:
                await listing_pass.finished.wait()

            old_serves = had and isinstance(listing_pass.error, UNAVAILABLE)
            if listing_pass.error is not None and not old_serves:
                raise listing_pass.error

            # A pass that began before the last change may not have seen it.
            is_complete = listing_pass.error is None and listing_pass.finished.is_set()
            if is_complete and listing_pass.signature != dataset.signature:
                return await self.whole(key)

        row = self._catalog.dataset(key)
        if row is None:
            raise NoSuchEntry("the dataset is gone")
        return row

    async def all_images(self, key: int, *, strict: bool = False) -> None:
        """Wait until every image of a dataset is in the catalog.

        `strict`: a listing older than the TTL is renewed, whatever the signature says, and what
        prevents that is raised; otherwise an old listing will do.
        """
        dataset = await self.tree(key, strict=strict)
        is_current = self._current(
            dataset.listed_at, dataset.listed_signature, dataset.signature, strict=strict
        )
        if not is_current:
            listing_pass = self._passes.under_way(key) or self._list_dataset(dataset)
            await listing_pass.finished.wait()

            old_serves = not strict and dataset.listed_signature is not None
            if listing_pass.error is not None and not old_serves:
                raise listing_pass.error

            # A pass that began before the last change may not have seen it.
            if listing_pass.error is None and listing_pass.signature != dataset.signature:
                await self.all_images(key, strict=strict)

    async def relist(self, key: int, older_than_s: float) -> bool:
        """Read a dataset's listing again if it is that old; whether it was.

        For a caller who was told that an image is gone. Raises what keeps it from being read.
        """
        dataset = await self.dataset(key)
        age = self._clock.wall() - (dataset.listed_at or 0.0)
        if self._frozen or 0 <= age < older_than_s:
            return False

        listing_pass = self._passes.under_way(key) or self._list_dataset(dataset)
        await listing_pass.finished.wait()
        if listing_pass.error is not None:
            raise listing_pass.error
        return True

    def is_listed(self, dataset: DatasetRow) -> bool:
        """Whether every image of a dataset is in the catalog, and fresh."""
        return self._current(dataset.listed_at, dataset.listed_signature, dataset.signature)

    def _is_listed(self, dataset: DatasetRow, directory: DirectoryRow) -> bool:
        return self.is_listed(dataset) or self._current(
            directory.listed_at, directory.listed_signature, dataset.signature
        )

    def _begin(self, dataset: DatasetRow, directory: DirectoryRow) -> ListingInProgress:
        count = directory.image_count
        if directory.parent is None:
            count = self._catalog.root_images(dataset.key)

        alone = max(1, math.ceil(count / IMAGE_PAGE))
        whole = max(1, math.ceil(dataset.image_count / self._passes.page_size))
        if alone < whole and self._can_ask(directory) and self._spend(dataset, alone, whole):
            return self._passes.launch(dataset, directory)

        return self._list_dataset(dataset)

    def _can_ask(self, directory: DirectoryRow) -> bool:
        """Whether the server can be asked for a directory by its path.

        A path with an escape in it need not be the server's.
        """
        # Here all images are shown in the root, wherever they lie.
        if self._traits.get("rows") == "summary":
            return False

        return QUOTE not in directory.path and len(directory.path) <= QUERY_PATH_MAX

    def _spend(self, dataset: DatasetRow, cost: int, whole: int) -> bool:
        """Whether to spend `cost` requests on a part of a dataset that costs `whole` requests.

        Parts and whole together never cost more than twice `whole`.
        """
        spent = self._spent.get(dataset.key, 0)
        if spent + cost > whole:
            return False

        self._spent[dataset.key] = spent + cost
        return True

    def _list_dataset(self, dataset: DatasetRow) -> ListingInProgress:
        self._spent.pop(dataset.key, None)
        return self._passes.launch(dataset, None)

    # One name.

    async def image(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image listed as `entry`, for at most one request; None if there is none."""
        return await self._find(directory, entry, unescape(entry), self._catalog.image_by_entry)

    async def image_of_annotation(self, directory: DirectoryRow, entry: str) -> ImageRow | None:
        """The image whose annotation file is listed as `entry`, for at most one request."""
        if not entry.endswith(".json"):
            return None

        filename = unescape(entry[:-5])
        return await self._find(directory, entry, filename, self._catalog.image_by_annotation_name)

    async def revalidate(self, image: ImageRow) -> ImageRow | None:
        """A known image, as fresh as a look at its path would show it; None if it is gone."""
        directory = self._catalog.directory(image.directory)
        if directory is None:
            return None

        def read(folder: int, _: str) -> ImageRow | None:
            row = self._catalog.image(image.key)
            return row if row is not None and row.directory == folder else None

        name = unescape(image.entry)
        # The entry has a tag that tells it from another, so it is no escaped name.
        if name is None and QUOTE not in image.name:
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
        known_serves = row is not None and self._connectivity.backing_off
        if self._is_listed(dataset, current) or known_serves:
            return row

        # Only a listing knows what such an entry stands for.
        if filename is None or storable(filename) != filename or not self._can_ask(directory):
            await self._filled(current)
            return read(directory.key, entry)

        is_there, until = self._names.get((directory.key, filename), (None, 0.0))
        if is_there == (row is not None) and self._clock.monotonic() < until:
            return row

        listing_pass = self._passes.under_way(dataset.key)
        if listing_pass is not None and row is not None:
            # The known row serves if the pass is slow.
            await _wait_for_refresh(listing_pass)
            ended = listing_pass.finished.is_set() and listing_pass.error is None
            if ended and listing_pass.signature != dataset.signature:
                # It began before the last change, and may not have seen it.
                return await self._find(directory, entry, filename, read)

            return read(directory.key, entry)

        whole = max(2, math.ceil(dataset.image_count / self._passes.page_size))
        if listing_pass is not None or not self._spend(dataset, 1, whole):
            await self._wait_for(current, entry, read)
        else:
            work = partial(self._ask, dataset, current, filename)
            await self.renew(("name", directory.key, filename), work, have=row is not None)

        return read(directory.key, entry)

    async def _ask(self, dataset: DatasetRow, directory: DirectoryRow, filename: str) -> bool:
        """Ask for a name. Returns whether the server was asked."""
        found, age, is_own = await self._answers.named(
            dataset.id, dataset.signature, directory.path, filename
        )
        if found.summary:
            await self._traits.choose("rows", "summary")
            await self._filled(directory)
            return is_own

        seen = self._catalog.meta("pass") or 0
        rows = [
            image
            for image in found.rows
            if image.directory == directory.path and image.filename == filename
        ]
        gone = await in_thread(
            self._images.put_answer, dataset.key, dataset.id, directory.key, filename, rows, seen
        )
        until = self._clock.monotonic() + self._ttl - age
        self._names[directory.key, filename] = (bool(rows), until)
        self._invalidations.tell(gone)
        return is_own

    async def _filled(self, directory: DirectoryRow) -> None:
        listing_pass = await self.folder(directory)
        if listing_pass is not None:
            await listing_pass.finished.wait()
            if listing_pass.error is not None:
                raise listing_pass.error

    async def _wait_for(
        self, directory: DirectoryRow, entry: str, read: Callable[[int, str], ImageRow | None]
    ) -> None:
        """Wait for a pass to bring one name, or to end."""
        listing_pass = self._passes.under_way(directory.dataset) or await self.folder(directory)
        while listing_pass is not None and read(directory.key, entry) is None:
            if listing_pass.finished.is_set():
                if listing_pass.error is not None:
                    raise listing_pass.error
                return

            await listing_pass.more()

    # Freshness.

    def _current(
        self, at: float | None, signature: str | None, now_signature: str, *, strict: bool = False
    ) -> bool:
        if at is None or self._frozen:
            return at is not None
        if signature != now_signature:
            return False

        return 0 <= self._clock.wall() - at < self._ttl * (1 if strict else RELIST_AFTER)

    async def renew(
        self,
        key: object,
        work: Callable[[], Awaitable[bool]],
        *,
        have: bool,
        patience: float = REFRESH_WAIT_S,
    ) -> None:
        """Do `work` once for all who want it. It returns whether the server was asked.

        `have`: something is cached, which serves if the server is slow or away. `patience`: seconds
        to wait before it does.
        """
        if not have or is_insisting():
            patience = math.inf
        elif self._connectivity.backing_off:
            return

        try:
            with trio.move_on_after(patience) as waiting:
                await self._single_flight.share(key, partial(self._reporting, work))
            if waiting.cancelled_caught:
                self._connectivity.delayed(patience)
        except UNRENEWED:
            if not have:
                raise

    async def _reporting(self, work: Callable[[], Awaitable[bool]]) -> None:
        """Do `work`, and note whether the server answered even if nobody waits for it any more."""
        try:
            has_asked = await work()
        except UNRENEWED as error:
            self._connectivity.failed(error)
            raise

        if has_asked:
            self._connectivity.answered()


async def _wait_for_refresh(listing_pass: ListingInProgress) -> None:
    """Wait `REFRESH_WAIT_S` for a renewal, unless somebody has waited for it in vain."""
    if not listing_pass.slow:
        with trio.move_on_after(REFRESH_WAIT_S):
            await listing_pass.finished.wait()

        listing_pass.slow = not listing_pass.finished.is_set()
