"""One request and its answer on the keyed API: sending, retrying, naming what went wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx

from pictofs.api.address import USER_AGENT, is_loopback
from pictofs.api.failure import RETRYABLE, api_failure, clean, retry_after
from pictofs.api.key import ApiKey
from pictofs.api.meter import Meter
from pictofs.api.patience import Patience
from pictofs.clock import Clock
from pictofs.errors import Invalid, Nonsense, Offline, PictofsError, ServerFault, Throttled, TimedOut

T = TypeVar("T")

BODY_MAX = 256 * 1024 * 1024
"""Bytes of an answer; the largest legitimate one, 10,000 download items, has about 10 MiB."""
_ERROR_BODY_MAX = 64 * 1024
_CONNECTIONS = 16
"""More cost more: at 32 httpx spends three times the CPU per request that it spends at 8."""
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")


class Answer(NamedTuple):
    """A 2xx answer, read to its end."""

    body: bytes
    served_at: float | None
    """Unix seconds on the server's clock (its Date header)."""


class _Failed(Exception):
    """An attempt that did not work: the error to show, and whether another attempt makes sense."""

    def __init__(self, error: PictofsError, *, again: bool, asked: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.asked = asked


def api_root(base_url: str, *, allow_plain_http: bool) -> str:
    """The URL that every route starts with: a prefix is kept, a trailing slash is not.

    Raises `Invalid` for what is no base URL, and for plain http to another machine: the key would be readable
    on the way.
    """
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"the base URL is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise Invalid(
            "the base URL must look like https://api.pictograph.io, without user, query or fragment"
        )
    if url.scheme == "http" and not allow_plain_http and not is_loopback(url.host):
        raise Invalid(f"plain http would show the API key on the way to {url.host}; use https")
    return str(url).rstrip("/") + "/api/v1/developer"


