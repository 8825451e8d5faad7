"""The bytes of an image by the API's own routes, at one request of the hourly limit for each.

`GET /images/{image}` is exact: the bytes of an id never change. If a server has no such route, only
the route by path is left, `GET /images/{dataset}/{directory}/{file}`. Another image may lie at a
path meanwhile, so the API is asked first whether this image, and no other one, lies there now. This
route comes last, after signed URLs, which are made for ids.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from pictofs.api.address import image_path
from pictofs.api.body import Body
from pictofs.api.client import Api
from pictofs.errors import Conflict, Invalid, NoSuchEntry, NotSupported
from pictofs.library.server_traits import ServerTraits
from pictofs.model.names import QUOTE
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, ImageRow


class ApiRoutes:
    """Knows which of the two routes this server has."""

    def __init__(self, api: Api, catalog: Catalog, traits: ServerTraits) -> None:
        self._api = api
        self._catalog = catalog
        self._traits = traits

    @property
    def by_id(self) -> bool:
        """Whether the server has the route by id, as far as is known."""
        return self._traits.get("bytes") != "path"

    async def open_by_id(self, stack: AsyncExitStack, image: ImageRow, start: int) -> Body | None:
        """The bytes from `start` on; None if the route may be what is missing, and not the image.

        Raises NoSuchEntry if the image is gone, and what keeps the API from answering.
        """
        if not self.by_id:
            return None

        try:
            body = await stack.enter_async_context(self._api.image_stream(image.id, start=start))
        except (NoSuchEntry, NotSupported):
            # Once the route has worked, it is the image that a 404 is about.
            if self._traits.get("bytes") == "id":
                raise
            return None

        await self._traits.choose("bytes", "id")
        return body

    async def open_by_path(
        self, stack: AsyncExitStack, dataset: DatasetRow, image: ImageRow, start: int
    ) -> Body:
        """The bytes from `start` on, by the path that the image has now.

        Raises:
            NoSuchEntry: the image is gone, or lies elsewhere.
            NotSupported: the path can't be part of a URL.
            Conflict: several images have the path.
            PictofsError: what keeps the API from answering.
        """
        directory = self._catalog.directory(image.directory)
        if directory is None:
            raise NoSuchEntry("the directory is gone")

        # It may begin an escape in the name as it is stored here; the server has another name.
        if QUOTE in directory.path + image.name:
            raise NotSupported(f"the API can't address {image.entry} by path")

        try:
            path = image_path(directory.path, image.name)
        except Invalid as error:
            raise NotSupported(f"the server gives bytes by path only: {error}") from error

        found = await self._api.images(
            dataset.id, directory=directory.path, filename=image.name, limit=10
        )
        here = [
            row.id.lower()
            for row in found.rows
            if row.filename == image.name and (found.summary or row.directory == directory.path)
        ]
        if image.id.lower() not in here:
            raise NoSuchEntry("the image is no longer there")
        if len(here) > 1:
            raise Conflict(
                f"{len(here)} images have the path of {image.entry}: "
                "the server can't tell them apart"
            )

        return await stack.enter_async_context(
            self._api.image_stream_at(dataset.id, path, start=start)
        )

    async def not_by_id(self) -> None:
        """Note that the server has no route by id: what it did not give came another way."""
        await self._traits.choose("bytes", "path")
