"""One immutable piece of content in the cache: its name on disk, its footer, and the open file.

A blob file is the content, followed by a footer that says what the content must be. So a file needs
no row elsewhere to be trusted, and a torn, flipped, truncated or swapped file shows by itself.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

import google_crc32c

from pictofs.errors import Corrupt
from pictofs.store.checksum import checksum

_PLAIN = re.compile(r"[0-9a-f-]{1,64}(\.[0-9a-z-]{1,32})?")
_HASHED = re.compile(r"x[0-9a-f]{32}")
_MAGIC = b"pictofs\x01"  # the last byte is the version of the layout
_BODY = struct.Struct(
    "<8sQ16sI"
)  # magic, content length, digest of the name, crc32c of the content
_BODY_CHECKSUM = struct.Struct("<I")  # crc32c of the body above

FOOTER_SIZE = _BODY.size + _BODY_CHECKSUM.size
TEMP_MARK = "~"  # in no blob's name; what follows it tells temp files of one blob apart


@dataclass(frozen=True, slots=True)
class BlobPath:
    """Where a blob lives: a fan-out directory (0 to 255), a file name in it, and the digest in its
    footer."""

    shard: int
    name: str
    digest: bytes

    @property
    def path(self) -> str:
        """The file's path relative to the cache's root."""
        return f"{self.shard:02x}/{self.name}"

    @classmethod
    def of_name(cls, blob_name: str) -> BlobPath:
        """The place of a name, which may be any string. An image id is its own file name, for
        readers."""
        digest = blake2b(blob_name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        name = blob_name if _PLAIN.fullmatch(blob_name) else "x" + digest.hex()

        # Not by the first letters: ids ordered by time would fill one directory.
        return cls(digest[0], name, digest)

    @classmethod
    def of_file(cls, shard: int, name: str) -> BlobPath | None:
        """The place that a file `name` in directory `shard` has; None if no blob can be called so
        there."""
        if _HASHED.fullmatch(name):
            place = cls(shard, name, bytes.fromhex(name[1:]))
        elif _PLAIN.fullmatch(name):
            place = cls.of_name(name)
        else:
            return None

        return place if place.digest[0] == shard else None


def encode_footer(place: BlobPath, size: int, crc32c: int) -> bytes:
    """The footer for `size` bytes of content with checksum `crc32c`."""
    body = _BODY.pack(_MAGIC, size, place.digest, crc32c)
    return body + _BODY_CHECKSUM.pack(google_crc32c.value(body))


def read_footer(fd: int, file_size: int, place: BlobPath) -> int:
    """The content's crc32c by the footer of a file of `file_size` bytes.

    Raises Corrupt if the file is not a whole blob for `place`, OSError if the disk can't read it.
    """
    size = file_size - FOOTER_SIZE
    footer = os.pread(fd, FOOTER_SIZE, size) if size >= 0 else b""
    if len(footer) != FOOTER_SIZE:
        raise Corrupt(f"cached file {place.path} is too short")

    body = footer[: _BODY.size]
    magic, length, digest, crc = _BODY.unpack(body)
    if magic != _MAGIC or _BODY_CHECKSUM.unpack(footer[_BODY.size :])[0] != google_crc32c.value(
        body
    ):
        raise Corrupt(f"cached file {place.path} has no valid footer")
    if length != size or digest != place.digest:
        raise Corrupt(f"cached file {place.path} holds other content than its name says")

    return int(crc)


class Blob:
    """An open blob. It stays readable after eviction. Close it, or use it as a context manager.

    `fd` is for reading only: `size` bytes of content, then the footer. `crc32c` is what the footer
    says.
    """

    __slots__ = ("_settle", "blob_name", "crc32c", "fd", "size", "verified")

    def __init__(
        self, blob_name: str, fd: int, size: int, crc32c: int, settle: Callable[[bool], None] | None
    ) -> None:
        """Takes over `fd`. `settle` is told whether the content is sound; None if it is verified
        already."""
        self.blob_name = blob_name
        self.fd = fd
        self.size = size
        self.verified = settle is None
        self.crc32c = crc32c
        self._settle = settle

    def verify(self) -> None:
        """Check the content against its checksum. Blocks: run it in a thread.

        Raises Corrupt; the cache has then dropped the blob.
        """
        settle = self._settle
        if settle is None:
            return

        intact = self._is_intact()
        settle(intact)
        if not intact:
            raise Corrupt(f"cached content of {self.blob_name} is damaged")

        self.verified = True
        self._settle = None

    def _is_intact(self) -> bool:
        try:
            return checksum(self.fd, self.size) == self.crc32c
        except OSError:
            return False

    def pread(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on, fewer only at the end of the content.

        Inline (20 us if the page cache has it), but an unverified blob is verified first, which
        blocks. Raises Corrupt if the disk can't read, or the file was cut.
        """
        if not self.verified:
            self.verify()

        wanted = min(length, self.size - offset)
        if wanted <= 0:
            return b""

        try:
            data = os.pread(self.fd, wanted, offset)
        except OSError as error:
            raise Corrupt(
                f"cached content of {self.blob_name} can't be read: {error.strerror}"
            ) from error

        if len(data) != wanted:
            raise Corrupt(f"cached content of {self.blob_name} was cut")

        return data

    def close(self) -> None:
        """Close the descriptor. Calling it again is harmless."""
        fd = self.fd
        self.fd = -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
