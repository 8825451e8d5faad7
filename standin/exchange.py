"""One request on the wire: answering it by the rules, or by hand on the bare connection."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from standin.content import Body
from standin.switches import Framing

_PIECE = 1 << 18

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: Where the connection of a request, and its entry in the log, are found in its ASGI scope.
TRANSPORT = "standin.transport"
RECORD = "standin.record"
#: How the body of an answer is framed, where not by its length.
FRAMING = "standin.framing"
#: When its connection was made, by `time.monotonic`.
CONNECTED = "standin.connected"


@dataclass(slots=True)
class Collected:
    """A whole answer, held back to be changed."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def set_header(self, name: bytes, value: bytes) -> None:
        """Replace a header."""
        self.headers = [(key, kept) for key, kept in self.headers if key.lower() != name] + [(name, value)]


async def pour(scope: Any, send: Send, body: Body, start: int, stop: int) -> None:
    """Send the bytes [start, stop) of a body piece by piece, as long as somebody listens."""
    if start == stop:
        await send({"type": "http.response.body", "body": b""})
    for place in range(start, stop, _PIECE):
        end = min(place + _PIECE, stop)
        await send({"type": "http.response.body", "body": body.read(place, end), "more_body": end < stop})
        if scope[TRANSPORT].is_closing():
            # The connection reports its end in the next turn of the loop; then nothing is missed here.
            await asyncio.sleep(0)
            return


def head_of(status: int, headers: Headers) -> bytes:
    """The head of an answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [key + b": " + value for key, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def without_length(headers: Headers) -> Headers:
    """Headers that do not say how long the body is."""
    return [(key, value) for key, value in headers if key.lower() != b"content-length"]


def framed(scope: Any, receive: Receive, send: Send, framing: Framing) -> Send:
    """A `send` whose answers of 200 and 206 do not tell their length."""
    scope[FRAMING] = framing
    if framing == "length":
        return send
    by_hand = False

    async def unannounced(message: Message) -> None:
        nonlocal by_hand
        if message["type"] == "http.response.start" and message["status"] in (200, 206):
            headers = without_length(list(message.get("headers", [])))
            by_hand = framing == "close"
            if by_hand:
                scope[TRANSPORT].write(head_of(message["status"], [*headers, (b"connection", b"close")]))
            else:
                await send({**message, "headers": headers})  # the server then sends chunks
        elif not by_hand:
            await send(message)
        else:
            scope[TRANSPORT].write(message.get("body", b""))
            await drained(scope)
            if not message.get("more_body", False):
                scope[TRANSPORT].close()
                while (await receive())["type"] != "http.disconnect":
                    pass

    return unannounced


async def drained(scope: Any) -> None:
    """Wait until what was written has left, or the connection has ended."""
    transport: asyncio.Transport = scope[TRANSPORT]
    while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class Exchange:
    """A request that waits for its answer, and the app that would give it."""

    def __init__(self, app: App, scope: Any, receive: Receive, send: Send) -> None:
        self._app = app
        self.scope = scope
        self._receive = receive
        self.send = send

    @property
    def transport(self) -> asyncio.Transport:
        """The connection."""
        transport: asyncio.Transport = self.scope[TRANSPORT]
        return transport

    async def proceed(self, send: Send | None = None) -> None:
        """Let the app answer, through `send` where given."""
        await self._app(self.scope, self._receive, send or self.send)

    async def collect(self) -> Collected:
        """The app's answer, not sent."""
        held = Collected(500, [], b"")
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.status, held.headers = message["status"], list(message.get("headers", []))
            else:
                parts.append(message.get("body", b""))

        await self.proceed(hold)
        held.body = b"".join(parts)
        return held

    async def answer(self, answer: Collected) -> None:
        """Send an answer; its length header is made to fit its body."""
        answer.set_header(b"content-length", str(len(answer.body)).encode())
        record = self.scope[RECORD]
        record.status, record.bytes = answer.status, len(answer.body)
        await self.send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self.send({"type": "http.response.body", "body": answer.body})

    async def write_raw(self, answer: Collected, body: bytes) -> None:
        """Send the head of an answer as it is, and any body under it; then the connection must end."""
        framing, headers = self.scope.get(FRAMING, "length"), answer.headers
        if framing != "length":
            headers = without_length(headers)
        if framing == "chunked":  # one chunk, which may be cut
            headers = [*headers, (b"transfer-encoding", b"chunked")]
            body = b"%x\r\n" % len(answer.body) + body
        self.transport.write(head_of(answer.status, headers) + body)

    async def flush(self) -> None:
        """Wait until what was written has left."""
        await drained(self.scope)

    async def reset(self) -> None:
        """End the connection with RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        await self.gone()

    async def close(self) -> None:
        """End the connection in the ordinary way after what was written."""
        self.transport.close()
        await self.gone()

    async def gone(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
