"""`Api`: the keyed Pictograph API, one method per call that pictofs makes.

Every method raises only `pictofs.errors`: `Unauthorized`, `Forbidden`, `NoSuchEntry`, `Throttled`,
`QuotaExceeded`, `Invalid`, `Conflict` and `AlreadyExists` if the server refuses; `ServerFault`,
`TimedOut` and `ServerUnreachable` if retries did not help; `InvalidResponse` for an answer outside
the contract.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from pictofs.api import decode as wire
from pictofs.api.address import export_segment, is_uuid, path_segment
from pictofs.api.body import Body, described, range_headers
from pictofs.api.key import ApiKey
from pictofs.api.retries import API_CALL
from pictofs.api.stats import RequestStats
from pictofs.api.transport import Answer, ApiTransport, SharedBudget
from pictofs.api.url_expiry import UrlExpiry
from pictofs.clock import Clock
from pictofs.errors import Invalid, InvalidResponse, PictofsError
from pictofs.model.records import Dataset, Directory, Export, Image, Page, SignedUrl
from pictofs.threads import in_thread

T = TypeVar("T")

DESCRIPTION_WORDS: tuple[tuple[str, ...], ...] = (
    ("readme", "description"),
    ("readme",),
    ("description",),
)
"""The fields that a description is written to, in the order in which they are tried.

