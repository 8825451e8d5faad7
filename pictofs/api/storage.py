"""`Storage`: downloads of signed URLs, lean enough for a hundred thousand small files.

It knows no key and sends no cookie: a signed URL is all that a storage host gets to see. Redirects are not
followed. Nothing is retried but a kept connection that turns out to be dead: resuming is the caller's. One that is
silent is news about all that are kept, so none is used any more that was not heard of since.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import trio

from pictofs.api.address import USER_AGENT, Locality, is_loopback
from pictofs.api.body import Body, described, range_headers
from pictofs.api.connection import Connection, ConnectionGone, Head
from pictofs.api.dialer import Dialer, Origin, authorization
from pictofs.api.failure import retry_after
from pictofs.api.proxies import PORTS
from pictofs.api.retries import ReusedConnectionTimeout
from pictofs.api.stats import UNANSWERED, RequestStats
from pictofs.clock import Clock
from pictofs.errors import (
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    PictofsError,
    ServerFault,
    Throttled,
    TimedOut,
    UrlExpired,
)

IDLE_SECONDS = 30.0
"""How long a connection is kept unused; common servers close after 60."""
KEPT_SILENCE_S = 3.0
"""Seconds without a word on a kept connection after which a new one is asked: downloads cost nothing."""
_ERROR_BODY_MAX = 16 * 1024
_VISIBLE = re.compile(r"[!-~]+")
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


class Storage:
    """Downloads by signed URL. An async context manager, which closes what is idle at its end.

    `connect_timeout`: seconds for name lookup, TCP, proxy and TLS together. `inactivity_timeout`: seconds for
    a head, and between two pieces of a body. `max_idle`: connections kept per host; how many are open at once
    is the caller's to limit. Plain http is only spoken to this machine, or with `allow_plain_http`.

    Where the API's last answer came from (`RequestStats.api_locality`) says how near a URL may lead: to this machine
    if the
    API is here, to private networks if it is in one or with `allow_plain_http`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        request_stats: RequestStats,
        connect_timeout: float = 10.0,
        inactivity_timeout: float = 30.0,
        max_idle: int = 64,
        allow_plain_http: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._request_stats = request_stats
        least = Locality.PRIVATE if allow_plain_http else Locality.PUBLIC
        self._dialer = Dialer(
            connect_timeout=connect_timeout,
            nearest=lambda: max(request_stats.api_locality, least),
            ssl_context=ssl_context,
        )
        self._inactivity = inactivity_timeout
        self._kept_patience = ReusedConnectionTimeout(KEPT_SILENCE_S, inactivity_timeout)
        self._max_idle = max_idle
        self._allow_plain_http = allow_plain_http
        self._idle: dict[Origin, list[Connection]] = {}
        """Kept connections, the one used last at the end."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._max_idle = 0  # downloads that still run close their connection
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def get(
        self, url: str, *, start: int = 0, end: int | None = None, if_range: str | None = None
    ) -> AsyncIterator[Body]:
        """The bytes of `url` from `start` up to, not including, `end` (None: the last).

        The server may ignore the range: `Body.ranged` tells. With `if_range`, a strong entity tag, it does so
        when the object is another one by now. A body that is not read to its end costs the connection.

        Raises `UrlExpired` (400, 401, 403), `NoSuchEntry` (404, 410), `Invalid` (416: no such range),
        `Throttled` (429, or 503 with Retry-After), `ServerFault` (other 5xx, 408, a broken connection),
        `ServerUnreachable` (name, TCP, TLS, proxy), `TimedOut`, `InvalidResponse` for a URL or an answer without sense.
        """
        connection: Connection | None = None
        try:
            try:
                origin, request = self._request(url, range_headers(start, end, if_range))
                connection, head = await self._ask(origin, request)
                if head.status not in (200, 206):
                    raise await self._refusal(origin, head, connection)
                pull = partial(self._receive, origin, connection)
                body = described(
                    head.status, head.headers, pull, self._request_stats.failed, start=start, end=end
                )
            except PictofsError as error:
                self._request_stats.failed(error)
                raise
            yield body
        finally:
            if connection is not None:
                self._release(origin, connection)

    def _request(self, url: str, extra: dict[str, str]) -> tuple[Origin, bytes]:
        """Where `url` leads and the request for it, with path and query as signed. Raises `InvalidResponse`."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidResponse("the API sent a signed URL that is no URL") from error
        if (
            parts.scheme not in PORTS
            or not parts.hostname
            or "@" in parts.netloc
            or not _VISIBLE.fullmatch(url)
        ):
            raise InvalidResponse("the API sent a signed URL that is no plain http or https URL")
        origin = Origin(parts.scheme, parts.hostname, port or PORTS[parts.scheme])
        if origin.scheme == "http" and not self._allow_plain_http and not is_loopback(origin.host):
            raise InvalidResponse(f"the API sent a signed URL without https, for {origin.host}")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = []
        if origin.scheme == "http" and (relay := self._dialer.relay(origin)):
            target = f"http://{parts.netloc}{target}"
            lines = authorization(relay)
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"User-Agent: {USER_AGENT}",
            "Accept: */*",
            "Accept-Encoding: identity",
            *lines,
            *(f"{name}: {value}" for name, value in extra.items()),
            "\r\n",
        ]
        return origin, "\r\n".join(lines).encode("ascii")

    async def _ask(self, origin: Origin, request: bytes) -> tuple[Connection, Head]:
        """A connection on which `request` was answered, and the head of the answer."""
        connection = self._kept(origin)
        if connection is not None:
            head = await self._ask_kept(origin, request, connection)
            if head is not None:
                return connection, head
            self._request_stats.retries += 1

        connection = await self._dialer.connect(origin)
        self._request_stats.connections += 1
        try:
            head = await self._ask_on(connection, request, self._inactivity)
        except ConnectionGone as gone:
            raise ServerFault(f"{origin.host}: {gone}") from gone
        if head is None:
            raise TimedOut(f"{origin.host}: no answer within {self._inactivity:g} s")
        return connection, head

    async def _ask_kept(self, origin: Origin, request: bytes, connection: Connection) -> Head | None:
        """The answer on a kept connection; None where it is dead, so that another one has to be asked."""
        asked_at = self._clock.monotonic()
        try:
            head = await self._ask_on(connection, request, self._kept_patience.seconds)
        except ConnectionGone as gone:
            # A server that closes what lies idle says nothing about this request, nor about other connections.
            if gone.broken:
                self._drop(asked_at)
            return None
        if head is None:
            self._drop(asked_at)
        return head

    async def _ask_on(self, connection: Connection, request: bytes, patience: float) -> Head | None:
        """The head of the answer, None where none comes within `patience` seconds; then, and where this raises
        (`Gone` among others), the connection is closed."""
        status = UNANSWERED
        started = trio.current_time()
        self._request_stats.sent("storage", "GET")
        try:
            # Not trio.move_on_after, here and below: its generators cost 10 us more, three times for each file.
            with trio.CancelScope(relative_deadline=patience):
                head = await connection.ask(request)
                self._kept_patience.took(trio.current_time() - started)
                status = str(head.status)
                return head
            return None
        finally:
            self._request_stats.ended("storage", "GET", status)
            if status == UNANSWERED:
                connection.close()

    def _drop(self, before: float) -> None:
        """Close what has lain idle since `before` (monotonic seconds), whatever it leads to: the way is gone."""
        for origin, connections in list(self._idle.items()):
            for connection in connections:
                if connection.idle_since <= before:
                    connection.close()
            self._idle[origin] = [each for each in connections if each.idle_since > before]
            if not self._idle[origin]:
                del self._idle[origin]

    async def _receive(self, origin: Origin, connection: Connection) -> bytes:
        asked_at = self._clock.monotonic()
        try:
            with trio.CancelScope(relative_deadline=self._inactivity):
                piece = await connection.receive()
                self._request_stats.bytes_in["storage"] += len(piece)
                return piece
        except ServerFault:
            self._drop(asked_at)
            raise
        self._drop(asked_at)
        raise TimedOut(f"{origin.host}: the transfer stood still for {self._inactivity:g} s")

    async def _refusal(self, origin: Origin, head: Head, connection: Connection) -> PictofsError:
        """The error for a status; its body is read, so that the connection can serve on."""
        body = b""
        try:
            if int(head.headers.get("content-length", _ERROR_BODY_MAX)) < _ERROR_BODY_MAX:
                with trio.CancelScope(relative_deadline=self._inactivity):
                    while piece := await self._receive(origin, connection):
                        body += piece
        except (PictofsError, ValueError):
            pass  # the status says enough
        code = _CODE.search(body)
        said = f"{origin.host} answered HTTP {head.status}" + (f" ({code[1].decode()})" if code else "")
        status = head.status
        if status in (400, 401, 403):
            return UrlExpired(f"{said}: the signed URL is not accepted any more")
        if status in (404, 410):
            return NoSuchEntry(f"{said}: the object is not there")
        if status == 416:
            return Invalid(f"{said}: the object has no such range")
        wait = retry_after(head.headers, self._clock.wall())
        if status == 429 or (status == 503 and wait is not None):
            return Throttled(f"{said}: too many requests", wait)
        if status == 408 or status >= 500:
            return ServerFault(f"{said}: the storage failed")
        return InvalidResponse(
            f"{said}: an answer outside the contract" + "; redirects are not followed" * (status < 400)
        )

    def _kept(self, origin: Origin) -> Connection | None:
        """The connection used last that still seems alive; the others that are not get closed."""
        oldest = self._clock.monotonic() - IDLE_SECONDS
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.idle_since >= oldest and connection.is_quiet:
                return connection
            connection.close()
        return None

    def _release(self, origin: Origin, connection: Connection) -> None:
        """Keep the connection if it can serve on, and close those that nobody needed for long."""
        now = self._clock.monotonic()
        connections = self._idle.setdefault(origin, [])
        while connections and connections[0].idle_since < now - IDLE_SECONDS:
            connections.pop(0).close()
        if connection.reusable and len(connections) < self._max_idle:
            connection.idle_since = now
            connections.append(connection)
        else:
            connection.close()
        if not connections:
            del self._idle[origin]
