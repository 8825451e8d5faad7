"""Which images and directories a format shows, and by which names."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial

from cachetools import LRUCache

from pictofs.formats.imagefolder import folders as tag_folders
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import Listing
from pictofs.library.single_flight import SingleFlight
from pictofs.model.formats import (
    BASES,
    FLAT,
    LABELLED,
    METADATA,
    TAG,
    Format,
    format_folders,
    own_stem,
    split_name,
    split_of,
)
from pictofs.model.inode import key_of
from pictofs.model.selection import SPLITS
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.dentries import format_entries
from pictofs.store.catalog.formats import FormatScans, Twins
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from pictofs.threads import in_thread

REMEMBERED = 8
"""Datasets of which names are remembered: 200 bytes a directory and 32 an image at most."""

_State = tuple[float | None, float | None]
"""When a dataset and its directories were listed."""


class Names:
    """The names in one dataset, as long as its listing stays the same."""

    def __init__(
        self, catalog: Catalog, row: DatasetRow, shown: Mapping[int, int], twins: Twins
    ) -> None:
        """`shown`: by the key of a directory a bit for each base and split; see `shows`."""
        self._catalog = catalog
        self._dataset = row.key
        self._shown = shown
        self._twins = twins
        self.flat_twins: Twins | None = None
        """Those of one folder for the whole dataset; None until somebody asks for one."""
        self.tags: Mapping[str, array[int]] = {}
        """By the name of a tag's folder the `seq` of its images; with `flat_twins`."""

    def shows(self, directory: int, base: str | None, split: str) -> bool:
        """Whether a directory, or one below it, has an image of that base and split."""
        return bool(self._shown.get(directory, 0) & _bit(base, split))

    def own_name(self, row: ImageRow, format_: Format) -> str:
        """The name of an image in a format."""
        if format_ == "coco" or (format_ == "huggingface" and row.entry != METADATA):
            return row.entry

        stem, extension = self._stem(row, format_)
        return stem + (".jpg" if format_ == "voc" else extension)

    def label_name(self, row: ImageRow, format_: Format) -> str:
        """The name of an image's label file in a format that has some."""
        return self._stem(row, format_)[0] + LABELLED[format_]

    def stem(self, row: ImageRow, format_: Format) -> str:
        """What stands before the extension in both."""
        return self._stem(row, format_)[0]

    def image_paths(
        self, row: ImageRow, format_: Format, folders: Sequence[str]
    ) -> list[tuple[str, ...]]:
        """Where a format has an image, below its own folder; several places for several tags.

        `folders`: those of its directory in `images/`.
        """
        split = split_of(row.split)
        name = self.own_name(row, format_)
        below = format_folders(folders, format_)

        if format_ == "voc":
            return [("JPEGImages", name)]
        if format_ == "imagefolder":
            tags = tuple(json.loads(row.tags)) if row.tags else ()
            return [(split, tag, name) for tag in tag_folders(tags)]
        if format_ == "huggingface":
            return [(split, *below, name)]
        return [("images", split, *below, name)]

    def label_path(self, row: ImageRow, format_: Format, folders: Sequence[str]) -> tuple[str, ...]:
        """Where a format has the label file of an image, below its own folder."""
        name = self.label_name(row, format_)
        if format_ == "voc":
            return ("Annotations", name)
        return ("labels", split_of(row.split), *format_folders(folders, format_), name)

    def _stem(self, row: ImageRow, format_: Format) -> tuple[str, str]:
        twins = self._twins_of(format_)
        # Of Hugging Face's only the file that would take the place of metadata.jsonl.
        is_twin = format_ == "huggingface" or row.key in twins
        return own_stem(row.entry, row.id.lower(), is_twin=is_twin)

    def has_tag(self, row: ImageRow, folder: str) -> bool:
        """Whether an image lies in a tag's folder."""
        seqs = self.tags.get(folder, ())
        at = bisect_left(seqs, row.seq)
        return at < len(seqs) and seqs[at] == row.seq

    def image(self, format_: Format, directory: int | None, name: str) -> ImageRow | None:
        """The image that a format calls `name` in a directory, or in the whole dataset (None)."""
        if directory is not None:
            row = self._catalog.image_by_entry(directory, name)
            if row is not None and self.own_name(row, format_) == name:
                return row

        row = self._by_stem(format_, directory, split_name(name)[0])
        return row if row is not None and self.own_name(row, format_) == name else None

    def labelled(self, format_: Format, directory: int | None, name: str) -> ImageRow | None:
        """The image whose label file a format calls `name`."""
        if not name.endswith(LABELLED[format_]):
            return None

        row = self._by_stem(format_, directory, name.removesuffix(LABELLED[format_]))
        return row if row is not None and self.label_name(row, format_) == name else None

    def _by_stem(self, format_: Format, directory: int | None, stem: str) -> ImageRow | None:
        row = self._catalog.oldest_with_stem(stem, dataset=self._dataset, directory=directory)
        if row is not None and self._stem(row, format_)[0] == stem:
            return row

        tag = TAG.search(stem)
        digest = int(tag.group(1), 16) if tag else 0
        key = self._twins_of(format_).tagged(digest) if tag else None
        row = None if key is None else self._catalog.image(key)
        # The only image of Hugging Face's with a tag is no twin.
        if row is None and format_ == "huggingface" and directory is not None:
            row = self._catalog.image_by_entry(directory, METADATA)

        return row if row is None or directory in (None, row.directory) else None

    def _twins_of(self, format_: Format) -> Twins:
        if format_ not in FLAT:
            return self._twins
        assert self.flat_twins is not None, "FormatNames.flat comes first"
        return self.flat_twins


