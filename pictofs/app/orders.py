"""The control operation `order`: which images will be read next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from pictofs.errors import Conflict, Invalid
from pictofs.library.library import Library
from pictofs.library.told import Told
from pictofs.vfs.paths import Found, Other, Paths


@dataclass
class _Coming:
    """An order of which more is to come."""

    told: Told
    paths: Paths


class Orders:
    """Takes orders, one after another from each who tells them, in pieces as long as a request may be.

    A request holds `by`, a name for who tells it, and `paths`, relative to the mount point. The first one of an
    order has no `order`: what `by` told before is forgotten. The others have the number that its answer held.
    `ahead`: images to keep ahead of the reader; null for what the cache allows, 0 for none, which ends it.
    `last`: no more is to come. `bound`: the order ends with the process that sends it.

    The answer counts the paths of the request: `images`, `annotations` and `unknown`, the first of which is
    `example`; and it says how many images are kept `ahead`.
    """

    def __init__(self, library: Library, nursery: trio.Nursery) -> None:
        self._library, self._nursery = library, nursery
        self._prefetch = library.downloads.prefetch
        self._coming: dict[str, _Coming] = {}
        self._bound: dict[int, set[str]] = {}  # names of orders by the process that they end with

    async def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take a piece of an order."""
        by, ahead, number = request.get("by"), request.get("ahead"), request.get("order")
        paths = request.get("paths", [])
        if (
            not isinstance(by, str)
            or not (number is None or isinstance(number, int))
            or not (ahead is None or (isinstance(ahead, int) and ahead >= 0))
            or not isinstance(paths, list)
            or not all(isinstance(path, str) for path in paths)
        ):
            raise Invalid(
                "an order is told by a name, as a list of paths, with a number of images to keep ahead"
            )
        last = bool(request.get("last"))
        if number is None:
            if ahead == 0 or (last and not paths):
                self._end(by)
                return _answer(0, [], paths, 0)
            coming = self._begin(by, ahead)
            if request.get("bound"):
                self._bind(by, request.get("peer"))
        else:
            coming = self._find(by, number)
        found = await coming.paths.find(paths)
        self._find(by, coming.told.number)  # that took a while: another one may have come
        images = [each for each in found if isinstance(each, Found)]
        self._prefetch.extend(coming.told, images, complete=last)
        if last:
            del self._coming[by]
        return _answer(coming.told.number, found, paths, self._prefetch.kept_ahead(coming.told))

    def _begin(self, by: str, ahead: int | None) -> _Coming:
        coming = self._coming[by] = _Coming(self._prefetch.begin(by, ahead), Paths(self._library))
        return coming

    def _find(self, by: str, number: int) -> _Coming:
        coming = self._coming.get(by)
        if coming is None or coming.told.number != number:
            raise Conflict("another order has taken the place of this one")
        return coming

    def _end(self, by: str) -> None:
        self._coming.pop(by, None)
        self._prefetch.end(by)

    def _bind(self, by: str, process: Any) -> None:
        """Have an order end with a process, unless that can't be seen from here."""
        if process in self._bound:
            self._bound[process].add(by)
            return
        with suppress(OSError, ValueError, TypeError):  # 0: in a namespace that is not below ours
            descriptor = os.pidfd_open(process)
            self._bound[process] = {by}
            self._nursery.start_soon(self._outlive, process, descriptor)

    async def _outlive(self, process: int, descriptor: int) -> None:
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        for by in self._bound.pop(process):
            self._end(by)


def _answer(number: int, found: list[Found | Other], paths: list[str], ahead: int) -> Mapping[str, Any]:
    unknown = [path for path, each in zip(paths, found, strict=False) if each is Other.UNKNOWN]
    return {
        "order": number,
        "images": sum(isinstance(each, Found) for each in found),
        "annotations": sum(each is Other.NOTE for each in found),
        "unknown": len(unknown),
        "example": unknown[0] if unknown else None,
        "ahead": ahead,
    }
