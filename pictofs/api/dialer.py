"""Opens connections to storage hosts: TCP, TLS, and the environment's proxies."""

from __future__ import annotations

import base64
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import trio

from pictofs.api.address import is_loopback
from pictofs.api.connection import Connection, Gone
from pictofs.api.failure import clean
from pictofs.errors import Invalid, Nonsense, Offline, ServerFault, TimedOut

PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What a connection leads to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Dialer:
    """Connects to origins, through a proxy where HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say so.

    `ssl_context` None: the verifying default, with SSL_CERT_FILE and SSL_CERT_DIR honoured, as for the API.
    """

    def __init__(self, *, connect_timeout: float, ssl_context: ssl.SSLContext | None = None) -> None:
        self._timeout = connect_timeout
        self._proxies = getproxies()
        self._ssl = ssl_context

    def relay(self, origin: Origin) -> SplitResult | None:
        """The proxy for `origin`, or None. This machine is never asked through one: its loopback is not ours.

        Raises `Invalid` for a proxy that is not spoken.
        """
        proxy = self._proxies.get(origin.scheme) or self._proxies.get("all")
        if not proxy or is_loopback(origin.host) or proxy_bypass(origin.authority, self._proxies):
            return None
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            if parts.scheme in PORTS and parts.hostname and parts.port != 0:
                return parts
        except ValueError as error:
            raise Invalid("the environment's proxy is no URL; correct it or set NO_PROXY") from error
        raise Invalid(f"a {parts.scheme} proxy can't be used for storage; set an http one or NO_PROXY")

    async def connect(self, origin: Origin) -> Connection:
        """A new connection. Raises `Offline` where none is to be had, `TimedOut` where it takes too long."""
        relay = self.relay(origin)
        place = origin.host if relay is None else f"{origin.host} (through the proxy {relay.hostname})"
        try:
            with trio.fail_after(self._timeout):
                if relay is None:
                    return await self._direct(origin)
                return await self._through(relay, origin)
        except trio.TooSlowError:
            raise TimedOut(f"{place}: no connection within {self._timeout:g} s; check the network") from None
        except (OSError, ValueError) as error:  # ValueError: a name that is no host name
            detail = clean(str(error))
            raise Offline(f"{place} can't be reached: {detail}; check the network") from error

    async def _direct(self, origin: Origin) -> Connection:
        stream = await trio.open_tcp_stream(origin.host, origin.port)
        if origin.scheme == "http":
            return Connection(stream, stream.socket)
        return await self._secured(stream, stream.socket, origin)

    async def _through(self, relay: SplitResult, origin: Origin) -> Connection:
        proxy = Origin(relay.scheme, relay.hostname or "", relay.port or PORTS[relay.scheme])
        connection = await self._direct(proxy)
        if origin.scheme == "http":
            return connection
        try:
            return await self._tunnel(connection, relay, origin)
        except (Gone, Nonsense, ServerFault) as error:
            raise Offline(f"the proxy {proxy.host} made no tunnel to {origin.host}: {error}") from error

    async def _tunnel(self, connection: Connection, relay: SplitResult, origin: Origin) -> Connection:
        """TLS to `origin` through CONNECT on the connection to the proxy."""
        lines = [f"CONNECT {origin.authority} HTTP/1.1", f"Host: {origin.authority}", *authorization(relay)]
        try:
            head = await connection.ask(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            if not 200 <= head.status < 300:
                hint = "; put user and password into the proxy's URL" if head.status == 407 else ""
                raise Offline(f"the proxy refused a tunnel to {origin.host} (HTTP {head.status}){hint}")
        except BaseException:
            connection.close()
            raise
        return await self._secured(connection.stream, connection.socket, origin)

    async def _secured(
        self, stream: trio.abc.Stream, socket: trio.socket.SocketType, origin: Origin
    ) -> Connection:
        if self._ssl is None:
            import httpx  # noqa: PLC0415 - 0.1 s, which a worker that needs no TLS does without

            self._ssl = httpx.create_ssl_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        # Python before 3.11.4 sets it: a body without a length that was cut would pass for a whole one.
        self._ssl.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        secured = trio.SSLStream(stream, self._ssl, server_hostname=origin.host)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            socket.close()
            reason = clean(str(error.__cause__ or error))
            raise Offline(f"{origin.host}: no secure connection: {reason}") from error
        except BaseException:
            socket.close()
            raise
        return Connection(secured, socket)


def authorization(relay: SplitResult) -> list[str]:
    """The header lines that show the proxy the user and password of its URL."""
    if relay.username is None:
        return []
    pair = f"{unquote(relay.username)}:{unquote(relay.password or '')}".encode()
    return [f"Proxy-Authorization: Basic {base64.b64encode(pair).decode('ascii')}"]
