"""A small file as one piece, which is checked before anybody is given a byte."""

from __future__ import annotations

from typing import NamedTuple

import google_crc32c

from pictofs.api.body import Body
from pictofs.errors import Corrupt

SMALL_BYTES = 8 << 20
"""Bytes up to which `open` waits for the whole file; larger files stream (the kernel has at most 12
reads under way)."""


class NotSmall(NamedTuple):
    """The answer was not that of a small file, and was not received to its end."""

    size: int
    """Bytes that the file has at least; more than `SMALL_BYTES`."""


class Whole(NamedTuple):
    """A small file that was received."""

    data: bytes
    crc32c: int
    verified: bool
    """Whether storage named a checksum, and the bytes have it."""
    delimited: bool
    """Whether the server marked the end of the answer."""

    def is_believed(self, listed: int | None) -> bool:
        """Whether no second answer has to bring the same bytes. `listed`: the size in the listing,
        in bytes."""
        return self.verified or agrees(len(self.data), listed, self.delimited)


def agrees(length: int, listed: int | None, delimited: bool) -> bool:
    """Whether a length without a checksum is believed: the listing has the same, or none while the
    server marked the end."""
    return length == listed or (listed is None and delimited)


def answers_differ(name: str) -> Corrupt:
    """The error for two answers without a checksum that bring different bytes."""
    return Corrupt(f"{name}: two answers differ, and nothing tells which one is right")


def checksum_differs(name: str) -> Corrupt:
    """The error for bytes that are not those of storage's checksum."""
    return Corrupt(f"{name}: the bytes that arrived have another checksum than storage says")


async def receive_whole(body: Body, name: str) -> Whole | NotSmall:
    """All bytes of a small file. `name`: what an error calls it.

    Raises Corrupt if storage names another checksum, and what keeps the bytes from coming.
    """
    if body.length is not None and body.length > SMALL_BYTES:
        return NotSmall(body.length)

    pieces = []
    size = 0
    while piece := await body.receive():
        pieces.append(piece)
        size += len(piece)
        if size > SMALL_BYTES:  # an answer that did not tell its length
            return NotSmall(size)

    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    crc32c = google_crc32c.value(data)
    if body.crc32c is not None and crc32c != body.crc32c:
        raise checksum_differs(name)

    return Whole(data, crc32c, body.crc32c is not None, body.delimited)
