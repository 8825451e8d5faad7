"""Annotation files of a whole dataset from one export archive, for 6 to 10 requests in all.

A fresh export that somebody else has made (`ExportList`) is used without a question. One is made
only if the user wants that (`--bulk-annotations`).

A file of the archive is kept only if it is what the API itself would send. One file is fetched
alone and must equal the archive's byte for byte; the others must be of its shape. A file of which
anything was heard since the export began is not taken from the archive. If somebody else made the
export, its files must also agree with the listing, and are as old as the export.
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
from pictofs.api.retries import EXPORT_POLL, Retries
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
from pictofs.library.annotations.annotations import Annotations, Kept
from pictofs.library.annotations.archive import Archive, ArchiveEntry, Bounds
from pictofs.library.annotations.export_list import PACKED_BYTES, ExportList, Finished
from pictofs.library.answers import Answers
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
"""Requests for an export that is made, if nothing goes wrong.

They are its creation, two looks at it, the URL, one file to compare, and its removal.
"""
FOUND_REQUESTS = 2
"""Requests for an export from the known list: the URL, and one file to compare."""
FEW = 3
"""So few files are fetched one by one, even if there is an archive."""
UNPACKED_BYTES = 2 << 30
"""Bytes that unpacking an archive may take if nobody has asked for it."""
SIZES_WAIT_S = 5.0
"""Seconds that a stat waits for an archive that tells the size."""
REMOVAL_S = 10.0
"""Seconds that the removal of an export may take, even after its caller was cancelled."""
CHUNK_BYTES = 1 << 20
"""Bytes written to the disk at once."""
SHARED = 64
"""Files of an export of another node that are asked for at once."""
INDEXED = 256
"""Files that one call in a thread looks at."""
BATCH = 32
"""Files put into the cache at once: a reader's own file then waits 10 ms at most."""
PROBES = 2
"""Files compared before the archive is refused: one may have been edited since it was made."""
AFTER = 3
"""Reads of a dataset's annotations after which an export is looked for, or made."""
MOSTLY = 0.5
"""The share of a dataset's annotation files that must be missing before reads make an export."""
RETRY_AFTER_S = 3600.0
"""Seconds before the reads of a dataset may make another export, or look for one."""
SOON_S = 60.0
"""Seconds before they may look again if the server did not answer."""

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
"""Errors that say that no export was made."""


