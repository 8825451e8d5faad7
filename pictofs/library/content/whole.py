"""A small file as one piece: received, and checked before anything is made of it."""

from __future__ import annotations

from typing import NamedTuple

import google_crc32c

from pictofs.api.body import Body
from pictofs.errors import Corrupt

SMALL_BYTES = 8 << 20
"""Bytes up to which a file is awaited in open(); larger ones stream (the kernel caps reads under way at 12)."""


class NotSmall(NamedTuple):
    """An answer that is not a small file's: it was not received, or not to its end."""

    size: int
    """Bytes that the file has at least, more than `SMALL_BYTES`."""


class Whole(NamedTuple):
    """A small file that has come."""

    data: bytes
    crc32c: int
    verified: bool
    """Whether a checksum says that it is right."""
    delimited: bool
    """Whether the server marked the end."""

    def is_believed(self, listed: int | None) -> bool:
        """Whether no other answer has to say the same. `listed`: the listing's size in bytes."""
        return self.verified or agrees(len(self.data), listed, self.delimited)


def agrees(length: int, listed: int | None, delimited: bool) -> bool:
    """Whether a length without a checksum is believed: the listing has it too, or says nothing against it."""
    return length == listed or (listed is None and delimited)


async def receive_whole(body: Body, name: str) -> Whole | NotSmall:
    """All bytes of a small file.

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
        raise Corrupt(f"{name}: the bytes that arrived have another checksum than storage says")
    return Whole(data, crc32c, body.crc32c is not None, body.delimited)
