"""The structures of a zip archive, as far as one is read by parts (PKWARE's APPNOTE 6.3).

Nothing in an archive is trusted: each function takes bytes, stays inside them, and raises
`BadArchive`. The standard library's `zipfile` would hold 600 bytes and more for each member.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from pictofs.errors import Corrupt

STORED = 0
DEFLATED = 8

TAIL_BYTES = 256 << 10
"""Bytes at the end of an archive that are read first. They hold the directory of 2,500 members, and
in any case what says where the directory is: that has at most 65,633 bytes."""
_COMMENT_MAX = 65_535
CHUNK_BYTES = 1 << 20
"""Bytes that are unpacked at once of a large member."""

_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
LOCAL_BYTES = _LOCAL.size
"""Bytes of a local header without its name and its extra fields."""

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
"""The value of a field whose true value is in a zip64 field."""
_ZIP64 = 1

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCHED = 0x20
_SIZES_FOLLOW = 0x8
"""The flag of a local header that was written before the sizes were known."""


class BadArchive(Corrupt):
    """An archive, or a member of it, that is not read: it is damaged, hostile, or packed in a way
    that is unknown here. Trying again would not help."""

    final = True


class DirectoryPlace(NamedTuple):
    """Where the central directory of an archive is."""

    start: int
    """Bytes from the start of the archive."""
    size: int
    """Bytes."""
    members: int
    """How many there are, as the archive says."""


class Member(NamedTuple):
    """A member by the central directory."""

    name: bytes
    flags: int
    method: int
    moment: int
    """Seconds since the epoch, 0 if the archive says nothing that makes sense."""
    crc: int
    packed: int
    size: int
    offset: int
    """Of its local header, in bytes from the start of the archive."""
    is_whole: bool
    """Whether the zip64 fields that it needs are there."""

    @property
    def is_encrypted(self) -> bool:
        """Whether it can't be read without a password."""
        return bool(self.flags & _ENCRYPTED)

    @property
    def is_known(self) -> bool:
        """Whether it is packed in a way that is read here."""
        return self.method in (STORED, DEFLATED) and not self.flags & _PATCHED


def find_directory(tail: bytes, total: int) -> DirectoryPlace:
    """Where the directory of an archive of `total` bytes is, by its last bytes. Raises
    BadArchive."""
    at = _find_end(tail)
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, at)
    ends_at = total - len(tail) + at

    if _U16 in (disk, first_disk, here, count) or _U32 in (size, start):
        place = _find_zip64(tail, at, total)
        if place is not None:
            return place

    if disk or first_disk or here != count:
        raise BadArchive("it is a part of an archive of several files")
    if start + size != ends_at:
        raise BadArchive("its directory is not where the archive says")

    return DirectoryPlace(start, size, count)


def _find_end(tail: bytes) -> int:
    """The offset in `tail` of the last record, which a comment of any length may follow."""
    at = len(tail)
    least = max(0, len(tail) - _END.size - _COMMENT_MAX)
    while (at := tail.rfind(b"PK\5\6", least, at + 3)) >= 0:
        if at + _END.size <= len(tail):
            comment = _END.unpack_from(tail, at)[-1]
            if at + _END.size + comment == len(tail):
                return at

    raise BadArchive("it is not a zip archive, or its end is missing")


def _find_zip64(tail: bytes, end: int, total: int) -> DirectoryPlace | None:
    """The place of the directory by the zip64 records before the last record; None if there are
    none."""
    at = end - _LOCATOR.size
    if at < 0 or tail[at : at + 4] != b"PK\6\7":
        return None

    _, disk, record, disks = _LOCATOR.unpack_from(tail, at)
    begins = total - len(tail)
    if disk or disks > 1:
        raise BadArchive("it is a part of an archive of several files")
    if not begins <= record <= begins + at - _END_64.size:
        raise BadArchive("its zip64 record is not where the archive says")

    found = _END_64.unpack_from(tail, record - begins)
    magic, length, _, _, disk, first_disk, here, count, size, start = found
    if magic != b"PK\6\6" or record + 12 + length != begins + at:
        raise BadArchive("its zip64 record is damaged")
    if disk or first_disk or here != count:
        raise BadArchive("it is a part of an archive of several files")
    if start + size != record:
        raise BadArchive("its directory is not where the archive says")

    return DirectoryPlace(start, size, count)


