"""A dataset as trainers read it: names, label files, and files of the whole dataset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from cachetools import LRUCache

from pictofs.errors import InvalidResponse, NoSuchEntry, PictofsError, Stale
from pictofs.formats import readme, voc, yolo
from pictofs.formats.classes import CLASSES_MAX, Classes, undeclared
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample, decode
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.content import Content, ContentInMemory
from pictofs.library.formats.build import is_sized, sample_of
from pictofs.library.formats.builder import Builder
from pictofs.library.formats.dimensions import Dimensions
from pictofs.library.formats.names import FormatNames
from pictofs.library.formats.writers import TASKS
from pictofs.model.formats import Format, Node
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from pictofs.threads import in_thread

T = TypeVar("T")

ATTEMPTS = 3
"""How often a file is tried that changes, or is evicted, while it is opened."""
INLINE_BYTES = 64 * 1024
"""Bytes of an annotation file up to which its label is made on the event loop: 15 ms."""
CLASSES_REMEMBERED = 64
"""Datasets whose classes are remembered."""


class Formats:
    """What the folder `formats/` of a dataset holds."""

    def __init__(
        self,
        catalog: Catalog,
        cache: ContentCache,
        annotations: Annotations,
        names: FormatNames,
        dimensions: Dimensions,
        builder: Builder,
    ) -> None:
        self.names = names
        self.builder = builder
        self._catalog = catalog
        self._cache = cache
        self._annotations = annotations
        self._dimensions = dimensions
        self._readme = ContentInMemory(readme.text().encode())
        # By the key of a dataset: how often its object has changed, and its classes.
        self._classes: LRUCache[int, tuple[int, Classes]] = LRUCache(CLASSES_REMEMBERED)

    def readme(self) -> Content:
        """`formats/README.md`."""
        return self._readme

    def has_pose(self, dataset: int) -> bool:
        """Whether a dataset has a class with a skeleton. Inline."""
        return bool(self.declared(dataset).pose_names)

    def declared(self, dataset: int) -> Classes:
        """The classes of a dataset without those that only annotations have. Inline."""
        raw, changes = self._catalog.dataset_object(dataset)
        known = self._classes.get(dataset)
        if known is None or known[0] != changes:
            known = (changes, Classes(raw.get("classes")))
            self._classes[dataset] = known
        return known[1]

    # Files of the whole dataset.

    def last_built(self, row: DatasetRow, base: str | None, node: Node) -> tuple[int | None, int]:
        """Bytes of the file that was made last, None if none was, and the time of what went in, in
        nanoseconds since the epoch. Inline."""
        assert node.format is not None
        built = self.builder.last(row.key, base, node.format)
        if built is None:
            return None, row.created_ns
        return built.sizes.get(node.file), built.changed_ns

    async def built(self, dataset: int, base: str | None, node: Node) -> Content:
        """The file at a node as of now; see `Builder.made`."""
        assert node.format is not None
        await self.names.of(dataset)
        for _ in range(ATTEMPTS):
            made = await self.builder.made(dataset, base, node.format)
            content = await self._cache.content(made.blobs[node.file])
            if content is not None:
                return content

        raise PictofsError(f"{node.file} went from the cache as soon as it was made")

    # Label files.

    async def label(self, image: ImageRow, base: str | None, format_: Format) -> Content:
        """The label file of an image, for one request if its annotation file is not there.

        Raises what keeps that from coming, InvalidResponse if it can't be read.
        """
        for _ in range(ATTEMPTS):
            # This file has no version of its own that the caller would have to look up again.
            with suppress(Stale):
                content = await self._annotations.open(image)
                try:
                    data = await content.read(0, content.size)
                finally:
                    content.close()
                return ContentInMemory(await self._labelled(image, data, base, format_))

            image = self._again(image)

        raise Stale(f"the annotations of {image.entry} change all the time")

    def known_label(self, image: ImageRow, base: str | None, format_: Format) -> bytes | None:
        """The same, if everything is there that it takes; None if not.

        Inline: 0.2 ms for a usual image, 0.2 s for each MiB of annotations.
        """
        data = self._known_annotations(image)
        if data is None:
            return None

        try:
            sample = _sample(image, self._file_name(image, format_), data)
        except InvalidResponse:
            return None
        classes = self._known_classes(sample, image, base, format_)
        return None if classes is None else _text(sample, classes, format_)

    async def known_label_size(
        self, image: ImageRow, base: str | None, format_: Format
    ) -> int | None:
        """Bytes of `known_label`, which holds up nobody if there are many annotations."""
        data = self._known_annotations(image)
        if data is None:
            return None

        try:
            sample = await _apart(data, _sample, image, self._file_name(image, format_), data)
        except InvalidResponse:
            return None
        classes = self._known_classes(sample, image, base, format_)
        if classes is None:
            return None
        return len(await _apart(data, _text, sample, classes, format_))

    def _known_annotations(self, image: ImageRow) -> bytes | None:
        if not self._annotations.is_cached(image) or not is_sized(image):
            return None

        try:
            blob = self._cache.blob(self._cache.annotation_blob_name(image))
            if blob is None:
                return None
            with blob:
                return blob.pread(0, blob.size) if blob.verified else None
        except PictofsError:
            return None

    def _known_classes(
        self, sample: Sample, image: ImageRow, base: str | None, format_: Format
    ) -> Classes | None:
        """The classes by which a label is numbered, if it is known how."""
        classes = self.declared(image.dataset)
        if format_ in TASKS and undeclared(sample, classes):
            built = self.builder.last(image.dataset, base, format_)
            if built is None:
                return None
            classes = self._with_extra(image.dataset, built.extra)
            if not _are_numbered(sample, classes):
                return None

        return classes

    async def _labelled(
        self, image: ImageRow, data: bytes, base: str | None, format_: Format
    ) -> bytes:
        """Raises Stale if what it is made of has changed meanwhile."""
        if not is_sized(image):
            await self._dimensions.learn(image.key)
            image = self._again(image)
        if not is_sized(image):
            raise PictofsError(
                f"there is no label file of {image.entry}: neither the listing nor the image's "
                "first bytes tell its width and height"
            )

        if format_ == "voc":
            await self.names.flat(image.dataset)
        sample = await _apart(data, _sample, image, self._file_name(image, format_), data)
        classes = self.declared(image.dataset)
        if format_ in TASKS and undeclared(sample, classes):
            # Their numbers depend on all other files.
            _, before = self._catalog.dataset_object(image.dataset)
            built = await self.builder.made(image.dataset, base, format_)
            _, after = self._catalog.dataset_object(image.dataset)
            classes = self._with_extra(image.dataset, built.extra)
            if before != after or not _are_numbered(sample, classes):
                raise Stale(f"the classes changed while {image.entry} was read")

        return await _apart(data, _text, sample, classes, format_)

    def _file_name(self, image: ImageRow, format_: Format) -> str:
        names = self.names.known(image.dataset)
        if format_ == "voc" and names is not None and names.flat_twins is not None:
            return names.own_name(image, format_)
        return image.entry

    def _with_extra(self, dataset: int, extra: list[str]) -> Classes:
        raw, _ = self._catalog.dataset_object(dataset)
        return Classes(raw.get("classes"), extra)

    def _again(self, image: ImageRow) -> ImageRow:
        row = self._catalog.image(image.key)
        if row is None:
            raise NoSuchEntry("the image is gone")
        return row


async def _apart(data: bytes, work: Callable[..., T], *args: Any) -> T:
    """The result of work on annotations: in a thread if they are many."""
    if len(data) <= INLINE_BYTES:
        return work(*args)
    return await in_thread(work, *args)


def _sample(image: ImageRow, file_name: str, data: bytes) -> Sample:
    return sample_of(image, file_name, decode(data))


def _are_numbered(sample: Sample, classes: Classes) -> bool:
    """Whether each name has a number, or can't have one as there are too many."""
    is_full = len(classes.names) == CLASSES_MAX
    return is_full or undeclared(sample, classes).issubset(classes.names)


def _text(sample: Sample, classes: Classes, format_: Format) -> bytes:
    if format_ == "voc":
        return voc.document(sample, Losses()).encode()
    return yolo.label(sample, classes, TASKS[format_], Losses()).encode()
