"""What is cached of some files, and what fetching the rest would cost."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import trio

from pictofs.api.stats import RequestStats
from pictofs.library.annotations.export import FEW, FOUND_REQUESTS
from pictofs.library.annotations.export import REQUESTS as EXPORT_REQUESTS
from pictofs.library.bulk.scope import Scope
from pictofs.library.content.signed_urls import BATCH
from pictofs.library.library import Library
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

    @property
    def missing(self) -> int:
        """Files that would have to be fetched."""
        return self.files - self.present

    def add(self, size: int | None, present: bool) -> None:
        """Count one file."""
        self.files += 1
        self.present += present
        self.bytes += size or 0
        self.bytes_present += (size or 0) * present
        self.unsized += size is None and not present


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


@dataclass
class Unfetched:
    """Annotation files of a dataset that have to be fetched."""

    files: int = 0
    steady: int = 0
    """Those that did not change lately as far as is known: an older export may hold them."""
    served: int = 0
    """Those that an export which is there brings, as far as its row tells."""

    @property
    def left(self) -> int:
        """What that export leaves over."""
        return self.files - self.served if self.is_served else self.files

    @property
    def is_served(self) -> bool:
        """Whether that export is worth its requests."""
        return self.served > FEW

    def price(self, *, bulk: bool) -> int:
        """Requests. `bulk`: an export may be made."""
        rest = self.left
        if bulk and self.left > EXPORT_REQUESTS:
            rest = EXPORT_REQUESTS

        return FOUND_REQUESTS * self.is_served + rest


@dataclass
class Inventory:
    """Counts of everything in a scope."""

    images: Count = field(default_factory=Count)
    annotations: Count = field(default_factory=Count)
    price: RequestCost = field(default_factory=RequestCost)
    unfetched: dict[int, Unfetched] = field(default_factory=dict)
    """Annotation files that are missing or due, by the row id of the dataset."""

    @property
    def files(self) -> int:
        """Files of either kind."""
        return self.images.files + self.annotations.files

    @property
    def missing(self) -> int:
        """Files that would have to be fetched."""
        return self.images.missing + self.annotations.missing

    @property
    def bytes_missing(self) -> int:
        """Bytes of missing files, as far as is known, annotation files estimated."""
        images = self.images.bytes - self.images.bytes_present
        return images + self.annotations.missing * ANNOTATION_SIZE_BYTES

    def shown(self) -> dict[str, Any]:
        """JSON-ready."""
        kinds = {"images": self.images, "annotations": self.annotations}
        price = self.price

        return {
            **{
                name: {
                    "files": count.files,
                    "missing": count.missing,
                    "bytes": count.bytes,
                    "bytes_missing": count.bytes - count.bytes_present,
                    "unsized": count.unsized,
                }
                for name, count in kinds.items()
            },
            "requests_needed": {
                "urls": price.urls,
                "images": price.images,
                "annotations": price.annotations,
                "total": price.total,
            },
        }


async def inventory(library: Library, scope: Scope, *, bulk: bool) -> Inventory:
    """Look at every file of a scope, as far as it is listed.

    `bulk`: annotations are to come by exports.
    """
    found = Inventory()

    for key in scope.parts:
        missing: Counter[str] = Counter()
        unfetched = Unfetched()
        export = library.exports.found(key)
        for page in scope.pages(key):
            for kind, image in page:
                if kind == "images":
                    present = library.downloads.is_kept(image)
                    found.images.add(image.known_size, present)
                    missing[image.status] += not present
                else:
                    present = library.annotations.has(image)
                    found.annotations.add(image.annotation_size, present)
                    if not present:
                        unfetched.files += 1
                        unfetched.steady += not image.annotation_stale
                        if export is not None:
                            unfetched.served += library.exports.serves(export, image)

            await trio.lowlevel.checkpoint()

        await _add_price(library, key, +missing, found.price)
        if unfetched.files:
            dataset = library.catalog.dataset(key)
            if export is not None and export.image_count and dataset is not None:
                lacks = max(0, dataset.image_count - export.image_count)
                unfetched.served = max(0, unfetched.served - lacks)

            found.unfetched[key] = unfetched
            found.price.annotations += unfetched.price(bulk=bulk)

    return found


async def _add_price(library: Library, key: int, missing: Counter[str], price: RequestCost) -> None:
    dataset = library.catalog.dataset(key)
    if dataset is None or not missing:
        return

    there = missing
    if dataset.image_count > BATCH:
        there = Counter(await in_thread(library.images.count_by_status, key))

    urls, images = library.urls.price(dataset, missing, there)
    price.urls += urls
    price.images += images


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