class FormatNames:
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
        self._scans = FormatScans(catalog.database)
        self._listing = listing
        self._single_flight = single_flight
        self._invalidations = invalidations
        self._known: LRUCache[int, tuple[_State, Names]] = LRUCache(REMEMBERED)
        # By `tag_key`: the key of the dataset, and the name of the tag's folder; 200 bytes each.
        self._tags: dict[int, tuple[int, str]] = {}

    async def of(self, dataset: int) -> Names:
        """The names in a dataset, which is listed whole if that is not done.

        Raises NoSuchEntry if it is gone.
        """
        row = await self._listing.whole(dataset)
        known = self._known.get(dataset)
        if known is None or known[0] != _state(row):
            known = await self._single_flight.share(("names", dataset), partial(self._look, row))

        return known[1]

    async def flat(self, dataset: int) -> Names:
        """The same, with what only folders without directories need."""
        names = await self.of(dataset)
        if names.flat_twins is None:
            work = partial(self._look_flat, dataset, names)
            await self._single_flight.share(("flat names", id(names)), work)
        return names

    def known(self, dataset: int) -> Names | None:
        """The names in a dataset as they were searched last; None if they were not. Inline."""
        found = self._known.get(dataset)
        return None if found is None else found[1]

    def tag_key(self, row: DatasetRow, folder: str) -> int:
        """The key of a tag's folder in inode numbers."""
        key = key_of(f"{row.id.lower()}:tag:{folder}")
        self._tags[key] = (row.key, folder)
        return key

    def tag_of(self, key: int) -> tuple[int, str] | None:
        """The key of the dataset and the name of the folder that `tag_key` was asked for.

        None if it was not, since the mount was made.
        """
        return self._tags.get(key)

    def forget(self, dataset: int) -> None:
        """Search a dataset again: an image came without a listing."""
        self._known.pop(dataset, None)

    async def _look(self, row: DatasetRow) -> tuple[_State, Names]:
        found = await in_thread(self._images.occurring, row.key)
        parents = {each.key: each.parent for each in self._catalog.directories_of(row.key)}
        shown = dict.fromkeys(parents, 0)
        for directory, status, split in found:
            here = sum(_bit(base, split_of(split)) for base in BASES if base in (None, status))
            above: int | None = directory
            while above in shown and shown[above] | here != shown[above]:
                shown[above] |= here
                above = parents[above]

        twins = await in_thread(partial(self._scans.twins, row.key, flat=False))
        known = (_state(row), Names(self._catalog, row, shown, twins))
        if row.key in self._known:
            # Of the names that the kernel holds any may lead elsewhere now.
            self._invalidations.tell(format_entries(row.key))

        self._known[row.key] = known
        return known

    async def _look_flat(self, dataset: int, names: Names) -> None:
        tags = await in_thread(self._scans.tags, dataset)
        twins = await in_thread(partial(self._scans.twins, dataset, flat=True))
        names.tags = tags
        names.flat_twins = twins


def _state(row: DatasetRow) -> _State:
    return row.listed_at, row.tree_at


def _bit(base: str | None, split: str) -> int:
    return 1 << BASES.index(base) * len(SPLITS) + SPLITS.index(split)


def placed_in(row: ImageRow, base: str | None, split: str | None) -> bool:
    """Whether an image is of that status and split; None: of any."""
    return base in (None, row.status) and split in (None, split_of(row.split))
