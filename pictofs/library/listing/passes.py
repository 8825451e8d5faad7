"""Passes over the server's pages, of a whole dataset or of one directory, into the catalog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from pictofs.api import decode as wire
from pictofs.api.client import Api
from pictofs.clock import Clock
from pictofs.errors import Invalid, NotSupported
from pictofs.library.answers import Answers, NotThere, Pages
from pictofs.library.connectivity import UNAVAILABLE, Connectivity
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.page_writer import FROM_IMAGES, PageJob, PageWriter, ids_digest
from pictofs.library.listing.pager import Listed, ListingInProgress, ListingPage, list_pages
from pictofs.library.server_traits import ServerTraits
from pictofs.library.single_flight import SingleFlight
from pictofs.model.records import Image
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import Observation
from pictofs.store.catalog.dentries import format_entries
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow
from pictofs.threads import in_thread

EMBED_PAGE = 10_000
"""Images of one embedded page (`GET /datasets/{d}?include_images=true`): the server's cap."""
IMAGE_PAGE = 1000
"""Images of one page of `GET /images/`: the server's cap."""


class _NotEmbedded(Exception):
    """The server has no embedded listing, or one that does not say where images lie."""


class ListingPasses:
    """The passes under way, and the two routes that pages come by."""

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
        traits: ServerTraits,
        swept: Callable[[], None],
    ) -> None:
        """`swept`: called when a pass has ended, and before the kernel is told what is gone."""
        self._api = api
        self._answers = answers
        self._catalog = catalog
        self._images = images
        self._single_flight = single_flight
        self._connectivity = connectivity
        self._invalidations = invalidations
        self._clock = clock
        self._traits = traits
        self._swept = swept
        # By the key of a dataset or of a directory.
        self._in_progress: dict[int, ListingInProgress] = {}
        self.refreshes = 0
        """How often a refresh was asked for: what began before may be older than what is wanted."""

    def under_way(self, key: int) -> ListingInProgress | None:
        """The pass over a dataset or a directory (by its key), if begun since the last refresh."""
        found = self._in_progress.get(key)
        return found if found is not None and found.refreshes == self.refreshes else None

    @property
    def page_size(self) -> int:
        """Images of one request of a whole dataset's listing."""
        return IMAGE_PAGE if self._traits.get("listing") == "pages" else EMBED_PAGE

    def launch(self, dataset: DatasetRow, directory: DirectoryRow | None) -> ListingInProgress:
        """Begin a pass over a dataset, or over one directory of it alone."""
        key = dataset.key if directory is None else directory.key
        listing_pass = self._in_progress[key] = ListingInProgress(
            dataset.signature,
            self.refreshes,
            old=self._catalog.directories_with_images(dataset.key),
        )

        async def work() -> None:
            try:
                if await self._fill_somehow(dataset, directory, listing_pass):
                    self._connectivity.answered()
            except Exception as error:
                if isinstance(error, UNAVAILABLE):
                    self._connectivity.failed(error)
                listing_pass.fail(error)
            finally:
                # After a refresh another pass may have taken its place.
                if self._in_progress.get(key) is listing_pass:
                    del self._in_progress[key]
                listing_pass.finished.set()
                listing_pass.advance()

        self._single_flight.launch(("list", key, self.refreshes), work)
        return listing_pass

    async def _fill_somehow(
        self,
        dataset: DatasetRow,
        directory: DirectoryRow | None,
        listing_pass: ListingInProgress,
    ) -> bool:
        """Fill in a dataset, or one directory of it. Returns whether the server was asked."""
        if directory is not None:
            page = self._paged(dataset, directory, Pages(None))
            await self._fill(dataset, directory.key, IMAGE_PAGE, page, listing_pass, 0.0)
            return True

        return await self._answers.listing(
            dataset.id,
            dataset.signature,
            partial(self._fill_dataset, dataset, listing_pass),
            known_at=dataset.listed_at,
        )

    async def _fill_dataset(
        self,
        dataset: DatasetRow,
        listing_pass: ListingInProgress,
        pages: Pages,
        route: str | None,
        age: float,
    ) -> str | None:
        """Fill in a dataset from `pages`; see `Answers.listing`."""
        listed: Listed | None = None
        if route == "embedded" or (route is None and self._traits.get("listing") != "pages"):
            # Before the first listing no entry was ever promised: what is gone is not told again
            # if the process fails after it has written.
            writer = PageWriter()
            if dataset.listed_signature is None and dataset.image_count >= FROM_IMAGES:
                serve = partial(writer.serve, self._catalog.database.path)
                self._single_flight.launch(("write", dataset.key, self.refreshes), serve)

            page = self._embedded(dataset, writer, pages)
            try:
                listed = await self._fill(dataset, None, EMBED_PAGE, page, listing_pass, age)
            except (_NotEmbedded, Invalid, NotSupported):  # not given, or refused
                if route is not None:
                    raise NotThere from None
            finally:
                writer.stop()

        if listed is not None:
            found = "embedded"
        else:
            found = "pages"
            page = self._paged(dataset, None, pages)
            listed = await self._fill(dataset, None, IMAGE_PAGE, page, listing_pass, age)

        # Chosen only now: a route that fails is no substitute for the other one.
        await self._traits.choose("listing", found)
        is_same = listed.dataset is None or listed.dataset.signature == dataset.signature
        return found if listed.is_settled and is_same else None

    def _embedded(
        self, dataset: DatasetRow, writer: PageWriter, pages: Pages
    ) -> Callable[[int, int], Awaitable[ListingPage]]:
        """Pages of the embedded listing; `writer` takes the later ones, if it can.

        A page raises `_NotEmbedded` if the server has no whole one.
        """
        first = ""

        async def page(offset: int, seen: int) -> ListingPage:
            nonlocal first
            ask = partial(self._api.dataset_images_answer, dataset.id, offset, EMBED_PAGE)
            answer = await pages.get(offset, ask)
            if offset:
                job = PageJob(
                    dataset=dataset.key, dataset_id=dataset.id, seen=seen, first_digest=first
                )
                outcome = await writer.write(job, answer.body)
                if outcome is not None:
                    self._invalidations.tell(outcome.gone)
                    return outcome.as_page()

            found, images = await self._api.dataset_images(dataset.id, answer)
            if images is None or images.summary:
                raise _NotEmbedded

            # The first page again: the server ignores the offset, and never sends the rest.
            digest = ids_digest(images.rows)
            if offset and images.rows and digest == first:
                raise _NotEmbedded

            if offset == 0:
                first = digest
            return ListingPage(images, found, len(images.rows), digest)

        return page

    def _paged(
        self, dataset: DatasetRow, directory: DirectoryRow | None, pages: Pages
    ) -> Callable[[int, int], Awaitable[ListingPage]]:
        """Pages of `GET /images/`, of a dataset or of one directory."""
        path = directory and directory.path

        async def page(offset: int, _seen: int) -> ListingPage:
            ask = partial(
                self._api.images_answer,
                dataset.id,
                directory=path,
                offset=offset,
                limit=IMAGE_PAGE,
            )
            images = await self._api.decoded(wire.images, await pages.get(offset, ask))
            if images.rows:
                await self._traits.choose("rows", "summary" if images.summary else "full")

            return ListingPage(images, None, len(images.rows), ids_digest(images.rows))

        return page

    async def _fill(
        self,
        dataset: DatasetRow,
        directory: int | None,
        limit: int,
        page: Callable[[int, int], Awaitable[ListingPage]],
        listing_pass: ListingInProgress,
        age: float,
    ) -> Listed:
        """Read all pages. `age`: seconds since they were asked for, if that was not just now."""
        at = self._clock.wall() - age
        # Before the first listing no entry was ever promised.
        moves = dataset.listed_signature is not None

        def put(images: list[Image], seen: int) -> None:
            self._invalidations.tell_from_thread(
                self._images.put(dataset.key, dataset.id, images, seen, moves=moves)
            )

        def seen_in(seen: int) -> int:
            return self._images.seen_in(dataset.key, seen, directory)

        result = await list_pages(
            page,
            limit,
            self._images.begin_pass,
            put,
            seen_in,
            listing_pass,
            dataset.image_count,
        )

        signature = dataset.signature
        if result.dataset is not None:
            signature = result.dataset.signature
            observation = Observation(self._clock.wall(), self._api.clock_ahead)
            put_dataset = partial(
                self._catalog.put_dataset, result.dataset, observation, known=dataset.signature
            )
            self._invalidations.tell(await in_thread(put_dataset))

        sweep = partial(
            self._images.sweep,
            dataset.key,
            result.seen,
            directory=directory,
            signature=signature,
            at=at,
        )
        gone = await in_thread(sweep)
        self._swept()
        self._invalidations.tell(gone)
        if moves:
            self._invalidations.tell(format_entries(dataset.key))
        return result
