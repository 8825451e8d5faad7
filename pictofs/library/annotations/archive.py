"""An export archive on the disk: a zip in which only the content of each file is trusted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec

from pictofs.api.decode import annotation_document
from pictofs.errors import InvalidResponse
from pictofs.model.inode import key_of
from pictofs.store.blobs.cache import PartialBlob

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
)
# Methods of which zipfile can limit the unpacked bytes; it can't for bzip2 and LZMA.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_INDEX_LEAST = 1 << 20
"""Bytes that the zip's index may take in any case: it is read into memory as a whole."""
_INDEX_EACH = 1 << 11
"""Bytes that it may take besides, for each image."""


@dataclass(frozen=True)
class Bounds:
    """What an archive may take, in bytes."""

    packed: int = 2 << 30
    """The zip on the disk."""
    entry: int = 16 << 20
    """One file, unpacked."""
    total: int = 16 << 30
    """All unpacking; each file is unpacked twice."""


class _Head(msgspec.Struct):
    """The field that says whose annotations a file holds."""

    image_uuid: str | None = None


@dataclass(frozen=True)
class ArchiveEntry:
    """One annotation file of the archive."""

    key: int
    """The key of its image."""
    info: zipfile.ZipInfo


class Archive:
    """The annotation files of an archive.

    Every method blocks and belongs in a thread, one at a time.
    """

    def __init__(self, draft: PartialBlob, size: int, images: int, bounds: Bounds) -> None:
        """`draft` holds the zip of `size` bytes. `images`: how many the dataset has.

        Raises InvalidResponse if it is no zip, or its index is too large for so many images.
        """
        self._bounds = bounds
        self._left = bounds.total
        self.skipped: Counter[str] = Counter()
        """Files left out, by reason."""
        window = _Window(draft, size, max(bounds.entry, _INDEX_LEAST + _INDEX_EACH * images))
        try:
            self._zip = zipfile.ZipFile(window)
        except _BROKEN as error:
            raise InvalidResponse(f"the export is no zip archive: {error}") from error

        self.files = [
            info for info in self._zip.infolist() if info.filename.lower().endswith(".json")
        ]
        """What may be annotation files; other entries are of no interest."""
        self._twice: set[int] = set()
        self._entries: dict[int, ArchiveEntry] = {}

    def index(self, files: Sequence[zipfile.ZipInfo]) -> None:
        """Find out whose annotations some of `files` hold."""
        for info in files:
            key = self._key(info)
            if key is None:
                continue

            # If two files claim the same image, either may be wrong: both are left out.
            if key in self._twice or self._entries.pop(key, None) is not None:
                self.skipped["of an image that comes twice"] += 1 if key in self._twice else 2
                self._twice.add(key)
                continue

            self._entries[key] = ArchiveEntry(key, info)

    @property
    def entries(self) -> dict[int, ArchiveEntry]:
        """The indexed files, by the keys of their images."""
        return self._entries

    def _key(self, info: zipfile.ZipInfo) -> int | None:
        body = self._read(info)
        if body is None:
            return None

        try:
            identity = msgspec.json.decode(body, type=_Head).image_uuid
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.skipped["malformed"] += 1
            return None

        return key_of((identity or PurePosixPath(info.filename).stem).lower())

    def document(self, entry: ArchiveEntry) -> dict[str, Any] | None:
        """The JSON object of an entry; None if it can't be read, which counts as skipped."""
        body = self._read(entry.info)
        if body is None:
            return None

        try:
            return annotation_document(body)
        except InvalidResponse:
            self.skipped["malformed"] += 1
            return None

    def _read(self, info: zipfile.ZipInfo) -> bytes | None:
        # zipfile never unpacks more than the length that an entry announces.
        if info.file_size > self._bounds.entry or info.file_size > self._left:
            self.skipped["too large"] += 1
            return None
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            self.skipped["packed in a way that is not read"] += 1
            return None

        self._left -= info.file_size
        try:
            return self._zip.read(info)
        except (*_BROKEN, RuntimeError, NotImplementedError):
            self.skipped["damaged"] += 1
            return None


class _Window:
    """The file that zipfile reads: a draft, up to the end of what was downloaded."""

    def __init__(self, draft: PartialBlob, size: int, most: int) -> None:
        """`most`: bytes that one read may ask for."""
        self._draft = draft
        self._size = size
        self._most = most
        self._at = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError("a place before the start")

        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if count < 0 else min(count, left)
        if count > self._most:
            raise zipfile.BadZipFile("its index is too large")

        data = self._draft.pread(self._at, count)
        self._at += len(data)
        return data
