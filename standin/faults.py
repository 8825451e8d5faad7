"""Faults as data: on which requests, how often, and what happens instead of a right answer."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from standin.exchange import (
    CONNECTED,
    App,
    Collected,
    Exchange,
    Message,
    Receive,
    Send,
    drained,
    without_length,
)

_STEP = 0.02


class Action(Protocol):
    """What is done to a request."""

    async def __call__(self, exchange: Exchange) -> None:
        """Answer the exchange, or end its connection."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are meant: the host, the method, and the path.

    `path` is a route template or a regular expression. A template such as
    `/datasets/{dataset}/download` is compared with the route that answers; anything else is
    searched for in the undecoded path.
    """

    host: str | None = None
    method: str | None = None
    path: str | None = None

    def takes(self, host: str, method: str, path: str, route: str | None) -> bool:
        """Whether a request matches. `route` is the template that answers it, if there is one."""
        return (
            (self.host is None or self.host == host)
            and (self.method is None or self.method == method)
            and (self.path is None or self.path == route or re.search(self.path, path) is not None)
        )


@dataclass(slots=True)
class Fault:
    """An action on the requests that match.

    It acts `times` times at most (None: always), each time with a probability from a seeded die.
    """

    on: Match
    do: Action
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    hits: int = 0
    _die: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._die = random.Random(self.seed)

    def strikes(self, host: str, method: str, path: str, route: str | None) -> bool:
        """Whether this request is hit; counts it."""
        if self.times is not None and self.hits >= self.times:
            return False
        if not self.on.takes(host, method, path, route):
            return False
        if self.probability < 1.0 and self._die.random() >= self.probability:
            return False

        self.hits += 1
        return True


class Faults:
    """The faults in force. All that match act, the first one outermost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force; it is returned so that its `hits` can be read."""
        with self._lock:
            self._faults = [*self._faults, fault]

        return fault

    def remove(self, fault: Fault) -> None:
        """Take a fault back."""
        with self._lock:
            self._faults = [each for each in self._faults if each is not fault]

    def clear(self) -> None:
        """Take all faults back."""
        with self._lock:
            self._faults = []

    def __len__(self) -> int:
        return len(self._faults)

    def around(self, app: App, host: str, method: str, path: str, route: str | None) -> App:
        """The app with the faults that hit this request around it."""
        with self._lock:
            hit = [fault for fault in self._faults if fault.strikes(host, method, path, route)]

        for fault in reversed(hit):
            app = _acting(app, fault.do)

        return app


def _acting(app: App, action: Action) -> App:
    async def act(scope: Any, receive: Receive, send: Send) -> None:
        await action(Exchange(app, scope, receive, send))

    return act


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer with a fixed status, body and headers; the app is never asked."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, exchange: Exchange) -> None:
        """Send it."""
        headers = [(key.lower().encode(), value.encode()) for key, value in self.headers.items()]
        await exchange.answer(Collected(self.status, headers, self.body))


def error(
    status: int,
    code: str = "internal_error",
    *,
    retry_after: str | float | None = None,
) -> Respond:
    """An error in the vendor's envelope; `retry_after` is seconds or an HTTP date."""
    detail = {"error": {"code": code, "message": code, "details": None}, "detail": code}
    headers = {"content-type": "application/json"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)

    return Respond(status, msgspec.json.encode(detail), headers)


def throttled(retry_after: str | float | None = None) -> Respond:
    """429, with `Retry-After` if it is given."""
    return error(429, "rate_limited", retry_after=retry_after)


def redirect(location: str, status: int = 307) -> Respond:
    """A redirect. No client of this API may follow one with its key."""
    return Respond(status, b"", {"location": location})


