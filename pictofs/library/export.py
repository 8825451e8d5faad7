"""Annotation files of a whole dataset by one export archive: some ten requests instead of one for each file.

What the archive holds is kept only where it is what the API itself would send: one file is fetched the ordinary way
and must be equal, byte for byte; the others must be of its shape; and a file of which anything was heard since the
export was begun is left to the ordinary way.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Any

import google_crc32c
import trio

from pictofs.api.client import Api
from pictofs.api.meter import background, owed
from pictofs.api.storage import Storage
from pictofs.api.wire import annotation_text
from pictofs.clock import Clock
from pictofs.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Forbidden,
    Invalid,
    Nonsense,
    NoSuchEntry,
    PictofsError,
    QuotaSpent,
    ServerFault,
    Throttled,
    TimedOut,
    Unauthorized,
)
from pictofs.library.archive import Archive, Bounds, Entry
from pictofs.library.cache import Cache
from pictofs.library.flights import Flights
from pictofs.library.listing import Listing
from pictofs.library.notes import Notes
from pictofs.library.source import Source
from pictofs.store.catalog import Catalog
from pictofs.store.rows import DatasetRow, ImageRow
from pictofs.store.shelf import Draft
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

REQUESTS = 6
"""What an export costs where nothing goes wrong: creation, two looks, the URL, one file to compare, removal."""
FIRST_PAUSE, PAUSE_GROWTH, LONGEST_PAUSE = 0.5, 2.0, 45.0
"""Seconds between looks at an export that is being made."""
GIVE_UP = 1800.0
"""Seconds after which an export that is still not ready is given up."""
REMOVAL = 10.0
"""Seconds that the removal of an export may take, also when whoever wanted it has left."""
PIECE = 1 << 20
"""Bytes written to the disk at once."""
INDEXED = 256
"""Files looked at in one go of a thread."""
BATCH = 32
"""Files put onto the shelf at once: a reader's own file then waits 10 ms at most."""
PROBES = 2
"""Files compared before the archive is refused: one may have been edited since it was made."""
AFTER = 3
"""Reads of a dataset's annotations that begin an export, where the user wants that."""
MOSTLY = 0.5
"""The share of a dataset's annotation files that must be missing for that."""
REST = 3600.0
"""Seconds before the reads of a dataset may begin another export."""

_REFUSED = (Forbidden, Unauthorized, Invalid, Conflict, AlreadyExists, NoSuchEntry, QuotaSpent, Throttled)
"""What says that no export was made."""


