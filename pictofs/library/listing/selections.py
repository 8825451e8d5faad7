"""Which directories of a dataset the views show: those with images of a status or split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from cachetools import LRUCache

from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import Listing
from pictofs.library.single_flight import SingleFlight
from pictofs.model.inode import NodeKind, number
from pictofs.model.selection import AXIS_FOLDERS, SELECTIONS, selections_of
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.dentries import view_entries
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, RemovedDentry
from pictofs.threads import in_thread

REMEMBERED = 64
"""Datasets whose directories are remembered: 200 bytes a directory."""


class _Known(NamedTuple):
    state: tuple[float | None, float | None]
    """When the dataset and its directories were listed."""
    bits: dict[int, int]
    directories: dict[int, DirectoryRow]


class Selections:
    """Searches a dataset once for each listing of it."""

    def __init__(
        self,
        catalog: Catalog,
        images: ImageTable,
        listing: Listing,
        single_flight: SingleFlight,
        invalidations: DentryInvalidations,
    ) -> None:
        self._catalog = catalog
        self._images = images
        self._listing = listing
        self._single_flight = single_flight
        self._invalidations = invalidations
        self._known: LRUCache[int, _Known] = LRUCache(REMEMBERED)

    async def of(self, dataset: int) -> Mapping[int, int]:
        """Bits by the key of a directory: bit n is set if it, or one below, has an image of
        SELECTIONS[n].

        Lists the whole dataset if that is not done. Raises NoSuchEntry if the dataset is gone.
        """
        row = await self._listing.whole(dataset)
        known = self._known.get(dataset)
        if known is None or known.state != (row.listed_at, row.tree_at):
            known = await self._single_flight.share(
                ("selections", dataset), partial(self._look, row)
            )

        return known.bits

    def forget(self, dataset: int) -> None:
        """Search a dataset again: an image came without a listing."""
        self._known.pop(dataset, None)

    async def _look(self, row: DatasetRow) -> _Known:
        found = await in_thread(self._images.occurring, row.key)
        directories = {each.key: each for each in self._catalog.directories_of(row.key)}
        bits = dict.fromkeys(directories, 0)
        for directory, status, split in found:
            here = sum(1 << version for version in selections_of(status, split))
            above: int | None = directory
            while above in bits and bits[above] | here != bits[above]:
                bits[above] |= here
                above = directories[above].parent

        known = _Known((row.listed_at, row.tree_at), bits, directories)
        before = self._known.get(row.key)
        if before is not None:
            self._invalidations.tell(_emptied(row.key, before, bits))

        self._known[row.key] = known
        return known


def _emptied(dataset: int, before: _Known, bits: Mapping[int, int]) -> Iterator[RemovedDentry]:
    """Entries of directories that the views do not show any more."""
    for key, old in before.bits.items():
        lost = old & ~bits.get(key, 0)
        directory = before.directories[key]
        for version, selection in SELECTIONS.items() if lost else ():
            if not lost >> version & 1:
                continue

            if directory.parent is not None:
                yield from view_entries(directory.parent, directory.entry, version)
            else:
                axis = AXIS_FOLDERS[f"by-{selection.axis}"]
                yield RemovedDentry(number(NodeKind.VIEW, dataset, axis), selection.folder)
