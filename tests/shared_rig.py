"""Real engines for the tests of what nodes share, and ways between a node and its engine that are
bad."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from coredis import Redis

from pictofs.clock import SystemClock
from pictofs.config.shared import SharedAddress
from pictofs.store.shared.engine import SharedEngine

API_KEY = "pk_live_5ecret-of-the-tests"
SERVER = "https://api.example"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    """A redis-server process on a port of its own, which keeps nothing on the disk."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self.options = options
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--daemonize", "no", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if "Ready to accept connections" in line or "MASTER <-> REPLICA" in line:
                return
        raise AssertionError(said)

    @property
    def address(self) -> SharedAddress:
        return SharedAddress("127.0.0.1", self.port)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def say(self, *words: str, stdin: bytes | None = None) -> str:
        """What redis-cli prints for a command."""
        command = ["redis-cli", "-p", str(self.port), *words]
        done = subprocess.run(command, input=stdin, capture_output=True, check=True)
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def keys(self) -> list[str]:
        return sorted(self.say("--scan").split())

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis[bytes]]:
        """A plain client, to look and to meddle."""
        async with Redis(host="127.0.0.1", port=self.port) as client:
            yield client

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def engine(folder: Path, *options: str, port: int | None = None) -> Iterator[Engine]:
    made = Engine(folder, *options, port=port)
    try:
        yield made
    finally:
        made.end()


class Patience:
    """How long nodes wait for an engine.

    Long where it is well, as the machine may be busy; short where it is silent, as users have it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.long()

    def long(self) -> None:
        self._set(SILENCE_S=30.0, CALL_MAX_S=30.0, PUT_SILENCE_S=30.0, PUT_MAX_S=30.0)
        self._monkeypatch.setattr("pictofs.store.shared.connection.CONNECT_S", 30.0)

    def short(self) -> None:
        self._set(SILENCE_S=0.1, CALL_MAX_S=3.0, PUT_SILENCE_S=1.0, PUT_MAX_S=5.0)
        self._monkeypatch.setattr("pictofs.store.shared.connection.CONNECT_S", 1.0)

    def _set(self, **seconds: float) -> None:
        for name, value in seconds.items():
            self._monkeypatch.setattr(f"pictofs.store.shared.engine.{name}", value)


class MovingClock(SystemClock):
    """The machine's clock, which a test can move on: the rests of the breaker are never slept."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.luck = 0.5
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def wall(self) -> float:
        return super().wall() + self.ahead

    def chance(self) -> float:
        return self.luck

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        end = self.monotonic() + seconds
        while self.monotonic() < end:  # noqa: ASYNC110 - time is what is waited for
            await trio.sleep(0.005)


class Node:
    """A node: its engine object and its clock."""

    def __init__(self, address: SharedAddress, api_key: str, server: str) -> None:
        self.clock = MovingClock()
        self.off = 0.0
        """Seconds by which the time that it takes for the common one is wrong."""
        self.shared = SharedEngine(
            address,
            api_key,
            server,
            clock=self.clock,
            common_time=lambda: self.clock.wall() + self.off,
        )

    async def state(self, *wanted: str) -> None:
        """Wait until the breaker is in a state."""
        await until(lambda: self.shared.stats().breaker in wanted)

    async def sent(self) -> None:
        """Wait until nothing is queued any more, and what was sent is answered."""
        await until(lambda: self.shared.stats().queued == 0)
        before = self.shared.stats().puts + self.shared.stats().dropped
        self.shared.put("sent", b"", 60.0)
        await until(lambda: self.shared.stats().puts + self.shared.stats().dropped > before)


@asynccontextmanager
async def node(
    address: SharedAddress, *, api_key: str = API_KEY, server: str = SERVER, wait: bool = True
) -> AsyncIterator[Node]:
    made = Node(address, api_key, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.shared.run)
        if wait:
            await made.state("closed")
        yield made
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - it may be anything
            await trio.sleep(0.005)


Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listener(serve: Serve) -> AsyncIterator[SharedAddress]:
    """Something that listens on a port, and is no engine."""

    async def quietly(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, quietly, listeners)
        yield SharedAddress("127.0.0.1", port)
        nursery.cancel_scope.cancel()


class Way:
    """A way to an engine: each piece takes `delay` seconds in each direction; `silent`: for ever."""

    def __init__(self, engine: Engine) -> None:
        self._port = engine.port
        self.delay = 0.0
        self.silent = False
        self.opened = 0

    async def serve(self, near: trio.SocketStream) -> None:
        self.opened += 1
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, near, far, nursery.cancel_scope)
            nursery.start_soon(self._carry, far, near, nursery.cancel_scope)

    async def _carry(
        self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for piece in source:
                await trio.sleep(self.delay)
                while self.silent:  # noqa: ASYNC110 - a test switches it
                    await trio.sleep(0.01)
                await target.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def way(engine: Engine) -> AsyncIterator[tuple[Way, SharedAddress]]:
    made = Way(engine)
    async with listener(made.serve) as address:
        yield made, address


def python_environment() -> dict[str, str]:
    """The environment for a worker process, which may import this module."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parent)}
