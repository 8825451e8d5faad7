"""The book of signed URLs: one request fills it for up to 10,000 images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pictofs.api.client import Api
from pictofs.api.meter import is_background
from pictofs.clock import Clock
from pictofs.errors import (
    Conflict,
    Forbidden,
    NoSuchEntry,
    PictofsError,
    QuotaSpent,
    ServerFault,
    Throttled,
    Unauthorized,
)
from pictofs.library.flights import Flights
from pictofs.model.records import SignedUrl
from pictofs.model.selection import STATUSES
from pictofs.store.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)

BATCH = 10_000
"""Images of one answer of `GET /datasets/{dataset}/download`, its cap; there is no second page."""
MEMORY = 900.0
"""Seconds for which one lone read of a dataset is remembered: the life of a signed URL."""
REST = 60.0
"""Seconds for which no batch is asked for after one that failed: each attempt costs a request, and retries."""
LASTING = (Conflict, Forbidden, NoSuchEntry, QuotaSpent, Unauthorized)
"""Refusals that waiting does not help against: cold storage, for one."""
REFUSALS = 3
"""Refused URLs of one batch after which the batch is given up: signatures were revoked, not one object lost."""


@dataclass
class _Batch:
    urls: dict[str, SignedUrl] = field(default_factory=dict)
    refused: int = 0
    expires_at: float = 0.0
    error: PictofsError | None = None
    """Why it is empty, where that is no answer."""


class UrlBook:
    """Finds a way to the bytes of an image that costs few requests.

    The first read of a dataset takes the keyed byte route: one small request. From the second on a batch of
    URLs is worth its request. Datasets of more than 10,000 images are asked by status, which reaches four times as
    many; an image that no batch names is left to the keyed route.
    """

    def __init__(self, api: Api, flights: Flights, clock: Clock) -> None:
        self._api, self._flights, self._clock = api, flights, clock
        self._batches: dict[tuple[int, str | None], _Batch] = {}
        self._lone: dict[int, float] = {}  # when a dataset last had a read over the keyed route

    async def find(
        self,
        dataset: DatasetRow,
        image: ImageRow,
        *,
        many: bool = False,
        ahead: bool = False,
        proof: bool = False,
    ) -> SignedUrl | None:
        """A URL that is good now, or None where the keyed byte route is the way.

        `many`: a batch is worth its request. `ahead`: nobody waits for the image; Throttled, with the time to wait,
        where no batch can be had now, and what the server refuses it with, where that lasts. `proof`: the keyed
        route has answered, and is not believed; ServerFault where no batch can be had.
        """
        partition = self._partition(dataset, image)
        now = self._clock.wall()
        batch = self._good_batch(partition)
        if proof and batch is not None and batch.error is not None:
            batch = None
        if batch is None and partition[1] in (None, *STATUSES):  # `status_filter` knows no other
            last = self._lone.get(dataset.key)
            if not (many or ahead or proof) and (last is None or now - last > MEMORY):
                self._lone[dataset.key] = now
                return None
            batch = await self._ask(dataset, partition, ahead)
        if batch is None:
            return None
        if ahead and isinstance(batch.error, LASTING):
            raise batch.error.with_traceback(None)
        if ahead and batch.error is not None:
            raise Throttled("no signed URLs can be had now", retry_after=max(1.0, batch.expires_at - now))
        if proof and batch.error is not None:
            raise ServerFault("no signed URLs can be had now")
        found = batch.urls.get(image.id)
        return found if found is None or now < found.expires_at else None

    async def _ask(self, dataset: DatasetRow, partition: tuple[int, str | None], ahead: bool) -> _Batch:
        """A new batch, an empty one where that fails. Raises Throttled where no reader waits for it."""
        flight = ("urls", partition)
        while True:
            joined = self._flights.is_flying(flight)
            try:
                await self._flights.share(flight, lambda: self._fetch(dataset, partition))
            except Throttled as error:
                if ahead or is_background():
                    raise  # the keyed route would eat the reserve just as well
                if joined:  # by what was fetched ahead, which may spend less than a reader
                    continue
                if self._good_batch(partition) is None:  # else another reader has said so
                    self._failed(dataset, partition, error)
            return self._batches[partition]

    def _failed(self, dataset: DatasetRow, partition: tuple[int, str | None], error: PictofsError) -> None:
        log.warning("no signed URLs for %s, reading by the keyed route: %s", dataset.name, error)
        self._batches[partition] = _Batch(expires_at=self._clock.wall() + REST, error=error)

    def _good_batch(self, partition: tuple[int, str | None]) -> _Batch | None:
        batch = self._batches.get(partition)
        if batch is None or self._clock.wall() >= batch.expires_at or batch.refused >= REFUSALS:
            return None
        return batch

    def refused(self, dataset: DatasetRow, image: ImageRow) -> None:
        """Storage did not take the URL of an image: forget it, and the batch with it when it goes on."""
        batch = self._batches.get(self._partition(dataset, image))
        if batch is not None and batch.urls.pop(image.id, None) is not None:
            batch.refused += 1

    def price(
        self, dataset: DatasetRow, missing: Mapping[str, int], there: Mapping[str, int]
    ) -> tuple[int, int]:
        """Requests that fetching images takes: for batches, and, at most, for images that no batch names.

        `missing`: how many are to be fetched, by status. `there`: how many the dataset has.
        """
        batches = alone = 0
        for partition in {self._partition_of(dataset, status) for status in missing}:
            status = partition[1]
            wanted = sum(missing.values()) if status is None else missing[status]
            if status not in (None, *STATUSES):
                alone += wanted
                continue
            batches += self._good_batch(partition) is None
            if status is not None:
                alone += min(wanted, max(0, there.get(status, 0) - BATCH))
        return batches, alone

    def _partition(self, dataset: DatasetRow, image: ImageRow) -> tuple[int, str | None]:
        return self._partition_of(dataset, image.status)

    def _partition_of(self, dataset: DatasetRow, status: str) -> tuple[int, str | None]:
        return dataset.key, status if dataset.image_count > BATCH else None

    async def _fetch(self, dataset: DatasetRow, partition: tuple[int, str | None]) -> None:
        try:
            rows = await self._api.download_items(dataset.id, status=partition[1], limit=BATCH)
        except Throttled:
            raise
        except (
            PictofsError
        ) as error:  # noted here: who comes next must not ask before those who wait have heard
            self._failed(dataset, partition, error)
            return
        # An answer without a row is believed for a while too, or each read would ask again.
        expires_at = min((row.expires_at for row in rows), default=self._clock.wall() + MEMORY)
        self._batches[partition] = _Batch({row.image_id: row for row in rows}, expires_at=expires_at)
