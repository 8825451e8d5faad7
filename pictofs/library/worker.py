"""A process beside the mount's own, which fetches the images that nobody waits for yet.

A download of 100 KiB takes a millisecond of CPU, half of it in the kernel's file system. In the mount's process it
would stand in the way of readers: a listing of 3,000 names takes 13 turns of a loop that has 24 downloads in it. The
worker has a loop, and where there is one a core, of its own. It knows no key: it is told signed URLs and the names of
blobs.

Each packet on a socket pair is a message in JSON: the `Setup`, in answer to which comes an empty one, then `Job`s and
`Outcome`s.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys

import msgspec
import trio

from pictofs import errors
from pictofs.api.meter import Meter
from pictofs.clock import Clock
from pictofs.config import FreeSpace
from pictofs.errors import PictofsError, Throttled
from pictofs.store.shelf import Identity
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

PACKET = 64 << 10
"""Bytes of a message at most; a signed URL has 1 KB or 2."""
REST = 10.0
"""Seconds after its start before a worker that has ended is started again: the mount's process fetches meanwhile."""
LAST_WORD = 2.0
"""Seconds that a worker has for clearing up before it is killed."""


class NotTaken(Exception):
    """There is no worker now, or it can't take this: the caller has to do the work."""


class Refused(Exception):
    """Storage did not take the URL, for the reason `error`."""

    def __init__(self, error: PictofsError) -> None:
        super().__init__(str(error))
        self.error = error


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to know."""

    root: str
    """The shelf's directory."""
    limit: int
    """Bytes that the shelf may hold."""
    reserve: FreeSpace
    timeout: float
    """Seconds in which a connection must stand, and between two pieces of what it brings."""
    allow_plain_http: bool


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A file to fetch."""

    number: int
    key: str
    """The blob's."""
    size: int
    """Bytes, as far as they are known."""
    url: str


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a job went, and what all jobs have cost since the last outcome."""

    number: int
    file: Identity | None = None
    """The blob's file, which is sound; None where another process has made it."""
    large: int | None = None
    """Bytes of a file that is not small."""
    doubtful: bool = False
    """Whether the length is not the listing's and no checksum says that the bytes are right: the mount has to ask."""
    error: str = ""
    """The class of a failure."""
    message: str = ""
    retry_after: float | None = None
    refused: bool = False
    """Whether storage refused the URL."""
    requests: int = 0
    answers: dict[str, int] = {}
    """How many of each status, as `Meter.answers` has it."""
    received: int = 0
    """Bytes."""
    connections: int = 0
    evicted: tuple[int, int] = (0, 0)
    """Blobs, and their bytes."""


class Worker:
    """The mount's end. The process is started when it is first wanted."""

    def __init__(self, setup: Setup, meter: Meter, clock: Clock) -> None:
        self._setup, self._meter, self._clock = setup, meter, clock
        self._wanted = trio.Event()
        self._socket: trio.socket.SocketType | None = None
        self._jobs = 0
        self._calls: dict[int, _Call] = {}
        self.evicted = (0, 0)
        """Blobs that the process removed to make room, and their bytes."""

    @property
    def ready(self) -> bool:
        """Whether the process takes jobs now."""
        return self._socket is not None

    async def fetch(self, key: str, url: str, size: int) -> Identity | int | None:
        """Have the small file at `url` fetched onto the shelf as the blob `key`.

        Returns: the blob's file, None where another process has made it, the size of a file that is not small.

        Raises:
            NotTaken: there is no worker, or it ended, or it can't tell whether the bytes are right.
            Refused: storage did not take the URL.
            DiskFull: the shelf takes nothing.
            PictofsError: what `Storage.get` and `receive_whole` raise.
        """
        if self._socket is None:
            self._wanted.set()
            raise NotTaken
        self._jobs = number = self._jobs + 1
        job = msgspec.json.encode(Job(number, key, size, url))
        if len(job) > PACKET:
            raise NotTaken
        call = self._calls[number] = _Call()
        try:
            await self._socket.send(job)
            await call.done.wait()
        except (OSError, trio.ClosedResourceError):
            raise NotTaken from None  # it ends just now
        finally:
            del self._calls[number]
        if call.outcome is None:
            raise NotTaken
        return self._settle(call.outcome)

    def _settle(self, outcome: Outcome) -> Identity | int | None:
        for _ in range(outcome.requests):
            self._meter.sent("storage", "GET")
        for status, count in outcome.answers.items():
            self._meter.ended("storage", "GET", status, count)
        self._meter.bytes_in["storage"] += outcome.received
        self._meter.connections += outcome.connections
        files, size = outcome.evicted
        self.evicted = (self.evicted[0] + files, self.evicted[1] + size)
        if outcome.doubtful:
            raise NotTaken
        if not outcome.error:
            return outcome.file if outcome.large is None else outcome.large
        error = _named(outcome)
        self._meter.failed(error)
        raise Refused(error) if outcome.refused else error

    async def run(self) -> None:
        """Start the process when it is wanted, and hear what it says, for as long as the library lives."""
        while True:
            await self._wanted.wait()
            started = self._clock.monotonic()
            try:
                await self._serve()
            except OSError as error:
                log.warning("no process beside the mount's can be started, it fetches by itself: %s", error)
            rest = started + REST - self._clock.monotonic()
            await self._clock.sleep(max(rest, 0.0))
            self._wanted = trio.Event()

    async def _serve(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as channel:
            with theirs:
                process = _start(theirs)
            try:
                await channel.send(msgspec.json.encode(self._setup))
                if not await channel.recv(PACKET):
                    return
                self._socket = channel
                while packet := await channel.recv(PACKET):
                    self._hear(msgspec.json.decode(packet, type=Outcome))
            finally:
                self._socket = None
                channel.close()  # this is what ends it
                for call in self._calls.values():
                    call.done.set()
                with trio.CancelScope(shield=True):
                    await in_thread(_end, process)
        log.info("the process that fetches ahead has ended (exit code %s)", process.returncode)

    def _hear(self, outcome: Outcome) -> None:
        call = self._calls.get(outcome.number)
        if call is not None:
            call.outcome = outcome
            call.done.set()


class _Call:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Outcome | None = None


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A process of its own program: it must hold nothing of this one's memory, least of all the key."""
    return subprocess.Popen(
        [sys.executable, "-m", "pictofs.library.worker_process"],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.upper().startswith("PICTO")},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(LAST_WORD)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _named(outcome: Outcome) -> PictofsError:
    kind = getattr(errors, outcome.error, PictofsError)
    if kind is Throttled:
        return Throttled(outcome.message, outcome.retry_after)
    error: PictofsError = kind(outcome.message)
    return error
