"""Datasets and images by their ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cachetools import LRUCache

from pictofs.api.client import Api
from pictofs.errors import Forbidden, InvalidResponse, NoSuchEntry, NotSupported
from pictofs.library.connectivity import UNAVAILABLE, Connectivity
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import Listing
from pictofs.library.server_traits import ServerTraits
from pictofs.library.single_flight import SingleFlight
from pictofs.model.inode import key_of
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from pictofs.threads import in_thread

REMEMBERED = 65_536
"""Ids without an image that are remembered."""


class IdLookup:
    """Finds datasets and images by their ids, which are in lower case.

    Costs at most one request more than a look at the path.
    """

    def __init__(
        self,
        api: Api,
        catalog: Catalog,
        images: ImageTable,
        listing: Listing,
        forget: Callable[[int], None],
        single_flight: SingleFlight,
        invalidations: DentryInvalidations,
        connectivity: Connectivity,
        traits: ServerTraits,
    ) -> None:
        """`forget`: told of a dataset's key if an image of it came without a listing."""
        self._api = api
        self._catalog = catalog
        self._images = images
        self._listing = listing
        self._forget = forget
        self._single_flight = single_flight
        self._invalidations = invalidations
        self._connectivity = connectivity
        self._traits = traits
        # When the list of datasets had been read, by id: once it is read again, the answer is void.
        self._misses: LRUCache[str, float] = LRUCache(REMEMBERED)

    async def dataset(self, identity: str) -> DatasetRow | None:
        """The active dataset with that id; None if there is none."""
        await self._listing.datasets()
        row = self._catalog.dataset(key_of(identity))
        return row if row is not None and row.id.lower() == identity else None

    async def image(self, identity: str) -> ImageRow | None:
        """The image with that id in an active dataset, as its path would show it; None if there is
        none."""
        await self._listing.datasets()
        row = self._known(identity)
        if row is not None:
            row = await self._listing.revalidate(row)
            if row is not None:
                return row

        if self._is_no_image(identity) or self._traits.get("metadata") == "absent":
            return None

        return await self._single_flight.share(("id", identity), partial(self._ask, identity))

    def _known(self, identity: str) -> ImageRow | None:
        row = self._catalog.image(key_of(identity))
        return row if row is not None and row.id.lower() == identity else None

    def _is_no_image(self, identity: str) -> bool:
        """Whether an id is known to have no image.

        Either the server said so, or every dataset is listed and none has the image.
        """
        checked = self._catalog.meta("checked_at")
        if self._misses.get(identity) == checked:
            return True

        if all(self._listing.is_listed(row) for row in self._catalog.datasets_after(0, 1 << 30)):
            self._misses[identity] = checked
            return True

        return False

    async def _ask(self, identity: str) -> ImageRow | None:
        at = self._catalog.meta("checked_at")
        try:
            image = await self._api.image(identity)
        except UNAVAILABLE as error:
            self._connectivity.failed(error)
            raise
        except NotSupported:
            await self._traits.choose("metadata", "absent")
            return None
        except (NoSuchEntry, Forbidden) as error:
            if isinstance(error, NoSuchEntry):
                await self._look_at_route()
            self._misses[identity] = at
            return None

        self._connectivity.answered()
        await self._traits.choose("metadata", "id")
        if image.id.lower() != identity:
            raise InvalidResponse("the API sent another image than the one whose id was asked for")

        # The route knows every image of the organization, whatever the key's datasets show.
        dataset = await self.dataset((image.dataset_id or "").lower())
        if dataset is None or image.is_archived:
            self._misses[identity] = at
            return None

        await self._listing.tree(dataset.key)
        seen = self._catalog.meta("pass") or 0
        put = partial(self._images.put, dataset.key, dataset.id, [image], seen, moves=True)
        self._invalidations.tell(await in_thread(put))
        self._forget(dataset.key)

        row = self._known(identity)
        # Another image may have the same name, and be the one that is listed under it.
        return None if row is None else await self._listing.revalidate(row)

    async def _look_at_route(self) -> None:
        """Find out after a 404 whether the image is missing or the route, with a known image."""
        if self._traits.get("metadata") is not None:
            return

        known = self._catalog.any_image()
        if known is None:
            return

        try:
            await self._api.image(known.id)
        except (NoSuchEntry, NotSupported):
            if await self._is_there(known):
                await self._traits.choose("metadata", "absent")
        else:
            await self._traits.choose("metadata", "id")

    async def _is_there(self, image: ImageRow) -> bool:
        """Whether the server still lists a known image, which may have been deleted meanwhile."""
        dataset = self._catalog.dataset(image.dataset)
        directory = self._catalog.directory(image.directory)
        if dataset is None or directory is None:
            return False

        found = await self._api.images(
            dataset.id, directory=directory.path, filename=image.name, limit=10
        )
        return any(row.id.lower() == image.id.lower() for row in found.rows)
