"""One request and its answer on the keyed API: sending, retrying, naming what went wrong."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import httpx
import trio

from pictofs.api.address import (
    USER_AGENT,
    Address,
    Locality,
    is_loopback,
    item_of,
    literal,
    locality,
)
from pictofs.api.connection import Connection, ConnectionGone
from pictofs.api.dialer import verifying_context
from pictofs.api.failure import (
    CHECK_NETWORK,
    RETRYABLE,
    api_failure,
    clean,
    http_date,
    retry_after,
    web_page,
)
from pictofs.api.http_transport import HttpTransport, Sending
from pictofs.api.key import ApiKey
from pictofs.api.proxies import PORTS, Proxies
from pictofs.api.retries import API_CALL, Pace, Retries, ReusedConnectionTimeout
from pictofs.api.stats import RequestStats
from pictofs.clock import Clock
from pictofs.errors import (
    Invalid,
    InvalidResponse,
    PictofsError,
    ServerFault,
    Throttled,
    TimedOut,
)

T = TypeVar("T")

FAILURES = (PictofsError, ConnectionGone, httpx.HTTPError)
"""What an exchange raises. httpx's own: an answer that can't be decompressed."""

BODY_MAX_BYTES = 256 * 1024 * 1024
"""Bytes of an answer; the largest legitimate one, 10,000 download items, has about 10 MiB."""
_BLANK = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first tag of a web page."""
_ERROR_BODY_MAX = 64 * 1024
_HEADERS = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
}
_KEPT_SILENCE_S = 5.0
"""Seconds of silence on a kept connection before a new one is tried: that may cost a request."""


class SharedBudget(Protocol):
    """The rate limit as several nodes spend it together."""

    async def take(self) -> None:
        """Called before a request is sent. Raises Throttled if a background one must wait."""

    def heard(self) -> None:
        """Called after an answer, or a refusal, was counted."""


class Answer(NamedTuple):
    """A 2xx answer, read to its end."""

    body: bytes
    served_at: float | None
    """Unix seconds on the server's clock (its Date header)."""


class _Failed(Exception):
    """A failed attempt. `again`: whether to retry; `asked`: Retry-After in seconds."""

    def __init__(self, error: PictofsError, *, again: bool, asked: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.asked = asked


def api_root(base_url: str, *, allow_plain_http: bool) -> str:
    """The URL that every route starts with. A path prefix is kept, a trailing slash is not.

    Raises `Invalid` if `base_url` is not a base URL, or if it is plain http to another machine:
    the key would be readable on the way.
    """
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"the base URL is not a URL: {error}") from error

    if (
        url.scheme not in ("http", "https")
        or not url.host
        or url.userinfo
        or url.query
        or url.fragment
    ):
        raise Invalid(
            "the base URL must look like https://api.pictograph.io, without user, query or fragment"
        )
    if url.scheme == "http" and not allow_plain_http and not is_loopback(url.host):
        raise Invalid(
            f"plain http would show the API key on the way to {url.host}", hint="use https"
        )

    return str(url).rstrip("/") + "/api/v1/developer"


