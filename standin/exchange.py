"""One request on the wire, answered through the server or by hand on the bare connection."""

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

#: Bytes of a body that are sent at once.
_PIECE = 1 << 18

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: The keys of an ASGI scope for the connection of a request and its entry in the log.
TRANSPORT = "standin.transport"
RECORD = "standin.record"
#: The key for the framing of the answer's body, if it is not by its length.
FRAMING = "standin.framing"
#: The key for the moment the connection was made, by `time.monotonic`.
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
        """Set a header, in place of all of that name."""
        others = [(key, kept) for key, kept in self.headers if key.lower() != name]
        self.headers = [*others, (name, value)]


async def pour(scope: Any, send: Send, body: Body, start: int, stop: int) -> None:
    """Send the bytes [start, stop) of a body piece by piece, until the client goes away."""
    if start == stop:
        await send({"type": "http.response.body", "body": b""})

    for place in range(start, stop, _PIECE):
        end = min(place + _PIECE, stop)
        piece = body.read(place, end)
        await send({"type": "http.response.body", "body": piece, "more_body": end < stop})

        if scope[TRANSPORT].is_closing():
            # The connection reports its end in the next turn of the loop. Until then the server
            # would take the unfinished answer for a failure of the application.
            await asyncio.sleep(0)
            return


def head_of(status: int, headers: Headers) -> bytes:
    """The bytes of an answer's status line and headers."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [key + b": " + value for key, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def without_length(headers: Headers) -> Headers:
    """The headers without Content-Length."""
    return [(key, value) for key, value in headers if key.lower() != b"content-length"]


def framed(scope: Any, receive: Receive, send: Send, framing: Framing) -> Send:
    """A `send` that frames the bodies of 200 and 206 as asked, without their length."""
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
                headers.append((b"connection", b"close"))
                scope[TRANSPORT].write(head_of(message["status"], headers))
            else:
                # Without a length, the server sends chunks.
                await send({**message, "headers": headers})
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


async def read_body(receive: Receive) -> bytes | None:
    """The request's body; None if the client went away."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None

        parts.append(message.get("body", b""))
        more = message.get("more_body", False)

    return b"".join(parts)


async def drained(scope: Any) -> None:
    """Wait until the operating system has all that was written, or the connection has ended."""
    transport: asyncio.Transport = scope[TRANSPORT]
    while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class Exchange:
    """A request that has no answer yet, and the app that would give it one."""

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
        """Let the app answer, through `send` if it is given."""
        await self._app(self.scope, self._receive, send or self.send)

    async def collect(self) -> Collected:
        """Let the app answer, and return the answer instead of sending it."""
        held = Collected(500, [], b"")
        parts: list[bytes] = []

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.status = message["status"]
                held.headers = list(message.get("headers", []))
            else:
                parts.append(message.get("body", b""))

        await self.proceed(hold)
        held.body = b"".join(parts)
        return held

    async def answer(self, answer: Collected) -> None:
        """Send an answer, with the Content-Length that its body has."""
        answer.set_header(b"content-length", str(len(answer.body)).encode())

        record = self.scope[RECORD]
        record.status = answer.status
        record.bytes = len(answer.body)

        start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": answer.body})

    async def write_raw(self, answer: Collected, body: bytes) -> None:
        """Write the head of an answer as it is, and any body after it.

        The caller must end the connection then, as the server knows nothing of the answer.
        """
        framing = self.scope.get(FRAMING, "length")
        headers = answer.headers
        if framing != "length":
            headers = without_length(headers)

        # One chunk of the whole length, which a shorter body leaves unfinished.
        if framing == "chunked":
            headers = [*headers, (b"transfer-encoding", b"chunked")]
            body = b"%x\r\n" % len(answer.body) + body

        self.transport.write(head_of(answer.status, headers) + body)

    async def reset(self) -> None:
        """End the connection with RST."""
        # Lingering for 0 seconds makes the system drop what is unsent and send RST.
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        await self.gone()

    async def close(self) -> None:
        """End the connection with FIN, after what was written."""
        self.transport.close()
        await self.gone()

    async def gone(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
