"""The process that fetches what nobody waits for yet.

`pictofs.library.content.worker` starts it and talks to it.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections import Counter
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path

import msgspec
import trio

from pictofs import __version__
from pictofs.api.address import Locality
from pictofs.api.body import Body
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.clock import SystemClock
from pictofs.errors import DiskFull, InvalidResponse, PictofsError, Throttled, UrlExpired
from pictofs.library.content.cache import ContentCache, Stored, Unstored
from pictofs.library.content.disk import Disk
from pictofs.library.content.whole import NotSmall, Whole, receive_whole
from pictofs.library.content.worker import (
    MESSAGE,
    PACKET_BYTES,
    PULSE_S,
    Hello,
    Job,
    Outcome,
    Setup,
)
from pictofs.store.blobs.cache import BlobCache

BUSY_SECONDS = 10.0
"""Seconds for which a job may wait for the disk, and for another process that downloads the same
file, before the mount has to see to it. Waiting for storage is not counted: it has a timeout of its
own."""


class _Doubtful(Exception):
    """Either the bytes are wrong or the listing is."""


class Fetching:
    """Does jobs, each in its own task, until the mount closes its end of the channel."""

    def __init__(self, channel: trio.socket.SocketType, setup: Setup) -> None:
        clock = SystemClock()
        self._channel = channel
        self._sending = trio.Lock()
        self._jobs = 0
        self._request_stats = RequestStats()
        self._request_stats.api_locality = Locality(setup.locality)

        # What the mount has been told of already: requests, bytes and connections; answers by
        # status; blobs and their bytes.
        self._reported = (0, 0, 0)
        self._answers: Counter[str] = Counter()
        self._evicted = (0, 0)

        self._storage = Storage(
            clock=clock,
            request_stats=self._request_stats,
            connect_timeout=setup.timeout,
            inactivity_timeout=setup.timeout,
            allow_plain_http=setup.allow_plain_http,
        )
        self._blob_cache = BlobCache(
            Path(setup.root), limit=setup.limit, reserve=setup.reserve, clock=clock
        )
        self._cache = ContentCache(self._blob_cache, Disk(), clock, server="")

    async def run(self) -> None:
        """Take jobs until the channel is closed."""
        async with self._storage, trio.open_nursery() as nursery:
            nursery.start_soon(self._cache.disk.serve)
            nursery.start_soon(self._live)
            with suppress(OSError):
                while packet := await self._channel.recv(PACKET_BYTES):
                    nursery.start_soon(self._do, msgspec.json.decode(packet, type=Job))

            nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        """Give signs of life while there are jobs."""
        while True:
            await trio.sleep(PULSE_S)
            if self._jobs:
                await self._tell(Outcome())

    async def _do(self, job: Job) -> None:
        outcome = Outcome(number=job.number)
        self._jobs += 1
        try:
            with trio.move_on_after(BUSY_SECONDS) as patience:
                await self._fetch(job, outcome, patience)

            if patience.cancelled_caught:
                outcome.unverified = True
        except _Doubtful:
            outcome.unverified = True
        except PictofsError as error:
            outcome.error = type(error).__name__
            outcome.message = error.message[:MESSAGE]
            outcome.hint = error.hint[:MESSAGE]
            if isinstance(error, Throttled):
                outcome.retry_after = error.retry_after
        finally:
            self._jobs -= 1

        await self._tell(outcome)

    async def _tell(self, outcome: Outcome) -> None:
        # One at a time: trio lets only one task wait for a socket, and the mount may be slow to
        # read.
        async with self._sending:
            self._count(outcome)
            with suppress(OSError):  # `run` notices the end of the channel
                await self._channel.send(msgspec.json.encode(outcome))

    async def _fetch(self, job: Job, outcome: Outcome, patience: trio.CancelScope) -> None:
        """Store the job's file in the cache, and note in `outcome` what came of it.

        `patience` is suspended while the bytes come. Raises DiskFull, and what storage raises.
        """
        receive = partial(self._receive, job, outcome, patience)
        made = await self._cache.store(job.blob_name, job.size, receive)

        match made:
            case Unstored():
                raise DiskFull("the disk takes no more")
            case Stored(file):
                outcome.file = file
            case NotSmall(size):
                outcome.large = size

    async def _receive(
        self, job: Job, outcome: Outcome, patience: trio.CancelScope
    ) -> Whole | NotSmall:
        patience.deadline = inf
        opened: Body | None = None
        try:
            async with self._storage.get(job.url) as opened:
                whole = await receive_whole(opened, job.blob_name)
        except (UrlExpired, InvalidResponse):
            outcome.refused = opened is None
            raise

        if isinstance(whole, Whole) and not whole.is_believed(job.size or None):
            raise _Doubtful

        patience.deadline = trio.current_time() + BUSY_SECONDS
        return whole

    def _count(self, outcome: Outcome) -> None:
        """Note in `outcome` what jobs have cost since the mount was told last."""
        now = (
            self._request_stats.requests["storage", "GET", "foreground"],
            self._request_stats.bytes_in["storage"],
            self._request_stats.connections,
        )
        outcome.requests, outcome.received, outcome.connections = (
            new - old for new, old in zip(now, self._reported, strict=True)
        )
        self._reported = now

        answers = Counter(
            {status: count for (*_, status), count in self._request_stats.answers.items()}
        )
        outcome.answers = dict(answers - self._answers)
        self._answers = answers

        files, size = self._blob_cache.evicted
        outcome.evicted = (files - self._evicted[0], size - self._evicted[1])
        self._evicted = (files, size)


async def _main() -> None:
    with (
        trio.socket.from_stdlib_socket(socket.socket(fileno=0)) as channel,
        suppress(OSError, PictofsError),
    ):
        packet = await channel.recv(PACKET_BYTES)
        if not packet:
            return

        await channel.send(msgspec.json.encode(Hello(__version__)))
        setup = msgspec.json.decode(packet, type=Setup)
        if setup.version == __version__:
            await Fetching(channel, setup).run()


if __name__ == "__main__":
    # Signals that the mount ignores or blocks are inherited, and not meant for this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C is meant for the mount, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # the mount is told of everything, and logs it
    trio.run(_main)
