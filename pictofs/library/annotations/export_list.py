"""Exports that others have made: any role can fetch a finished one's files, for two requests.

One request lists those of the whole organization, and is made seldom, whatever its answer was.
Times of the server are only compared with each other: its clock and ours may differ.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pictofs.api.client import Api
from pictofs.clock import Clock
from pictofs.errors import PictofsError, Throttled
from pictofs.library.answers import Answers
from pictofs.model.moment import time_ns
from pictofs.model.records import Export
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow

log = logging.getLogger(__name__)

LOOK_EVERY = 3600.0
"""Seconds between two looks at the list, or less if annotation files are fresh for less."""
LOOK_LEAST = 300.0
"""Seconds between two looks at the list at least, and after a look that failed."""
LISTED = 1000
"""Exports that are looked at: the cap of a page. Those on a second page would be too old."""
DAY_S = 86_400.0
"""Seconds for which an export is usable if annotation files are fresh for ever."""
NEWER_S = 1.0
"""Seconds that an export must be newer than the dataset: both may be cut to whole seconds."""
AHEAD_S = 2.0
"""Seconds that an export may seem to be in the future, for the same reason."""
PACKED_BYTES = 256 << 20
"""Bytes of an archive at most that is fetched although nobody has asked for one."""


@dataclass(frozen=True)
class Finished:
    """A usable export."""

    name: str
    made_at: float
    """Wall-clock seconds here: the server had its content then, or later."""
    image_count: int
    """Images in it, as the server says; 0 if it does not say."""


class ExportList:
    """The finished, complete exports of each dataset in the API's own format."""

    def __init__(
        self, api: Api, answers: Answers, catalog: Catalog, clock: Clock, ttl: float
    ) -> None:
        """`ttl`: seconds for which an annotation file is fresh; 0: for ever."""
        self._api = api
        self._answers = answers
        self._catalog = catalog
        self._clock = clock
        self._good_for = ttl or DAY_S
        self._look_every = min(LOOK_EVERY, max(LOOK_LEAST, self._good_for))
        self._look_at = 0.0
        self._by_dataset: dict[str, list[Export]] = {}
        self._refused: set[tuple[int, str]] = set()

    async def look(self) -> None:
        """Make sure that the list is known, for one request at most.

        Raises Throttled; after any other error the list is empty for a while.
        """
        if self._clock.monotonic() < self._look_at:
            return

        self._look_at = self._clock.monotonic() + self._look_every
        self._by_dataset = {}
        try:
            page, age, _ = await self._answers.exports(LISTED, ttl=self._look_every)
        except Throttled as error:
            self._look_at = self._clock.monotonic() + min(
                self._look_every, error.retry_after or LOOK_LEAST
            )
            raise
        except PictofsError as error:
            self._look_at = self._clock.monotonic() + LOOK_LEAST
            log.info("exports that are there can't be listed: %s", error)
            return

        self._look_at -= age
        for export in page.rows[:LISTED]:
            if _is_whole(export) and export.dataset_id is not None:
                self._by_dataset.setdefault(export.dataset_id.lower(), []).append(export)

    def best(self, key: int) -> Finished | None:
        """The newest usable export of a dataset, as far as the list is known. Inline."""
        dataset = self._catalog.dataset(key)
        if dataset is None:
            return None

        found: list[Finished] = []
        for export in self._by_dataset.get(dataset.id.lower(), ()):
            if (key, export.name) in self._refused:
                continue
            finished = self._finished(dataset, export)
            if finished is not None:
                found.append(finished)

        return max(found, key=lambda each: each.made_at, default=None)

    def refuse(self, key: int, name: str) -> None:
        """Do not use an export of a dataset again: it is gone, or not what it says."""
        self._refused.add((key, name))

    def _finished(self, dataset: DatasetRow, export: Export) -> Finished | None:
        ahead = self._api.clock_ahead
        updated_ns = time_ns(dataset.updated_at)
        # Nobody knows how old the export is, or whether the dataset has changed since.
        if ahead is None or not updated_ns:
            return None
        if (export.created_ns - updated_ns) / 1e9 < NEWER_S:
            return None

        now = self._clock.wall()
        made_at = export.created_ns / 1e9 - ahead
        is_recent = -AHEAD_S <= now - made_at < self._good_for
        if not is_recent or made_at < (dataset.annotations_due or 0.0):
            return None

        return Finished(export.name, min(made_at, now), export.image_count)


def _is_whole(export: Export) -> bool:
    """Whether an export holds the annotation files of a whole dataset, and little else."""
    return (
        export.status == "completed"
        and export.format == "pictograph"
        and not export.filtered
        and not export.include_images
        and export.file_size <= PACKED_BYTES
    )
