"""Opens the bytes of an image, wherever they are cheapest, and tries again where that may help."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pictofs.api.body import Body
from pictofs.api.retries import DOWNLOAD, Retries
from pictofs.api.storage import Storage
from pictofs.clock import Clock
from pictofs.errors import (
    Corrupt,
    InvalidResponse,
    NoSignedUrl,
    ServerFault,
    ServerUnreachable,
    Throttled,
    TimedOut,
    UrlExpired,
)
from pictofs.library.content.signed_urls import FetchMode, SignedUrlCache
from pictofs.library.content.via_api import ApiRoutes
from pictofs.library.content.whole import NotSmall, Whole, answers_differ, receive_whole
from pictofs.store.catalog.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRYABLE = (
    ServerFault,
    TimedOut,
    ServerUnreachable,
    Corrupt,
    InvalidResponse,
    UrlExpired,
    Throttled,
)
"""Errors that another attempt may help against."""


class Changed(Corrupt):
    """The server has other bytes now than those that a reader was given. Trying again would not
    help that reader."""

    final = True


class Source:
    """The bytes of images, from storage by signed URL or from the API's route."""

    def __init__(
        self,
        api_routes: ApiRoutes,
        storage: Storage,
        urls: SignedUrlCache,
        clock: Clock,
        max_retries: int,
    ) -> None:
        self._api_routes = api_routes
        self._storage = storage
        self.urls = urls
        self._clock = clock
        self._retry_policy = replace(DOWNLOAD, max_retries=max_retries)

    @asynccontextmanager
    async def open(
        self,
        dataset: DatasetRow,
        image: ImageRow,
        mode: FetchMode,
        start: int = 0,
        if_range: str | None = None,
        proof: bool = False,
        end: int | None = None,
    ) -> AsyncIterator[Body]:
        """The bytes from `start` to `end`, as far as the server heeds a range (`Body.ranged`).

        `proof`: an answer without a checksum was not believed; the API's route is taken only if no
        batch names the image. Raises UrlExpired if storage refused the URL: the next attempt uses
        another way; NoSignedUrl if only the API's route is left and `mode` rules that out.
        """
        if mode is FetchMode.READ and not self._api_routes.by_id:
            mode = FetchMode.STREAM  # a batch is as cheap as one image

        signed = await self.urls.find(dataset, image, mode, proof=proof)
        if signed is None and mode is FetchMode.AHEAD:
            raise NoSignedUrl(f"no signed URL leads to {image.entry}")

        if signed is None:
            async with AsyncExitStack() as stack:
                yield await self._open_via_api(stack, dataset, image, start)
            return

        opened = False
        try:
            async with self._storage.get(
                signed.url, start=start, end=end, if_range=if_range
            ) as body:
                opened = True
                self.urls.taken(dataset, image)
                yield body
        except (UrlExpired, InvalidResponse):
            if not opened:
                self.urls.reject(dataset, image, signed)
            raise

    async def whole(
        self, dataset: DatasetRow, image: ImageRow, mode: FetchMode
    ) -> Whole | NotSmall:
        """All bytes of a small image, checked; tried again where that may help."""
        work = partial(self._receive_whole, dataset, image, mode)
        return await self.retried(image.entry, work)

    async def _receive_whole(
        self, dataset: DatasetRow, image: ImageRow, mode: FetchMode
    ) -> Whole | NotSmall:
        """All bytes of a small image, checked."""
        async with self.open(dataset, image, mode) as body:
            first = await receive_whole(body, image.entry)
        if isinstance(first, NotSmall) or first.is_believed(image.known_size):
            return first

        # No checksum came, and the length is not the listing's, or may be that of a cut. Another
        # answer tells.
        log.info(
            "%s: the %d bytes that came may be wrong; asking again", image.entry, len(first.data)
        )
        async with self.open(dataset, image, mode, proof=True) as body:
            again = await receive_whole(body, image.entry)
        if isinstance(again, Whole) and (again.verified or again[:2] == first[:2]):
            return again
        raise answers_differ(image.entry)

    async def _open_via_api(
        self, stack: AsyncExitStack, dataset: DatasetRow, image: ImageRow, start: int
    ) -> Body:
        """The bytes from `start` on, where no signed URL leads to them, or none was worth its
        request."""
        body = await self._api_routes.open_by_id(stack, image, start)
        if body is not None:
            return body

        signed = await self.urls.find(dataset, image, FetchMode.STREAM)
        if signed is not None:
            body = await stack.enter_async_context(self._storage.get(signed.url, start=start))
        else:
            body = await self._api_routes.open_by_path(stack, dataset, image, start)
        await self._api_routes.not_by_id()
        return body

    async def retried(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` until it succeeds, or fails for good, or the retries are used up."""
        retries = Retries(self._clock, self._retry_policy)
        while True:
            try:
                return await work()
            except RETRYABLE as error:
                if error.final:
                    raise

                asked = None
                if isinstance(error, Throttled):
                    asked = error.retry_after

                # A URL that has expired is not a sign of trouble: the next attempt has another one.
                at_once = isinstance(error, UrlExpired) and not retries.made
                wait = retries.next_wait(asked, at_once=at_once)
                if wait is None:
                    raise

                log.info("%s: trying again in %.1f s: %s", what, wait, error)
                await self._clock.sleep(wait)
