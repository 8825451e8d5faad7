"""The book of signed URLs: one request fills it for up to 10,000 images.

A batch is renewed when most of its URLs have come to their end, or when storage refuses several in
a row that were signed together. That is bounded, whatever the server sends: within a minute only a
batch that was of use is renewed, and only one that storage refused is replaced. A URL that is
refused, or has come to its end before the others, is its image's own trouble, and leads to the
API's route.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from pictofs.api.stats import is_background
from pictofs.clock import Clock
from pictofs.errors import (
    Conflict,
    Forbidden,
    NoSuchEntry,
    PictofsError,
    QuotaExceeded,
    ServerFault,
    Throttled,
    Unauthorized,
)
from pictofs.library.answers import Answers
from pictofs.library.single_flight import SingleFlight
from pictofs.model.records import SignedUrl
from pictofs.model.selection import STATUSES
from pictofs.store.catalog.rows import DatasetRow, ImageRow

log = logging.getLogger(__name__)

BATCH = 10_000
"""Images of one answer of `GET /datasets/{dataset}/download`, its cap; there is no second page."""
MEMORY_S = 900.0
"""Seconds for which one lone read of a dataset is remembered: the life of a signed URL."""
RETRY_AFTER_S = 60.0
"""Seconds for which no batch is asked for after one that failed, replaced a refused one, or was of
no use: each attempt costs a request, and retries."""
PROOF_RETRY_AFTER_S = 10.0
"""The same, where an answer is not believed and storage could tell; counted from the last one that
was to tell."""
EARNED = 10
"""Images that came by a batch, from which on it is renewed as soon as it ends: URLs may live for
seconds."""
LASTING = (Conflict, Forbidden, NoSuchEntry, QuotaExceeded, Unauthorized)
"""Refusals that waiting does not help against: cold storage, for one."""
REFUSALS = 3
"""Images refused in a row after which a batch is given up: signatures were revoked, not one object
lost."""


Partition = tuple[int, str | None]
"""The images of one batch: a dataset's key, and a status if it has more than `BATCH` images."""


class FetchMode(Enum):
    """Who wants the bytes of an image, and what they may cost."""

    READ = "a reader waits for this one image: a batch of URLs may not be worth its request"
    STREAM = "a reader waits, and more requests will follow: a batch is worth its request"
    AHEAD = (
        "nobody waits: the API's route, a request of the hourly limit for each image, is not taken"
    )
    BULK = "nobody waits, and the API's route may be taken"

    @property
    def has_reader(self) -> bool:
        """Whether a reader waits. If none does, a throttle is passed on at once: a reader may come
        to wait."""
        return self in (FetchMode.READ, FetchMode.STREAM)


@dataclass
class _Batch:
    asked_at: float
    """Wall-clock seconds, as is what follows."""
    signed_at: float
    """When its URLs were asked for, by whichever node."""
    expires_at: float
    """When half of its URLs have come to their end, or when it is to be asked for again."""
    urls: dict[str, SignedUrl] = field(default_factory=dict)
    error: PictofsError | None = None
    """Why it is empty, where that is no answer."""
    known_bad: frozenset[str] = frozenset()
    """Images of which storage refused the URL of the batch before, too."""
    rejected: set[str] = field(default_factory=set)
    in_a_row: set[str] = field(default_factory=set)
    """Images refused since one came."""
    used: int = 0
    """Images that came by it."""
    replaced_at: float | None = None
    """When one that storage refused was last replaced."""
    was_to_prove: bool = False
    """Whether it was asked for because an answer was not believed, and could not be had."""

    @property
    def is_revoked(self) -> bool:
        return len(self.in_a_row) >= REFUSALS

    def may_be_renewed(self, now: float) -> bool:
        """Whether another one may be asked for, as far as bounds go."""
        if self.is_revoked:  # at once, but for a fresh one that is refused just as well
            return self.replaced_at is None or not 0 <= now - self.replaced_at < RETRY_AFTER_S
        return self.used >= EARNED or not 0 <= now - self.asked_at < RETRY_AFTER_S