class ApiTransport:
    """Sends requests to the API's host and to no other. Arguments as for `Api`."""

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey,
        *,
        clock: Clock,
        request_stats: RequestStats,
        timeout: float,
        max_retries: int,
        max_wait: float,
        allow_plain_http: bool,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._root = api_root(base_url, allow_plain_http=allow_plain_http)
        self._api_key = api_key
        self._clock = clock
        self._request_stats = request_stats
        self._timeout = timeout
        self._retry_policy = replace(API_CALL, max_retries=max_retries, total_wait=max_wait)
        self.budget: SharedBudget | None = None
        """What other nodes spend of the same limit; None: this node is by itself."""
        # By route: a listing takes longer than a file.
        self._kept_patience: dict[str, ReusedConnectionTimeout] = {}

        url = httpx.URL(self._root)
        self._host = url.netloc.decode("ascii")
        self._base = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._proxy = Proxies().find(url.scheme, url.host, url.port or PORTS[url.scheme])
        if (address := literal(url.host)) is not None:
            self._note_address(address)

        try:
            self._transport = transport or HttpTransport(
                clock=clock,
                timeout=timeout,
                ssl_context=verifying_context(),
                connected=self._note_peer,
            )
        except (ImportError, OSError, ValueError) as error:
            # The certificate file does not exist, for example.
            raise Invalid(
                f"what SSL_CERT_FILE or SSL_CERT_DIR names can't be used: {clean(str(error))}",
                hint="name a file of certificates in PEM format, or unset it",
            ) from error

    def _note_address(self, address: Address) -> None:
        """Note that the API is at `address`. Signed URLs may lead as near as that."""
        where = locality(address)
        # NOWHERE is the highest value. As a bound it would let every address pass.
        if where is Locality.NOWHERE:
            where = Locality.PUBLIC

        self._request_stats.api_locality = where

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.aclose()

    async def call(
        self,
        method: str,
        route: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and read the answer. Errors and counters show the template `route`.

        GETs and requests with an Idempotency-Key are retried. Raises what `Api` lists.
        """
        name = f"{method} {route}"
        safe = method == "GET" or "Idempotency-Key" in (headers or {})

        async def once() -> Answer:
            request = self._request(method, path, params=params, json=json, headers=headers)
            response = await self._open(name, request, safe=safe)
            try:
                body = await self._read(response, safe=safe, limit=BODY_MAX_BYTES)
            finally:
                await response.aclose()

            if body[:64].lstrip(_BLANK)[:1] == b"<":
                raise _Failed(web_page(self._base), again=False)

            return Answer(body, http_date(response.headers.get("date")))

        return await self._persist(name, once)

    @asynccontextmanager
    async def stream(
        self, route: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[int, httpx.Headers, Callable[[], Awaitable[bytes]]]]:
        """Open a GET. Yields status, headers and a function that returns the next bytes.

        The function returns b"" at the end.
        """
        name = f"GET {route}"

        async def once() -> httpx.Response:
            return await self._open(name, self._request("GET", path, headers=headers), safe=True)

        response = await self._persist(name, once)
        pieces = response.aiter_raw()

        async def pull() -> bytes:
            try:
                async for piece in pieces:
                    if piece:
                        self._request_stats.bytes_in["api"] += len(piece)
                        return piece
            except FAILURES as error:
                raise self._named(error) from error

            return b""

        try:
            yield response.status_code, response.headers, pull
        finally:
            await response.aclose()
            # An unread body leaves five generators suspended. The closed connection ends them here,
            # not in the garbage collector, of which trio would warn.
            with suppress(httpx.StreamError):
                async for _ in pieces:
                    pass

    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Request:
        every = {**_HEADERS, "X-API-Key": self._api_key.reveal(), **(headers or {})}
        try:
            return httpx.Request(method, self._root + path, headers=every, **fields)
        except (ValueError, httpx.InvalidURL) as error:
            # A lone surrogate in a name, or a URL of more than 64 KiB.
            raise Invalid("a name in the request can't be sent; use an id") from error

    async def _persist(self, name: str, once: Callable[[], Awaitable[T]]) -> T:
        """The result of `once`, retried while the policy and the error allow it.

        An error that retries did not help against, or that nothing was sent for, is final.
        """
        retries = Retries(self._clock, self._retry_policy)
        while True:
            try:
                if self.budget is not None:
                    await self.budget.take()
                self._admit(name)
                return await once()
            except _Failed as failure:
                error = failure.error
                cause = failure.__cause__

                # A 503 whose Retry-After is too long tells the caller how long to wait.
                too_long = failure.asked is not None and failure.asked > retries.left
                if too_long and isinstance(error, ServerFault):
                    error = Throttled(error.message, failure.asked)

                error.final = error.final or failure.again
                again = failure.again and await retries.wait(failure.asked, error)
            except PictofsError as unsent:
                unsent.final = True
                self._request_stats.failed(unsent)
                raise

            if not again:
                self._request_stats.failed(error)
                raise error from cause

            self._request_stats.retries += 1

    def _admit(self, name: str) -> None:
        """Raise if a request must not be sent: `_Failed` if the server would refuse it anyway."""
        now = self._clock.wall()
        self._request_stats.admit(now)
        refusal = self._request_stats.refusal(name, now, self._clock.chance())
        if refusal is None:
            return
        if isinstance(refusal, Throttled):
            raise _Failed(refusal, again=True, asked=refusal.retry_after)

        raise _Failed(refusal, again=False)

    async def _open(self, name: str, request: httpx.Request, *, safe: bool) -> httpx.Response:
        """The head of a 2xx answer. Raises `_Failed`."""
        patience = self._kept_patience.setdefault(
            name, ReusedConnectionTimeout(_KEPT_SILENCE_S, self._timeout)
        )
        # A request that can't be repeated must not use a connection that may be dead.
        sending = Sending(patience, self._timeout, fresh=not safe)

        try:
            response, heard = await self._send(name, request, sending)
        except FAILURES as error:
            if not (sending.kept and safe):
                raise self._failed(error, safe=safe) from error

            # A dead kept connection says nothing of the server.
            self._request_stats.retries += 1
            sending = Sending(patience, self._timeout, fresh=True)
            try:
                response, heard = await self._send(name, request, sending)
            except FAILURES as another:
                raise self._failed(another, safe=safe) from another

        served_at = http_date(response.headers.get("date"))
        now = self._clock.wall()
        self._request_stats.answered(
            name, response.status_code, response.headers, now, served_at, heard
        )
        if served_at is not None:
            self._request_stats.server_time.heard(served_at, self._clock.monotonic())
        if response.is_success:
            if self.budget is not None:
                self.budget.heard()
            return response

        try:
            body = await self._read(response, safe=safe, limit=_ERROR_BODY_MAX)
        except _Failed:
            body = b""  # the status says enough
        finally:
            await response.aclose()

        raise self._refused(name, request, response, body, safe=safe)

    async def _send(
        self, name: str, request: httpx.Request, sending: Sending
    ) -> tuple[httpx.Response, int]:
        """The head of an answer, and what `RequestStats.ask` yielded. Raises `FAILURES`."""
        with self._request_stats.ask(name) as heard:
            request.extensions = {**request.extensions, "sending": sending}
            with sending.scope:
                # Not by httpx's client, which looks for cookies and redirects: 0.1 ms.
                response = await self._transport.handle_async_request(request)
                sending.answered()
                return response, heard

            raise TimedOut(f"{self._host}: no answer in time", hint=CHECK_NETWORK)

    def _note_peer(self, connection: Connection) -> None:
        """Note a new connection, to the API or to the proxy."""
        if self._proxy is None:
            self._note_address(ipaddress.ip_address(connection.socket.getpeername()[0]))

    def _refused(
        self,
        name: str,
        request: httpx.Request,
        response: httpx.Response,
        body: bytes,
        *,
        safe: bool,
    ) -> _Failed:
        now = self._clock.wall()
        status = response.status_code
        asked = None
        if status in (429, 503):
            asked = retry_after(response.headers, now)

        if status == 429:
            self._request_stats.throttled(now, asked)

        error = api_failure(
            name,
            status,
            response.headers,
            body,
            host=self._host,
            item=self._item(name, request),
            api_key=self._api_key,
            now=now,
        )
        if status in (401, 402, 429):
            silence = self._request_stats.refused(name, error, now, asked, self._clock.chance())
            if self.budget is not None:
                self.budget.heard()
            # A 429 is retried once the silence that was decided on is over.
            asked = silence if status == 429 else None

        # 429 says that the request was not processed, so even an unsafe one may be repeated.
        again = status == 429 or (safe and status in RETRYABLE)
        return _Failed(error, again=again, asked=asked)

    async def _read(self, response: httpx.Response, *, safe: bool, limit: int) -> bytes:
        """The whole body, decompressed. Raises `_Failed`."""
        pieces: list[bytes] = []
        size = 0
        pace = Pace()
        asked_at = trio.current_time()

        try:
            async for piece in response.aiter_bytes():
                now = trio.current_time()
                pace.came(len(piece), now - asked_at)
                asked_at = now
                size += len(piece)
                if size > limit:
                    raise _Failed(
                        InvalidResponse(f"{self._host}: the answer is larger than {limit} bytes"),
                        again=False,
                    )

                pieces.append(piece)
        except FAILURES as error:
            raise self._failed(error, safe=safe) from error
        finally:
            self._request_stats.bytes_in["api"] += size

        return b"".join(pieces)

    def _item(self, name: str, request: httpx.Request) -> str:
        """What a request is about; see `item_of`."""
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        prefix = httpx.URL(self._root).raw_path.decode("ascii")
        item = item_of(name.partition(" ")[2], path.removeprefix(prefix))
        return clean(self._api_key.scrub(item))

    def _failed(self, error: Exception, *, safe: bool) -> _Failed:
        named = self._named(error)
        return _Failed(named, again=safe and not named.final)

    def _named(self, error: Exception) -> PictofsError:
        """A failure of the exchange, which names the host or the proxy."""
        text = clean(
            self._api_key.scrub(error.message if isinstance(error, PictofsError) else str(error))
        )
        if isinstance(error, PictofsError):
            named = type(error)(text, hint=error.hint)
            named.final = error.final
            return named
        if isinstance(error, ConnectionGone):
            return ServerFault(f"{self._host}: the connection broke: {text}")

        return InvalidResponse(f"{self._host}: the exchange failed: {text}")