def read_members(raw: bytes) -> Iterator[Member]:
    """The members in a central directory, in its order. Raises BadArchive when one is damaged."""
    at = 0
    while at < len(raw):
        if at + _CENTRAL.size > len(raw) or raw[at : at + 4] != b"PK\1\2":
            raise BadArchive("its directory is damaged")

        fields = _CENTRAL.unpack_from(raw, at)
        flags, method, time, date, crc, packed, size = fields[3:10]
        name_length, extra_length, comment_length, disk = fields[10:14]
        offset = fields[16]

        at += _CENTRAL.size
        after = at + name_length + extra_length
        if after + comment_length > len(raw):
            raise BadArchive("its directory is damaged")

        name = raw[at : at + name_length]
        is_whole = disk in (0, _U16)
        if _U32 in (packed, size, offset) or disk == _U16:
            extra = raw[at + name_length : after]
            found = _zip64_fields(extra, size, packed, offset)
            is_whole = is_whole and found is not None
            if found is not None:
                size, packed, offset = found

        yield Member(name, flags, method, _moment(date, time), crc, packed, size, offset, is_whole)
        at = after + comment_length


def _zip64_fields(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int] | None:
    """Size, packed size and offset, those that do not fit into 32 bits from the zip64 field; None
    if that is missing or too short."""
    wanted = [size, packed, offset]
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == _ZIP64:
            break
        at += length
    else:
        return None if _U32 in wanted else (size, packed, offset)

    end = min(at + length, len(extra))
    for place, value in enumerate(wanted):
        if value != _U32:
            continue
        if at + 8 > end:
            return None
        wanted[place] = struct.unpack_from("<Q", extra, at)[0]
        at += 8

    return wanted[0], wanted[1], wanted[2]


def _moment(date: int, time: int) -> int:
    """Seconds since the epoch of a time of MS-DOS, taken for UTC; 0 if there is no such time."""
    try:
        moment = datetime(
            1980 + (date >> 9),
            date >> 5 & 15,
            date & 31,
            time >> 11,
            time >> 5 & 63,
            (time & 31) * 2,
            tzinfo=UTC,
        )
    except ValueError:
        return 0

    seconds = int(moment.timestamp())
    return seconds if seconds <= _U32 else 0


class Expected(NamedTuple):
    """What the directory says of a member, to compare its local header with."""

    method: int
    crc: int
    packed: int
    size: int
    name_length: int
    name_crc: int
    """The CRC-32 of the name's bytes."""


def payload_start(head: bytes, expected: Expected) -> int:
    """How many bytes after its local header's start a member's content begins.

    `head`: the local header, with the name. Raises Corrupt if it disagrees with the directory.
    """
    if len(head) < _LOCAL.size + expected.name_length or head[:4] != b"PK\3\4":
        raise Corrupt("its local header is missing")

    found = _LOCAL.unpack_from(head)
    flags, method, _, _, crc, packed, size, name_length, extra_length = found[2:]
    name = head[_LOCAL.size : _LOCAL.size + name_length]

    same = (
        not flags & _ENCRYPTED
        and method == expected.method
        and name_length == expected.name_length
        and zlib.crc32(name) == expected.name_crc
    )
    if not flags & _SIZES_FOLLOW:
        same = (
            same
            and crc == expected.crc
            and packed in (expected.packed, _U32)
            and size in (expected.size, _U32)
        )
    if not same:
        raise Corrupt("its local header and the archive's directory disagree")

    start: int = _LOCAL.size + name_length + extra_length
    return start


def unpack(data: bytes, expected: Expected) -> bytes:
    """A whole member from its packed bytes. Raises Corrupt; never makes more than one byte too
    many."""
    unpacker = Unpacker(expected)
    whole = b"".join(unpacker.feed(data, expected.size + 1))
    unpacker.finish()
    return whole


class Unpacker:
    """Unpacks a member piece by piece, and checks its length and CRC-32."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._inflate = zlib.decompressobj(-15) if expected.method == DEFLATED else None
        self._crc = 0
        self._size = 0

    def feed(self, data: bytes, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        """What the next packed bytes hold, in pieces of at most `most` bytes. Raises Corrupt."""
        if self._inflate is None:
            yield self._counted(data)
            return

        more = True
        while more and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(data, most)
            except zlib.error as error:
                raise Corrupt("its packed content is damaged") from error

            yield self._counted(piece)
            data = self._inflate.unconsumed_tail
            # A full piece may have left something behind although all input is used up.
            more = bool(data) or len(piece) == most

    def _counted(self, piece: bytes) -> bytes:
        self._size += len(piece)
        if self._size > self._expected.size:
            raise Corrupt("it holds more bytes than the archive says")

        self._crc = zlib.crc32(piece, self._crc)
        return piece

    def finish(self) -> None:
        """Raise Corrupt unless length and CRC-32 are those of the directory."""
        if self._inflate is not None and not self._inflate.eof:
            raise Corrupt("its packed content ends early")
        if self._size != self._expected.size:
            raise Corrupt("it holds fewer bytes than the archive says")
        if self._crc != self._expected.crc:
            raise Corrupt("its content has another CRC-32 than the archive says")