`readme` is the API's newer field and `description` the older. Some answers hold only the older one,
so both are written if the server takes both.
"""
_THREAD_FROM_BYTES = 256 * 1024
"""Bodies of this size and more are decoded in a thread. Smaller ones block for at most 3 ms."""


class Api:
    """The keyed API. An async context manager; one `async with` lasts for the life of the mount.

    The key goes to the host of `base_url` and nowhere else: redirects are not followed, and no URL
    that a server supplies is requested here. `dataset` parameters take an id or a name. A name that
    looks like an id, or that no path can carry, is only reachable by its id (`Invalid`).

    `timeout`: seconds without progress (connect, read, write, pool). `max_retries`: further
    attempts at calls that may be repeated. `max_wait`: seconds that one call may wait between
    attempts; a Retry-After beyond that, or beyond the caller's trio deadline, raises `Throttled`
    at once.
    """

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey,
        *,
        clock: Clock,
        request_stats: RequestStats,
        timeout: float = 30.0,
        max_retries: int = 3,
        max_wait: float = API_CALL.total_wait,
        allow_plain_http: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._clock = clock
        self._request_stats = request_stats
        self.description_words = DESCRIPTION_WORDS[0]
        """The fields that the server accepted last."""

        self._exchange = ApiTransport(
            base_url,
            api_key,
            clock=clock,
            request_stats=request_stats,
            timeout=timeout,
            max_retries=max_retries,
            max_wait=max_wait,
            allow_plain_http=allow_plain_http,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        await self._exchange.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)

    def share_budget(self, budget: SharedBudget) -> None:
        """Spend the rate limit together with other nodes."""
        self._exchange.budget = budget

    @property
    def clock_ahead(self) -> float | None:
        """Seconds that the server's clock is ahead of ours, by its last Date header."""
        return self._request_stats.offset

    # -- datasets

    async def datasets(
        self, offset: int = 0, limit: int = 1000, *, archived: bool = False
    ) -> Page[Dataset]:
        """One page of at most 1,000 active datasets, or of archived ones.

        `GET /datasets/`
        """
        answer = await self.datasets_answer(offset, limit, archived=archived)
        return await self.decoded(wire.datasets, answer)

    async def datasets_answer(
        self, offset: int = 0, limit: int = 1000, *, archived: bool = False
    ) -> Answer:
        """The same, for `decode.datasets`."""
        params: dict[str, Any] = {"limit": limit, "offset": offset}
        if archived:
            params["archived"] = "true"
        return await self._ask("/datasets/", "/datasets/", params)

    async def dataset(self, dataset: str) -> Dataset:
        """One dataset. `GET /datasets/{dataset}`"""
        found = await self._get(
            "/datasets/{dataset}", f"/datasets/{path_segment(dataset)}", wire.dataset
        )
        return self._same(dataset, found)

    async def dataset_images_answer(
        self, dataset: str, offset: int = 0, limit: int = 10_000
    ) -> Answer:
        """A dataset and at most 10,000 of its images, for `dataset_images` to decode.

        This is the cheapest listing. It never sets `has_more`: fewer than `limit` rows are the end.
        `GET /datasets/{dataset}?include_images=true`
        """
        return await self._exchange.call(
            "GET",
            "/datasets/{dataset}",
            f"/datasets/{path_segment(dataset)}",
            params={"include_images": "true", "images_limit": limit, "images_offset": offset},
        )

    async def dataset_images(
        self, dataset: str, answer: Answer
    ) -> tuple[Dataset, Page[Image] | None]:
        """What an answer holds: the dataset, and its images, None if the server sends no listing.

        Raises `InvalidResponse`.
        """
        found, page = await self.decoded(wire.dataset_images, answer)
        return self._same(dataset, found), page

    async def create_dataset(self, name: str, description: str | None = None) -> Dataset:
        """A new dataset. Raises `AlreadyExists` for a taken name. `POST /datasets/`"""
        return await self._describe(
            "POST", "/datasets/", "/datasets/", _given(name=name), description
        )

    async def update_dataset(
        self, dataset: str, *, new_name: str | None = None, description: str | None = None
    ) -> Dataset:
        """Rename or describe a dataset. None keeps a field. `PATCH /datasets/{dataset}`"""
        path = f"/datasets/{path_segment(dataset)}"
        fields = _given(new_name=new_name)
        return await self._describe("PATCH", "/datasets/{dataset}", path, fields, description)

    async def _describe(
        self, method: str, route: str, path: str, fields: Mapping[str, Any], text: str | None
    ) -> Dataset:
        """Change a dataset; send the description `text` under the names that the server accepts."""
        if text is None:
            return await self._change(method, route, path, wire.dataset, fields)

        refusal: Invalid | None = None
        for words in dict.fromkeys((self.description_words, *DESCRIPTION_WORDS)):
            try:
                worded = {**fields, **dict.fromkeys(words, text)}
                changed = await self._change(method, route, path, wire.dataset, worded)
            except Invalid as error:
                # If it is not about these words, the next attempt fails in the same way.
                refusal = refusal or error
            else:
                self.description_words = words
                return changed

        raise refusal or Invalid("the description was refused")

    async def delete_dataset(self, dataset: str) -> None:
        """Delete a dataset with all of its images, irreversibly. `DELETE /datasets/{dataset}`"""
        await self._exchange.call(
            "DELETE", "/datasets/{dataset}", f"/datasets/{path_segment(dataset)}"
        )

    # -- images, directories, annotations

    async def images(
        self,
        dataset: str,
        *,
        directory: str | None = None,
        filename: str | None = None,
        status: str | None = None,
        offset: int = 0,
        limit: int = 1000,
        include_archived: bool = False,
    ) -> Page[Image]:
        """One page of at most 1,000 images, newest first. `GET /images/`

        `directory` is exact, not recursive, and so is `filename`.
        """
        answer = await self.images_answer(
            dataset,
            directory=directory,
            filename=filename,
            status=status,
            offset=offset,
            limit=limit,
            include_archived=include_archived,
        )
        return await self.decoded(wire.images, answer)

    async def images_answer(
        self,
        dataset: str,
        *,
        directory: str | None = None,
        filename: str | None = None,
        status: str | None = None,
        offset: int = 0,
        limit: int = 1000,
        include_archived: bool = False,
    ) -> Answer:
        """The same, for `decode.images`."""
        params = _given(dataset=dataset, directory_path=directory, filename=filename, status=status)
        params |= {"limit": limit, "offset": offset}
        if include_archived:
            params["include_archived"] = "true"

        return await self._ask("/images/", "/images/", params)

    async def image(self, image_id: str) -> Image:
        """One image of any dataset of the organization. `GET /images/{image}/metadata`"""
        return await self._get(
            "/images/{image}/metadata", f"/images/{path_segment(image_id)}/metadata", wire.image
        )

    async def directory_tree(self, dataset: str) -> list[Directory]:
        """Every directory of a dataset except the root, parents first.

        `GET /directories/{dataset}/tree`
        """
        return await self.decoded(wire.directories, await self.directory_tree_answer(dataset))

    async def directory_tree_answer(self, dataset: str) -> Answer:
        """The same, for `decode.directories`."""
        path = f"/directories/{path_segment(dataset)}/tree"
        return await self._ask("/directories/{dataset}/tree", path)

    async def download_items(
        self, dataset: str, *, status: str | None = None, limit: int = 10_000
    ) -> list[SignedUrl]:
        """Signed URLs of at most 10,000 images, of all or of one status.

        There are no further pages: exactly `limit` rows mean that some images may be missing.
        `GET /datasets/{dataset}/download`
        """
        answer = await self.download_items_answer(dataset, status=status, limit=limit)
        return await self.signed_urls(answer, self._clock.wall())

    async def download_items_answer(
        self, dataset: str, *, status: str | None = None, limit: int = 10_000
    ) -> Answer:
        """The same, for `signed_urls`."""
        params = _given(mode="images_only", limit=limit, status_filter=status)
        path = f"/datasets/{path_segment(dataset)}/download"
        return await self._ask("/datasets/{dataset}/download", path, params)

    async def signed_urls(self, answer: Answer, came_at: float) -> list[SignedUrl]:
        """The signed URLs of an answer. `came_at`: wall-clock seconds when it came."""
        signing = UrlExpiry(came_at, answer.served_at)
        return await self.decoded(partial(wire.signed_urls, signing=signing), answer)

    async def annotation_file(self, image_id: str) -> bytes:
        """An image's annotation file, byte for byte as the vendor's SDK writes it to disk.

        `GET /annotations/{image}/file`
        """
        path = f"/annotations/{path_segment(image_id)}/file"
        return await self._get("/annotations/{image}/file", path, wire.annotation_file)

    def image_stream(self, image_id: str, *, start: int = 0) -> AbstractAsyncContextManager[Body]:
        """The bytes of an image from `start` on, through the API: one unit of the rate limit.

        The server may ignore `start`, see `Body.ranged`. Opening is retried, a broken transfer is
        not. `GET /images/{image}`
        """
        return self._bytes("/images/{image}", f"/images/{path_segment(image_id)}", start)

    def image_stream_at(
        self, dataset: str, path: str, *, start: int = 0
    ) -> AbstractAsyncContextManager[Body]:
        """Like `image_stream`, for the image that is at `path` (`address.image_path`) now.

        `GET /images/{dataset}/{path}`
        """
        where = f"/images/{path_segment(dataset)}/{path}"
        return self._bytes("/images/{dataset}/{path}", where, start)

    @asynccontextmanager
    async def _bytes(self, route: str, path: str, start: int) -> AsyncIterator[Body]:
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **range_headers(start, None, None),
        }
        async with self._exchange.stream(route, path, headers) as (status, answered, pull):
            try:
                body = described(
                    status, answered, pull, self._request_stats.failed, start=start, end=None
                )
            except InvalidResponse as error:
                self._request_stats.failed(error)
                raise

            yield body

    # -- exports

    async def create_export(self, dataset: str, name: str, *, status: str | None = None) -> Export:
        """Start to archive a dataset's annotation files (format `pictograph`). `POST /exports/`"""
        fields = _given(
            dataset_name=dataset,
            name=name,
            format="pictograph",
            include_images=False,
            status_filter=status,
        )
        return await self._change("POST", "/exports/", "/exports/", wire.export, fields)

    async def exports(
        self,
        limit: int = 1000,
        *,
        offset: int = 0,
        dataset: str | None = None,
        status: str | None = None,
    ) -> Page[Export]:
        """One page of at most 1,000 exports of all datasets, or of one by its name, newest first.

        `GET /exports/`
        """
        answer = await self.exports_answer(limit, offset=offset, dataset=dataset, status=status)
        return await self.decoded(wire.exports, answer)

    async def exports_answer(
        self,
        limit: int = 1000,
        *,
        offset: int = 0,
        dataset: str | None = None,
        status: str | None = None,
    ) -> Answer:
        """The same, for `decode.exports`."""
        params = _given(limit=limit, offset=offset, dataset_name=dataset, status=status)
        return await self._ask("/exports/", "/exports/", params)

    async def export(self, dataset: str, name: str) -> Export:
        """The present state of an export. `GET /exports/{export}`"""
        return await self._get(
            "/exports/{export}",
            f"/exports/{export_segment(name)}",
            wire.export,
            {"dataset": dataset},
        )

    async def export_download_url(self, dataset: str, name: str) -> str:
        """The signed URL of a completed export, for `Storage`. `GET /exports/{export}/download`"""
        path = f"/exports/{export_segment(name)}/download"
        return await self._get(
            "/exports/{export}/download", path, wire.download_url, {"dataset": dataset}
        )

    async def delete_export(self, dataset: str, name: str) -> None:
        """Delete an export. `DELETE /exports/{export}`"""
        await self._exchange.call(
            "DELETE",
            "/exports/{export}",
            f"/exports/{export_segment(name)}",
            params={"dataset": dataset},
        )

    # -- how

    async def _get(
        self,
        route: str,
        path: str,
        decode: Callable[[bytes], T],
        params: Mapping[str, Any] | None = None,
    ) -> T:
        return await self.decoded(decode, await self._ask(route, path, params))

    async def _ask(self, route: str, path: str, params: Mapping[str, Any] | None = None) -> Answer:
        return await self._exchange.call("GET", route, path, params=params)

    async def _change(
        self,
        method: str,
        route: str,
        path: str,
        decode: Callable[[bytes], T],
        fields: Mapping[str, Any],
    ) -> T:
        """Make a change, with an Idempotency-Key by which the server recognizes a repeated one."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer = await self._exchange.call(method, route, path, json=fields, headers=headers)
        return await self.decoded(decode, answer)

    async def decoded(self, decode: Callable[[bytes], T], answer: Answer) -> T:
        """What an answer says, by a function of `decode`. Raises `InvalidResponse`."""
        try:
            if len(answer.body) >= _THREAD_FROM_BYTES:
                return await in_thread(decode, answer.body)
            return decode(answer.body)
        except PictofsError as error:
            self._request_stats.failed(error)
            raise

    def _same(self, asked: str, found: Dataset) -> Dataset:
        """`found`. Raises `InvalidResponse` if the server took the id `asked` for a name."""
        if is_uuid(asked) and found.id.lower() != asked.lower():
            raise InvalidResponse(
                "the API sent another dataset than the one whose id was asked for"
            )
        return found


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
