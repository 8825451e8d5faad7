"""Annotation files of a whole dataset by one export archive: some ten requests instead of one for each file.

An export that somebody else has made, and that is fresh (`ExportList`), is taken without being asked; one is made, by
`--bulk-annotations`, where the user wants that.

What the archive holds is kept only where it is what the API itself would send: one file is fetched the ordinary way
and must be equal, byte for byte; the others must be of its shape; and a file of which anything was heard since the
export was begun is left to the ordinary way. What an export of somebody else has must agree with the listing besides,
and is as old as the export.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import google_crc32c
import trio

from pictofs.api.client import Api
from pictofs.api.decode import annotation_text
from pictofs.api.stats import background, exempt_from_reserve
from pictofs.api.storage import Storage
from pictofs.clock import Clock
from pictofs.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Forbidden,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    PictofsError,
    QuotaExceeded,
    ServerFault,
    Throttled,
    TimedOut,
    Unauthorized,
)
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.annotations.archive import Archive, ArchiveEntry, Bounds
from pictofs.library.annotations.export_list import PACKED_BYTES, ExportList, Finished
from pictofs.library.connectivity import UNAVAILABLE
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.source import Source
from pictofs.library.listing.listing import Listing
from pictofs.library.single_flight import SingleFlight
from pictofs.model.records import canonical_directory
from pictofs.store.blobs.cache import PartialBlob
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

REQUESTS = 6
"""What an export costs where nothing goes wrong: creation, two looks, the URL, one file to compare, removal."""
FOUND_REQUESTS = 2
"""What an export costs that is there, once the list of them is known: the URL, and one file to compare."""
FEW = 3
"""Files that come one by one, whatever archive is there."""
UNPACKED_BYTES = 2 << 30
"""Bytes of unpacking that an archive may take for which nobody has asked."""
SIZES_WAIT_S = 5.0
"""Seconds that a stat waits for an archive that tells the size."""
FIRST_PAUSE, PAUSE_GROWTH, LONGEST_PAUSE = 0.5, 2.0, 45.0
"""Seconds between looks at an export that is being made."""
GIVE_UP_S = 1800.0
"""Seconds after which an export that is still not ready is given up."""
REMOVAL_S = 10.0
"""Seconds that the removal of an export may take, also when whoever wanted it has left."""
CHUNK_BYTES = 1 << 20
"""Bytes written to the disk at once."""
INDEXED = 256
"""Files looked at in one go of a thread."""
BATCH = 32
"""Files put into the cache at once: a reader's own file then waits 10 ms at most."""
PROBES = 2
"""Files compared before the archive is refused: one may have been edited since it was made."""
AFTER = 3
"""Reads of a dataset's annotations that begin an export, where the user wants that."""
MOSTLY = 0.5
"""The share of a dataset's annotation files that must be missing for that."""
RETRY_AFTER_S = 3600.0
"""Seconds before the reads of a dataset may begin another export, or look for one."""
SOON_S = 60.0
"""Seconds before they may look again, where the server did not answer."""

