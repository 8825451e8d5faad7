"""The bytes of an archive, by range from the signed URL of its export.

All answers must be of one version of the archive, as far as the server names one: its length and its
ETag, generation or time of change. From a server that heeds no ranges the archive is fetched whole
into the cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import google_crc32c
import trio
from cachetools import LRUCache

from pictofs.api.body import Body
from pictofs.api.storage import Storage
from pictofs.errors import (
    Corrupt,
    DiskFull,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    ServerFault,
    Stale,
    UrlExpired,
)
from pictofs.library.archives.zip_format import TAIL_BYTES, BadArchive
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.source import Source
from pictofs.library.single_flight import SingleFlight
from pictofs.store.blobs.cache import Blob, PartialBlob
from pictofs.threads import in_thread

WHOLE_BYTES = 4 << 30
"""Bytes of an archive at most that is fetched whole, where the server heeds no ranges."""
WINDOW_BYTES = 1 << 20
"""Bytes that are asked for at once while members are read one after the other."""
GAP_BYTES = 32 << 10
"""Bytes between two members that count as one after the other: what lies between is fetched too."""
WINDOWS = 16
"""Parts of archives that are kept in memory: 16 MiB."""
_GATHERED_BYTES = 1 << 20
_LOOKS = 3
"""Requests at most for the end of an archive whose length is not the listed one."""


class Windows:
    """Parts of archives that were read lately."""

    def __init__(self) -> None:
        self._parts: LRUCache[tuple[object, int], bytes] = LRUCache(WINDOWS)

    def find(self, owner: object, start: int, end: int) -> bytes | None:
        """The bytes from `start` to `end`; None if no part holds them all."""
        for (whose, at), data in list(self._parts.items()):
            if whose == owner and at <= start and end <= at + len(data):
                return self._parts[whose, at][start - at : end - at]

        return None

    def put(self, owner: object, start: int, data: bytes) -> None:
        """Keep the bytes from `start` on."""
        self._parts[owner, start] = data

    def drop(self, owner: object) -> None:
        """Forget all parts of one archive."""
        for whose, at in list(self._parts):
            if whose == owner:
                del self._parts[whose, at]


class ArchiveBytes:
    """The bytes of one archive."""

    def __init__(
        self,
        name: str,
        identity: str,
        sign: Callable[[], Awaitable[str]],
        storage: Storage,
        source: Source,
        cache: ContentCache,
        single_flight: SingleFlight,
        windows: Windows,
        whole_bytes: int = WHOLE_BYTES,
    ) -> None:
        """`name`: what errors call it. `identity`: its export's. `sign`: asks for a signed URL."""
        self._name = name
        self._identity = identity
        self._sign = sign
        self._storage = storage
        self._source = source
        self._cache = cache
        self._single_flight = single_flight
        self._windows = windows
        self._whole_bytes = whole_bytes
        self._url: str | None = None
        self._ranged = True
        self._last = (-1, -GAP_BYTES - 1)
        """Where the last read began and ended."""

        self.total = 0
        """Bytes of the archive; 0 if that is not known."""
        self.version: str | None = None
        """The version that the server names."""

    def believe(self, total: int, version: str | None) -> None:
        """Take length and version from an earlier look."""
        self.total = total
        self.version = version

    async def tail(self, listed: int) -> bytes:
        """The last `TAIL_BYTES`, or the whole of a smaller archive; `total` and `version` are those
        of this answer. `listed`: its length in bytes by the list; 0 if unknown.

        Raises BadArchive if there is no archive, and what keeps the bytes from coming.
        """
        self.believe(0, None)
        self._windows.drop(self._identity)
        return await self._source.retried(self._name, partial(self._tail, listed))

    async def _tail(self, total: int) -> bytes:
        for _ in range(_LOOKS):
            start = max(0, total - TAIL_BYTES)
            try:
                async with self._get(start, max(1, total)) as body:
                    if not body.ranged:
                        break
                    if body.total is None:
                        raise InvalidResponse(f"{self._name}: the server does not tell its length")

                    if body.total == total:
                        self.believe(total, body.version)
                        data = await _received(body, total - start, self._name)
                        self._windows.put(self._identity, start, data)
                        return data
                    total = body.total
            except Invalid:  # 416: it is shorter than listed, or empty
                if total == 0:
                    raise BadArchive(f"{self._name} is empty") from None
                total = 0
        else:
            raise ServerFault(f"{self._name}: its length changes with each answer")

        self._ranged = False
        blob = await self._whole()
        try:
            self.total = blob.size
            start = max(0, blob.size - TAIL_BYTES)
            return await in_thread(blob.pread, start, blob.size - start)
        finally:
            blob.close()

    async def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, or up to the end of the archive; tried again where that
        may help.

        Raises Stale if the archive is another one by now, and what keeps the bytes from coming.
        """
        return await self._source.retried(self._name, partial(self.read_once, start, end))

    async def read_once(self, start: int, end: int) -> bytes:
        """The same by one attempt."""
        end = min(end, self.total)
        if start >= end:
            return b""

        last_start, last_end = self._last
        self._last = start, end
        found = self._windows.find(self._identity, start, end)
        if found is not None:
            return found
        if not self._ranged or self._cache.has(self._whole_name):
            return await self._read_whole(start, end)

        # One after the other: the next members are likely to be wanted soon.
        most = end
        if last_start < start <= last_end + GAP_BYTES:
            most = min(self.total, max(end, start + WINDOW_BYTES))

        try:
            async with self._get(start, most) as body:
                if body.ranged:
                    self._compare(body)
                    data = await _received(body, most - start, self._name)
                    if len(data) <= WINDOW_BYTES:
                        self._windows.put(self._identity, start, data)
                    return data[: end - start]
        except Invalid as error:  # 416
            raise self._changed() from error

        self._ranged = False
        return await self._read_whole(start, end)

    def distrust(self) -> None:
        """Forget what is in memory: it turned out to be wrong."""
        self._windows.drop(self._identity)

    def _compare(self, body: Body) -> None:
        """Raise Stale if an answer is known to be of another archive."""
        if body.total not in (None, self.total):
            raise self._changed()
        if None not in (body.version, self.version) and body.version != self.version:
            raise self._changed()

    def _changed(self) -> Stale:
        return Stale(f"{self._name} is another one than before")

    @asynccontextmanager
    async def _get(self, start: int, end: int | None) -> AsyncIterator[Body]:
        """An answer of storage. If it refused the URL, the next attempt has another one."""
        if self._url is None:
            self._url = await self._single_flight.share(("export url", self._identity), self._sign)

        url = self._url
        try:
            async with self._storage.get(url, start=start, end=end) as body:
                yield body
        except (UrlExpired, InvalidResponse):
            if self._url == url:
                self._url = None
            raise
        except NoSuchEntry as error:
            raise NoSuchEntry(
                f"{self._name} is not on the server any more",
                hint="exports are removed after some days: make a new one",
            ) from error

    # Where the server heeds no ranges.

    @property
    def _whole_name(self) -> str:
        return self._cache.blob_name(f"{self._identity} whole {self.total} {self.version}")

    async def _read_whole(self, start: int, end: int) -> bytes:
        blob = await self._whole()
        try:
            return await in_thread(blob.pread, start, end - start)
        finally:
            blob.close()

    async def _whole(self) -> Blob:
        """The whole archive in the cache, which is fetched if it is not there."""
        if self.total:
            blob = await self._cache.verified(self._whole_name)
            if blob is not None:
                return blob

        await self._single_flight.share(("whole export", self._identity), self._fetch_whole)
        blob = await self._cache.verified(self._whole_name)
        if blob is None:
            raise DiskFull(f"{self._name}: the cache can't keep it")
        return blob

    async def _fetch_whole(self) -> None:
        """Fetch the archive into the cache."""
        async with self._get(0, None) as body:
            size = body.length
            if size is None:
                raise BadArchive(f"{self._name}: the server tells neither parts nor its length")
            if size > min(self._whole_bytes, self._cache.blob_cache.limit):
                raise BadArchive(
                    f"{self._name}: the server gives no parts of it, and its {size:,} bytes are too "
                    "many to fetch it whole"
                )
            if self.total:
                self._compare(body)
            else:
                self.believe(size, body.version)

            partial_blob = await self._cache.open_partial(self._whole_name, size)
            if isinstance(partial_blob, Blob):
                partial_blob.close()
                return
            if partial_blob is None:
                raise DiskFull(f"{self._name}: the cache can't keep it")

            partial_blob.take_time()
            try:
                await self._write(partial_blob, body)
            finally:
                with trio.CancelScope(shield=True):
                    await in_thread(partial_blob.abandon)

    async def _write(self, partial_blob: PartialBlob, body: Body) -> None:
        crc32c = 0
        at = 0
        gathered = bytearray()
        while True:
            piece = await body.receive()
            gathered += piece
            if len(gathered) >= _GATHERED_BYTES or not piece:
                data = bytes(gathered)
                crc32c = google_crc32c.extend(crc32c, data)
                await in_thread(partial_blob.write, at, data)
                at += len(data)
                gathered.clear()
            if not piece:
                break

        if body.crc32c not in (None, crc32c):
            raise Corrupt(f"{self._name} has another checksum than storage says")
        (await in_thread(partial_blob.commit, at, crc32c)).close()


async def _received(body: Body, wanted: int, name: str) -> bytes:
    """The `wanted` bytes of an answer. Raises ServerFault if fewer come."""
    data = bytearray()
    while len(data) < wanted and (piece := await body.receive()):
        data += piece

    if len(data) < wanted:
        raise ServerFault(f"{name} ended early")
    return bytes(data[:wanted])
