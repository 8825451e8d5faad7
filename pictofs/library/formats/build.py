"""Makes the files of a format that need every annotation file of a dataset.

It blocks for long, so a process of its own does it (`build_process.py`). It reads the catalog and
the cached annotation files, and puts what it makes into the cache: under a name made of everything
that went in, so that whoever has the same inputs finds it, in this mount and in others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pictofs.clock import SystemClock
from pictofs.config import FreeSpace
from pictofs.errors import DiskFull, InvalidResponse, NoSuchEntry
from pictofs.formats.classes import Classes, undeclared
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Decoded, Sample, decode
from pictofs.library.content.cache import annotation_blob_name
from pictofs.library.formats.names import Names, placed_in
from pictofs.library.formats.writers import WRITERS, Outputs
from pictofs.model.formats import FLAT, YOLO, Format, format_folders, split_of
from pictofs.store.blobs.blob import FOOTER_SIZE
from pictofs.store.blobs.cache import BlobCache
from pictofs.store.blobs.ledger import allocated_size
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.formats import FormatScans
from pictofs.store.catalog.rows import ImageRow

VERSION = 2
"""Grows when other files are made of the same inputs."""
PULSE_S = 1.0
"""Seconds between two signs of progress, and between two checks for them."""
ROWS = 256
"""Images read from the catalog at once."""
NEEDS_ANNOTATIONS: frozenset[Format] = frozenset({*YOLO, "coco", "voc", "huggingface"})
NEEDS_SIZES: frozenset[Format] = NEEDS_ANNOTATIONS
NUMBERS_CLASSES: frozenset[Format] = NEEDS_ANNOTATIONS - {"voc"}
NO_ANNOTATIONS = Decoded((), 0)
UNREADABLE = Decoded((), 1)
"""A file that can't be read counts as one annotation that can't."""
_META = "meta"
"""The blob that holds the `Built` of a build."""


class BuildJob(msgspec.Struct, kw_only=True):
    """What is to be made, and of what."""

    catalog: str
    """Its file."""
    blobs: str
    """The directory of the blob cache."""
    limit: int
    """Bytes that the cache may hold."""
    reserve: FreeSpace
    server: str
    """What blobs of this server begin with (`ContentCache`)."""
    dataset: int
    """Its key."""
    base: str | None
    """The status of the images; None: any."""
    format: Format
    began: float
    """Wall-clock seconds: annotation files that were confirmed since are right, although the dataset
    may have changed again. Else one that changes all the time would never be done."""
    fresh_since: float | None
    """Wall-clock seconds: annotation files that were confirmed before should be confirmed again;
    None: none should."""
    unsizable: list[int]
    """Keys of images of which no width and height can be found."""
    unreadable: list[int]
    """Keys of images whose annotation file the server does not give."""


class Built(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was made, or what has to be there first."""

    missing: list[int] = []
    """Keys of images whose annotation file has to be fetched first."""
    due: list[int] = []
    """Keys of images whose annotation file is there, and should be confirmed first."""
    unsized: list[int] = []
    """Keys of images whose width and height have to be found first."""
    blobs: dict[str, str] = {}
    """Names of blobs, by the name of the file."""
    sizes: dict[str, int] = {}
    """Bytes, by the name of the file."""
    extra: list[str] = []
    """Names of classes that only annotations have."""
    losses: Losses | None = None
    images: int = 0
    """Images whose annotation file is needed."""
    unreadable: int = 0
    """Those of them that are left out, as the server does not give it."""
    confirmed_at: float | None = None
    """Wall-clock seconds: when the annotation file was confirmed that was not for the longest; None
    if none is needed."""
    changed_ns: int = 0
    """When the newest input changed, in nanoseconds since the epoch."""
    refused: str = ""
    """Why nothing was made."""
    disk_full: bool = False
    """Whether that was the disk."""

    @property
    def is_complete(self) -> bool:
        """Whether everything was there, and files were made."""
        return not (self.missing or self.due or self.unsized or self.refused)


class _Input(NamedTuple):
    row: ImageRow
    split: str
    file_name: str
    """Below the images of its split."""


