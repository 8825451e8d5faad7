"""Changes to datasets: sent to the server first, and shown here once it has made them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TypeVar

from pictofs.api.client import DESCRIPTION_WORDS, Api
from pictofs.api.decode import TEXT_MAX
from pictofs.api.retries import DATASET_REMOVAL, Retries
from pictofs.api.stats import insisting
from pictofs.clock import Clock
from pictofs.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    NotEmpty,
    PictofsError,
    ServerFault,
    TimedOut,
    TooLarge,
)
from pictofs.library.connectivity import Connectivity
from pictofs.library.generations import Generations
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import COMMAND_REFRESH_WAIT_S, NO_DATASET, Listing
from pictofs.library.server_traits import ServerTraits
from pictofs.library.single_flight import SingleFlight
from pictofs.model.inode import key_of
from pictofs.model.names import unescape
from pictofs.model.records import Dataset
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)
T = TypeVar("T")

UNSURE = (ServerFault, TimedOut, InvalidResponse)
"""Errors after which nobody knows whether the server made the change."""
OUTDATED = (AlreadyExists, Conflict, NoSuchEntry, NotEmpty)
"""Errors that say that the list shown here is out of date."""
DESCRIPTION_MAX_BYTES = TEXT_MAX
"""Bytes of a description: a longer text would count as absent when it comes back."""


class Edits:
    """Makes, renames, describes and removes datasets, by their entries.

    Each change runs in the library's nursery: it goes on if its caller gives up, and its outcome is
    shown. Each raises what `Api` raises; one that fails changes nothing here.
    """

    def __init__(
        self,
        api: Api,
        catalog: Catalog,
        listing: Listing,
        single_flight: SingleFlight,
        connectivity: Connectivity,
        invalidations: DentryInvalidations,
        clock: Clock,
        max_retries: int,
        traits: ServerTraits,
        generations: Generations | None,
    ) -> None:
        """`generations`: None if this node is by itself."""
        self._generations = generations
        self._api = api
        self._catalog = catalog
        self._listing = listing
        self._single_flight = single_flight
        self._connectivity = connectivity
        self._invalidations = invalidations
        self._clock = clock
        self._removal_policy = replace(DATASET_REMOVAL, max_retries=max_retries)
        self._traits = traits
        self._numbers = count()

    async def create(self, entry: str) -> DatasetRow:
        """Make an empty dataset that is listed as `entry`. Raises AlreadyExists."""
        name = server_name(entry)

        async def work() -> DatasetRow:
            return await self._show(await self._api.create_dataset(name))

        return await self._make(work)

    async def rename(self, entry: str, to: str) -> DatasetRow:
        """Give the dataset listed as `entry` the name that is listed as `to`.

        Raises NoSuchEntry, AlreadyExists.
        """
        name = server_name(to)
        row = await self._listed(entry)

        async def work() -> DatasetRow:
            return await self._show(await self._api.update_dataset(row.id, new_name=name))

        return await self._make(work)

    async def describe(self, key: int, value: bytes) -> None:
        """Change a dataset's description, which is its readme, too. An empty `value` removes it.

        Raises Invalid if `value` is not UTF-8, TooLarge, NoSuchEntry.
        """
        if len(value) > DESCRIPTION_MAX_BYTES:
            raise TooLarge(f"a description can't have more than {DESCRIPTION_MAX_BYTES:,} bytes")

        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise Invalid(
                f"a description is text in UTF-8, and byte {error.start:,} is none"
            ) from None

        row = await self._listing.dataset(key)
        self._api.description_words = self._words()

        async def work() -> None:
            await self._show(await self._api.update_dataset(row.id, description=text))
            await self._traits.choose("readme", "+".join(self._api.description_words))

        await self._make(work)

    def _words(self) -> tuple[str, ...]:
        """The fields in which this server takes a description, as far as is known."""
        known = self._traits.get("readme")
        matching = (words for words in DESCRIPTION_WORDS if "+".join(words) == known)
        return next(matching, DESCRIPTION_WORDS[0])

    async def remove(self, entry: str) -> DatasetRow:
        """Delete the dataset listed as `entry` and return what it was.

        Raises NoSuchEntry, and NotEmpty if it holds anything.
        """
        row = await self._listed(entry)
        await self._make(partial(self._remove, row))
        return row

    async def _remove(self, row: DatasetRow) -> None:
        retries = Retries(self._clock, self._removal_policy)
        seen = False
        while True:
            try:
                # Before each attempt: an image that came between two attempts must not be lost.
                await self._refuse_unless_empty(row)
                seen = True
                await self._api.delete_dataset(row.id)
                break
            except NoSuchEntry:
                if not seen:
                    raise
                # The attempt before removed it, although no answer came.
                break
            except (ServerFault, TimedOut) as error:
                if error.final or not await retries.wait():
                    raise

        self._invalidations.tell(await in_thread(self._catalog.drop_dataset, row.key))

    async def _refuse_unless_empty(self, row: DatasetRow) -> None:
        """Raise NotEmpty if the dataset holds anything: archived images would be lost, too.

        The server is asked, never the catalog.
        """
        found = await self._api.dataset(row.id)
        # The id is no UUID, but the name of another dataset.
        if found.id.lower() != row.id.lower():
            raise InvalidResponse(
                "the API sent another dataset than the one whose id was asked for"
            )

        held = found.image_count + found.archived_image_count
        if not held:
            # The counts may be old, or left out: the rows themselves decide.
            page = await self._api.images(row.id, include_archived=True, limit=1)
            held = max(page.received, page.total or 0)
        if held:
            raise NotEmpty(
                f"the dataset {row.entry!r} holds {held:,} images, archived ones included: "
                "`pictofs dataset delete` deletes it with them"
            )

        directories = await self._api.directory_tree(row.id)
        if directories:
            raise NotEmpty(f"the dataset {row.entry!r} holds {len(directories):,} directories")

    async def _listed(self, entry: str) -> DatasetRow:
        await self._listing.datasets(patience=COMMAND_REFRESH_WAIT_S)
        row = self._catalog.dataset_by_entry(entry)
        if row is None:
            raise NoSuchEntry(f"there is no dataset {entry!r}")
        return row

    async def _show(self, dataset: Dataset) -> DatasetRow:
        """Put a dataset into the list as the server has just described it."""
        self._invalidations.tell(
            await in_thread(self._catalog.put_changed, dataset, self._clock.wall())
        )
        row = self._catalog.dataset(key_of(dataset.id.lower()))
        if row is None:
            raise NoSuchEntry("the dataset was archived meanwhile")
        return row

    async def _make(self, work: Callable[[], Awaitable[T]]) -> T:
        # A person changes something, and wants to know whether it can be done now.
        with insisting():
            return await self._single_flight.share(
                ("edit", next(self._numbers)), partial(self._checked, work)
            )

    async def _checked(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            done = await work()
        except (*UNSURE, *OUTDATED) as error:
            with suppress(PictofsError):
                await self._look_again(wait=isinstance(error, UNSURE))
            raise

        self._connectivity.answered()
        await self._tell_nodes()
        return done

    async def _tell_nodes(self) -> None:
        """Have no node share a list of datasets that was asked for before the change."""
        if self._generations is not None:
            await self._generations.raised(())

    async def _look_again(self, *, wait: bool) -> None:
        """Ask for the list anew: at once with `wait`, otherwise when somebody next looks at it."""
        await self._tell_nodes()
        await self._listing.invalidate(NO_DATASET)
        if wait:
            await self._listing.datasets(patience=COMMAND_REFRESH_WAIT_S)


def server_name(entry: str) -> str:
    """The server's name that is shown as `entry`. Raises Invalid if there is none."""
    name = unescape(entry)
    if name is None:
        raise Invalid(
            f"no dataset can be called {entry!r} here: pictofs help names tells the escapes"
        )

    return name
