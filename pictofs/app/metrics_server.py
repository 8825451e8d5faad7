"""HTTP for Prometheus on the loopback.

It serves one document, and nothing that anybody on this machine can hold open. Everybody may
connect. So there are never more than CONNECTIONS, each for SECONDS at most; if one too many comes,
the oldest goes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

CONNECTIONS = 16
SECONDS = 10.0
"""How long a request, and taking its answer, may take in all."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `prometheus_client.generate_latest` makes."""
HEAD_BYTES = 8192
"""Bytes of a request at most."""


class MetricsServer:
    """Answers `GET /metrics`, and `/`, by a text that is made when it is asked for."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text
        self._open: dict[int, trio.CancelScope] = {}
        self._number = 0

    async def serve(self, listener: trio.SocketListener) -> None:
        """Answer until cancelled."""
        await trio.serve_listeners(self._connected, [listener])

    async def _connected(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= CONNECTIONS:
            self._open.pop(min(self._open)).cancel()

        self._number += 1
        number = self._number
        with trio.CancelScope(deadline=trio.current_time() + SECONDS) as scope:
            self._open[number] = scope
            try:
                # The client has left.
                with suppress(trio.BrokenResourceError):
                    await self._answer(stream)
            finally:
                self._open.pop(number, None)

        await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            chunk = await stream.receive_some(HEAD_BYTES)
            if not chunk:
                return

            head += chunk
            if len(head) > HEAD_BYTES:
                await stream.send_all(_response("431 Request Header Fields Too Large"))
                return

        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            answer = _response("405 Method Not Allowed")
        elif path not in (b"/", b"/metrics"):
            answer = _response("404 Not Found")
        else:
            answer = _response("200 OK", self._text(), has_body=method == b"GET")

        await stream.send_all(answer)
        await stream.send_eof()


def _response(status: str, body: bytes = b"", *, has_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