def build(job: BuildJob, progressed: Callable[[], None] = lambda: None) -> Built:
    """Make the files of a format. Blocks: 0.2 ms an image. Raises PictofsError.

    `progressed` is called for each 256 images that are gone through, and for each file.
    """
    with (
        closing(Catalog(Path(job.catalog))) as catalog,
        closing(
            BlobCache(Path(job.blobs), limit=job.limit, reserve=job.reserve, clock=SystemClock())
        ) as cache,
        # What is read twice, for the digest and for the files, must be the same.
        catalog.database.snapshot(),
    ):
        return _Build(job, catalog, cache, progressed).run()


class _Build:
    def __init__(
        self, job: BuildJob, catalog: Catalog, cache: BlobCache, progressed: Callable[[], None]
    ) -> None:
        self._job = job
        self._progressed = progressed
        self._catalog = catalog
        self._cache = cache
        self._unsizable = set(job.unsizable)
        self._unreadable = set(job.unreadable)
        self._left_out: set[int] = set()

        row = catalog.dataset(job.dataset)
        if row is None:
            raise NoSuchEntry("the dataset is gone")

        scans = FormatScans(catalog.database)
        self._names = Names(catalog, row, {}, scans.twins_of_snapshot(job.dataset, flat=False))
        if job.format in FLAT:
            self._names.flat_twins = scans.twins_of_snapshot(job.dataset, flat=True)

        self._row = row
        self._classes: Any = catalog.dataset_object(job.dataset)[0].get("classes")

    def run(self) -> Built:
        found = Built()
        digest = self._survey(found)
        if found.missing or found.due or found.unsized:
            return found

        kept = self._kept(digest)
        if kept is not None:
            # Classes may be what they were before the last two changes.
            kept.changed_ns = found.changed_ns
            kept.confirmed_at = found.confirmed_at
            kept.unreadable = found.unreadable
            return kept

        return self._made(digest, found)

    # What goes in.

    def _survey(self, found: Built) -> str:
        """Fill in what is missing. Returns a digest of all that the files will depend on.

        Raises DiskFull if the cache can't hold what is missing.
        """
        job = self._job
        digest = blake2b(digest_size=16)
        digest.update(repr((VERSION, job.format, job.base, job.dataset, self._row.name)).encode())
        digest.update(json.dumps(self._classes).encode())

        needed_bytes = 0
        found.changed_ns = self._row.classes_ns
        needs_annotations = job.format in NEEDS_ANNOTATIONS
        needs_sizes = job.format in NEEDS_SIZES
        due_before = 0.0
        if job.fresh_since is not None:
            due_before = max(job.fresh_since, self._catalog.annotations_due(job.dataset))

        for row, split, file_name in self._inputs():
            changed_ns = row.annotation_ns or row.created_ns
            found.changed_ns = max(found.changed_ns, changed_ns)
            annotation: object = None
            if needs_annotations:
                found.images += 1
            if needs_annotations and row.key in self._unreadable and not self._has_any(row):
                annotation = "unreadable"
                found.unreadable += 1
                self._left_out.add(row.key)
            elif needs_annotations:
                annotation = (row.annotation_crc32c, row.annotation_size)
                confirmed_at = row.annotation_checked or 0.0
                if found.confirmed_at is None or confirmed_at < found.confirmed_at:
                    found.confirmed_at = confirmed_at
                needed_bytes += allocated_size((row.annotation_size or 0) + FOOTER_SIZE)
                if not self._is_cached(row) and row.key not in self._unreadable:
                    found.missing.append(row.key)
                elif (row.annotation_checked or 0.0) < due_before:
                    found.due.append(row.key)

            if needs_sizes and not is_sized(row) and row.key not in self._unsizable:
                found.unsized.append(row.key)

            size = (row.width, row.height)
            digest.update(repr((row.key, split, file_name, size, row.tags, annotation)).encode())

        # Each attempt would fetch them all again.
        if found.missing and needed_bytes > job.limit:
            raise DiskFull(
                f"the annotation files of formats/{job.format} take more than the cache may hold "
                f"({needed_bytes:,} of {job.limit:,} bytes); mount with a larger --cache-size"
            )

        return digest.hexdigest()

    def _is_cached(self, row: ImageRow) -> bool:
        if row.annotation_size is None:
            return False
        if row.annotation_stale and (row.annotation_checked or 0.0) < self._job.began:
            return False
        return self._cache.has(annotation_blob_name(self._job.server, row))

    def _has_any(self, row: ImageRow) -> bool:
        """Whether some version of an annotation file is cached."""
        is_known = row.annotation_size is not None
        return is_known and self._cache.has(annotation_blob_name(self._job.server, row))

    def _inputs(self) -> Iterator[_Input]:
        """The images in the order of their paths, which is the same on every machine."""
        for directory in self._catalog.directory_keys(self._job.dataset):
            folders = format_folders(self._folders(directory), self._job.format)
            entry = ""
            while rows := self._catalog.images_by_entry(directory, entry, ROWS):
                entry = rows[-1].entry
                self._progressed()
                for row in rows:
                    if placed_in(row, self._job.base, None):
                        name = self._names.own_name(row, self._job.format)
                        yield _Input(row, split_of(row.split), "/".join((*folders, name)))

    def _folders(self, directory: int) -> tuple[str, ...]:
        """The names of the folders that lead to a directory, in `images/`."""
        row = self._catalog.directory(directory)
        if row is None or row.parent is None:
            return ()
        return (*self._folders(row.parent), row.entry)

    # What comes out.

    def _prefix(self, digest: str) -> str:
        return f"{self._job.server}-{digest}"

    def _kept(self, digest: str) -> Built | None:
        """What was made of the same inputs before, if all of it is still there."""
        blob = self._cache.open(f"{self._prefix(digest)}.{_META}")
        if blob is None:
            return None

        with blob:
            kept = msgspec.json.decode(blob.pread(0, blob.size), type=Built)
        return kept if all(map(self._cache.has, kept.blobs.values())) else None

    def _made(self, digest: str, surveyed: Built) -> Built:
        more: set[str] = set()
        found = self._written(digest, Classes(self._classes), more)
        # Classes that the dataset does not declare come behind the others, whose numbers stay.
        if more and not found.missing:
            found = self._written(digest, Classes(self._classes, more), None)
            found.extra = sorted(more)

        if not found.missing:
            found.changed_ns = surveyed.changed_ns
            found.confirmed_at = surveyed.confirmed_at
            found.unreadable = surveyed.unreadable
            meta = msgspec.json.encode(found)
            self._cache.put(f"{self._prefix(digest)}.{_META}", meta, None).close()

        return found

    def _written(self, digest: str, classes: Classes, more: set[str] | None) -> Built:
        """Write the files. `more` is filled with names of classes that are not among `classes`;
        then nothing is kept, as they have no number. None: they are left out and counted."""
        losses = Losses()
        found = Built(losses=losses)

        with ExitStack() as stack:
            outputs = Outputs(self._cache, self._prefix(digest), stack)
            writer = WRITERS[self._job.format](
                self._job.format, outputs, classes, losses, self._row.name
            )
            for row, split, file_name in self._inputs():
                if row.key in self._left_out:
                    losses.add("unreadable", file_name)
                    continue

                sample = self._sample(row, file_name)
                if sample is None:
                    found.missing.append(row.key)
                    continue

                if more is not None and self._job.format in NUMBERS_CLASSES:
                    more |= undeclared(sample, classes).difference(classes.names)
                if more or found.missing:
                    continue
                if is_sized(row) or self._job.format not in NEEDS_SIZES:
                    writer.add(sample, split)
                else:
                    losses.add("unsized", file_name)

            if more or found.missing:
                return found

            writer.end()
            for name, output in outputs.named.items():
                output.commit()
                self._progressed()
                found.blobs[name] = outputs.blob_name(name)
                found.sizes[name] = output.size

        return found

    def _sample(self, row: ImageRow, file_name: str) -> Sample | None:
        """An image with its annotations; None if its annotation file is gone."""
        if self._job.format not in NEEDS_ANNOTATIONS:
            return sample_of(row, file_name, NO_ANNOTATIONS)

        blob = self._cache.open(annotation_blob_name(self._job.server, row))
        if blob is None:
            return None

        with blob:
            if not blob.verified:
                blob.verify()
            data = blob.pread(0, blob.size)

        try:
            return sample_of(row, file_name, decode(data))
        except InvalidResponse:
            return sample_of(row, file_name, UNREADABLE)


def is_sized(row: ImageRow) -> bool:
    """Whether the size of an image in pixels is known."""
    return bool(row.width and row.height)


def sample_of(row: ImageRow, file_name: str, decoded: Decoded) -> Sample:
    """An image as the converters take it."""
    return Sample(
        key=row.key,
        file_name=file_name,
        width=row.width or 0,
        height=row.height or 0,
        tags=tuple(json.loads(row.tags)) if row.tags else (),
        annotations=decoded.annotations,
        malformed=decoded.malformed,
    )
