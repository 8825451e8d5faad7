"""Datasets by the API alone: what `pictofs dataset` does needs no mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from pictofs.api.address import is_addressable, is_uuid
from pictofs.api.client import Api
from pictofs.api.failure import CHECK_NETWORK
from pictofs.api.key import ApiKey
from pictofs.api.paging import read_datasets
from pictofs.api.retries import telling
from pictofs.api.stats import RequestStats
from pictofs.app.library import ATTEMPT, only
from pictofs.clock import SystemClock
from pictofs.config import ServerSettings
from pictofs.errors import Invalid, InvalidResponse, NoSuchEntry, TimedOut
from pictofs.library.archives.exports import read_exports
from pictofs.model.records import Dataset, Export, Page

T = TypeVar("T")


def run(
    settings: ServerSettings,
    api_key: ApiKey,
    work: Callable[[Datasets], Awaitable[T]],
    *,
    on_retry: Callable[[str], None],
) -> T:
    """What `work` returns. Raises PictofsError, and KeyboardInterrupt on Ctrl-C.

    `on_retry` is called with the reason for which the server is asked again.
    """

    async def opened() -> T:
        api = Api(
            settings.base_url,
            api_key,
            clock=SystemClock(),
            request_stats=RequestStats(),
            timeout=settings.timeout * ATTEMPT,
            max_retries=settings.max_retries,
            allow_plain_http=settings.allow_plain_http,
        )
        async with api:
            with telling(lambda error: on_retry(error.message)):
                return await work(Datasets(api, settings.timeout))

    try:
        return trio.run(opened)
    except BaseExceptionGroup as group:
        # Of a nursery in the HTTP library, on Ctrl-C.
        raise only(group) from group


def _asked_for(dataset: Dataset, name: str) -> Dataset:
    """`dataset`, which the server has given for `name`, once it is seen to be the one asked for.

    It may be deleted next, on the server's word alone.

    Raises:
        InvalidResponse: it is another one.
    """
    if name == dataset.name or (is_uuid(name) and name.lower() == dataset.id.lower()):
        return dataset

    raise InvalidResponse(
        f"the server was asked for the dataset {name!r} and gave {dataset.name!r} ({dataset.id}): "
        "nothing was changed; write the id to be sure"
    )


class Datasets:
    """The datasets of an organization. Each method raises what `Api` does, and TimedOut."""

    def __init__(self, api: Api, timeout: float) -> None:
        """`timeout`: seconds that one call of the API may take, its retries included."""
        self._api = api
        self._timeout = timeout

    async def rows(self, limit: int | None = None, *, archived: bool = False) -> list[Dataset]:
        """All active datasets, or all archived ones, in the server's order.

        `limit`: only so many of them.
        """

        async def page(offset: int, wanted: int) -> Page[Dataset]:
            return await self._in_time(self._api.datasets(offset, wanted, archived=archived))

        return await read_datasets(page, limit)

    async def count(self) -> int | None:
        """How many active datasets there are, for one request; None if the server does not say."""
        page = await self._in_time(self._api.datasets(limit=1))
        return page.total

    async def by_id(self, identity: str) -> Dataset:
        """The dataset of an id. Raises Invalid for what is not a UUID."""
        if not is_uuid(identity):
            raise Invalid(
                f"{identity!r} is no id: write a UUID, or the dataset's name without --id"
            )

        return _asked_for(await self._in_time(self._api.dataset(identity)), identity)

    async def find(self, name: str) -> Dataset:
        """The dataset of a name, or of an id.

        A text that looks like an id is taken for one first, as the API does. A name that the API
        can't address (with `/`, `.` and `..`, one that looks like an id) is looked for in the
        lists.
        """
        if is_addressable(name):
            try:
                found = await self._in_time(self._api.dataset(name))
            except NoSuchEntry:
                if not is_uuid(name):
                    raise
            else:
                return _asked_for(found, name)

        for archived in (False, True):
            for row in await self.rows(archived=archived):
                if row.name == name:
                    return row

        raise NoSuchEntry(f"there is no dataset {name!r}, or the API key may not see it")

    async def exports(self, name: str) -> tuple[Dataset, list[Export]]:
        """A dataset and its exports, finished or not, the newest first."""
        found = await self.find(name)
        reading = read_exports(self._api, found.name, found.id)
        return found, await self._in_time(reading)

    async def create(self, name: str, description: str | None) -> Dataset:
        """A new dataset. Raises AlreadyExists."""
        return await self._in_time(self._api.create_dataset(name, description))

    async def update(self, name: str, *, rename: str | None, description: str | None) -> Dataset:
        """Change name or description; None leaves it.

        Raises AlreadyExists for a name that is taken.
        """
        identity = (await self.find(name)).id
        changed = self._api.update_dataset(identity, new_name=rename, description=description)
        return await self._in_time(changed)

    async def delete(self, dataset: Dataset) -> None:
        """Delete a dataset with all its images, for good: by its id, which no other ever gets."""
        await self._in_time(self._api.delete_dataset(dataset.id))

    async def _in_time(self, call: Awaitable[T]) -> T:
        try:
            with trio.fail_after(self._timeout):
                return await call
        except trio.TooSlowError:
            raise TimedOut(f"no answer within {self._timeout:g} s", hint=CHECK_NETWORK) from None
