"""One connection to the engine: connect, ask, and say in plain words why that fails.

coredis' own pool is not used: a call that is cancelled while a connection is made, and a connection
that breaks while it is lent, each cost it one of its places for good. A `Link` is one connection
on which calls follow each other without waiting, and which is replaced when it breaks.

The engine may be anything that listens on a port. What it sends is counted, and one that sends more
than anybody asked for is hung up on. Its own words are shown to nobody.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol

import anyio
import trio
from anyio.abc import ByteStream
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import (
    AuthenticationFailureError,
    AuthenticationRequiredError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ProtocolError,
    ReadOnlyError,
    ResponseError,
    UnknownCommandError,
)
from coredis.exceptions import ConnectionError as EngineConnectionError

from pictofs.config.shared import SharedAddress

# It logs each failed attempt to connect with a traceback. What matters is told by the engine.
logging.getLogger("coredis").setLevel(logging.CRITICAL + 1)

CONNECT_S = 1.0
"""Seconds in which a connection is made, TLS and password included."""
SILENCE_S = 0.1
"""Seconds without a byte after which a call is given up."""
CALL_MAX_S = 3.0
"""Seconds after which a call is given up even if its answer is still coming: 64 nodes that want the
same 3.7 MB at once take 2 s of a network of 1 Gb/s."""
GRACE_S = 0.01
"""Seconds given once more when the time is up: the loop may have been busy, and not the engine."""
GREETING_MAX_BYTES = 64 << 10
"""Bytes that are read while a connection is made."""
UNASKED_MAX_BYTES = 1 << 20
"""Bytes that are read while no call waits: wake-ups have a hundred each."""
ANSWER_MAX_BYTES = 64 << 20
"""Bytes that are read for one call."""

Command = tuple[bytes, *tuple[bytes | int, ...]]
"""A command's name and its arguments."""


_GONE = (EngineConnectionError, anyio.ClosedResourceError, anyio.BrokenResourceError)
"""What coredis raises when a connection has broken, or is just about to end."""


class EngineAway(Exception):
    """No connection can be made, or it does not serve. The message is a reason, in plain words."""


class Silent(Exception):
    """No answer in time."""


class Lost(Exception):
    """The connection broke."""


class Refusal(Enum):
    """What an error of the engine means for the calls after it."""

    AWAY = "it serves nothing now"
    NO_WRITES = "it takes nothing now, but can be read"
    OTHER = "this call alone was wrong"


class _Request(Protocol):
    """What is used of coredis' request."""

    @property
    def complete(self) -> bool: ...

    async def get_result(self) -> Any: ...


class _Metered(ByteStream):
    """A stream that counts, and ends when more comes than was asked for."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.received = 0
        self.unread = 0
        """Bytes since the last answer."""
        self.limit = GREETING_MAX_BYTES

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Bytes as they come. Raises ValueError if there are too many."""
        data = await self._stream.receive(max_bytes)
        self.received += len(data)
        self.unread += len(data)
        if self.unread > self.limit:
            raise ValueError("more than was asked for")

        return data

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """Say that nothing more is sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream below."""
        return self._stream.extra_attributes


class _Connection(TCPConnection):
    """A connection of coredis on a metered stream."""

    meter: _Metered | None = None

    async def _connect(self) -> ByteStream:
        self.meter = _Metered(await super()._connect())
        return self.meter


class Link:
    """A connection that answers. Made by `connect`."""

    def __init__(self, connection: _Connection, lost: trio.Event) -> None:
        assert connection.meter is not None
        self._connection = connection
        self._meter = connection.meter
        self._meter.limit = UNASKED_MAX_BYTES
        self._waiting = 0
        self.lost = lost
        """Set when the connection has broken."""

    @property
    def version(self) -> str:
        """The engine's version, as it says itself."""
        return self._connection.server_version or ""

    async def call(self, *commands: Command, silence: float, longest: float) -> list[Any]:
        """The answers to `commands`, which are sent together and done in their order.

        An answer may be an exception: the engine's error. `silence`: seconds to wait while nothing
        comes. `longest`: seconds to wait altogether. Raises Silent, Lost.
        """
        end = trio.current_time() + longest
        self._waiting += 1
        self._meter.limit = ANSWER_MAX_BYTES
        try:
            requests = [self._request(command) for command in commands]
            for request in requests:
                await self._complete(request, silence, end)
        finally:
            self._waiting -= 1
            self._meter.unread = 0
            if not self._waiting:
                self._meter.limit = UNASKED_MAX_BYTES

        # When a connection breaks, its calls get the reason as their answer.
        if not self._connection.usable:
            raise Lost
        return [await request.get_result() for request in requests]

    def _request(self, command: Command) -> _Request:
        name, *arguments = command
        try:
            return self._connection.create_request(name, *arguments, raise_exceptions=False)
        except _GONE as error:
            raise Lost from error

    async def _complete(self, request: _Request, silence: float, end: float) -> None:
        """Wait until a request is answered. `end`: in trio's time. Raises Silent."""
        while not request.complete:
            before = self._meter.received
            left = end - trio.current_time()
            with trio.move_on_after(max(0.0, min(silence, left))):
                await request.get_result()

            if self._meter.received != before and left > 0:
                continue

            with trio.move_on_after(GRACE_S):
                await request.get_result()
            if not request.complete:
                raise Silent

    def post(self, command: Command) -> None:
        """Send a command behind all others, whose answer is not wanted. Never waits or fails."""
        with suppress(Lost):
            self._request(command)

    def send(self, *command: bytes) -> None:
        """Send a command that has no answer, but messages. Never waits or fails."""
        with suppress(*_GONE):
            self._connection.send_command(*command)

    async def watch(self) -> None:
        """End the connection when an answer comes that nobody asked for.

        Answers belong to calls by their order alone: those after it would be taken for others'.
        """
        with suppress(*_GONE):
            async for _ in self._connection.streamed_messages:
                self._connection.invalidate()

    async def messages(self) -> AsyncIterator[list[Any]]:
        """What the engine says unasked, until the connection breaks."""
        try:
            async for message in self._connection.push_messages:
                self._meter.unread = 0
                yield message
        except _GONE:
            return