class SignedUrlCache:
    """Finds a way to the bytes of an image that costs few requests.

    The first read of a dataset takes the API's byte route: one small request. From the second on a
    batch of URLs is worth its request. Datasets of more than 10,000 images are asked by status,
    which reaches four times as many; an image that no batch names is left to the API's route.
    """

    def __init__(self, answers: Answers, single_flight: SingleFlight, clock: Clock) -> None:
        self._answers = answers
        self._single_flight = single_flight
        self._clock = clock
        self._batches: dict[Partition, _Batch] = {}
        self._lone: dict[int, float] = {}  # when a dataset last had a read over the API's route

    async def find(
        self,
        dataset: DatasetRow,
        image: ImageRow,
        mode: FetchMode,
        *,
        proof: bool = False,
    ) -> SignedUrl | None:
        """A URL that is good now, or None if the API's byte route is the way.

        If nobody waits for the image, raises Throttled, with the time to wait, if no batch can be
        had now, and what the server refuses it with, if that lasts. `proof`: the API's route has
        answered, and is not believed; ServerFault if no batch can be had.
        """
        partition = _partition(dataset, image.status)
        now = self._clock.wall()
        batch = self._batches.get(partition)
        if (
            batch is None
            or not self._is_good(batch, now)
            or (proof and self._may_prove(batch, now))
        ):
            batch = await self._renewed(dataset, image, batch, mode, proof=proof)
        if batch is None:
            return None

        if isinstance(batch.error, LASTING) and not mode.has_reader:
            raise batch.error.with_traceback(None)
        if batch.error is not None and not mode.has_reader:
            throttled = Throttled(
                "no signed URLs can be had now", retry_after=max(1.0, batch.expires_at - now)
            )
            throttled.final = True
            raise throttled from batch.error.with_traceback(None)
        if proof and batch.error is not None:
            raise ServerFault("no signed URLs can be had now")

        found = batch.urls.get(image.id)
        return found if found is None or now < found.expires_at else None

    async def _renewed(
        self,
        dataset: DatasetRow,
        image: ImageRow,
        old: _Batch | None,
        mode: FetchMode,
        *,
        proof: bool,
    ) -> _Batch | None:
        """Another batch, if it is worth its request and may be asked for; None if the API's route
        is the way."""
        partition = _partition(dataset, image.status)
        if partition[1] not in (None, *STATUSES):  # `status_filter` knows no other
            return None

        now = self._clock.wall()
        if old is not None and old.error is None and not old.may_be_renewed(now):
            return None

        last = self._lone.get(dataset.key)
        if mode is FetchMode.READ and not proof and (last is None or now - last > MEMORY_S):
            self._lone[dataset.key] = now
            if await self._answers.may_read_alone(dataset.id):
                return None
        return await self._ask(dataset, partition, mode, proof)

    async def _ask(
        self, dataset: DatasetRow, partition: Partition, mode: FetchMode, proof: bool
    ) -> _Batch:
        """A new batch, an empty one if that fails. Raises Throttled if no reader waits for it."""
        flight = ("urls", partition)
        again = True
        while True:
            joined = self._single_flight.in_progress(flight)
            try:
                await self._single_flight.share(
                    flight,
                    partial(self._fetch, dataset, partition, has_reader=mode is FetchMode.READ),
                )
            except Throttled as error:
                if is_background() or not mode.has_reader:
                    raise  # the API's route would eat the reserve just as well
                if (
                    joined and again
                ):  # by what was fetched ahead, which may spend less than a reader
                    again = False
                    continue
                if self._good_batch(partition) is None:  # else another reader has said so
                    self._failed(dataset, partition, error)
            batch = self._batches[partition]
            batch.was_to_prove |= proof and batch.error is not None
            return batch

    def _failed(self, dataset: DatasetRow, partition: Partition, error: PictofsError) -> None:
        log.warning("no signed URLs for %s, reading by the API's route: %s", dataset.name, error)
        self._replace(partition, self._clock.wall() + RETRY_AFTER_S, {}, error)

    def _replace(
        self,
        partition: Partition,
        expires_at: float,
        urls: dict[str, SignedUrl],
        error: PictofsError | None = None,
        age: float = 0.0,
    ) -> None:
        """Put another batch in the place of a partition's batch. `age`: seconds since it was asked
        for.

        What storage refused is remembered: a batch that fails in between does not make the next one
        a first one.
        """
        now = self._clock.wall()
        old = self._batches.get(partition) or _Batch(now, now, now)
        replaced_at = old.replaced_at
        if old.is_revoked:
            replaced_at = now

        known_bad = frozenset(old.rejected)
        self._batches[partition] = _Batch(
            now, now - age, expires_at, urls, error, known_bad, replaced_at=replaced_at
        )

    def _good_batch(self, partition: Partition) -> _Batch | None:
        batch = self._batches.get(partition)
        return batch if batch is not None and self._is_good(batch, self._clock.wall()) else None

    def _is_good(self, batch: _Batch, now: float) -> bool:
        return now < batch.expires_at and not batch.is_revoked

    def _may_prove(self, batch: _Batch, now: float) -> bool:
        """Whether one that could not be had is asked for once more, because only storage can tell.

        At once where that was for another reason: the API's route has answered since, so it may be
        over.
        """
        if batch.error is None:
            return False
        return not batch.was_to_prove or not 0 <= now - batch.asked_at < PROOF_RETRY_AFTER_S

    def reject(self, dataset: DatasetRow, image: ImageRow, signed: SignedUrl) -> None:
        """Storage refused a URL: it is not used again, nor is its batch after several."""
        batch = self._batches.get(_partition(dataset, image.status))
        # The refusal may come late, of a URL of the batch before: that says nothing of this one.
        if batch is None or batch.urls.get(image.id) is not signed:
            return

        del batch.urls[image.id]
        batch.rejected.add(image.id)
        if image.id not in batch.known_bad:
            batch.in_a_row.add(image.id)
        if batch.is_revoked:
            log.info(
                "storage refuses the signed URLs of %s, reading by the API's route for a while",
                dataset.name,
            )

    def taken(self, dataset: DatasetRow, image: ImageRow) -> None:
        """Storage took the URL of an image."""
        batch = self._batches.get(_partition(dataset, image.status))
        if batch is not None:
            batch.in_a_row.clear()
            batch.used += 1

    def price(
        self, dataset: DatasetRow, missing: Mapping[str, int], there: Mapping[str, int]
    ) -> tuple[int, int]:
        """Requests that fetching images takes: for batches, and, at most, for images that no batch
        names.

        `missing`: how many are to be fetched, by status. `there`: how many the dataset has.
        """
        batches = alone = 0
        for partition in {_partition(dataset, status) for status in missing}:
            status = partition[1]
            wanted = sum(missing.values()) if status is None else missing[status]
            if status not in (None, *STATUSES):
                alone += wanted
                continue
            batches += self._good_batch(partition) is None
            if status is not None:
                alone += min(wanted, max(0, there.get(status, 0) - BATCH))
        return batches, alone

    async def _fetch(self, dataset: DatasetRow, partition: Partition, *, has_reader: bool) -> None:
        # A batch that storage refuses is not taken again from another node.
        old = self._batches.get(partition)
        since = old.signed_at if old is not None and old.is_revoked else 0.0
        try:
            rows, age, _ = await self._answers.urls(
                dataset.id, partition[1], limit=BATCH, since=since, has_reader=has_reader
            )
        except Throttled:
            raise
        except PictofsError as error:
            # Noted here: who comes next must not ask before those who wait have heard.
            self._failed(dataset, partition, error)
            return

        # An answer without a row is believed for a while too, or each read would ask again.
        expires_at = self._clock.wall() + MEMORY_S
        if rows:
            expires_at = sorted(row.expires_at for row in rows)[len(rows) // 2]

        self._replace(partition, expires_at, {row.image_id: row for row in rows}, age=age)


def _partition(dataset: DatasetRow, status: str) -> Partition:
    return dataset.key, status if dataset.image_count > BATCH else None