_REFUSED = (
    Forbidden,
    Unauthorized,
    Invalid,
    Conflict,
    AlreadyExists,
    NoSuchEntry,
    QuotaExceeded,
    Throttled,
)
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
        cache: ContentCache,
        notes: Annotations,
        single_flight: SingleFlight,
        clock: Clock,
        *,
        automatic: bool,
        finds: bool,
        found: ExportList,
        bounds: Bounds,
    ) -> None:
        """`automatic`: reads may begin an export (`--bulk-annotations`). `finds`: they may look for one that is
        there, in `found`."""
        self._api, self._storage, self._source, self._listing = api, storage, source, listing
        self._catalog, self._cache, self._annotations = catalog, cache, notes
        self._single_flight, self._clock = single_flight, clock
        self._automatic, self._finds = automatic, finds
        self._found, self._bounds = found, bounds
        self._reads: Counter[int] = Counter()
        self._may_remove = True
        self._again: dict[int, float] = {}
        self._look_again: dict[int, float] = {}
        self._bringing: dict[int, float] = {}
        """Datasets whose archive is on its way, and since when (monotonic seconds)."""
        self._begun_at: dict[int, float] = {}
        """When readers last began to look for an archive, likewise."""

    # Begun by readers.

    def missed(self, image: ImageRow) -> None:
        """A reader waits for an annotation file: with the third one of a dataset an archive is thought of."""
        finds, makes = self._may_look(image.dataset), self._may_make(image.dataset)
        if not finds and not makes:
            return
        self._reads[image.dataset] += 1
        if self._reads[image.dataset] < AFTER:
            return
        del self._reads[image.dataset]
        self._begin(image.dataset, finds=finds, makes=makes)

    async def sizes(self, image: ImageRow, *, exact: bool) -> None:
        """Somebody wants to know how long an annotation file is: an archive tells that of all.

        Waits for it, but not for long, and makes one only where that is wanted and sizes are to be `exact`. Never
        fails.
        """
        key = image.dataset
        finds, makes = self._may_look(key), exact and self._may_make(key)
        if finds or makes:
            dataset = self._catalog.dataset(key)
            if (
                dataset is None
                or dataset.image_count <= FEW
                or not self._listing.is_listed(dataset)
            ):
                return
            self._begin(key, finds=finds, makes=makes)
        await self.wait(key, SIZES_WAIT_S)

    async def wait(self, dataset: int, seconds: float) -> None:
        """Wait for an archive that is on its way, until it has been for so many seconds. Never fails."""
        if not self._single_flight.in_progress(_flight(dataset)):
            return
        now = self._clock.monotonic()
        since = self._bringing.get(dataset, self._begun_at.get(dataset, now))
        left = since + seconds - now
        if left > 0:
            with trio.move_on_after(left), suppress(PictofsError):
                await self._single_flight.share(_flight(dataset), trio.lowlevel.checkpoint)

    def _may_look(self, dataset: int) -> bool:
        return self._finds and self._clock.monotonic() >= self._look_again.get(dataset, 0.0)

    def _may_make(self, dataset: int) -> bool:
        return self._automatic and self._clock.monotonic() >= self._again.get(dataset, 0.0)

    def _begin(self, dataset: int, *, finds: bool, makes: bool) -> None:
        now = self._begun_at[dataset] = self._clock.monotonic()
        if finds:
            self._look_again[dataset] = now + RETRY_AFTER_S
        if makes:
            self._again[dataset] = now + RETRY_AFTER_S
        with background("export"):
            self._single_flight.launch(
                _flight(dataset), partial(self._begun, dataset, finds, makes)
            )

    async def _begun(self, dataset: int, finds: bool, makes: bool) -> None:
        if finds:
            try:
                await self._found.look()
                await self._take(dataset)
            except UNAVAILABLE as error:
                log.info("annotations come one by one: %s", error)
                self._look_again[dataset] = self._clock.monotonic() + SOON_S
                return
            except PictofsError as error:
                log.warning(
                    "annotations come one by one, an export that was there does not serve: %s",
                    error,
                )
        if not makes:
            return
        try:
            await self._fetch(dataset, None, MOSTLY)
        except PictofsError as error:
            log.warning("annotations come one by one, their export failed: %s", error)

    def is_running(self, dataset: int) -> bool:
        """Whether annotation files of a dataset are on their way in bulk."""
        return dataset in self._bringing

    # An export that is there.

    async def look(self) -> None:
        """Make sure that exports that are there are known, for one request at most. Raises Throttled."""
        if self._finds:
            await self._found.look()

    def found(self, dataset: int) -> Finished | None:
        """An export of a dataset that is there and serves, as far as is known. Inline."""
        return self._found.best(dataset) if self._finds else None

    def serves(self, found: Finished, image: ImageRow) -> bool:
        """Whether an export that is there may bring the annotation file of an image. Inline.

        Not where the file is known to be another by now, or was confirmed since.
        """
        return not image.annotation_stale and (image.annotation_checked or 0.0) < found.made_at

    async def take(self, dataset: int) -> None:
        """Fetch what an export that is there has of the annotation files that are missing or due.

        Raises what keeps it from coming, such as NoSuchEntry where it is gone by now. Some files may be missing
        nevertheless.
        """
        await self._single_flight.share(_flight(dataset), partial(self._take, dataset))

    async def _take(self, key: int) -> None:
        found, dataset = self.found(key), self._catalog.dataset(key)
        if found is None or dataset is None:
            return
        known, wanted = await self._look(key, lambda row: self.serves(found, row))
        if len(wanted) <= FEW:
            return
        bounds = replace(
            self._bounds,
            packed=min(self._bounds.packed, PACKED_BYTES),
            total=min(self._bounds.total, UNPACKED_BYTES),
        )
        try:
            async with self._archive(dataset, nullcontext(found.name), bounds) as archive:
                source = _Source(found.name, found.made_at, self._agrees)
                await self._keep(dataset, archive, known, wanted, source)
        except Throttled:
            raise
        except PictofsError:
            self._found.refuse(key, found.name)
            raise

    def _agrees(self, image: ImageRow, claims: Claims) -> bool:
        """Whether a file of an older export says the same of an image as the listing does."""
        directory = self._catalog.directory(image.directory)
        path = None if directory is None else directory.path
        return (
            claims.annotations in (None, image.annotation_count)
            and claims.filename in (None, image.name)
            and (claims.directory is None or canonical_directory(claims.directory) == path)
        )

    # An export that is made.

    async def fetch(self, dataset: int, status: str | None = None) -> None:
        """Fetch the annotation files of a dataset that are missing, of images of one status or of all.

        `dataset`: its key. Whoever is cancelled here leaves the export running. Raises Forbidden where the
        role allows no export, InvalidResponse where the archive is not what the API sends, and what keeps it from
        coming. Some files may be missing nevertheless.
        """
        await self._single_flight.share(
            _flight(dataset), partial(self._fetch, dataset, status, 0.0)
        )

    async def _fetch(self, key: int, status: str | None, least: float) -> None:
        await self._listing.all_images(key)
        dataset = self._catalog.dataset(key)
        if dataset is None:
            raise NoSuchEntry("the dataset is gone")
        known, wanted = await self._look(key, lambda row: status in (None, row.status))
        if not wanted or len(wanted) < least * len(known):
            return
        name = f"pictofs-{uuid.uuid4().hex[:16]}"
        source = _Source(name, self._clock.wall())
        async with self._archive(
            dataset, self._export(dataset, status, name), self._bounds
        ) as archive:
            await self._keep(dataset, archive, known, wanted, source)

    async def _look(
        self, dataset: int, takes: Callable[[ImageRow], bool]
    ) -> tuple[set[int], dict[int, int]]:
        """Keys of all images, and of those without a fresh annotation file with what is known of each now."""
        known: set[int] = set()
        wanted: dict[int, int] = {}
        for folder in self._catalog.directory_keys(dataset):
            seq = 0
            while rows := self._catalog.images_after(folder, seq, INDEXED):
                seq = rows[-1].seq
                for row in rows:
                    known.add(row.key)
                    if takes(row) and not self._annotations.has(row):
                        wanted[row.key] = _known(row)
                await trio.lowlevel.checkpoint()
        return known, wanted

    # The export on the server.

    @asynccontextmanager
    async def _export(
        self, dataset: DatasetRow, status: str | None, name: str
    ) -> AsyncIterator[str]:
        """Make an export; it is ready inside, and is removed afterwards."""
        try:
            found = await self._api.create_export(dataset.name, name, status=status)
        except _REFUSED:
            raise
        except BaseException:
            await self._remove(dataset, name)  # the server may have made it all the same
            raise
        try:
            pause, until = FIRST_PAUSE, self._clock.monotonic() + GIVE_UP_S
            while found.status != "completed":
                if found.status == "failed":
                    raise ServerFault(
                        f"the export of {dataset.name} failed: {found.error_message or 'no reason'}"
                    )
                if self._clock.monotonic() + pause > until:
                    raise TimedOut(
                        f"the export of {dataset.name} was not ready after {GIVE_UP_S:.0f} s"
                    )
                await self._clock.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * PAUSE_GROWTH)
                found = await self._api.export(dataset.name, name)
            yield name
        finally:
            await self._remove(dataset, name)

    async def _remove(self, dataset: DatasetRow, name: str) -> None:
        with trio.move_on_after(REMOVAL_S, shield=True), exempt_from_reserve():
            try:
                work = partial(self._api.delete_export, dataset.name, name)
                await self._source.retried(f"the removal of the export {name}", work)
            except NoSuchEntry:
                pass
            except Forbidden as error:
                if self._may_remove:
                    log.info(
                        "exports stay on the server, %s of %s first: %s", name, dataset.name, error
                    )
                self._may_remove = False
            except PictofsError as error:
                log.warning(
                    "the export %s of %s stays on the server: %s", name, dataset.name, error
                )

    @asynccontextmanager
    async def _archive(
        self, dataset: DatasetRow, export: AbstractAsyncContextManager[str], bounds: Bounds
    ) -> AsyncIterator[Archive]:
        """The archive of `export` on the disk. It never gets a name, and counts as content of the cache."""
        self._bringing[dataset.key] = self._clock.monotonic()
        try:
            async with self._partial_blob() as partial_blob:
                async with export as name:
                    work = partial(self._download, dataset, name, partial_blob, bounds)
                    size = await self._source.retried(f"the export of {dataset.name}", work)
                yield await in_thread(Archive, partial_blob, size, dataset.image_count, bounds)
        finally:
            del self._bringing[dataset.key]

    @asynccontextmanager
    async def _partial_blob(self) -> AsyncIterator[PartialBlob]:
        partial_blob = await self._cache.disk.call(
            self._cache.blob_cache.open_partial, f"export-{uuid.uuid4()}", None
        )
        try:
            yield partial_blob
        finally:
            with trio.CancelScope(shield=True):
                await self._cache.disk.call(partial_blob.abandon)

    async def _download(
        self, dataset: DatasetRow, name: str, partial_blob: PartialBlob, bounds: Bounds
    ) -> int:
        url = await self._api.export_download_url(dataset.name, name)
        size = crc32c = 0
        async with self._storage.get(url) as body:
            if (body.length or 0) > bounds.packed:
                raise Invalid(f"the export of {dataset.name} has {body.length} bytes: too many")
            gathered = bytearray()
            while True:
                piece = await body.receive()
                gathered += piece
                if len(gathered) >= CHUNK_BYTES or not piece:
                    crc32c = google_crc32c.extend(crc32c, bytes(gathered))
                    await self._cache.disk.call(partial_blob.write, size, bytes(gathered))
                    size += len(gathered)
                    gathered.clear()
                if size > bounds.packed:
                    raise Invalid(
                        f"the export of {dataset.name} has more than {size} bytes: too many"
                    )
                if not piece:
                    break
        if body.crc32c not in (None, crc32c):
            raise Corrupt(f"the export of {dataset.name} has another checksum than storage says")
        return size

    # What it holds.

    async def _keep(
        self,
        dataset: DatasetRow,
        archive: Archive,
        known: set[int],
        wanted: dict[int, int],
        source: _Source,
    ) -> None:
        for start in range(0, len(archive.files), INDEXED):
            await in_thread(archive.index, archive.files[start : start + INDEXED])
        strange = archive.entries.keys() - known
        archive.skipped["of unknown images"] += len(strange)
        shape = await self._probe(archive, wanted, source)
        entries = [entry for key, entry in archive.entries.items() if key in wanted]
        kept = 0
        for start in range(0, len(entries), BATCH):
            batch = await in_thread(_written, archive, entries[start : start + BATCH], shape)
            # Looked at without an await in between: what a reader fetches meanwhile is newer.
            found = []
            for key, claims, data in batch:
                row = self._catalog.image(key)
                if (
                    row is None
                    or row.dataset != dataset.key
                    or claims.image_id not in (None, row.id.lower())
                ):
                    continue
                if _known(row) != wanted[key] or self._annotations.is_coming(row):
                    continue
                if source.agrees is not None and not source.agrees(row, claims):
                    archive.skipped["that the listing contradicts"] += 1
                    continue
                found.append((row, data))
            versions = await self._annotations.keep(found, source.made_at, archived=True)
            kept += sum(version is not None for version in versions)
        self._annotations.ages.came_by_export(dataset.name, source.name, source.made_at, kept)
        log.info("the export of %s brought %d annotation files", dataset.name, kept)
        skipped = +archive.skipped
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            left_out, files = skipped.total(), len(archive.files)
            log.warning(
                "the export of %s: left out %d of %d files, %s",
                dataset.name,
                left_out,
                files,
                reasons,
            )

    async def _probe(self, archive: Archive, wanted: dict[int, int], source: _Source) -> Shape:
        """The shape of every annotation file, once one of the archive equals the API's own."""
        there = (
            row for key in archive.entries if key in wanted and (row := self._catalog.image(key))
        )
        candidates = sorted(islice(there, INDEXED), key=lambda row: not row.annotation_count)
        probes = 0
        for row in candidates:  # one that has annotations says more
            document = await in_thread(archive.document, archive.entries[row.key])
            if source.agrees is not None and document and not source.agrees(row, _claims(document)):
                continue  # it was edited since, which costs no request to know
            if probes == PROBES:
                break
            probes += 1
            own = await self._annotations.fetch(row)
            del wanted[row.key]
            if document is not None and annotation_text(document) == own:
                return _shape(document)
        if probes:
            raise InvalidResponse(
                "the files of the export are not those that the API sends one by one"
            )
        return []


