"""A process beside the mount's own, which fetches the images that nobody waits for yet.

A download of 100 KiB takes a millisecond of CPU, half of it in the kernel's file system. In the
mount's process it would delay readers: a listing of 3,000 names takes 13 turns of an event loop
that has 24 downloads in it. The worker has an event loop of its own, and a core if there is one. It
knows no key, only the signed URLs and the names of blobs that it is told.

Each packet on a socket pair is a message in JSON: the `Setup`, which is answered by a `Hello`, then
`Job`s and `Outcome`s. While the worker has jobs it says something each second, if only an outcome
of no job. A worker that stands still is killed, because it may hold locks that the mount's own
downloads wait for.

Whatever the worker does, is or says may cost time, and never a reader: its jobs go back to the
mount, which fetches by itself.
"""

from __future__ import annotations

import logging
import socket
import subprocess

import msgspec
import trio

from pictofs import __version__, errors
from pictofs.api.address import Locality
from pictofs.api.stats import RequestStats
from pictofs.clock import Clock
from pictofs.config import FreeSpace
from pictofs.errors import PictofsError, Throttled
from pictofs.library.beside import CannotStart, end, start
from pictofs.library.content.cache import Stored
from pictofs.library.content.whole import NotSmall
from pictofs.store.blobs.cache import FileStamp

log = logging.getLogger(__name__)

PACKET_BYTES = 64 << 10
"""The largest message in bytes; a signed URL has 1,000 or 2,000."""
PULSE_S = 1.0
"""Seconds between two signs of life of a worker that has jobs, and between two checks for them."""
SILENT_PULSES = 5
"""Checks without a sign of life after which a worker that has jobs is killed. Checks are counted
instead of seconds, because a mount that was stopped, or slept with its machine, must not take that
time for its worker's silence."""
IDLE_PULSES = 60
"""Checks without a byte or an outcome after which a worker that has jobs is killed although it
gives signs of life; four times the timeout of a silent connection, if that is more."""
START_SECONDS = 30.0
"""Seconds in which a worker must say that it is there."""
RETRY_AFTER_S = 10.0
"""Seconds from the start of a worker that has ended to the start of the next one. The mount's
process fetches meanwhile."""
LONG_RETRY_AFTER_S = 600.0
"""The same, in seconds, if the worker can't be started or is of another version: as a rule that
lasts until somebody mounts anew."""
MESSAGE = 2000
"""Characters of the longest message of an error: an outcome with it fits into a packet."""


class NotTaken(Exception):
    """There is no worker now, or it can't take this job: the caller has to do it."""


class Refused(Exception):
    """Storage did not take the URL, for the reason `error`."""

    def __init__(self, error: PictofsError) -> None:
        super().__init__(str(error))
        self.error = error


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to know."""

    version: str = __version__
    """The mount's. If pictofs was upgraded since the mount was made, the worker has another one."""
    root: str
    """The directory of the blob cache."""
    limit: int
    """Bytes that the cache may hold."""
    reserve: FreeSpace
    timeout: float
    """Seconds in which a connection must be made, and each piece of an answer must come."""
    allow_plain_http: bool
    locality: int = Locality.PUBLIC
    """How near to this machine the URLs may lead, as known when the worker is started. See
    `RequestStats.api_locality`."""


class Hello(msgspec.Struct):
    """The worker is there. It ends at once unless the mount has the same version."""

    version: str


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A file to fetch."""

    number: int
    blob_name: str
    """The blob's name."""
    size: int
    """Bytes by the listing; 0 if it does not say."""
    url: str


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a job went, and what all jobs have cost since the last outcome."""

    number: int = 0
    """The job's number; 0 for a sign of life."""
    file: FileStamp | None = None
    """The blob's file, which is intact; None if another process has made it."""
    large: int | None = None
    """Bytes of a file that is not small."""
    unverified: bool = False
    """Whether the length differs from the listing's and no checksum proves the bytes, or the job
    waited too long for the disk or another process: the mount has to see to it."""
    error: str = ""
    """The name of the failure's class."""
    message: str = ""
    hint: str = ""
    retry_after: float | None = None
    refused: bool = False
    """Whether storage refused the URL."""
    requests: int = 0
    answers: dict[str, int] = {}
    """How many there were of each status, as in `RequestStats.answers`."""
    received: int = 0
    """Bytes."""
    connections: int = 0
    evicted: tuple[int, int] = (0, 0)
    """Blobs removed to make room, and their bytes."""


