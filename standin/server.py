"""Both hosts on ports of 127.0.0.1, in a thread that has its own event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from standin.api import Api
from standin.clock import Clock
from standin.exchange import CONNECTED, TRANSPORT, App, Receive, Send
from standin.faults import Faults
from standin.log import Log
from standin.organization import Organization
from standin.signing import Signer
from standin.spec import Spec
from standin.storage import Storage
from standin.switches import Switches


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, with the connection and its age put into the scope for the faults."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note when the client connected."""
        super().connection_made(transport)
        self._connected = time.monotonic()

    def on_message_begin(self) -> None:
        """Put the connection into the scope of a new request."""
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]
        self.scope[CONNECTED] = self._connected  # type: ignore[literal-required]


class _Host:
    """One listening application."""

    def __init__(self, listener: socket.socket, app: App) -> None:
        self._listener = listener
        self._app = app

        self._config = Config(
            self._answer,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=75,
        )
        self._config.load()

        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()

        def make() -> Protocol:
            return Protocol(self._config, self._state, {}, loop)

        self._server = await loop.create_server(make, sock=self._listener, backlog=1024)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        # Only `stop` cancels a request; uvicorn would log that as a failure of the application.
        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)

    async def stop(self) -> None:
        """Stop listening, and end every connection and every request that is under way."""
        if self._server is not None:
            self._server.close()

        for connection in list(self._state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

        # In this turn of the loop the connections report their end.
        await asyncio.sleep(0)

        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)


class StandIn:
    """A running stand-in: `with StandIn(spec, storage_latency=0.02) as s: ...`.

    Takes a spec or an organization, and any field of `Switches`. A port of 0 lets the operating
    system choose one.
    """

    def __init__(
        self,
        made_of: Organization | Spec,
        *,
        api_port: int = 0,
        storage_port: int = 0,
        **switches: Any,
    ) -> None:
        self.organization = made_of.build() if isinstance(made_of, Spec) else made_of

        for name, value in switches.items():
            if name not in Switches.__dataclass_fields__:
                raise TypeError(f"no such switch: {name}")

            setattr(self.organization.switches, name, value)

        self.log = Log()
        self.faults = Faults()
        self.api_url = self.storage_url = ""

        self._ports = (api_port, storage_port)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._stopping: asyncio.Event | None = None
        self._listening = threading.Event()

    @property
    def switches(self) -> Switches:
        """The switches of the organization, which may be changed at any time."""
        return self.organization.switches

    @property
    def clock(self) -> Clock:
        """The time of both hosts."""
        return self.organization.clock

    @property
    def keys(self) -> dict[str, str]:
        """The secret of the first key of each role."""
        keys: dict[str, str] = {}
        for key in self.organization.keys.values():
            keys.setdefault(key.role, key.secret)

        return keys

    def start(self) -> StandIn:
        """Start both hosts; returns when they listen, or raises what kept them from it."""
        self._thread = threading.Thread(target=self._run, name="standin", daemon=True)
        self._thread.start()
        self._listening.wait()

        if self._failure is not None:
            raise self._failure

        return self

    def stop(self) -> None:
        """End both hosts and every connection; does nothing if they have ended already."""
        if self._thread is None:
            return

        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

        self._thread.join()
        self._thread = None

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:
            # `start` waits in another thread, and raises it there.
            self._failure = problem
            self._listening.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()

        api, storage = (_listener(port) for port in self._ports)
        self.api_url = _origin(api)
        self.storage_url = _origin(storage)

        signer = Signer(self.storage_url, self.clock, self.switches)
        hosts = (
            _Host(api, Api(self.organization, signer, self.api_url, self.log, self.faults)),
            _Host(storage, Storage(self.organization, signer, self.log, self.faults)),
        )
        for host in hosts:
            await host.start()

        self._listening.set()
        await self._stopping.wait()

        for host in hosts:
            await host.stop()


def _listener(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only if the protocol is named; without it each answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def _origin(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"
