"""Image bytes: real pictures of any exact size, the same in every run, different for every image.

A small base picture is made once with Pillow. It is filled up to the wanted size with blocks that a
decoder skips: JPEG comment segments, or private PNG chunks with a correct CRC. Each block names the
image and its own number, so that the bytes of another image or another place are never mistaken for
the right ones. Any range of a body is made by itself, so a large body is never whole in memory.
"""

from __future__ import annotations

import base64
import hashlib
import io
import random
import zlib
from functools import lru_cache
from typing import NamedTuple, Protocol

import google_crc32c
from PIL import Image as Pillow
from PIL import ImageDraw

from standin import scenes

_BLOCK = 65536
#: Random bytes that fill the blocks behind their marks.
_POOL = random.Random(20260301).randbytes(4 * _BLOCK)
_CHUNK = 1 << 20
_TINY_BELOW = 12_288
#: The numbers of the two pieces that are no blocks.
_HEAD = -1
_TAIL = -2


class Body(Protocol):
    """Some bytes that can be read by range."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to, not including, `stop`."""

    def etag(self) -> str:
        """A quoted entity tag that names these bytes."""


class Stored:
    """Bytes that someone gave: an upload or an export archive."""

    __slots__ = ("_etag", "crc32c", "data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self._etag = ""
        #: The value of `x-goog-hash`, once it was computed: each answer of a large archive has it.
        self.crc32c: bytes | None = None

    def read(self, start: int, stop: int) -> bytes:
        """A slice of the bytes."""
        return self.data[start:stop]

    def etag(self) -> str:
        """The digest of the bytes."""
        if not self._etag:
            self._etag = f'"{hashlib.blake2b(self.data, digest_size=16).hexdigest()}"'

        return self._etag


class Frame(NamedTuple):
    """The encoded base picture, cut in two where blocks may be put."""

    before: bytes
    after: bytes
    png: bool


class Piece(NamedTuple):
    """A part of a body: the head, a numbered block, or the tail. Place and length are in bytes."""

    number: int
    place: int
    length: int


class Generated:
    """The bytes of one image: a function of its seed, its size and its look."""

    __slots__ = ("_digest", "_frame", "_full", "_head", "_pad", "_rest", "size")

    def __init__(self, seed: str, size: int, frame: Frame) -> None:
        self.size = size
        self._digest = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        self._frame = frame
        self._head = len(frame.before)

        # A PNG chunk has 12 bytes around its data, a JPEG comment has 4 in front of it.
        overhead = 12 if frame.png else 4
        extra = size - len(frame.before) - len(frame.after)
        self._full, rest = divmod(max(extra, 0), _BLOCK)
        self._rest: tuple[int, ...] = (rest,) if rest else ()
        self._pad = 0

        if 0 < rest < overhead and self._full:
            # The rest is too small for a block of its own: the last full block and the rest are
            # divided anew, into two blocks that are large enough.
            self._full -= 1
            self._rest = (_BLOCK - overhead, rest + overhead)
        elif 0 < rest < overhead:
            # Decoders stop at the end of the picture, so a few bytes may follow it.
            self._rest = ()
            self._pad = rest

    def etag(self) -> str:
        """The digest of the seed, and the size."""
        return f'"{self._digest.hex()}-{self.size:x}"'

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; only the blocks that overlap are made."""
        parts: list[bytes] = []
        for piece in self._pieces(start, stop):
            if piece.place < stop and piece.place + piece.length > start:
                made = self._piece(piece.number, piece.length)
                parts.append(made[max(0, start - piece.place) : stop - piece.place])

        return b"".join(parts)

    def _pieces(self, start: int, stop: int) -> list[Piece]:
        """The head, the tail, and the blocks around a range."""
        first = min(max(0, (start - self._head) // _BLOCK), self._full)
        last = min(self._full, max(0, (stop - self._head) // _BLOCK + 1))

        pieces = [Piece(_HEAD, 0, self._head)]
        for block in range(first, last):
            pieces.append(Piece(block, self._head + block * _BLOCK, _BLOCK))

        place = self._head + self._full * _BLOCK
        for offset, length in enumerate(self._rest):
            pieces.append(Piece(self._full + offset, place, length))
            place += length

        pieces.append(Piece(_TAIL, place, max(0, self.size - place)))
        return pieces

    def _piece(self, number: int, length: int) -> bytes:
        # A size below that of the base picture cuts the picture short.
        if number == _HEAD:
            return self._frame.before[: self.size]
        if number == _TAIL:
            return (self._frame.after + bytes(self._pad))[:length]

        if self._frame.png:
            return self._png_block(number, length)

        return self._jpeg_block(number, length)

    def _jpeg_block(self, number: int, length: int) -> bytes:
        return b"\xff\xfe" + (length - 2).to_bytes(2, "big") + self._payload(number, length - 4)

    def _png_block(self, number: int, length: int) -> bytes:
        chunk = b"piCt" + self._payload(number, length - 12)
        return (length - 12).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")

    def _payload(self, number: int, length: int) -> bytes:
        mark = self._digest + number.to_bytes(8, "big")
        if length <= len(mark):
            return mark[:length]

        offset = (int.from_bytes(self._digest[:6], "big") + number * 7919) % (len(_POOL) - _BLOCK)
        return mark + _POOL[offset : offset + length - len(mark)]


class Look(NamedTuple):
    """How a picture is made: its painter, and its dimensions (in pixels) as it is to be shown."""

    painter: str
    width: int
    height: int


TINY = Look("tiny", 48, 36)
PLAIN = Look("plain", 640, 480)
ROTATED = Look("rotated", 480, 640)
SCENE = Look("scene", scenes.WIDTH, scenes.HEIGHT)


def look_for(size: int) -> Look:
    """The look of an ordinary image that has to fit into `size` bytes."""
    return TINY if size < _TINY_BELOW else PLAIN


def body_of(seed: str, size: int, look: Look, *, png: bool) -> Generated:
    """The body of an image. A size below that of the base picture gives a picture cut short."""
    # Only scenes are drawn from the seed; all other images of a look share one base picture.
    scene = seed if look is SCENE else ""
    return Generated(seed, size, _frame(look, scene, png))


@lru_cache(maxsize=256)
def whole(seed: str, size: int, look: Look, png: bool) -> bytes:
    """A small body as bytes, cached for the next request."""
    return body_of(seed, size, look, png=png).read(0, size)


@lru_cache(maxsize=1 << 18)
def checksum(seed: str, size: int, look: Look, png: bool) -> bytes:
    """The `crc32c=<base64>` of a generated body, cached."""
    return crc32c(body_of(seed, size, look, png=png))


def crc32c(body: Body) -> bytes:
    """The `crc32c=<base64>` of a body of any size, big-endian as Google sends it."""
    if isinstance(body, Stored) and body.crc32c is not None:
        return body.crc32c

    value = 0
    for start in range(0, body.size, _CHUNK):
        value = google_crc32c.extend(value, body.read(start, min(start + _CHUNK, body.size)))

    told = b"crc32c=" + base64.b64encode(value.to_bytes(4, "big"))
    if isinstance(body, Stored):
        body.crc32c = told
    return told


def md5(body: Body) -> bytes:
    """The `md5=<base64>` of a body of any size."""
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, body.size, _CHUNK):
        digest.update(body.read(start, min(start + _CHUNK, body.size)))

    return b"md5=" + base64.b64encode(digest.digest())


@lru_cache(maxsize=512)
def _frame(look: Look, scene: str, png: bool) -> Frame:
    picture = scenes.paint(scene) if look is SCENE else _paint(look)
    out = io.BytesIO()

    if png:
        picture.save(out, "PNG")
        # The signature (8) and the header chunk (25) come first in every PNG.
        return Frame(out.getvalue()[:33], out.getvalue()[33:], png=True)

    exif = Pillow.Exif()
    if look is ROTATED:
        # The orientation tag: to be shown turned by 90 degrees clockwise.
        exif[0x0112] = 6

    picture.save(out, "JPEG", quality=60, exif=exif)
    data = out.getvalue()
    # Readers expect the first segment right behind the start marker, so the blocks come after it.
    # The length at offset 4 includes its own two bytes.
    cut = 4 + int.from_bytes(data[4:6], "big")
    return Frame(data[:cut], data[cut:], png=False)


def _paint(look: Look) -> Pillow.Image:
    if look is TINY:
        return Pillow.new("L", (look.width, look.height), 128)

    # A picture to be shown rotated is stored lying on its side.
    size = (look.width, look.height)
    if look is ROTATED:
        size = (look.height, look.width)

    picture = Pillow.new("RGB", size, (96, 120, 140))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, size[1] // 2, size[0], size[1]), fill=(70, 74, 78))
    draw.ellipse((40, 40, 160, 160), fill=(230, 200, 60))
    return picture