class Worker:
    """The mount's end of the channel. The process is started when it is first wanted."""

    def __init__(self, setup: Setup, request_stats: RequestStats, clock: Clock) -> None:
        self._setup = setup
        self._request_stats = request_stats
        self._clock = clock
        self._wanted = trio.Event()
        self._socket: trio.socket.SocketType | None = None
        self._sending = trio.Lock()
        self._jobs = 0
        self._calls: dict[int, _Call] = {}
        self._silent = 0
        self._idle = 0
        self._complained = False
        self.evicted = (0, 0)
        """Blobs that the process removed to make room, and their bytes."""

    @property
    def ready(self) -> bool:
        """Whether the process takes jobs now."""
        return self._socket is not None

    async def fetch(self, blob_name: str, url: str, size: int) -> Stored | NotSmall:
        """Have the small file at `url` fetched into the cache as the blob `blob_name`.

        `size`: bytes by the listing; 0 if it does not say.

        Raises:
            NotTaken: there is no worker, or it ended, or it can't tell whether the bytes are right.
            Refused: storage did not take the URL.
            DiskFull: the cache takes nothing.
            PictofsError: what `Storage.get` and `receive_whole` raise.
        """
        if self._socket is None:
            self._wanted.set()
            raise NotTaken

        self._jobs += 1
        number = self._jobs
        job = msgspec.json.encode(Job(number, blob_name, size, url))
        if len(job) > PACKET_BYTES:
            raise NotTaken

        call = self._calls[number] = _Call()
        try:
            # One at a time: a worker that is slow to read makes each sender wait, and trio lets
            # only one task wait for a socket.
            async with self._sending:
                if self._socket is None:
                    raise NotTaken

                await self._socket.send(job)

            await call.done.wait()
        except (OSError, trio.ClosedResourceError):
            raise NotTaken from None  # the worker is just ending
        finally:
            del self._calls[number]

        if call.outcome is None:
            raise NotTaken
        return self._settle(call.outcome)

    def _settle(self, outcome: Outcome) -> Stored | NotSmall:
        # Here, in the task that asked: what a request was for is counted by its task.
        self._count(outcome)
        if outcome.unverified:
            raise NotTaken

        if not outcome.error:
            return Stored(outcome.file) if outcome.large is None else NotSmall(outcome.large)

        error = _named(outcome)
        self._request_stats.failed(error)
        if outcome.refused:
            raise Refused(error)
        raise error

    async def run(self) -> None:
        """Start the process when it is wanted, and hear what it says, for as long as the library
        lives."""
        while True:
            await self._wanted.wait()

            started = self._clock.monotonic()
            rest = RETRY_AFTER_S
            try:
                await self._serve()
            except (_Unfit, CannotStart) as error:
                rest = LONG_RETRY_AFTER_S
                self._complain(error)
            except OSError as error:  # no file descriptors are left
                self._complain(error)

            await self._clock.sleep(max(started + rest - self._clock.monotonic(), 0.0))
            self._wanted = trio.Event()

    def _complain(self, error: Exception) -> None:
        """Log a warning, but only once: the start is tried again and again, and only speed is
        lost."""
        if not self._complained:
            self._complained = True
            log.warning(
                "there is no process that fetches ahead, this one does it by itself: %s", error
            )

    async def _serve(self) -> None:
        """Work with one process, from its start to its end.

        Raises:
            _Unfit: it can't be started, or is not of our version.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as channel:
            with theirs:
                process = start("pictofs.library.content.worker_process", theirs)

            try:
                await self._greet(channel)
                self._complained = False
                self._silent = 0
                self._idle = 0
                self._socket = channel
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, process)
                    unfit = await self._listen(channel)
                    nursery.cancel_scope.cancel()

                if unfit is not None:
                    raise unfit
            finally:
                self._socket = None
                channel.close()  # this makes the process end
                for call in self._calls.values():
                    call.done.set()

                with trio.CancelScope(shield=True):
                    await end(process)

        log.info("the process that fetches ahead has ended (exit code %s)", process.returncode)

    async def _greet(self, channel: trio.socket.SocketType) -> None:
        """Tell the process what it needs, and wait for its `Hello`. Raises _Unfit."""
        setup = msgspec.structs.replace(self._setup, locality=self._request_stats.api_locality)
        try:
            with trio.fail_after(START_SECONDS):
                await channel.send(msgspec.json.encode(setup))
                packet = await channel.recv(PACKET_BYTES)

            hello = msgspec.json.decode(packet, type=Hello)
        except (OSError, trio.TooSlowError, msgspec.MsgspecError):
            raise _Unfit(
                "it does not say what it should; was pictofs changed since it was mounted?"
            ) from None

        if hello.version != self._setup.version:
            raise _Unfit(
                f"pictofs {hello.version} was installed since this mount of "
                f"{self._setup.version} was made; mount anew to use it"
            )

    async def _listen(self, channel: trio.socket.SocketType) -> _Unfit | None:
        """Hear what the process says until it ends; the reason if it makes no sense."""
        try:
            while packet := await channel.recv(PACKET_BYTES):
                self._hear(msgspec.json.decode(packet, type=Outcome))
        except msgspec.MsgspecError as error:
            return _Unfit(f"it says what makes no sense: {error}")
        except OSError:
            pass  # it was killed while it had something to read

        return None

    def _hear(self, outcome: Outcome) -> None:
        self._silent = 0
        if outcome.number or outcome.received:
            self._idle = 0

        call = self._calls.get(outcome.number)
        if call is None:
            self._count(outcome)
            return

        call.outcome = outcome
        call.done.set()

    def _count(self, outcome: Outcome) -> None:
        """Add what the jobs have cost to the mount's statistics."""
        for _ in range(outcome.requests):
            self._request_stats.sent("storage", "GET")

        for status, count in outcome.answers.items():
            self._request_stats.ended("storage", "GET", status, count)

        self._request_stats.bytes_in["storage"] += outcome.received
        self._request_stats.connections += outcome.connections

        files, size = outcome.evicted
        self.evicted = (self.evicted[0] + files, self.evicted[1] + size)

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process that has jobs and stands still; `_listen` then ends."""
        idle_most = max(IDLE_PULSES, 4 * self._setup.timeout)
        while True:
            # Not by `self._clock`, which tests set forward: a process needs real time.
            await trio.sleep(PULSE_S)
            if not self._calls:
                self._silent = 0
                self._idle = 0
                continue

            self._silent += 1
            self._idle += 1
            if self._silent > SILENT_PULSES or self._idle > idle_most:
                log.warning("the process that fetches ahead stands still, and is started anew")
                process.kill()
                return


class _Unfit(Exception):
    """A worker can't be used, and the next one could not be, either."""


class _Call:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Outcome | None = None


def _named(outcome: Outcome) -> PictofsError:
    """The error that an outcome tells of."""
    kind = getattr(errors, outcome.error, None)
    if not (isinstance(kind, type) and issubclass(kind, PictofsError)):
        return PictofsError(outcome.message, hint=outcome.hint)

    if kind is Throttled:
        return Throttled(outcome.message, outcome.retry_after)

    error: PictofsError = kind(outcome.message, hint=outcome.hint)
    return error
