"""One HTTP/1.1 connection: sends a request, receives a head and a body.

Heads and chunks are parsed by llhttp (httptools), bodies with a Content-Length are read here. A
head costs 5 us. With h11 it would cost 55 us of the 200 us that a download of 100 KiB may take.
"""

from __future__ import annotations

import select
from typing import NamedTuple

import httptools
import trio

from pictofs.errors import InvalidResponse, ServerFault

CHUNK_BYTES = 256 * 1024
"""Bytes read from the socket at a time."""
_HEAD_MAX = 64 * 1024
_BODILESS = (204, 304)
"""Statuses of answers that have no body, whatever their head says (RFC 9112, 6.3)."""
_INFORMATIONAL_MAX = 16
"""1xx answers that may come before the final one."""


class ConnectionGone(Exception):
    """The connection ended before the first byte of an answer: the server closed an idle one."""

    def __init__(self, message: str, *, broken: bool = False) -> None:
        super().__init__(message)
        self.broken = broken
        """Whether it broke, as opposed to an orderly close."""


class Head(NamedTuple):
    """Status and headers of an answer. Names are in lower case, repeated ones joined by commas."""

    status: int
    headers: dict[str, str]


class _Parse:
    """Collects what llhttp parses. It calls the methods below."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.messages = 0
        self.complete = False
        self.pieces: list[bytes] = []

    def on_message_begin(self) -> None:
        self.messages += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key in self.headers:
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True


class Connection:
    """A stream that carries one exchange after another.

    After an exchange, `reusable` says whether another may follow. `close` never waits, so that it
    works in a cancelled task.
    """

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self.stream = stream
        self.socket = socket
        """The socket below the stream, to close it at once and to poll it."""
        self._poll = select.poll()
        self._poll.register(socket.fileno(), select.POLLIN)

        self._buffer = b""
        self._left: int | None = 0
        """Body bytes still to come; None if the body lasts until the stream ends."""
        self._chunks: tuple[httptools.HttpResponseParser, _Parse] | None = None
        self._keep = False
        self.idle_since = 0.0
        """Monotonic seconds, set by the owner."""

    @property
    def reusable(self) -> bool:
        """Whether the answer was received completely and the server keeps the connection open."""
        return self._keep and self._left == 0 and self._chunks is None and not self._buffer

    @property
    def is_cut(self) -> bool:
        """Whether less of the body has come than was announced."""
        return self._left not in (0, None)

    @property
    def is_quiet(self) -> bool:
        """Whether the idle connection got no data: neither a close nor unsolicited bytes."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close the socket at once, without the closing exchange of TLS."""
        self._keep = False
        self.socket.close()

    async def ask(self, request: bytes) -> Head:
        """Send `request` and receive the head of the answer.

        Raises:
            ConnectionGone: not a single byte came back.
            ServerFault: the connection broke in the head.
            InvalidResponse: the answer is not HTTP.
        """
        # An exchange that breaks off before its head is complete costs the connection.
        self._keep = False
        try:
            await self.stream.send_all(request)
            self._buffer = bytes(await self.stream.receive_some(CHUNK_BYTES))
        except trio.BrokenResourceError as error:
            raise ConnectionGone(str(error.__cause__ or error), broken=True) from error

        if not self._buffer:
            raise ConnectionGone("the server closed the connection without an answer")

        for _ in range(_INFORMATIONAL_MAX):
            head = await self._head()
            if not 100 <= head.status < 200:
                return head

        raise InvalidResponse("the server sends one informational answer after the other")

    async def _head(self) -> Head:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_MAX:
                raise InvalidResponse(
                    "the server's answer is not HTTP, or its head is larger than 64 KiB"
                )

            more = await self._receive(CHUNK_BYTES)
            if not more:
                raise ServerFault("the connection broke in the head of an answer")

            self._buffer += more

        told = _Parse()
        parser = httptools.HttpResponseParser(told)
        try:
            parser.feed_data(self._buffer[: end + 4])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise InvalidResponse(f"the server's answer is not HTTP: {error}") from error

        self._buffer = self._buffer[end + 4 :]
        self._frame(parser, told)
        return Head(parser.get_status_code(), told.headers)

    def _frame(self, parser: httptools.HttpResponseParser, told: _Parse) -> None:
        """Decide how the end of the body is marked.

        llhttp has already refused two lengths, and a length together with chunks.
        """
        headers = told.headers
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        self._left = None
        self._chunks = None

        bodiless = parser.get_status_code() in _BODILESS
        if bodiless:
            self._left = 0
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise InvalidResponse("the server sent a Transfer-Encoding that was not asked for")
            self._chunks = parser, told
        elif length is not None:
            self._left = int(length)

        # Without a length or chunks, the body ends with the stream, which can't be kept.
        closes = "close" in headers.get("connection", "").lower()
        self._keep = (
            parser.get_http_version() == "1.1"
            and not closes
            and (bodiless or coding is not None or length is not None)
        )

    async def receive(self) -> bytes:
        """The next piece of the body, b"" at its end or if the stream ends early.

        Raises `ServerFault` if the connection breaks, `InvalidResponse` if more comes than was
        announced.
        """
        if self._chunks is not None:
            return await self._receive_chunks(*self._chunks)

        if self._left == 0:
            if self._buffer:
                raise InvalidResponse("the server sent more bytes than it announced")
            return b""

        piece = self._buffer
        self._buffer = b""
        if not piece:
            most = CHUNK_BYTES
            if self._left is not None:
                # One byte more than is due, to notice a server that sends too much.
                most = min(CHUNK_BYTES, self._left + 1)

            piece = await self._receive(most)

        if self._left is not None:
            if len(piece) > self._left:
                raise InvalidResponse("the server sent more bytes than it announced")
            self._left -= len(piece)

        return piece

    async def _receive_chunks(self, parser: httptools.HttpResponseParser, told: _Parse) -> bytes:
        without_body = 0
        while not told.pieces and not told.complete:
            fed = self._buffer or await self._receive(CHUNK_BYTES)
            self._buffer = b""
            if not fed:
                raise ServerFault("the transfer ended between two chunks")

            # Chunk extensions and trailers could go on for ever without a byte of the body.
            if without_body > _HEAD_MAX:
                raise InvalidResponse("the server's trailer is larger than 64 KiB")

            without_body += len(fed)
            try:
                parser.feed_data(fed)
            except httptools.HttpParserError as error:
                raise InvalidResponse(f"the server's chunks are not HTTP: {error}") from error

            if told.messages > 1:
                raise InvalidResponse("the server sent more bytes than it announced")

        if told.pieces:
            piece = b"".join(told.pieces)
            told.pieces.clear()
            return piece

        self._chunks = None
        self._left = 0
        return b""

    async def _receive(self, most: int) -> bytes:
        try:
            return bytes(await self.stream.receive_some(most))
        except trio.BrokenResourceError as error:
            raise ServerFault(f"the connection broke: {error.__cause__ or error}") from error
