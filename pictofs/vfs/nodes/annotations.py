"""`annotations/`: for each image the file that the vendor's SDK writes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from pictofs.errors import NoSuchEntry, Stale
from pictofs.library.library import Library
from pictofs.model.inode import Inode, Kind, number
from pictofs.store.catalog.rows import DirectoryRow, EntryRow, ImageRow
from pictofs.vfs.node import FOREVER_S, Attributes, FileHandler, Opening, exactly, file, unsized
from pictofs.vfs.nodes.images import image_xattrs
from pictofs.vfs.nodes.tree import VirtualDirectory

PLACEHOLDER, PLACEHOLDER_EACH = 1 << 20, 1 << 14
"""Bytes that stat shows for a file that was never read: so many, and so many more for each
annotation. Files are smaller, so that whoever trusts it (Python's tarfile) runs into the end and
says so, and does not cut."""


VERSIONS = 256
"""Versions that inode numbers tell apart (model/inode.py)."""


def annotation_file(row: ImageRow | EntryRow, keep_entry: float) -> Attributes:
    """Attributes of an annotation file, as far as they are known."""
    inode = number(Kind.ANNOTATION, row.key, row.annotation_version)
    mtime_ns = row.annotation_ns or row.created_ns
    if row.annotation_size is None:
        placeholder = PLACEHOLDER + PLACEHOLDER_EACH * row.annotation_count
        return unsized(inode, placeholder, mtime_ns, keep_entry)

    # A version that is in doubt is asked for again at open; until then the old one is the truth.
    return file(
        inode, row.annotation_size, mtime_ns, 0.0 if row.annotation_stale else FOREVER_S, keep_entry
    )


class ExactSizes:
    """Learns sizes: of whole datasets by an archive, of a single file, where
    `--annotation-sizes=exact` asks for that at stat, by fetching it."""

    def __init__(self, library: Library, wanted: bool) -> None:
        self._library = library
        self.wanted = wanted

    async def learned(self, row: ImageRow) -> ImageRow:
        """The row with its size, where an archive that is there tells it, and else as it is."""
        if row.annotation_size is None:
            await self._library.exports.sizes(row, exact=self.wanted)
            row = self._library.catalog.image(row.key) or row
        return await self.settled(row)

    async def settled(self, row: ImageRow) -> ImageRow:
        """The row with a size that is true, at the price of a request if it was not known."""
        if self.wanted and (row.annotation_size is None or row.annotation_stale):
            with suppress(Stale):
                (await self._library.annotations.open(row)).close()
            return self._library.catalog.image(row.key) or row
        return row


class AnnotationsDirectory(VirtualDirectory):
    """A virtual directory in `annotations/`."""

    kind = Kind.ANNOTATIONS

    def __init__(self, library: Library, exact: ExactSizes) -> None:
        super().__init__(library)
        self._exact = exact

    async def find(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The image whose annotations these are."""
        return await self._library.listing.image_of_annotation(directory, name)

    def known(self, directory: DirectoryRow, name: str) -> ImageRow | None:
        """The same, as the catalog has it."""
        return self._library.catalog.image_by_annotation_name(directory.key, name)

    async def found(self, row: ImageRow) -> Attributes:
        """Attributes of one file, exact where that is asked for."""
        if self._exact.wanted:
            row = await self._exact.learned(row)
        return annotation_file(row, self._library.listing.fresh_for)

    def file(self, row: ImageRow | EntryRow, keep_entry: float) -> Attributes:
        """Attributes as far as they are known: a listing fetches nothing."""
        return annotation_file(row, keep_entry)

    def name(self, row: ImageRow | EntryRow) -> str:
        """The annotation file's entry."""
        return row.annotation_name


class AnnotationFile(FileHandler):
    """An annotation file."""

    def __init__(self, library: Library, exact: ExactSizes) -> None:
        self._library = library
        self._exact = exact

    async def attributes(self, inode: Inode) -> Attributes:
        """Size as far as it is known, or exact."""
        row = await self._exact.learned(self._row(inode))
        self._check(inode, row)
        return annotation_file(row, self._library.listing.fresh_for)

    async def open(self, inode: Inode) -> Opening:
        """The file's version of this inode. Raises Stale when there is a newer one: the path leads
        to it.

        The number of an inode stands for one content only where the catalog says so. It does not
        where it could not be written, where a row went and came back and counts from 0 again, and
        after 256 versions.
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
        """What the API says of the image."""
        row = self._row(inode)
        self._check(inode, row)
        return image_xattrs(self._library.catalog, row)

    def _check(self, inode: Inode, row: ImageRow) -> None:
        if row.annotation_version & 255 != inode.version:
            raise Stale(f"{row.annotation_name} has a newer version")

    def _row(self, inode: Inode) -> ImageRow:
        row = self._library.catalog.image(inode.key)
        if row is None:
            raise NoSuchEntry("the image is gone")
        return row
