"""httpx's transport for the API's host, on connections of our own.

httpx builds requests and decodes answers, which costs 0.10 ms each. Its pool and its connections
(httpcore) cost 0.50 ms more, and with each connection more; `connection.py` takes 0.04 ms.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Self

import httpx
import trio

from pictofs.api.address import Locality
from pictofs.api.connection import Connection
from pictofs.api.dialer import Dialer
from pictofs.api.origin import Origin
from pictofs.api.pool import ConnectionPool
from pictofs.api.proxies import PORTS
from pictofs.api.retries import ReusedConnectionTimeout
from pictofs.clock import Clock
from pictofs.errors import ServerFault, ServerUnreachable, TimedOut

CONNECTIONS = 32
"""Requests under way at once; the others wait."""
TURN_TIMEOUTS = 4
"""Time-outs after which one that waits for its turn gives up.

A reader's deadline comes before that; work that nobody waits for has none.
"""


class Sending:
    """One attempt, as an extension of its request: how long its answer may take to begin.

    Connecting has its own time-out.
    """

    def __init__(self, patience: ReusedConnectionTimeout, most: float, *, fresh: bool) -> None:
        """`most`: seconds on a new connection. `fresh`: a kept one is not to be used."""
        self.fresh = fresh
        self.kept = False
        """Whether it went out on a connection that had been used before."""
        self.scope = trio.CancelScope()
        self._patience = patience
        self._most = most
        self._sent_at = 0.0

    def begin(self, *, kept: bool) -> None:
        """The request has its connection."""
        self.kept = kept
        self._sent_at = trio.current_time()
        self.scope.deadline = self._sent_at + (self._patience.seconds if kept else self._most)

    def answered(self) -> None:
        """The answer has begun."""
        self._patience.took(trio.current_time() - self._sent_at)


class HttpTransport(httpx.AsyncBaseTransport):
    """Sends requests that have a `Sending` as their extension `sending`."""

    def __init__(
        self,
        *,
        clock: Clock,
        timeout: float,
        ssl_context: ssl.SSLContext,
        connected: Callable[[Connection], None],
    ) -> None:
        """`timeout`: seconds for a connection, and between two pieces of a body.

        `connected` is told of each new connection.
        """
        self._clock = clock
        self._timeout = timeout
        self._connected = connected
        self._slots = trio.Semaphore(CONNECTIONS)
        self._pool = ConnectionPool(clock, CONNECTIONS)
        self._dialer = Dialer(
            connect_timeout=timeout, nearest=lambda: Locality.NOWHERE, ssl_context=ssl_context
        )

    async def aclose(self) -> None:
        """Close idle connections. Others close with their answers."""
        self._pool.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and receive the head of its answer.

        Raises what `Dialer.connect` and `Connection.ask` raise; TimedOut if too many requests are
        under way for too long.
        """
        sending: Sending = request.extensions["sending"]
        url = request.url
        origin = Origin(url.scheme, url.host, url.port or PORTS[url.scheme])

        await self._wait_for_turn()
        connection = None
        asked_at = self._clock.monotonic()
        try:
            if not sending.fresh:
                connection = self._pool.take(origin)

            kept = connection is not None
            if connection is None:
                connection = await self._dialer.connect(origin)
                self._connected(connection)

            sending.begin(kept=kept)
            head = await connection.ask(self._encoded(request, origin))
        except BaseException as error:
            if connection is not None:
                connection.close()

            # A connection that breaks or is silent says that the network has changed. An orderly
            # close of an idle one says nothing about the others.
            if getattr(error, "broken", True):
                self._pool.drop(asked_at)

            self._slots.release()
            raise

        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Body(self, origin, connection),
            request=request,
        )

    async def _wait_for_turn(self) -> None:
        longest = TURN_TIMEOUTS * self._timeout
        with trio.CancelScope(relative_deadline=longest):
            await self._slots.acquire()
            return

        raise TimedOut(f"{CONNECTIONS} requests are under way, and none ended within {longest:g} s")

    def _encoded(self, request: httpx.Request, origin: Origin) -> bytes:
        """The bytes of a request, whose body is short."""
        url = request.url
        target, for_proxy = self._dialer.request_target(
            origin, url.netloc.decode("ascii"), url.raw_path.decode("ascii")
        )

        lines = [f"{request.method} {target} HTTP/1.1".encode("ascii")]
        lines += [b": ".join(header) for header in request.headers.raw]
        lines += [line.encode("ascii") for line in for_proxy]
        return b"\r\n".join(lines) + b"\r\n\r\n" + request.content

    async def receive(self, connection: Connection) -> bytes:
        """The next piece of a body, b"" at its end. Raises TimedOut, ServerFault."""
        asked_at = self._clock.monotonic()
        piece = await self._pool.receive(connection, self._timeout, "the answer")
        if not piece and connection.is_cut:
            self._pool.drop(asked_at)
            raise ServerFault("the connection broke: the answer was cut")

        return piece

    def done(self, origin: Origin, connection: Connection) -> None:
        """A body has been read, or was given up."""
        self._pool.give_back(origin, connection)
        self._slots.release()


class _Body(httpx.AsyncByteStream):
    """The body of an answer, which is read once."""

    def __init__(self, transport: HttpTransport, origin: Origin, connection: Connection) -> None:
        self._transport = transport
        self._origin = origin
        self._connection: Connection | None = connection

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration

        piece = await self._transport.receive(self._connection)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Close what is left; a second time does nothing."""
        connection = self._connection
        self._connection = None
        if connection is not None:
            self._transport.done(self._origin, connection)


class NoNetwork(httpx.AsyncBaseTransport):
    """Replaces the network. Storage is never asked either, because its URLs come from the API."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise ServerUnreachable."""
        raise ServerUnreachable(
            "the mount is --offline, and the cache does not hold that",
            hint="mount without --offline, or read it once while the server can be asked",
        )
