"""Opens the bytes of an image, wherever they are cheapest, and tries again where that may help."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from pictofs.api.body import Body
from pictofs.api.storage import Storage
from pictofs.clock import Clock
from pictofs.errors import (
    Corrupt,
    InvalidResponse,
    NoSignedUrl,
    PictofsError,
    ServerFault,
    ServerUnreachable,
    Throttled,
    TimedOut,
    UrlExpired,
)
from pictofs.library.content.signed_urls import FetchMode, SignedUrlCache
from pictofs.library.content.via_api import ApiRoutes
from pictofs.library.content.whole import NotSmall, Whole, answers_differ, receive_whole
from pictofs.model.records import SignedUrl
from pictofs.store.catalog.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)
T = TypeVar("T")

AGAIN = (ServerFault, TimedOut, ServerUnreachable, Corrupt, InvalidResponse, UrlExpired, Throttled)
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds between attempts: doubled each time, with jitter."""
LONGEST_THROTTLE_S = 20.0
"""Seconds of Retry-After that a download waits; a longer one is passed on."""


class Changed(Corrupt):
    """The server has other bytes now than those that a reader was given. Trying again would not
    help that reader."""


class _Final(Exception):
    """An error that is not to be tried again."""

    def __init__(self, error: PictofsError) -> None:
        super().__init__(str(error))
        self.error = error


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
        self._urls = urls
        self._clock = clock
        self._max_retries = max_retries

    @asynccontextmanager
    async def open(
        self,
        dataset: DatasetRow,
        image: ImageRow,
        *,
        start: int = 0,
        end: int | None = None,
        if_range: str | None = None,
        mode: FetchMode,
        proof: bool = False,
    ) -> AsyncIterator[Body]:
        """The bytes from `start` to `end`, as far as the server heeds a range (`Body.ranged`).

        `proof`: an answer without a checksum was not believed; the API's route is taken only if no
        batch names the image. Raises UrlExpired if storage refused the URL: the next attempt uses
        another way; NoSignedUrl if only the API's route is left and `mode` rules that out.
        """
        if mode is FetchMode.READ and not self._api_routes.by_id:
            mode = FetchMode.STREAM  # a batch is as cheap as one image
        signed = await self.signed(dataset, image, mode, proof=proof)
        if signed is None and mode is FetchMode.AHEAD:
            raise NoSignedUrl(f"no signed URL leads to {image.entry}")

        opened = False
        try:
            if signed is None:
                async with AsyncExitStack() as stack:
                    body = await self._open_via_api(stack, dataset, image, start)
                    opened = True
                    yield body
            else:
                async with self._storage.get(
                    signed.url, start=start, end=end, if_range=if_range
                ) as body:
                    opened = True
                    self.taken(dataset, image)
                    yield body
        except (UrlExpired, InvalidResponse):
            if signed is not None and not opened:
                self.reject(dataset, image, signed)
            raise
        except AGAIN as error:
            if signed is None and not opened:
                raise _Final(error) from error  # the API client has tried again already
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
        ask = partial(self.open, dataset, image, mode=mode)
        async with ask() as body:
            first = await receive_whole(body, image.entry)
        if isinstance(first, NotSmall) or first.is_believed(image.known_size):
            return first

        # No checksum came, and the length is not the listing's, or may be that of a cut. Another
        # answer tells.
        log.info(
            "%s: the %d bytes that came may be wrong; asking again", image.entry, len(first.data)
        )
        async with ask(proof=True) as body:
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

        signed = await self.signed(dataset, image, FetchMode.STREAM)
        if signed is not None:
            body = await stack.enter_async_context(self._storage.get(signed.url, start=start))
        else:
            body = await self._api_routes.open_by_path(stack, dataset, image, start)
        await self._api_routes.not_by_id()
        return body

    async def signed(
        self, dataset: DatasetRow, image: ImageRow, mode: FetchMode, *, proof: bool = False
    ) -> SignedUrl | None:
        """A URL for `Storage`, None if the API's route is the way. `open` says what `proof`
        means."""
        try:
            return await self._urls.find(dataset, image, mode, proof=proof)
        except Throttled as error:
            raise _Final(error) from error

    def reject(self, dataset: DatasetRow, image: ImageRow, signed: SignedUrl) -> None:
        """Storage did not take the URL: it is not to be used again."""
        self._urls.reject(dataset, image, signed)

    def taken(self, dataset: DatasetRow, image: ImageRow) -> None:
        """Storage took the URL."""
        self._urls.taken(dataset, image)

    async def retried(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` until it succeeds, or fails for good, or the retries are used up."""
        attempt = 0
        while True:
            try:
                return await work()
            except _Final as final:
                raise final.error from None
            except Changed:
                raise
            except AGAIN as error:
                wait = self._wait(error, attempt)
                if wait is None:
                    raise
                log.info("%s: trying again in %.1f s: %s", what, wait, error)
                await self._clock.sleep(wait)
                attempt += 1

    def _wait(self, error: PictofsError, attempt: int) -> float | None:
        if attempt >= self._max_retries:
            return None
        if isinstance(error, UrlExpired) and attempt == 0:
            return 0.0
        wait: float = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * (0.75 + self._clock.chance() / 2)
        if isinstance(error, Throttled) and error.retry_after is not None:
            return None if error.retry_after > LONGEST_THROTTLE_S else max(wait, error.retry_after)
        return wait