@dataclass(frozen=True)
class Claims:
    """What an annotation file says of its image, as far as it does."""

    image_id: str | None
    """In lower case."""
    annotations: int | None
    filename: str | None
    directory: str | None


@dataclass(frozen=True)
class _Source:
    """The export that an archive is of."""

    name: str
    made_at: float
    """Wall-clock seconds."""
    agrees: Callable[[ImageRow, Claims], bool] | None = None
    """Whether what a file says of its image is right. None: it is newer than what is known."""


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
            (
                row.annotation_size,
                row.annotation_crc32c,
                row.annotation_version,
                row.annotation_ns,
                row.annotation_stale,
                row.annotation_checked,
            ),
            (row.annotation_count, row.status, row.min_confidence, row.directory, row.name),
        )
    )


def _written(
    archive: Archive, entries: list[ArchiveEntry], shape: Shape
) -> list[tuple[int, Claims, bytes]]:
    """Key, claims and content of those entries that are of the shape."""
    found = []
    for entry in entries:
        document = archive.document(entry)
        if document is None:
            continue
        if _shape(document) != shape:
            archive.skipped["of another shape"] += 1
            continue
        try:
            text = annotation_text(document)
        except InvalidResponse:
            archive.skipped["malformed"] += 1
            continue
        found.append((entry.key, _claims(document), text))
    return found


def _claims(document: dict[str, Any]) -> Claims:
    def word(field: str) -> str | None:
        value = document.get(field)
        return value if isinstance(value, str) else None

    image_id, annotations = word("image_uuid"), document.get("annotations")
    return Claims(
        image_id=None if image_id is None else image_id.lower(),
        annotations=len(annotations) if isinstance(annotations, list) else None,
        filename=word("image"),
        directory=word("image_path"),
    )
