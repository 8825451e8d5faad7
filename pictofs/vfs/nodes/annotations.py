"""`annotations/`: for each image the annotation file that the vendor's SDK would write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from pictofs.errors import NoSuchEntry, Stale
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.rows import AnnotationEntryRow, DirectoryRow, ImageRow
from pictofs.vfs.node import (
    FOREVER_S,
    Attributes,
    Entry,
    FileHandler,
    Opening,
    exactly,
    file,
    unsized,
)
from pictofs.vfs.nodes.images import image_xattrs
from pictofs.vfs.nodes.tree import VirtualDirectory

PLACEHOLDER = 1 << 20
"""Bytes that stat shows for a file that was never read, without those for its annotations. Files
are smaller: a program that trusts the size (Python's tarfile) meets the end too early and fails,
instead of cutting the file off."""
PLACEHOLDER_EACH = 1 << 14
"""Bytes that stat shows in addition for each annotation."""

VERSIONS = 256
"""How many versions inode numbers can tell apart (model/inode.py)."""


def annotation_file(row: ImageRow | AnnotationEntryRow, keep_entry: float) -> Attributes:
    """Attributes of an annotation file, as far as they are known."""
    inode = number(NodeKind.ANNOTATION, row.key, row.annotation_version)
    mtime_ns = row.annotation_ns or row.created_ns
    if row.annotation_size is None:
        placeholder = PLACEHOLDER + PLACEHOLDER_EACH * row.annotation_count
        return unsized(inode, placeholder, mtime_ns, keep_entry)

    # If a version is in doubt, the next `open` asks for it again; until then the old size is shown.
    keep = 0.0 if row.annotation_stale else FOREVER_S
    return file(inode, row.annotation_size, mtime_ns, keep, keep_entry)


class ExactSizes:
    """Learns the sizes of annotation files.

    Those of a whole dataset come from an archive. With `--annotation-sizes=exact`, stat fetches a
    file whose size is not known.
    """

    def __init__(self, library: Library, wanted: bool) -> None:
        self._library = library
        self.wanted = wanted

    async def learned(self, row: ImageRow) -> ImageRow:
        """The row with its size if an archive that is there shows it, or if exact sizes are
        wanted; otherwise the row as it is."""
        if row.annotation_size is None:
            await self._library.exports.sizes(row, exact=self.wanted)
            row = self._library.catalog.image(row.key) or row

        return await self.settled(row)

    async def settled(self, row: ImageRow) -> ImageRow:
        """The row with an exact size if exact sizes are wanted, for a request if it is not known;
        otherwise the row as it is."""
        if self.wanted and (row.annotation_size is None or row.annotation_stale):
            with suppress(Stale):
                content = await self._library.annotations.open(row)
                content.close()

            return self._library.catalog.image(row.key) or row

        return row


class AnnotationsDirectory(VirtualDirectory):
    """A virtual directory in `annotations/`."""

    kind = NodeKind.ANNOTATIONS
    row_kind = AnnotationEntryRow

    def __init__(self, library: Library, exact: ExactSizes) -> None:
        super().__init__(library)
        self._exact = exact

    async def find(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The image whose annotation file is called `name`; None if there is none."""
        return await self._library.listing.image_of_annotation(directory, name)

    def known(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The same, from the catalog alone."""
        return self._library.catalog.image_by_annotation_name(directory.key, name)

    async def found(self, row: ImageRow) -> Attributes:
        """Attributes of one file, with an exact size if exact sizes are wanted."""
        if self._exact.wanted:
            row = await self._exact.learned(row)
        return annotation_file(row, self._library.listing.fresh_for)

    def file(self, row: ImageRow, keep_entry: float) -> Attributes:
        """Attributes of one file as far as they are known."""
        return annotation_file(row, keep_entry)

    def listed(self, rows: Iterable[AnnotationEntryRow], keep_entry: float) -> list[Entry]:
        """The entries of annotation files, as far as they are known: a listing fetches nothing."""
        return [
            Entry(row.annotation_name, annotation_file(row, keep_entry), row.seq << 1 | 1)
            for row in rows
        ]


class AnnotationFile(FileHandler):
    """An annotation file."""

    def __init__(self, library: Library, exact: ExactSizes) -> None:
        self._library = library
        self._exact = exact

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes with the size as far as it is known, or an exact one if that is wanted."""
        row = await self._exact.learned(self._row(inode))
        self._check(inode, row)
        return annotation_file(row, self._library.listing.fresh_for)

    async def open(self, inode: Inode) -> Opening:
        """The version of the file that this inode stands for. Raises Stale if there is a newer one,
        to which the path leads.

        An inode number stands for one content only if the catalog says so. It does not if the
        catalog could not be written, if the row was removed and came back, so that it counts
        versions from 0 again, or after 256 versions.
        """
        row = self._row(inode)
        self._check(inode, row)
        content = await self._library.annotations.open(row)

        now = self._library.catalog.image(row.key)
        certain = (
            now is not None
            and not now.annotation_stale
            and now.annotation_size == content.size
            and now.annotation_version == row.annotation_version < VERSIONS
            and self._library.catalog.never_left(row.key)
        )
        shown = exactly(annotation_file(row, 0.0), content.size)._replace(
            keep=FOREVER_S if certain else 0.0
        )
        return Opening(shown, content, told_one_size=certain)

    async def xattrs(self, inode: Inode) -> Mapping[str, bytes]:
        """What the API says about the image."""
        row = self._row(inode)
        self._check(inode, row)
        return image_xattrs(self._library.catalog, row)

    def _check(self, inode: Inode, row: ImageRow) -> None:
        """Raise Stale if the row has another version than the inode."""
        if row.annotation_version & 255 != inode.version:
            raise Stale(f"{row.annotation_name} has a newer version")

    def _row(self, inode: Inode) -> ImageRow:
        row = self._library.catalog.image(inode.key)
        if row is None:
            raise NoSuchEntry("the image is gone")
        return row
