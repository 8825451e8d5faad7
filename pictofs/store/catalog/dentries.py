"""The entries under which images and directories show: the kernel must forget them when they go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pictofs.model.formats import FORMATS_FOLDER
from pictofs.model.inode import NodeKind, number
from pictofs.model.selection import SELECTIONS, selections_of
from pictofs.store.catalog.rows import ImageRow, RemovedDentry


def image_entries(row: ImageRow) -> Iterator[RemovedDentry]:
    """Every entry of an image and of its annotation file."""
    yield RemovedDentry(number(NodeKind.IMAGES, row.directory), row.entry)
    yield RemovedDentry(number(NodeKind.ANNOTATIONS, row.directory), row.annotation_name)
    yield from _in_views(row, selections_of(row.status, row.split))


def moved_entries(old: ImageRow, new: ImageRow | None) -> Iterable[RemovedDentry]:
    """The entries that an image had as `old` and has no more as `new`; None: it is gone."""
    if new is None or _place(new) != _place(old):
        return image_entries(old)
    if (old.status, old.split) == (new.status, new.split):
        return ()

    return _in_views(
        old, selections_of(old.status, old.split) - selections_of(new.status, new.split)
    )


def folder_entries(parent: int, entry: str) -> Iterator[RemovedDentry]:
    """Every entry of a directory. `parent`: the key of the directory above."""
    yield RemovedDentry(number(NodeKind.IMAGES, parent), entry)
    yield RemovedDentry(number(NodeKind.ANNOTATIONS, parent), entry)
    for version in SELECTIONS:
        yield from view_entries(parent, entry, version)


def view_entries(parent: int, entry: str, version: int) -> Iterator[RemovedDentry]:
    """The entries of a directory in the views of one selection."""
    yield RemovedDentry(number(NodeKind.VIEW_IMAGES, parent, version), entry)
    yield RemovedDentry(number(NodeKind.VIEW_ANNOTATIONS, parent, version), entry)


def format_entries(dataset: int) -> Iterator[RemovedDentry]:
    """The folders `formats` of a dataset: the kernel drops what lies below them, too."""
    yield RemovedDentry(number(NodeKind.DATASET, dataset), FORMATS_FOLDER)
    for version, selection in SELECTIONS.items():
        if selection.axis == "status":
            yield RemovedDentry(number(NodeKind.VIEW, dataset, version), FORMATS_FOLDER)


def _in_views(row: ImageRow, versions: Iterable[int]) -> Iterator[RemovedDentry]:
    for version in versions:
        yield RemovedDentry(number(NodeKind.VIEW_IMAGES, row.directory, version), row.entry)
        yield RemovedDentry(
            number(NodeKind.VIEW_ANNOTATIONS, row.directory, version), row.annotation_name
        )


def _place(row: ImageRow) -> tuple[int, str, str]:
    return row.directory, row.entry, row.annotation_name
