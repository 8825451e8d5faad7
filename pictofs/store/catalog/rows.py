"""What the catalog's tables hold, a row each."""

from __future__ import annotations

from typing import NamedTuple

NOW = "wall_clock()"
"""SQL for wall-clock seconds: what is written in one go is stamped where it is written."""


class DatasetRow(NamedTuple):
    """A row of `dataset`; see schema.sql."""

    seq: int
    key: int
    id: str
    name: str
    entry: str
    image_count: int
    total_size: int
    created_ns: int
    signature: str
    tree_at: float | None
    tree_signature: str | None
    listed_at: float | None
    listed_signature: str | None
    updated_at: str | None
    annotations_due: float | None
    input_changes: int
    classes_changes: int
    classes_ns: int


class DirectoryRow(NamedTuple):
    """A row of `directory`."""

    seq: int
    key: int
    dataset: int
    parent: int | None
    path: str
    entry: str
    image_count: int
    listed_at: float | None
    listed_signature: str | None


class ImageRow(NamedTuple):
    """A row of `image`."""

    seq: int
    key: int
    id: str
    dataset: int
    directory: int
    entry: str
    filename: str | None
    annotation_entry: str | None
    size: int
    true_size: int | None
    created_ns: int
    status: str
    split: str | None
    annotation_count: int
    min_confidence: float | None
    width: int | None
    height: int | None
    content_type: str | None
    tags: str | None
    annotation_size: int | None
    annotation_crc32c: int | None
    annotation_version: int
    annotation_ns: int | None
    annotation_stale: float
    annotation_checked: float | None

    @property
    def name(self) -> str:
        """The server's filename."""
        return self.entry if self.filename is None else self.filename

    @property
    def annotation_name(self) -> str:
        """The annotation file's name in its folder."""
        return self.annotation_entry or self.entry + ".json"

    @property
    def known_size(self) -> int | None:
        """Bytes of the image; None if only a download can tell."""
        return self.true_size if self.true_size is not None else self.size or None


class ImageEntryRow(NamedTuple):
    """What a listing of `images/` shows: a quarter of a row's columns, and so a third of the time."""

    seq: int
    key: int
    entry: str
    size: int
    true_size: int | None
    created_ns: int


class AnnotationEntryRow(NamedTuple):
    """What a listing of `annotations/` shows of an image."""

    seq: int
    key: int
    entry: str
    annotation_entry: str | None
    created_ns: int
    annotation_count: int
    annotation_size: int | None
    annotation_version: int
    annotation_ns: int | None
    annotation_stale: float

    @property
    def annotation_name(self) -> str:
        """The annotation file's name in its folder."""
        return self.annotation_entry or self.entry + ".json"


class RemovedDentry(NamedTuple):
    """An entry that a folder no longer has; the kernel may still hold it and must forget it."""

    parent: int
    """Inode number of the folder."""
    entry: str


SELECT: dict[type[NamedTuple], str] = {
    row: f"SELECT {', '.join(row._fields)} FROM {table} "
    for row, table in (
        (DatasetRow, "dataset"),
        (DirectoryRow, "directory"),
        (ImageEntryRow, "image"),
        (AnnotationEntryRow, "image"),
        (ImageRow, "image"),
    )
}
"""What gives rows of a kind; a condition follows."""
