"""`Storage`: downloads of signed URLs, lean enough for a hundred thousand small files.

It knows no key and sends no cookie: a storage host gets to see nothing but a signed URL. Redirects
are not followed. The caller resumes a broken download; the only retry here is for a kept connection
that turns out to be dead.
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
from pictofs.api.dialer import Dialer
from pictofs.api.failure import retry_after
from pictofs.api.origin import Origin
from pictofs.api.pool import ConnectionPool
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

KEPT_SILENCE_S = 3.0
"""Seconds of silence on a kept connection before a new one is tried: downloads cost nothing."""
_ERROR_BODY_MAX = 16 * 1024
_VISIBLE = re.compile(r"[!-~]+")
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


class Storage:
    """Downloads by signed URL. An async context manager, which closes idle connections at its end.

    `connect_timeout`: seconds for name lookup, TCP, proxy and TLS together. `inactivity_timeout`:
    seconds until the head, and between two pieces of the body. `max_idle`: idle connections kept
    per host; the caller limits how many are open. Plain http is only used to reach this machine,
    or with `allow_plain_http`.

    How near a URL may lead depends on where the API is (`RequestStats.api_locality`): to this
    machine if the API is here, to private networks if the API is in one or with `allow_plain_http`.
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
        self._pool = ConnectionPool(clock, max_idle)
        self._allow_plain_http = allow_plain_http

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Downloads that still run close their connection.
        self._pool.close()

    @asynccontextmanager
    async def get(
        self, url: str, *, start: int = 0, end: int | None = None, if_range: str | None = None
    ) -> AsyncIterator[Body]:
        """The bytes of `url` from offset `start` up to but not including `end` (None: to the end).

        The server may ignore the range, see `Body.ranged`. With `if_range`, a strong entity tag, it
        does so if the object has changed. A body that is not read to its end costs the connection.

        Raises:
            UrlExpired: 400, 401 or 403.
            NoSuchEntry: 404 or 410.
            Invalid: 416, there is no such range.
            Throttled: 429, or 503 with Retry-After.
            ServerFault: another 5xx, 408, or a broken connection.
            ServerUnreachable: name lookup, TCP, TLS or the proxy failed.
            TimedOut: a timeout passed.
            InvalidResponse: the URL or the answer makes no sense.
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
                    head.status,
                    head.headers,
                    pull,
                    self._request_stats.failed,
                    start=start,
                    end=end,
                )
            except PictofsError as error:
                self._request_stats.failed(error)
                raise

            yield body
        finally:
            if connection is not None:
                self._pool.give_back(origin, connection)

    def _request(self, url: str, extra: dict[str, str]) -> tuple[Origin, bytes]:
        """The origin of `url`, and the request for it with path and query exactly as signed.

        Raises `InvalidResponse`.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidResponse("the API sent a signed URL that is no URL") from error

        # A blank or a control character in the URL could forge a header line.
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

        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"

        target, for_proxy = self._dialer.request_target(origin, parts.netloc, target)
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"User-Agent: {USER_AGENT}",
            "Accept: */*",
            "Accept-Encoding: identity",
            *for_proxy,
            *(f"{name}: {value}" for name, value in extra.items()),
            "\r\n",
        ]
        return origin, "\r\n".join(lines).encode("ascii")

    async def _ask(self, origin: Origin, request: bytes) -> tuple[Connection, Head]:
        """The connection on which `request` was answered, and the head of the answer."""
        connection = self._pool.take(origin)
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

    async def _ask_kept(
        self, origin: Origin, request: bytes, connection: Connection
    ) -> Head | None:
        """The head of the answer on a kept connection, None if that connection is dead."""
        asked_at = self._clock.monotonic()
        try:
            head = await self._ask_on(connection, request, self._kept_patience.seconds)
        except ConnectionGone as gone:
            # An orderly close of an idle connection says nothing about the other connections.
            if gone.broken:
                self._pool.drop(asked_at)
            return None

        if head is None:
            self._pool.drop(asked_at)

        return head

    async def _ask_on(self, connection: Connection, request: bytes, patience: float) -> Head | None:
        """The head of the answer, None if it does not come within `patience` seconds.

        The connection is closed in that case, and if this raises (`ConnectionGone`, for example).
        """
        status = UNANSWERED
        started = trio.current_time()
        self._request_stats.sent("storage", "GET")

        try:
            # Not trio.move_on_after, here and below: its generators cost 10 us more, three times
            # for each file.
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

    async def _receive(self, origin: Origin, connection: Connection) -> bytes:
        piece = await self._pool.receive(
            connection, self._inactivity, f"{origin.host}: the transfer"
        )
        self._request_stats.bytes_in["storage"] += len(piece)
        return piece

    async def _refusal(self, origin: Origin, head: Head, connection: Connection) -> PictofsError:
        """The error for a status. A short body is read, so that the connection can be kept."""
        body = b""
        try:
            if int(head.headers.get("content-length", _ERROR_BODY_MAX)) < _ERROR_BODY_MAX:
                with trio.CancelScope(relative_deadline=self._inactivity):
                    while piece := await self._receive(origin, connection):
                        body += piece
        except (PictofsError, ValueError):
            pass  # the status says enough

        status = head.status
        said = f"{origin.host} answered HTTP {status}"
        if code := _CODE.search(body):
            said += f" ({code[1].decode()})"

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
            f"{said}: an answer outside the contract"
            + "; redirects are not followed" * (status < 400)
        )