async def connect(
    address: SharedAddress, nursery: trio.Nursery, context: ssl.SSLContext | None
) -> Link:
    """A connection that lives in `nursery`.

    `context`: for TLS; None: without. Raises EngineAway.
    """
    lost = trio.Event()
    connection = _Connection(
        TCPLocation(address.host, address.port),
        connect_timeout=CONNECT_S,
        username=address.user,
        password=address.password,
        db=address.database,
        ssl_context=context,
    )

    async def live(task_status: Any) -> None:
        try:
            await connection.run(task_status=task_status)
        finally:
            lost.set()

    try:
        with trio.move_on_after(CONNECT_S):
            await nursery.start(live)
            return Link(connection, lost)
    except Exception as error:
        raise EngineAway(_reason(error, address)) from error

    raise EngineAway(f"no connection within {CONNECT_S:g} s")


def verifying_context() -> ssl.SSLContext:
    """The default for TLS: the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return ssl.create_default_context()


def refusal(error: Exception) -> Refusal:
    """What an error that was an answer means."""
    if isinstance(error, BusyLoadingError | MovedError | ClusterDownError):
        return Refusal.AWAY
    if isinstance(error, AuthenticationRequiredError | AuthenticationFailureError):
        return Refusal.AWAY
    if isinstance(error, ReadOnlyError | AuthorizationError):
        return Refusal.NO_WRITES

    # coredis has no classes for these. A script's error has the word further behind.
    text = str(error)[:500]
    if re.search(r"\bMASTERDOWN\b", text):
        return Refusal.AWAY
    if re.search(r"\b(OOM|MISCONF|READONLY|NOREPLICAS|NOPERM)\b", text):
        return Refusal.NO_WRITES
    return Refusal.OTHER


def refusal_words(error: Exception) -> str:
    """Why the engine refuses, in plain words; nothing of its own."""
    if isinstance(error, BusyLoadingError):
        return "it is still loading its data"
    if isinstance(error, MovedError | ClusterDownError):
        return "it is a cluster of engines, which is not supported"
    if isinstance(error, AuthenticationRequiredError):
        return "it wants a password"
    if isinstance(error, AuthenticationFailureError):
        return "it refuses the user or the password"
    if isinstance(error, AuthorizationError):
        return "the user may not do what is needed"
    if isinstance(error, ReadOnlyError):
        return "it is a replica that can't be written"

    text = str(error)[:500]
    if "OOM" in text:
        return "its memory is full"
    if "MISCONF" in text:
        return "it takes no writes because it can't save to its disk"
    if "MASTERDOWN" in text or "NOREPLICAS" in text:
        return "it has lost its primary or its replicas"
    return "it refuses a command"


def _reason(error: BaseException, address: SharedAddress) -> str:
    """Why no connection was made, in plain words."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and len(chain) < 10:
        chain.append(each)
        each = each.__cause__ or each.__context__

    for cause in chain:
        if isinstance(cause, EngineAway):
            return str(cause)
        if isinstance(cause, AuthenticationRequiredError | AuthenticationFailureError):
            return refusal_words(cause)
        if isinstance(cause, AuthorizationError | BusyLoadingError):
            return refusal_words(cause)
        if isinstance(cause, UnknownCommandError | ProtocolError):
            return "it is older than Redis 6"
        if isinstance(cause, ResponseError) and "index" in str(cause):
            return f"it has no database {address.database}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate does not hold for {address.host}"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS as it should"
        if isinstance(cause, socket.gaierror):
            return f"there is no host {address.host}"
        if isinstance(cause, ConnectionRefusedError):
            return "nothing listens there"
        # coredis raises its own error in the place of a cancellation.
        if isinstance(cause, TimeoutError | trio.Cancelled):
            return f"no connection within {CONNECT_S:g} s"

    for cause in chain:
        if isinstance(cause, EngineConnectionError) and "max number" in str(cause):
            return "it takes no more connections"
        if isinstance(cause, ConnectionResetError | anyio.EndOfStream):
            return "it breaks the connection off: is it the right one of redis:// and rediss:// ?"
        if isinstance(cause, OSError) and cause.strerror:
            return f"it can't be reached: {cause.strerror}"

    return "what listens there is not a Valkey or Redis"