class Exports:
    """Fetches annotation files in bulk."""

    def __init__(
        self,
        api: Api,
        storage: Storage,
        source: Source,
        listing: Listing,
        catalog: Catalog,
        cache: Cache,
        notes: Notes,
        flights: Flights,
        clock: Clock,
        *,
        automatic: bool,
        bounds: Bounds,
    ) -> None:
        """`automatic`: reads may begin an export (`--bulk-annotations`)."""
        self._api, self._storage, self._source, self._listing = api, storage, source, listing
        self._catalog, self._cache, self._notes = catalog, cache, notes
        self._flights, self._clock = flights, clock
        self._automatic, self._bounds = automatic, bounds
        self._reads: Counter[int] = Counter()
        self._may_remove = True
        self._again: dict[int, float] = {}

    def missed(self, image: ImageRow) -> None:
        """A reader waits for an annotation file: the third one of a dataset may begin an export."""
        if not self._automatic or self._clock.monotonic() < self._again.get(image.dataset, 0.0):
            return
        self._reads[image.dataset] += 1
        if self._reads[image.dataset] < AFTER:
            return
        del self._reads[image.dataset]
        self._again[image.dataset] = self._clock.monotonic() + REST
        with background("export"):
            self._flights.launch(_flight(image.dataset), partial(self._begun, image.dataset))

    async def _begun(self, dataset: int) -> None:
        try:
            await self._fetch(dataset, None, MOSTLY)
        except PictofsError as error:
            log.warning("annotations come one by one, their export failed: %s", error)

    def is_running(self, dataset: int) -> bool:
        """Whether annotation files of a dataset are on their way in bulk."""
        return self._flights.is_flying(_flight(dataset))

    async def fetch(self, dataset: int, status: str | None = None) -> None:
        """Fetch the annotation files of a dataset that are missing, of images of one status or of all.

        `dataset`: its key. Whoever is cancelled here leaves the export running. Raises Forbidden where the
        role allows no export, Nonsense where the archive is not what the API sends, and what keeps it from
        coming. Some files may be missing nevertheless.
        """
        await self._flights.share(_flight(dataset), partial(self._fetch, dataset, status, 0.0))

    async def _fetch(self, key: int, status: str | None, least: float) -> None:
        await self._listing.all_images(key)
        dataset = self._catalog.dataset(key)
        if dataset is None:
            raise NoSuchEntry("the dataset is gone")
        known, wanted = await self._look(key, status)
        if not wanted or len(wanted) < least * len(known):
            return
        async with self._archive(dataset, status) as archive:
            await self._keep(dataset, archive, known, wanted)

    async def _look(self, dataset: int, status: str | None) -> tuple[set[int], dict[int, int]]:
        """Keys of all images, and of those without an annotation file with what is known of each now."""
        known: set[int] = set()
        wanted: dict[int, int] = {}
        for folder in self._catalog.directory_keys(dataset):
            seq = 0
            while rows := self._catalog.images_after(folder, seq, INDEXED):
                seq = rows[-1].seq
                for row in rows:
                    known.add(row.key)
                    if status in (None, row.status) and not self._notes.has(row):
                        wanted[row.key] = _known(row)
                await trio.lowlevel.checkpoint()
        return known, wanted

    # The export on the server.

    @asynccontextmanager
    async def _export(self, dataset: DatasetRow, status: str | None) -> AsyncIterator[str]:
        """The name of an export that is ready, and is removed afterwards."""
        name = f"pictofs-{uuid.uuid4().hex[:16]}"
        try:
            found = await self._api.create_export(dataset.name, name, status=status)
        except _REFUSED:
            raise
        except BaseException:
            await self._remove(dataset, name)  # the server may have made it all the same
            raise
        try:
            pause, until = FIRST_PAUSE, self._clock.monotonic() + GIVE_UP
            while found.status != "completed":
                if found.status == "failed":
                    raise ServerFault(
                        f"the export of {dataset.name} failed: {found.error_message or 'no reason'}"
                    )
                if self._clock.monotonic() + pause > until:
                    raise TimedOut(f"the export of {dataset.name} was not ready after {GIVE_UP:.0f} s")
                await self._clock.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * PAUSE_GROWTH)
                found = await self._api.export(dataset.name, name)
            yield name
        finally:
            await self._remove(dataset, name)

    async def _remove(self, dataset: DatasetRow, name: str) -> None:
        with trio.move_on_after(REMOVAL, shield=True), owed():
            try:
                work = partial(self._api.delete_export, dataset.name, name)
                await self._source.retried(f"the removal of the export {name}", work)
            except NoSuchEntry:
                pass
            except Forbidden as error:
                if self._may_remove:
                    log.info("exports stay on the server, %s of %s first: %s", name, dataset.name, error)
                self._may_remove = False
            except PictofsError as error:
                log.warning("the export %s of %s stays on the server: %s", name, dataset.name, error)

    @asynccontextmanager
    async def _archive(self, dataset: DatasetRow, status: str | None) -> AsyncIterator[Archive]:
        """The archive on the disk. It never gets a name, and counts as content of the cache."""
        draft = await self._cache.disk.call(self._cache.shelf.draft, f"export-{uuid.uuid4()}", None)
        try:
            async with self._export(dataset, status) as name:
                work = partial(self._download, dataset, name, draft)
                size = await self._source.retried(f"the export of {dataset.name}", work)
            images, bounds = dataset.image_count, self._bounds
            yield await in_thread(Archive, draft, size, images, bounds)
        finally:
            with trio.CancelScope(shield=True):
                await self._cache.disk.call(draft.abandon)

    async def _download(self, dataset: DatasetRow, name: str, draft: Draft) -> int:
        url = await self._api.export_download_url(dataset.name, name)
        size = crc32c = 0
        async with self._storage.get(url) as body:
            if (body.length or 0) > self._bounds.packed:
                raise Invalid(f"the export of {dataset.name} has {body.length} bytes: too many")
            gathered = bytearray()
            while True:
                piece = await body.receive()
                gathered += piece
                if len(gathered) >= PIECE or not piece:
                    crc32c = google_crc32c.extend(crc32c, bytes(gathered))
                    await self._cache.disk.call(draft.write, size, bytes(gathered))
                    size += len(gathered)
                    gathered.clear()
                if size > self._bounds.packed:
                    raise Invalid(f"the export of {dataset.name} has more than {size} bytes: too many")
                if not piece:
                    break
        if body.crc32c not in (None, crc32c):
            raise Corrupt(f"the export of {dataset.name} has another checksum than storage says")
        return size

    # What it holds.

    async def _keep(
        self, dataset: DatasetRow, archive: Archive, known: set[int], wanted: dict[int, int]
    ) -> None:
        for start in range(0, len(archive.files), INDEXED):
            await in_thread(archive.index, archive.files[start : start + INDEXED])
        strange = archive.entries.keys() - known
        archive.skipped["of unknown images"] += len(strange)
        shape = await self._probe(archive, wanted)
        entries = [entry for key, entry in archive.entries.items() if key in wanted]
        kept = 0
        for start in range(0, len(entries), BATCH):
            batch = await in_thread(_written, archive, entries[start : start + BATCH], shape)
            # Looked at without an await in between: what a reader fetches meanwhile is newer.
            found = [
                (row, data)
                for key, identity, data in batch
                if (row := self._catalog.image(key)) is not None
                and row.dataset == dataset.key
                and identity in (None, row.id.lower())
                and _known(row) == wanted[key]
                and not self._notes.is_coming(row)
            ]
            await self._notes.keep(found)
            kept += len(found)
        log.info("the export of %s brought %d annotation files", dataset.name, kept)
        skipped = +archive.skipped
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            left_out, files = skipped.total(), len(archive.files)
            log.warning(
                "the export of %s: left out %d of %d files, %s", dataset.name, left_out, files, reasons
            )

    async def _probe(self, archive: Archive, wanted: dict[int, int]) -> Shape:
        """The shape of every annotation file, once one of the archive equals the API's own."""
        there = (row for key in archive.entries if key in wanted and (row := self._catalog.image(key)))
        candidates = sorted(islice(there, INDEXED), key=lambda row: not row.annotation_count)
        for row in candidates[:PROBES]:  # one that has annotations says more
            document = await in_thread(archive.document, archive.entries[row.key])
            own = await self._notes.fetch(row)
            del wanted[row.key]
            if document is not None and annotation_text(document) == own:
                return _shape(document)
        if candidates:
            raise Nonsense("the files of the export are not those that the API sends one by one")
        return []


Shape = list[tuple[str, type]]
"""The keys of an annotation file in their order, and what kind of value each has."""


def _shape(document: dict[str, Any]) -> Shape:
    return [(key, type(value)) for key, value in document.items()]


def _flight(dataset: int) -> tuple[str, int]:
    return ("export", dataset)


def _known(row: ImageRow) -> int:
    """A number that changes with anything that tells of other annotations."""
    return hash(
        (
            (row.note_size, row.note_crc, row.note_version, row.note_ns, row.note_stale),
            (row.annotation_count, row.status, row.min_confidence, row.directory, row.name),
        )
    )


def _written(archive: Archive, entries: list[Entry], shape: Shape) -> list[tuple[int, str | None, bytes]]:
    """Key, id and content of those entries that are of the shape."""
    found = []
    for entry in entries:
        document = archive.document(entry)
        if document is None:
            continue
        if _shape(document) != shape:
            archive.skipped["of another shape"] += 1
            continue
        identity = document.get("image_uuid")
        try:
            text = annotation_text(document)
        except Nonsense:
            archive.skipped["malformed"] += 1
            continue
        found.append((entry.key, identity.lower() if isinstance(identity, str) else None, text))
    return found