class Exports:
    """Fetches annotation files in bulk."""

    def __init__(
        self,
        api: Api,
        answers: Answers,
        storage: Storage,
        source: Source,
        listing: Listing,
        catalog: Catalog,
        cache: ContentCache,
        annotations: Annotations,
        single_flight: SingleFlight,
        clock: Clock,
        *,
        automatic: bool,
        finds: bool,
        found: ExportList,
        bounds: Bounds,
    ) -> None:
        """`automatic`: reads may make an export (`--bulk-annotations`). `finds`: they may look for
        an existing one in `found`."""
        self._api = api
        self._answers = answers
        self._storage = storage
        self._source = source
        self._listing = listing
        self._catalog = catalog
        self._cache = cache
        self._annotations = annotations
        self._single_flight = single_flight
        self._clock = clock
        self.automatic = automatic
        self._finds = finds
        self._found = found
        self._bounds = bounds
        self._reads: Counter[int] = Counter()
        self._may_remove = True
        self._tried: set[str] = set()
        """Exports whose URL was asked for: another attempt needs another URL."""
        self._again: dict[int, float] = {}
        self._look_again: dict[int, float] = {}
        self._bringing: dict[int, float] = {}
        """When the archive on its way to a dataset was begun (monotonic seconds), by dataset."""
        self._begun_at: dict[int, float] = {}
        """When readers last began to look for an archive (monotonic seconds), by dataset."""

    # Begun by readers.

    def missed(self, image: ImageRow) -> None:
        """Note that a reader waits for an annotation file; the third one begins an archive."""
        finds = self._may_look(image.dataset)
        makes = self._may_make(image.dataset)
        if not finds and not makes:
            return

        self._reads[image.dataset] += 1
        if self._reads[image.dataset] < AFTER:
            return

        del self._reads[image.dataset]
        self._begin(image.dataset, finds=finds, makes=makes)

    async def sizes(self, image: ImageRow, *, exact: bool) -> None:
        """Have an archive tell the sizes of a dataset's annotation files, of which `image` has one.

        Waits `SIZES_WAIT_S` at most. An archive is made only if the user wants that and sizes are
        to be `exact`. Never fails.
        """
        key = image.dataset
        finds = self._may_look(key)
        makes = exact and self._may_make(key)
        if finds or makes:
            dataset = self._catalog.dataset(key)
            if dataset is None or dataset.image_count <= FEW:
                return
            if not self._listing.is_listed(dataset):
                return

            self._begin(key, finds=finds, makes=makes)

        await self.wait(key, SIZES_WAIT_S)

    async def wait(self, dataset: int, seconds: float) -> None:
        """Wait for a dataset's archive until it has been on its way for `seconds`. Never fails."""
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
        return self.automatic and self._clock.monotonic() >= self._again.get(dataset, 0.0)

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
        """Whether an archive with annotation files of a dataset is on its way."""
        return dataset in self._bringing

    # An existing export.

    async def look(self) -> None:
        """Make sure that existing exports are known, for one request at most. Raises Throttled."""
        if self._finds:
            await self._found.look()

    def found(self, dataset: int) -> Finished | None:
        """A usable export of a dataset, as far as is known; None if there is none. Inline."""
        return self._found.best(dataset) if self._finds else None

    def serves(self, found: Finished, image: ImageRow) -> bool:
        """Whether an existing export may bring the annotation file of an image. Inline.

        It may not if the file is known to have changed, or was confirmed since.
        """
        return not image.annotation_stale and (image.annotation_checked or 0.0) < found.made_at

    async def take(self, dataset: int) -> None:
        """Fetch the annotation files that are missing or due and that an existing export has.

        Raises what prevents that, such as NoSuchEntry if the export is gone by now. Some files may
        be missing nevertheless.
        """
        await self._single_flight.share(_flight(dataset), partial(self._take, dataset))

    async def _take(self, key: int) -> None:
        found = self.found(key)
        dataset = self._catalog.dataset(key)
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
            # The export is not at fault, and may serve later.
            raise
        except PictofsError:
            self._found.refuse(key, found.name)
            raise

    def _agrees(self, image: ImageRow, claims: Claims) -> bool:
        """Whether a file of an older export says the same of an image as the listing does."""
        directory = self._catalog.directory(image.directory)
        path = None if directory is None else directory.path
        if claims.annotations not in (None, image.annotation_count):
            return False
        if claims.filename not in (None, image.name):
            return False

        return claims.directory is None or canonical_directory(claims.directory) == path

    # An export that is made.

    async def fetch(self, dataset: int, status: str | None = None) -> None:
        """Fetch the missing annotation files of a dataset by an export that is made for them.

        `dataset`: its key. `status`: of the images whose files are wanted; None: all. The export
        goes on if its caller is cancelled. Raises Forbidden if the role allows no export,
        InvalidResponse if the archive is not what the API sends, and what else prevents it. Some
        files may be missing nevertheless.
        """
        await self._single_flight.share(
            _flight(dataset), partial(self._fetch, dataset, status, 0.0)
        )

    async def _fetch(self, key: int, status: str | None, least: float) -> None:
        """`least`: the share of the dataset's files that must be missing for an export."""
        await self._listing.all_images(key)
        dataset = self._catalog.dataset(key)
        if dataset is None:
            raise NoSuchEntry("the dataset is gone")

        known, wanted = await self._look(key, lambda row: status in (None, row.status))
        if not wanted or len(wanted) < least * len(known):
            return

        # While another node makes it, nothing is fetched ahead.
        self._bringing[key] = self._clock.monotonic()
        try:
            await self._answers.export(
                dataset.id,
                status,
                partial(self._make, dataset, status, known, wanted),
                partial(self._take_shared, dataset, wanted),
            )
        finally:
            self._bringing.pop(key, None)

    async def _make(
        self, dataset: DatasetRow, status: str | None, known: set[int], wanted: dict[int, int]
    ) -> None:
        name = f"pictofs-{uuid.uuid4().hex[:16]}"
        source = _Source(name, self._clock.wall(), is_shared=self._answers.is_sharing)
        export = self._export(dataset, status, name)
        async with self._archive(dataset, export, self._bounds) as archive:
            await self._keep(dataset, archive, known, dict(wanted), source)

    async def _take_shared(self, dataset: DatasetRow, wanted: dict[int, int]) -> bool:
        """Take the files of an export that another node has made. Returns whether most were there."""
        kept = 0
        keys = list(wanted)
        for start in range(0, len(keys), SHARED):
            rows = [self._catalog.image(key) for key in keys[start : start + SHARED]]
            kept += await self._annotations.take_shared(
                [row for row in rows if row is not None and not self._annotations.has(row)]
            )

        left = sum(
            (row := self._catalog.image(key)) is not None and not self._annotations.has(row)
            for key in keys
        )
        log.info("an export that another node made brought %d annotation files", kept)
        return left <= max(FEW, len(keys) // 10)

    async def _look(
        self, dataset: int, takes: Callable[[ImageRow], bool]
    ) -> tuple[set[int], dict[int, int]]:
        """The keys of all images of a dataset, and the images whose annotation file is wanted.

        The latter are those that `takes` accepts and that have no fresh file: by key, what is known
        of each now (see `_known`).
        """
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
        """Make an export, yield its name once it is ready, and remove it afterwards."""
        try:
            found = await self._api.create_export(dataset.name, name, status=status)
        except _REFUSED:
            # None was made, so none is to be removed.
            raise
        except BaseException:
            # The server may have made it all the same.
            await self._remove(dataset, name)
            raise

        try:
            polls = Retries(self._clock, EXPORT_POLL)
            while found.status != "completed":
                if found.status == "failed":
                    raise ServerFault(
                        f"the export of {dataset.name} failed: {found.error_message or 'no reason'}"
                    )

                if not await polls.wait():
                    raise TimedOut(
                        f"the export of {dataset.name} was not ready "
                        f"after {EXPORT_POLL.total_wait:.0f} s"
                    )

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
                # The role may not remove exports: the first time is enough to say so.
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
        """The archive of `export` on the disk: a file without a name, counted as cached content."""
        self._bringing[dataset.key] = self._clock.monotonic()
        try:
            async with self._partial_blob() as partial_blob:
                async with export as name:
                    work = partial(self._download, dataset, name, partial_blob, bounds)
                    size = await self._source.retried(f"the export of {dataset.name}", work)
                yield await in_thread(Archive, partial_blob, size, dataset.image_count, bounds)
        finally:
            self._bringing.pop(dataset.key, None)

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
        """Write an export's archive into `partial_blob`. Returns its length in bytes.

        Raises Invalid if it is too long, Corrupt if its checksum is wrong.
        """
        again = name in self._tried
        self._tried.add(name)
        url = await self._answers.export_url(dataset.name, name, again=again)
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
        """Put the `wanted` files of an archive into the cache; see `_look`, also for `known`."""
        for start in range(0, len(archive.files), INDEXED):
            await in_thread(archive.index, archive.files[start : start + INDEXED])

        strange = archive.entries.keys() - known
        archive.skipped["of unknown images"] += len(strange)
        shape = await self._probe(archive, wanted, source)
        entries = [entry for key, entry in archive.entries.items() if key in wanted]

        kept = 0
        for start in range(0, len(entries), BATCH):
            batch = await in_thread(_written, archive, entries[start : start + BATCH], shape)
            # No await from here to `keep`: what a reader fetches meanwhile would be newer.
            found = []
            for key, claims, data in batch:
                row = self._catalog.image(key)
                if row is None or row.dataset != dataset.key:
                    continue
                if claims.image_id not in (None, row.id.lower()):
                    continue
                if _known(row) != wanted[key] or self._annotations.is_coming(row):
                    continue

                if source.agrees is not None and not source.agrees(row, claims):
                    archive.skipped["that the listing contradicts"] += 1
                    continue

                found.append(Kept(row, data, source.made_at))

            versions = await self._annotations.keep(found, archived=True)
            if source.is_shared:
                await self._annotations.share(found)
            kept += sum(version is not None for version in versions)

        self._annotations.ages.came_by_export(dataset.name, source.name, source.made_at, kept)
        log.info("the export of %s brought %d annotation files", dataset.name, kept)

        # The plus drops the reasons that are counted zero times.
        skipped = +archive.skipped
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
            log.warning(
                "the export of %s: left out %d of %d files, %s",
                dataset.name,
                skipped.total(),
                len(archive.files),
                reasons,
            )

    async def _probe(self, archive: Archive, wanted: dict[int, int], source: _Source) -> Shape:
        """The shape of every annotation file, found by comparing one of the archive with the API's.

        A file that was compared is `wanted` no more. Raises InvalidResponse if none was equal.
        """
        there = (
            row for key in archive.entries if key in wanted and (row := self._catalog.image(key))
        )
        # Files that have annotations come first: they say more.
        candidates = sorted(islice(there, INDEXED), key=lambda row: not row.annotation_count)

        probes = 0
        for row in candidates:
            document = await in_thread(archive.document, archive.entries[row.key])
            # If it was edited since, no request is needed to know that they differ.
            if source.agrees is not None and document and not source.agrees(row, _claims(document)):
                continue

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
    """What an annotation file says of its image; None where it says nothing."""

    image_id: str | None
    """In lower case."""
    annotations: int | None
    filename: str | None
    directory: str | None


@dataclass(frozen=True)
class _Source:
    """The export that an archive belongs to."""

    name: str
    made_at: float
    """Wall-clock seconds."""
    agrees: Callable[[ImageRow, Claims], bool] | None = None
    """Whether what a file says of its image is right. None: it is newer than what is known."""
    is_shared: bool = False
    """Whether its files are put for other nodes."""


Shape = list[tuple[str, type]]
"""The keys of an annotation file in their order, and the type of each value."""


def _shape(document: dict[str, Any]) -> Shape:
    return [(key, type(value)) for key, value in document.items()]


def _flight(dataset: int) -> tuple[str, int]:
    return ("export", dataset)


def _known(row: ImageRow) -> int:
    """A number that changes with everything that may mean other annotations."""
    file = (
        row.annotation_size,
        row.annotation_crc32c,
        row.annotation_version,
        row.annotation_ns,
        row.annotation_stale,
        row.annotation_checked,
    )
    listed = (row.annotation_count, row.status, row.min_confidence, row.directory, row.name)
    return hash((file, listed))


def _written(
    archive: Archive, entries: list[ArchiveEntry], shape: Shape
) -> list[tuple[int, Claims, bytes]]:
    """Key, claims and content of the entries that are of the shape; others count as skipped."""
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

    image_id = word("image_uuid")
    annotations = document.get("annotations")
    return Claims(
        image_id=None if image_id is None else image_id.lower(),
        annotations=len(annotations) if isinstance(annotations, list) else None,
        filename=word("image"),
        directory=word("image_path"),
    )
