"""The control operation `order`: which images will be read next."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

import trio

from pictofs.control.messages import OrderReply, OrderRequest
from pictofs.errors import Conflict, Invalid
from pictofs.library.library import Library
from pictofs.library.prefetch.declared_order import DeclaredOrder
from pictofs.library.prefetch.prefetcher import ORDERS_MAX
from pictofs.vfs.paths import Found, Other, Paths

GUEST_IMAGES = 2_000_000
"""Images in an order of another user than the mount's, who must not fill its memory."""
GUEST_ORDERS = ORDERS_MAX // 2
"""Orders of such a user at once: they must not push all others out."""


@dataclass
class _Coming:
    """An order of which more is to come."""

    told: DeclaredOrder
    paths: Paths


class Orders:
    """Takes orders in pieces, one order after another from each program that tells them."""

    def __init__(self, library: Library, nursery: trio.Nursery) -> None:
        self._library = library
        self._nursery = nursery
        self._prefetch = library.downloads.prefetch
        self._coming: dict[str, _Coming] = {}
        self._bound: dict[int, set[str]] = {}
        """Names of orders by the process that they end with."""
        self._guests: dict[int, list[str]] = {}
        """Names of orders by the user who is not the mount's, oldest first."""

    async def __call__(self, piece: OrderRequest) -> OrderReply:
        """Take a piece of an order.

        Raises:
            Conflict: another order of the same name has begun.
            Invalid: it is too long for one of another user.
        """
        # Nobody ends an order of another user by its name.
        if piece.guest is not None:
            piece.by = f"{piece.guest}/{piece.by}"

        if piece.order is None and (piece.ahead == 0 or (piece.last and not piece.paths)):
            self._end(piece.by)
            return _answer(0, [], [], 0)

        coming = self._begin(piece) if piece.order is None else self._find(piece.by, piece.order)
        found = await coming.paths.find(piece.paths)
        # That took a while: another order may have come.
        self._find(piece.by, coming.told.number)

        images = [each for each in found if isinstance(each, Found)]
        if piece.guest is not None and coming.told.images + len(images) > GUEST_IMAGES:
            raise Invalid(f"an order on another user's mount has up to {GUEST_IMAGES:,} images")
        self._prefetch.extend(coming.told, images, complete=piece.last)
        if piece.last:
            del self._coming[piece.by]

        ahead = self._prefetch.kept_ahead(coming.told)
        return _answer(coming.told.number, found, piece.paths, ahead)

    def _begin(self, piece: OrderRequest) -> _Coming:
        if piece.guest is not None:
            self._make_room(piece.guest, piece.by)
        told = self._prefetch.begin(piece.by, piece.ahead)

        # What nobody tells to its end must not pile up.
        self._coming.pop(piece.by, None)
        while len(self._coming) >= ORDERS_MAX:
            del self._coming[next(iter(self._coming))]

        coming = _Coming(told, Paths(self._library))
        self._coming[piece.by] = coming
        if piece.bound:
            self._bind(piece.by, piece.peer)
        return coming

    def _make_room(self, guest: int, by: str) -> None:
        """End a guest's oldest order if they would have too many with the one of the name `by`."""
        names = self._guests.setdefault(guest, [])
        if by in names:
            names.remove(by)
        names.append(by)

        if len(names) > GUEST_ORDERS:
            self._end(names.pop(0))

    def _find(self, by: str, number: int) -> _Coming:
        coming = self._coming.get(by)
        if coming is None or coming.told.number != number:
            raise Conflict("another order has taken the place of this one")
        return coming

    def _end(self, by: str) -> None:
        self._coming.pop(by, None)
        self._prefetch.end(by)

    def _bind(self, by: str, process: int) -> None:
        """Have an order end with a process, unless that can't be seen from here."""
        if process in self._bound:
            self._bound[process].add(by)
            return

        # Process 0 is one in a namespace that is not below ours.
        with suppress(OSError):
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


def _answer(number: int, found: list[Found | Other], paths: list[str], ahead: int) -> OrderReply:
    unknown = [path for path, each in zip(paths, found, strict=True) if each is Other.UNKNOWN]
    return OrderReply(
        order=number,
        images=sum(isinstance(each, Found) for each in found),
        annotations=sum(each is Other.ANNOTATION for each in found),
        unknown=len(unknown),
        example=unknown[0] if unknown else None,
        ahead=ahead,
    )
