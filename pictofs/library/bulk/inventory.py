"""What is there of some files, and what fetching the rest into the cache would cost."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from pictofs.api.stats import RequestStats
from pictofs.library.annotations.export import FEW, FOUND_REQUESTS
from pictofs.library.annotations.export import REQUESTS as EXPORT_REQUESTS
from pictofs.library.bulk.scope import KINDS, Item, Scope
from pictofs.library.content.signed_urls import BATCH
from pictofs.library.library import Library
from pictofs.model.records import FileKind
from pictofs.store.blobs.ledger import allocated_size
from pictofs.threads import in_thread

ANNOTATION_SIZE_BYTES = 4096
"""Bytes of an annotation file, as far as nothing else is known: a block of the disk."""
WINDOW_S = 3600.0
"""Seconds in which the rate limit's requests are counted."""


@dataclass
class Count:
    """Files of one kind."""

    files: int = 0
    present: int = 0
    bytes: int = 0
    """Of all, as far as their sizes are known."""
    bytes_present: int = 0
    unsized: int = 0
    """Missing ones whose size nobody knows."""
    allocated: int = 0
    """Bytes that all take in the cache, as far as is known: whole blocks of its disk."""
    allocated_present: int = 0

    @property
    def missing(self) -> int:
        """Files that would have to be fetched."""
        return self.files - self.present

    def add(self, size: int | None, present: bool, allocated: int) -> None:
        """Count one file. `allocated`: bytes that it takes in the cache."""
        self.files += 1
        self.present += present
        self.bytes += size or 0
        self.bytes_present += (size or 0) * present
        self.unsized += size is None and not present
        self.allocated += allocated
        self.allocated_present += allocated * present

    def landed(self, size: int) -> None:
        """Count one file that was missing as present. `size`: in bytes, 0 if it is not known."""
        self.present += 1
        self.bytes_present = min(self.bytes, self.bytes_present + size)


@dataclass
class RequestCost:
    """API requests that fetching what is missing takes."""

    urls: int = 0
    """Batches of signed URLs.

    They last some 15 minutes: a run that takes longer needs them again.
    """
    images: int = 0
    """Images that no batch names, at most."""
    annotations: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.urls + self.images + self.annotations

    def shown(self) -> dict[str, int]:
        """JSON-ready."""
        return {**asdict(self), "total": self.total}


@dataclass
class Unfetched:
    """Annotation files of a dataset that have to be fetched."""

    files: int = 0
    steady: int = 0
    """Those that did not change lately as far as is known: an older export may hold them."""
    served: int = 0
    """Those that an export which is there brings, as far as its row tells."""

    @property
    def is_served(self) -> bool:
        """Whether that export is worth its requests."""
        return self.served > FEW

    def price(self, *, bulk: bool) -> int:
        """Requests. `bulk`: an export may be made."""
        rest = self.files - self.served * self.is_served
        if bulk:
            rest = min(rest, EXPORT_REQUESTS)
        return FOUND_REQUESTS * self.is_served + rest


@dataclass
class Inventory:
    """Counts of everything in a scope."""

    counts: dict[FileKind, Count] = field(default_factory=lambda: {kind: Count() for kind in KINDS})
    missing_rows: dict[FileKind, array[int]] = field(
        default_factory=lambda: {kind: array("q") for kind in KINDS}
    )
    """Row ids of images whose file was missing when it was counted."""
    missing_by_status: dict[int, Counter[str]] = field(default_factory=dict)
    """How many images are missing, by the row id of the dataset."""
    unfetched: dict[int, Unfetched] = field(default_factory=dict)
    """Annotation files that are missing, and that the cache lacks, by the row id of the dataset."""

    @property
    def files(self) -> int:
        """Files of either kind."""
        return sum(count.files for count in self.counts.values())

    @property
    def missing(self) -> int:
        """Files that would have to be fetched."""
        return sum(count.missing for count in self.counts.values())

    @property
    def allocated(self) -> int:
        """Bytes that all files take in the cache, as far as is known."""
        return sum(count.allocated for count in self.counts.values())

    @property
    def allocated_present(self) -> int:
        """The same of those that are there."""
        return sum(count.allocated_present for count in self.counts.values())

    def shown(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            kind: {
                "files": count.files,
                "missing": count.missing,
                "bytes": count.bytes,
                "bytes_missing": count.bytes - count.bytes_present,
                "unsized": count.unsized,
            }
            for kind, count in self.counts.items()
        }


async def inventory(library: Library, scope: Scope, is_there: Callable[[Item], bool]) -> Inventory:
    """Look at every file of a scope, as far as it is listed."""
    found = Inventory()

    for dataset_id in scope.parts:
        dataset = library.catalog.dataset(dataset_id)
        if dataset is None:
            # It is gone, and its files with it.
            continue

        missing: Counter[str] = Counter()
        unfetched = Unfetched()
        export = library.exports.found(dataset_id)
        for page in scope.pages(dataset_id):
            for item in page:
                kind, image = item
                present = is_there(item)
                size = item.size
                if size is None and kind == "annotations":
                    size = ANNOTATION_SIZE_BYTES
                found.counts[kind].add(item.size, present, allocated_size(size or 0))
                if present:
                    continue

                found.missing_rows[kind].append(image.key)
                if kind == "images":
                    missing[image.status] += 1
                elif not library.annotations.has(image):
                    unfetched.files += 1
                    unfetched.steady += not image.annotation_stale
                    if export is not None:
                        unfetched.served += library.exports.serves(export, image)

            await trio.lowlevel.checkpoint()

        if missing:
            found.missing_by_status[dataset_id] = missing

        if unfetched.files:
            if export is not None and export.image_count:
                lacks = max(0, dataset.image_count - export.image_count)
                unfetched.served = max(0, unfetched.served - lacks)

            found.unfetched[dataset_id] = unfetched

    return found


async def request_cost(library: Library, found: Inventory, *, bulk: bool) -> RequestCost:
    """What fetching the rest of an inventory takes. `bulk`: annotations are to come by exports."""
    cost = RequestCost()

    for dataset_id, missing in found.missing_by_status.items():
        dataset = library.catalog.dataset(dataset_id)
        if dataset is None:
            continue

        there = missing
        if dataset.image_count > BATCH:
            there = Counter(await in_thread(library.images.count_by_status, dataset_id))

        urls, images = library.urls.price(dataset, missing, there)
        cost.urls += urls
        cost.images += images

    cost.annotations = sum(each.price(bulk=bulk) for each in found.unfetched.values())
    return cost


def seconds_of_budget(request_stats: RequestStats, requests: int, now: float) -> float | None:
    """Seconds until the rate limit has let so many background requests pass.

    None if the limit is not known. `now`: wall-clock seconds.
    """
    if request_stats.limit is None or request_stats.remaining is None:
        return None

    left = request_stats.remaining if now < request_stats.reset_at else request_stats.limit
    more = requests - max(0, left - request_stats.reserve)
    each = request_stats.limit - request_stats.reserve
    if more <= 0:
        return 0.0
    if each <= 0:
        return None

    return max(0.0, request_stats.reset_at - now) + WINDOW_S * (math.ceil(more / each) - 1)