def html(status: int = 200) -> Respond:
    """A web page in place of JSON or image bytes, as a captive portal sends."""
    page = b"<html><body>Sign in to the network</body></html>"
    return Respond(status, page, {"content-type": "text/html"})


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before the answer."""

    seconds: float

    async def __call__(self, exchange: Exchange) -> None:
        """Wait, then let the answer come."""
        await asyncio.sleep(self.seconds)
        await exchange.proceed()


@dataclass(frozen=True, slots=True)
class Hang:
    """Accept and never answer; it ends if the client gives up or the host stops."""

    async def __call__(self, exchange: Exchange) -> None:
        """Wait for the end of the connection."""
        await exchange.gone()


@dataclass(frozen=True, slots=True)
class Silent:
    """Answer only on connections that are newer than this fault, as after a change of network."""

    since: float = field(default_factory=time.monotonic)

    async def __call__(self, exchange: Exchange) -> None:
        """Wait for the end of an old connection; answer on a new one."""
        if exchange.scope[CONNECTED] < self.since:
            await exchange.gone()
        else:
            await exchange.proceed()


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with RST, before the answer or after `after` bytes of its body."""

    after: int | None = None

    async def __call__(self, exchange: Exchange) -> None:
        """Write the first part of the answer, if any, then reset."""
        if self.after is not None:
            answer = await exchange.collect()
            await exchange.write_raw(answer, answer.body[: self.after])
            await drained(exchange.scope)
            # A reset overtakes bytes that the client has not read yet.
            await asyncio.sleep(_STEP)

        await exchange.reset()


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with FIN, before the answer or after `after` bytes of its body."""

    after: int | None = None

    async def __call__(self, exchange: Exchange) -> None:
        """Write the first part of the answer, if any, then close."""
        if self.after is not None:
            answer = await exchange.collect()
            await exchange.write_raw(answer, answer.body[: self.after])

        await exchange.close()


@dataclass(frozen=True, slots=True)
class Unsized:
    """Send the body without a Content-Length, as a proxy or a transcoding storage does.

    It is sent in chunks, or up to the end of the connection. If `to` is given, only the first `to`
    bytes are sent, and nothing tells the client that more were due.
    """

    chunked: bool = True
    to: int | None = None

    async def __call__(self, exchange: Exchange) -> None:
        """Send the answer without its length header."""
        answer = await exchange.collect()
        kept = without_length(answer.headers)
        body = answer.body[: self.to]

        if self.chunked:
            # Without a length, the server frames the body in chunks by itself.
            start = {"type": "http.response.start", "status": answer.status, "headers": kept}
            await exchange.send(start)
            await exchange.send({"type": "http.response.body", "body": body})
        else:
            answer.headers = [*kept, (b"connection", b"close")]
            await exchange.write_raw(answer, body)
            await exchange.close()


@dataclass(frozen=True, slots=True)
class Truncate:
    """Send only the first `to` bytes, with a Content-Length that agrees with them."""

    to: int

    async def __call__(self, exchange: Exchange) -> None:
        """Send the cut answer."""
        answer = await exchange.collect()
        answer.body = answer.body[: self.to]
        await exchange.answer(answer)


@dataclass(frozen=True, slots=True)
class Overrun:
    """Send `extra` bytes too many: announced, or after the end of the announced body."""

    extra: bytes = b"\0" * 64
    announced: bool = True

    async def __call__(self, exchange: Exchange) -> None:
        """Send the long answer."""
        answer = await exchange.collect()
        if self.announced:
            answer.body += self.extra
            await exchange.answer(answer)
        else:
            await exchange.write_raw(answer, answer.body + self.extra)
            await exchange.close()


@dataclass(frozen=True, slots=True)
class Corrupt:
    """Send the right number of bytes, one of them wrong; a hash header keeps the right value."""

    at: int = 0

    async def __call__(self, exchange: Exchange) -> None:
        """Send the answer with one byte changed."""
        answer = await exchange.collect()
        if answer.body:
            wrong = bytearray(answer.body)
            wrong[self.at % len(wrong)] ^= 0xFF
            answer.body = bytes(wrong)

        await exchange.answer(answer)


@dataclass(frozen=True, slots=True)
class Drip:
    """Send the body slowly."""

    bytes_per_second: int

    async def __call__(self, exchange: Exchange) -> None:
        """Send the body in steps."""

        async def slowly(message: Message) -> None:
            body = message.get("body", b"")
            step = max(1, int(self.bytes_per_second * _STEP))

            for start in range(0, max(0, len(body) - step), step):
                part = body[start : start + step]
                await exchange.send({**message, "body": part, "more_body": True})
                await asyncio.sleep(step / self.bytes_per_second)

            if not body:
                await exchange.send(message)
                return

            rest = (len(body) - 1) // step * step
            await exchange.send({**message, "body": body[rest:]})

        await exchange.proceed(slowly)


@dataclass(frozen=True, slots=True)
class MalformedJson:
    """Cut JSON in half, with a Content-Length that agrees with the half.

    Bytes of images pass: no client could tell.
    """

    async def __call__(self, exchange: Exchange) -> None:
        """Send the half."""
        answer = await exchange.collect()
        if (answer.header(b"content-type") or b"").startswith(b"application/json"):
            answer.body = answer.body[: len(answer.body) // 2]
        await exchange.answer(answer)


@dataclass(frozen=True, slots=True)
class Mutate:
    """Change the JSON: `change` gets the whole decoded body and returns the one that is sent."""

    change: Callable[[Any], Any]

    async def __call__(self, exchange: Exchange) -> None:
        """Send the changed answer."""
        answer = await exchange.collect()
        answer.body = msgspec.json.encode(self.change(msgspec.json.decode(answer.body)))
        await exchange.answer(answer)


def rows_of(body: Any) -> list[Any]:
    """The rows inside a body: of a page, an embedded or a download listing, or of a bare array.

    The list is the one in the body, so that a change of it changes the body. Raises TypeError if
    there is none.
    """
    inner = body
    if isinstance(body, dict):
        inner = body.get("data", body)

    if isinstance(inner, dict):
        inner = next((inner[key] for key in ("images", "items") if key in inner), None)

    if not isinstance(inner, list):
        raise TypeError("the body has no rows")

    return inner


def each_row(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Mutate:
    """Change every row."""

    def apply(body: Any) -> Any:
        rows = rows_of(body)
        rows[:] = [change(row) for row in rows]
        return body

    return Mutate(apply)


def without(*names: str) -> Mutate:
    """Leave fields out of every row."""
    return each_row(lambda row: {key: value for key, value in row.items() if key not in names})


def with_fields(**fields: Any) -> Mutate:
    """Set fields of every row, for example to None."""
    return each_row(lambda row: row | fields)


def duplicated(index: int = 0) -> Mutate:
    """Send one row of the page twice, as an insertion during offset paging does."""

    def apply(body: Any) -> Any:
        rows = rows_of(body)
        rows[index:index] = rows[index : index + 1]
        return body

    return Mutate(apply)


def dropped(index: int = 0) -> Mutate:
    """Leave one row of the page out, as a deletion during offset paging does."""

    def apply(body: Any) -> Any:
        del rows_of(body)[index]
        return body

    return Mutate(apply)


def expired_url(index: int = 0) -> Mutate:
    """Send one signed URL that has expired already, as a server that caches URLs may do."""

    def apply(body: Any) -> Any:
        rows = rows_of(body)
        if rows:
            row = rows[index % len(rows)]
            row["image_url"] = re.sub(r"(X-Goog-Expires=)\d+", r"\g<1>0", row["image_url"])

        return body

    return Mutate(apply)
