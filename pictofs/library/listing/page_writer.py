"""A process beside the mount's own, which decodes and writes the pages of a large first listing.

A page of 10,000 images takes 0.2 s of CPU, most of it in Python. In a thread that would hold up
every request of the kernel, and those of whoever reads the folder as it grows.

Each message on a socket pair has its length in front: a `Hello` comes first and is answered by the
`Setup`; then a `PageJob` and the body of an answer follow, for each of which a `PageOutcome` comes
back. Whatever the process does, is or says may cost time, and never a listing: the mount decodes
and writes by itself what is not written.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec
import trio

from pictofs import __version__
from pictofs.library.beside import CannotStart, end, start
from pictofs.library.listing.pager import ListingPage
from pictofs.model.records import Image, Page
from pictofs.store.catalog.rows import RemovedDentry

log = logging.getLogger(__name__)

HEADER = struct.Struct("<I")
"""Bytes of the message that follows."""
MESSAGE_MAX = 2000
"""Characters of the longest message of an error."""
OUTCOME_MAX_BYTES = 16 << 20
"""Bytes of a `PageOutcome`: all 10,000 images may have given way to others."""
FROM_IMAGES = 30_000
"""Images of a dataset from which the process is worth its start, which takes 0.2 s of CPU."""
PAGE_SECONDS = 30.0
"""Seconds in which a page must be written, or the process said that it is there."""


class Hello(msgspec.Struct):
    """The process is there. It ends at once unless the mount has the same version."""

    version: str


class Setup(msgspec.Struct, kw_only=True):
    """What the process needs to know."""

    version: str = __version__
    catalog: str
    """The catalog's file."""


class PageJob(msgspec.Struct, kw_only=True):
    """A page to decode and write; the body of its answer follows."""

    dataset: int
    """Its key."""
    dataset_id: str
    seen: int
    """Number of the pass."""
    first_digest: str
    """`ids_digest` of the first page: a server that ignores the offset sends it again."""


class PageOutcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a page held."""

    refused: bool = False
    """Whether it was not written: the mount has to see what is wrong with it."""
    error: str = ""
    received: int = 0
    total: int | None = None
    has_more: bool | None = None
    rows: int = 0
    digest: str = ""
    gone: list[RemovedDentry] = []
    """Entries that are gone."""

    def as_page(self) -> ListingPage:
        """The page without its rows."""
        page: Page[Image] = Page(
            rows=[], received=self.received, total=self.total, has_more=self.has_more
        )
        return ListingPage(page, None, self.rows, self.digest, is_written=True)


def ids_digest(images: Iterable[Image]) -> str:
    """A hash of the ids on a page, the same in every process."""
    ids = "\n".join(image.id for image in images)
    return hashlib.blake2b(ids.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class PageWriter:
    """The mount's end of the channel."""

    def __init__(self) -> None:
        self._channel: trio.SocketStream | None = None
        # Outcomes come in the order of the jobs, and these locks are taken in the order in which
        # tasks ask for them.
        self._sending = trio.Lock()
        self._receiving = trio.Lock()
        self._serving = trio.CancelScope()

    async def write(self, job: PageJob, body: bytes) -> PageOutcome | None:
        """Have a page written; None if the process is not there, or did not do it."""
        channel = self._channel
        if channel is None:
            return None

        message = msgspec.json.encode(job)
        try:
            with trio.fail_after(PAGE_SECONDS):
                async with self._sending:
                    await channel.send_all(HEADER.pack(len(message)) + message)
                    await channel.send_all(HEADER.pack(len(body)))
                    await channel.send_all(body)

                async with self._receiving:
                    answer = await _receive(channel)

            outcome = msgspec.json.decode(answer, type=PageOutcome)
        except (
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.TooSlowError,
            msgspec.MsgspecError,
        ) as error:
            # What it says from now on may be the outcome of another page.
            if self._channel is not None:
                log.warning("the process that writes listings has failed: %r", error)
            self.stop()
            return None

        if outcome.error:
            log.info("a page is looked at again: %s", outcome.error)
        return None if outcome.refused else outcome

    def stop(self) -> None:
        """End `serve`, and the process."""
        self._channel = None
        self._serving.cancel()

    async def serve(self, catalog: Path) -> None:
        """Work with a process until `stop`. Never fails."""
        with self._serving:
            await self._serve(catalog)

    async def _serve(self, catalog: Path) -> None:
        ours, theirs = socket.socketpair()
        channel = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                process = start("pictofs.library.listing.page_process", theirs)

            with trio.fail_after(PAGE_SECONDS):
                hello = msgspec.json.decode(await _receive(channel), type=Hello)
                setup = msgspec.json.encode(Setup(catalog=str(catalog)))
                await channel.send_all(HEADER.pack(len(setup)) + setup)

            if hello.version == __version__:
                self._channel = channel
                await trio.sleep_forever()
        except (
            CannotStart,
            trio.BrokenResourceError,
            trio.TooSlowError,
            msgspec.MsgspecError,
        ) as error:
            log.info("no process writes listings, this one does: %r", error)
        finally:
            self._channel = None
            with trio.CancelScope(shield=True):
                # This makes the process end.
                await trio.aclose_forcefully(channel)
                if process is not None:
                    await end(process)


async def _receive(channel: trio.SocketStream) -> bytes:
    """The next message. Raises BrokenResourceError if there is none."""
    size = HEADER.unpack(await _exactly(channel, HEADER.size))[0]
    if size > OUTCOME_MAX_BYTES:
        raise trio.BrokenResourceError(f"a message of {size} bytes")
    return await _exactly(channel, size)


async def _exactly(channel: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = await channel.receive_some(size - len(data))
        if not more:
            raise trio.BrokenResourceError("it has ended")
        data += more

    return bytes(data)
