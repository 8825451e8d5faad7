"""The mount's side of the socket."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from pictofs.control.messages import Failure, Request, to_request
from pictofs.errors import Conflict, Forbidden, Invalid, PictofsError

MAX_LINE = 65536
MAX_CONNECTIONS = 16
MAX_GUESTS = 8
"""Connections of other users, so that they leave some to the owner."""
IDLE_SECONDS = 30.0
"""How long a peer may take to send a request, or to receive an answer."""

Answer = msgspec.Struct | Mapping[str, Any]
Handler = Callable[[Any], Awaitable[Answer] | AsyncGenerator[Answer, None]]
"""An async function that returns the answer to a request, or an async generator that yields it."""

_log = logging.getLogger("pictofs.control")


class ControlServer:
    """Answers requests. `handlers` has one for each class of them.

    `for_guests`: what users other than the owner and root may ask, too.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[type[Request], Handler],
        *,
        for_guests: Collection[type[Request]] = (),
    ) -> None:
        self.path = path
        self._handlers = handlers
        self._for_guests = for_guests
        self._requests = {kind.__struct_config__.tag: kind for kind in handlers}
        self._connections = 0
        self._guests = 0
        self._idle: dict[_Peer, trio.CancelScope] = {}

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen at `path` until cancelled. Has started once a client can connect.

        The socket is removed at the end.

        Raises:
            OSError: the socket can't be made.
        """
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            # The folder is ours alone, so an old socket is that of a dead process with our id.
            self.path.unlink(missing_ok=True)
            await listening.bind(str(self.path))

            try:
                self.path.chmod(0o666 if self._for_guests else 0o600)
                listening.listen(MAX_CONNECTIONS)
                task_status.started()
                await trio.serve_listeners(self._connected, [trio.SocketListener(listening)])
            finally:
                self.path.unlink(missing_ok=True)

    async def _connected(self, stream: trio.SocketStream) -> None:
        peer = _Peer(stream)
        guests = int(peer.guest() is not None)
        self._connections += 1
        self._guests += guests

        try:
            async with stream:
                if guests and not self._for_guests:
                    await peer.send_error(f"it is {_owner()}'s mount", Forbidden.exit_code)
                elif guests and self._guests > MAX_GUESTS:
                    await peer.send_error(
                        "too many requests of other users at once: try again", Conflict.exit_code
                    )
                # A new peer takes the place of one that is idle.
                elif self._connections > MAX_CONNECTIONS and not self._make_room():
                    await peer.send_error(
                        "too many requests at once: try again", Conflict.exit_code
                    )
                else:
                    while (line := await self._next_line(peer)) is not None:
                        await self._respond(peer, line)
        except _PeerGone:
            _log.debug("A client left before its answer")
        finally:
            self._connections -= 1
            self._guests -= guests

    async def _next_line(self, peer: _Peer) -> bytes | None:
        """The peer's next request; None at the end, or if `_make_room` closes the connection."""
        with trio.CancelScope() as scope:
            self._idle[peer] = scope
            try:
                return await peer.read_line()
            finally:
                self._idle.pop(peer, None)

        return None

    def _make_room(self) -> bool:
        """Close the connection that has been idle for the longest time, if there is one."""
        if not self._idle:
            return False

        longest = next(iter(self._idle))
        self._idle.pop(longest).cancel()
        return True

    async def _respond(self, peer: _Peer, line: bytes) -> None:
        """Send the answer to a request, or the error by which it fails."""
        try:
            await self._run(peer, _parse(line))
        except PictofsError as error:
            await peer.send_error(error.message, error.exit_code, error.hint, error.docs)
        except _PeerGone:
            raise
        except UnicodeError:
            # JSON allows half a surrogate pair. In a path it stands for a byte, but not in a text.
            await peer.send_error(
                "the request holds half a surrogate pair where text is due", Invalid.exit_code
            )
        except Exception:
            _log.exception("A request from the command line failed by a bug")
            await peer.send_error("unexpected error, which is a bug: see the mount's log", 1)

    async def _run(self, peer: _Peer, message: Mapping[str, Any]) -> None:
        kind = self._requests.get(message["op"])
        if kind is None:
            known = ", ".join(sorted(map(str, self._requests)))
            raise Invalid(f"this mount knows no operation {message['op']!r}, only {known}")

        guest = peer.guest()
        if guest is not None and kind not in self._for_guests:
            owner = _owner()
            raise Forbidden(
                f"it is {owner}'s mount: only its owner and root may do that",
                hint=f"run it as {owner}, or on a mount of your own",
            )

        request = to_request({**message, "peer": peer.process(), "guest": guest}, kind)
        answer = self._handlers[kind](request)
        if isinstance(answer, AsyncGenerator):
            async with contextlib.aclosing(answer) as progress:
                async for item in progress:
                    await peer.send(item)
            await peer.send({"done": True})
        else:
            await peer.send({**msgspec.to_builtins(await answer), "done": True})


def _owner() -> str:
    """The name of our user."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


class _PeerGone(Exception):
    """The client closed, reset or stalled."""


class _Peer:
    """A connected client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._pending = bytearray()

    def guest(self) -> int | None:
        """The user of the peer's process, as the kernel saw it connect; None for ours and root."""
        uid = self._credentials()[1]
        return None if uid in (0, os.geteuid()) else uid

    def process(self) -> int:
        """The id of the peer's process."""
        return self._credentials()[0]

    def _credentials(self) -> tuple[int, int, int]:
        # struct ucred: pid, uid, gid
        size = struct.calcsize("3i")
        option = self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = struct.unpack("3i", option)
        return pid, uid, gid

    async def read_line(self) -> bytes | None:
        """The next line; None at the end. A line that is too long ends the connection."""
        with self._bounded():
            while (end := self._pending.find(b"\n")) < 0:
                if len(self._pending) > MAX_LINE:
                    await self.send_error(
                        f"a request is at most {MAX_LINE} bytes", Invalid.exit_code
                    )
                    raise _PeerGone

                chunk = await self._stream.receive_some(MAX_LINE)
                if not chunk:
                    return None

                self._pending += chunk

        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line

    async def send(self, message: Answer) -> None:
        """Send one object as a line."""
        line = json.dumps(msgspec.to_builtins(message)).encode() + b"\n"
        with self._bounded():
            await self._stream.send_all(line)

    async def send_error(
        self, message: str, exit_code: int, hint: str = "", docs: str = ""
    ) -> None:
        """Send the object that ends an answer with an error."""
        await self.send(Failure(message, exit_code, hint, docs))

    @staticmethod
    @contextlib.contextmanager
    def _bounded() -> Iterator[None]:
        try:
            with trio.fail_after(IDLE_SECONDS):
                yield
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise _PeerGone from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None

    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise Invalid('a request is one JSON object a line, with the operation as "op"')

    return message
