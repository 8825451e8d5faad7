"""A TCP server whose every byte a test decides, and a clock that never sleeps."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from pictofs.api.body import Body

SECRET = "pk_live_0123456789abcdefSECRET"


class FakeClock:
    """Time stands still but for `sleep`, which is noted and takes none."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.sleeps: list[float] = []

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def chance(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await trio.lowlevel.checkpoint()


class Peer:
    """The server's side of one connection."""

    def __init__(
        self, stream: trio.abc.Stream, raw: trio.SocketStream, requests: list[bytes]
    ) -> None:
        self.stream = stream
        self._raw = raw
        self._requests = requests
        self._buffer = b""

    async def request(self) -> bytes | None:
        """The head of the next request, noted; None where the client closed."""
        while b"\r\n\r\n" not in self._buffer:
            more = await self.stream.receive_some()
            if not more:
                return None
            self._buffer += more
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self._requests.append(head)
        return head

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    def reset(self) -> None:
        """Close with RST rather than FIN."""
        import socket
        import struct

        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._raw.socket.close()


Handler = Callable[[Peer], Awaitable[None]]


class Server:
    """What a test sees of a server: where it is and what it got."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def until_idle(self) -> None:
        """Wait until every client has closed."""
        with trio.fail_after(2):
            while self.open:  # noqa: ASYNC110 - also what the kernel has not told yet
                await trio.sleep(0.001)


@contextlib.asynccontextmanager
async def served(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server on loopback: `handler` serves each connection; where it returns, the connection is
    closed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(listener.socket.getsockname()[1], "https" if context else "http")

    async def serve(raw: trio.SocketStream) -> None:
        server.connections += 1
        server.open += 1
        stream: trio.abc.Stream = raw
        if context:
            stream = trio.SSLStream(raw, context, server_side=True)
        try:
            await handler(Peer(stream, raw, server.requests))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            server.open -= 1
            await trio.aclose_forcefully(raw)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


def answer(
    body: bytes = b"", status: int = 200, length: int | None = None, **headers: str
) -> bytes:
    """An HTTP answer; `length` lies about the body's."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(*answers: bytes) -> Handler:
    """Answer the requests of each connection with `answers` in turn, the last one again and
    again."""

    async def handler(peer: Peer) -> None:
        turn = 0
        while await peer.request() is not None:
            await peer.send(answers[min(turn, len(answers) - 1)])
            turn += 1

    return handler


def once(raw: bytes) -> Handler:
    """Send `raw` after the first request and close."""

    async def handler(peer: Peer) -> None:
        if await peer.request() is not None:
            await peer.send(raw)

    return handler


async def read_all(body: Body) -> bytes:
    """The rest of a download's body."""
    data = b""
    while piece := await body.receive():
        data += piece

    return data


async def silent(peer: Peer) -> None:
    """Read and never answer."""
    while await peer.stream.receive_some():
        pass


def enveloped(rows: object, **pagination: object) -> bytes:
    """A page as the API sends it."""
    return json.dumps({"data": rows, "pagination": pagination}).encode()
