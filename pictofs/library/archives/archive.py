"""The archive of one export as a tree of files.

A member of up to 8 MiB is fetched by one request, unpacked in memory and put into the cache; a
larger one is fetched into the cache in parts of 4 MiB, and `open` returns when it is there. Nobody is
given a byte before length and CRC-32 are right.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import google_crc32c
import trio

from pictofs.errors import Corrupt, DiskFull, PictofsError
from pictofs.library.archives.index import Index, Node
from pictofs.library.archives.ranges import ArchiveBytes
from pictofs.library.archives.zip_format import (
    LOCAL_BYTES,
    BadArchive,
    Unpacker,
    payload_start,
    unpack,
)
from pictofs.library.content.cache import ContentCache, Unstored
from pictofs.library.content.content import CachedContent, Content, ContentInMemory
from pictofs.library.content.source import Source
from pictofs.library.content.whole import SMALL_BYTES, Whole
from pictofs.library.single_flight import SingleFlight
from pictofs.library.stats import ReadStats
from pictofs.store.blobs.cache import Blob, PartialBlob
from pictofs.threads import in_thread

SLACK_BYTES = 128
"""Bytes that are fetched besides for a local header's extra fields, whose length only it tells. One
with more of them costs another request."""
PART_BYTES = 4 << 20
"""Bytes of one request for a large member."""
AT_ONCE = 16
"""Small members that are fetched and unpacked at once, by all archives: 256 MiB of memory."""
ATTEMPTS = 4
"""Times that a small member is fetched into the cache, which may lose it at once."""


class Tools(NamedTuple):
    """What all archives share."""

    source: Source
    cache: ContentCache
    single_flight: SingleFlight
    read_stats: ReadStats
    limiter: trio.CapacityLimiter


class Members:
    """The members of one archive."""

    def __init__(self, name: str, identity: str, data: ArchiveBytes, tools: Tools) -> None:
        """`name`: what errors call the archive. `identity`: its export's."""
        self._name = name
        self._identity = identity
        self._data = data
        self._source, self._cache, self._single_flight, self._read_stats, self._limiter = tools

    async def open(self, index: Index, node: Node) -> Content:
        """The content of a member.

        Raises BadArchive if it is not read, Corrupt if its bytes are not what the archive says,
        DiskFull if it is large and the cache can't take it, Stale if the archive is another one by
        now, and what keeps the bytes from coming.
        """
        what = f"{index.path(node.number)!r} in {self._name}"
        if node.refusal is not None:
            raise BadArchive(f"{what} is not read: {node.refusal}")

        blob_name = self._cache.blob_name(
            f"{self._identity} {index.digest} {node.number} {node.crc:08x}"
        )
        found = await self._cache.content(blob_name)
        if found is not None:
            self._read_stats.hits += 1
            return found

        self._read_stats.misses += 1
        with self._read_stats.wait():
            if max(node.size, node.packed) <= SMALL_BYTES:
                return await self._small(what, blob_name, node)
            return await self._large(what, blob_name, node)

    async def _small(self, what: str, blob_name: str, node: Node) -> Content:
        receive = partial(self._source.retried, what, partial(self._receive, what, node))
        for _ in range(ATTEMPTS):
            work = partial(self._cache.store, blob_name, node.size, receive)
            result = await self._single_flight.share(("member", blob_name), work)
            if isinstance(result, Unstored):
                return ContentInMemory(result.data)

            content = await self._cache.content(blob_name)
            if content is not None:
                return content

        return ContentInMemory((await receive()).data)

    async def _receive(self, what: str, node: Node) -> Whole:
        """A small member, checked, by one attempt. Raises Corrupt."""
        async with self._limiter:
            expected = node.expected
            head = LOCAL_BYTES + node.name_length
            end = node.offset + head + node.packed
            try:
                piece = await self._data.read_once(node.offset, end + SLACK_BYTES)
                start = payload_start(piece[: head + SLACK_BYTES], expected)
                if start + node.packed > len(piece):
                    piece = await self._data.read_once(
                        node.offset, node.offset + start + node.packed
                    )

                packed = piece[start : start + node.packed]
                data = await in_thread(unpack, packed, expected)
            except Corrupt as error:
                self._data.distrust()
                raise _about(what, error) from error

            return Whole(data, google_crc32c.value(data), True, True)

    async def _large(self, what: str, blob_name: str, node: Node) -> Content:
        if node.size > self._cache.blob_cache.limit:
            raise DiskFull(
                f"{what} has {node.size:,} bytes, more than the cache may hold",
                hint="mount with a larger --cache-size",
            )

        work = partial(self._fetch_large, what, blob_name, node)
        await self._single_flight.share(("member", blob_name), work)
        content: CachedContent | None = await self._cache.content(blob_name)
        if content is None:
            raise DiskFull(f"{what}: the cache can't keep it")
        return content

    async def _fetch_large(self, what: str, blob_name: str, node: Node) -> None:
        """Fetch a large member into the cache."""
        partial_blob = await self._cache.open_partial(blob_name, node.size)
        if isinstance(partial_blob, Blob):
            partial_blob.close()
            return
        if partial_blob is None:
            raise DiskFull(f"{what}: the cache can't keep it")

        partial_blob.take_time()
        try:
            await self._unpack_into(partial_blob, node)
        except DiskFull as error:
            self._cache.failed(error)
            raise
        except Corrupt as error:
            self._data.distrust()
            raise _about(what, error) from error
        finally:
            with trio.CancelScope(shield=True):
                await in_thread(partial_blob.abandon)

    async def _unpack_into(self, partial_blob: PartialBlob, node: Node) -> None:
        expected = node.expected
        head = await self._data.read(
            node.offset, node.offset + LOCAL_BYTES + node.name_length + SLACK_BYTES
        )
        at = node.offset + payload_start(head, expected)
        end = at + node.packed

        unpacker = Unpacker(expected)
        written = 0
        while at < end:
            piece = await self._data.read(at, min(end, at + PART_BYTES))
            if not piece:
                raise Corrupt("its bytes reach beyond the archive")

            at += len(piece)
            written = await in_thread(_write, partial_blob, unpacker, piece, written)

        unpacker.finish()
        (await in_thread(partial_blob.commit, node.size, None)).close()


def _write(partial_blob: PartialBlob, unpacker: Unpacker, packed: bytes, at: int) -> int:
    """Write what `packed` holds from the offset `at` on; where it ends. Blocks."""
    for piece in unpacker.feed(packed):
        partial_blob.write(at, piece)
        at += len(piece)

    return at


def _about(what: str, error: PictofsError) -> PictofsError:
    """The error with what it is about in front."""
    told = type(error)(f"{what} is damaged: {error.message}")
    told.final = error.final
    return told
