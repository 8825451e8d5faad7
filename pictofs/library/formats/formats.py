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
from pictofs.library.formats.build import Built, is_sized, sample_of
from pictofs.library.formats.builder import Builder
from pictofs.library.formats.dimensions import Dimensions
from pictofs.library.formats.names import FormatNames
from pictofs.library.formats.revisions import BuiltFile, FileRevisions, WholeFile
from pictofs.library.formats.writers import TASKS
from pictofs.model.formats import NODES, Format, Node
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
        revisions: FileRevisions,
    ) -> None:
        self.names = names
        self.builder = builder
        self.revisions = revisions
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

    def known_file(self, file: WholeFile) -> BuiltFile | None:
        """The file as it was made last; None if it was not, or may have changed since. Inline."""
        node, format_ = _node(file)
        built = self.builder.current(file.dataset, file.base, format_)
        return None if built is None else _built_file(built, node)

    async def built(self, file: WholeFile) -> tuple[Content, BuiltFile]:
        """The file as of now; see `Builder.made`."""
        node, format_ = _node(file)
        await self.names.of(file.dataset)
        for _ in range(ATTEMPTS):
            made = await self.builder.made(file.dataset, file.base, format_)
            found = _built_file(made, node)
            content = await self._cache.content(found.blob)
            if content is not None:
                return content, found

        raise PictofsError(f"{node.file} went from the cache as soon as it was made")

    async def blob(self, name: str) -> Content | None:
        """The content of a file that was made; None if the cache has it no more."""
        return await self._cache.content(name)

    # Label files.

    def label_version(self, image: ImageRow) -> int:
        """A number that grows when an image's label file changes. Inline: 20 us.

        It does not if annotations of other images change the number of a name that is no class.
        """
        row = self._catalog.dataset(image.dataset)
        if row is None:
            raise NoSuchEntry("the dataset is gone")
        return version_of_label(image, row)

    def next_label_version(self, image: ImageRow, row: DatasetRow) -> int:
        """The version that the next `open` of a label file will bring, as far as can be told: the
        next one if its annotation file is to be fetched again. Inline.

        `cp` skips a file whose inode number is another one once it is open.
        """
        return version_of_label(image, row) + self._annotations.may_change(image, row)

    async def label(
        self, image: ImageRow, base: str | None, format_: Format
    ) -> tuple[Content, int]:
        """The label file of an image and its version, for one request if its annotation file is not
        there.

        Raises what keeps that from coming, InvalidResponse if it can't be read.
        """
        for _ in range(ATTEMPTS):
            version = self.label_version(image)
            with suppress(Stale):
                content = await self._annotations.open(image)
                try:
                    data = await content.read(0, content.size)
                finally:
                    content.close()
                label = await self._labelled(image, data, base, format_)
                if self.label_version(self._again(image)) == version:
                    return ContentInMemory(label), version

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
            built = self.builder.current(image.dataset, base, format_)
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


def version_of_label(image: ImageRow, row: DatasetRow) -> int:
    """`Formats.label_version` of an image of the dataset `row`."""
    return image.annotation_version + row.classes_changes


def _node(file: WholeFile) -> tuple[Node, Format]:
    node = NODES[file.place]
    assert node.format is not None
    return node, node.format


def _built_file(built: Built, node: Node) -> BuiltFile:
    return BuiltFile(built.blobs[node.file], built.sizes[node.file], built.changed_ns)


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