class Exchange:
    """Sends requests to the API's host and to no other. Arguments as for `Api`."""

    def __init__(
        self,
        base_url: str,
        key: ApiKey,
        *,
        clock: Clock,
        meter: Meter,
        timeout: float,
        max_retries: int,
        max_wait: float,
        allow_plain_http: bool,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._root = api_root(base_url, allow_plain_http=allow_plain_http)
        self._key = key
        self._clock = clock
        self._meter = meter
        self._max_retries = max_retries
        self._max_wait = max_wait
        try:
            self._client = httpx.AsyncClient(
                headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
                timeout=timeout,
                limits=httpx.Limits(
                    max_connections=_CONNECTIONS,
                    max_keepalive_connections=_CONNECTIONS,
                    keepalive_expiry=30.0,
                ),
                follow_redirects=False,
                trust_env=True,
                mounts=dict.fromkeys(_LOOPBACK),  # a proxy's loopback is not ours
                transport=transport,
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            # A proxy that is not spoken, a proxy that is no URL, a certificate file that is not there.
            raise Invalid(
                f"check the environment's *_PROXY and SSL_CERT_FILE: {clean(str(error))}"
            ) from error

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

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
        """Send a request and read the answer; `route` is the template that errors and counters show.

        GETs and requests with an Idempotency-Key are repeated. Raises what `Api` lists.
        """
        name = f"{method} {route}"
        safe = method == "GET" or "Idempotency-Key" in (headers or {})

        async def once() -> Answer:
            request = self._request(method, path, params=params, json=json, headers=headers)
            response = await self._open(name, request, safe=safe)
            try:
                body = await self._read(name, response, safe=safe, limit=BODY_MAX)
            finally:
                await response.aclose()
            return Answer(body, _date(response.headers.get("date")))

        return await self._persist(name, once)

    @asynccontextmanager
    async def stream(
        self, route: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[int, httpx.Headers, Callable[[], Awaitable[bytes]]]]:
        """Open a GET: its status, its headers, and a function that gives its bytes piece by piece."""
        name = f"GET {route}"

        async def once() -> httpx.Response:
            return await self._open(name, self._request("GET", path, headers=headers), safe=True)

        response = await self._persist(name, once)
        pieces = response.aiter_raw()

        async def pull() -> bytes:
            try:
                async for piece in pieces:
                    if piece:
                        self._meter.bytes_in["api"] += len(piece)
                        return piece
            except httpx.HTTPError as error:
                raise self._transport_failure(name, error) from error
            return b""

        try:
            yield response.status_code, response.headers, pull
        finally:
            await response.aclose()
            # A body left half-way leaves five generators half-way too. On the closed connection they end at
            # once, here rather than in the garbage collector, of which trio would warn.
            with suppress(httpx.HTTPError, httpx.StreamError):
                async for _ in pieces:
                    pass

    def _request(self, method: str, path: str, **fields: Any) -> httpx.Request:
        try:
            request = self._client.build_request(method, self._root + path, **fields)
        except (ValueError, httpx.InvalidURL) as error:  # a lone surrogate in a name, a URL of 64 KiB
            raise Invalid("a name in the request can't be sent; use an id") from error
        request.headers["X-API-Key"] = self._key.reveal()
        return request

    async def _persist(self, name: str, once: Callable[[], Awaitable[T]]) -> T:
        """Repeat `once` as long as that makes sense."""
        patience = Patience(self._clock, self._max_retries, self._max_wait)
        while True:
            try:
                self._meter.admit(self._clock.wall())
                return await once()
            except _Failed as failure:
                error, cause = failure.error, failure.__cause__
                too_long = failure.asked is not None and failure.asked > patience.left
                if too_long and isinstance(error, ServerFault):
                    error = Throttled(str(error), failure.asked)
                again = failure.again and not too_long and await patience.wait(failure.asked)
            except PictofsError as unsent:
                self._meter.failed(unsent)
                raise
            if not again:
                self._meter.failed(error)
                raise error from cause
            self._meter.retries += 1

    async def _open(self, name: str, request: httpx.Request, *, safe: bool) -> httpx.Response:
        """The head of a 2xx answer. Raises `_Failed`."""
        try:
            with self._meter.ask(name) as heard:
                response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _Failed(self._transport_failure(name, error), again=safe) from error
        served_at, now = _date(response.headers.get("date")), self._clock.wall()
        self._meter.answered(name, response.status_code, response.headers, now, served_at, heard)
        if response.is_success:
            return response
        try:
            body = await self._read(name, response, safe=safe, limit=_ERROR_BODY_MAX)
        except _Failed:
            body = b""  # the status says enough
        finally:
            await response.aclose()
        raise self._refused(name, response, body, safe=safe)

    def _refused(self, name: str, response: httpx.Response, body: bytes, *, safe: bool) -> _Failed:
        now, status = self._clock.wall(), response.status_code
        asked = retry_after(response.headers, now) if status in (429, 503) else None
        if status == 429:
            self._meter.throttled(now, asked)
        error = api_failure(name, status, response.headers, body, key=self._key, now=now)
        # 429 says that the request was not processed: it may be repeated even where a 502 may not.
        return _Failed(error, again=status == 429 or (safe and status in RETRYABLE), asked=asked)

    async def _read(self, name: str, response: httpx.Response, *, safe: bool, limit: int) -> bytes:
        """The whole body, decompressed. Raises `_Failed`."""
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > limit:
                    raise _Failed(Nonsense(f"{name}: the answer is larger than {limit} bytes"), again=False)
                pieces.append(piece)
        except httpx.HTTPError as error:
            raise _Failed(self._transport_failure(name, error), again=safe) from error
        finally:
            self._meter.bytes_in["api"] += size
        return b"".join(pieces)

    def _transport_failure(self, name: str, error: httpx.HTTPError) -> PictofsError:
        detail = clean(self._key.scrub(str(error))) or type(error).__name__
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"{name}: no answer in time ({type(error).__name__}); check the network")
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return Offline(f"{name}: the API can't be reached: {detail}; check the network and the base URL")
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
            return ServerFault(f"{name}: the connection broke: {detail}")
        return Nonsense(f"{name}: the exchange failed: {detail}")


def _date(value: str | None) -> float | None:
    """Unix seconds of an HTTP-date."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
