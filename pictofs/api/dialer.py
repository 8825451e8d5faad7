"""Opens connections: TCP, TLS, and the environment's proxies.

Storage hosts come from signed URLs, and so from a server. The server must not make this machine send
requests to hosts that the server itself can't reach, so every address, whether literal or resolved
from a name, is checked before anything is sent.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket as sockets
import ssl
from collections.abc import Callable
from urllib.parse import SplitResult, unquote

import trio

from pictofs.api.address import Address, Locality, literal, locality
from pictofs.api.connection import Connection, ConnectionGone
from pictofs.api.failure import CHECK_NETWORK, clean
from pictofs.api.origin import Origin
from pictofs.api.proxies import PORTS, Proxies, place_of
from pictofs.errors import InvalidResponse, ServerFault, ServerUnreachable, TimedOut

PEER_SILENCE_S = 5.0
"""Seconds of silence from the other end's kernel after which a connection counts as broken.

A slow server's kernel still acknowledges what it receives, so this tells a dead connection (after
sleep, or in another network) from a slow server.
"""
PROBE_AFTER_S = 2
"""Seconds without traffic before the kernel sends a keepalive probe, and between two probes."""


_CHECK_PROXY = "check HTTPS_PROXY and HTTP_PROXY, or name the host in NO_PROXY"
_CHECK_HOST = "check --base-url; a login page or a proxy of this network may answer in its place"
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's words for an answer that is no TLS."""
_CHECK_CLOCK = "check this machine's clock (`date`); if it is right, renew the certificate"
_TRUST = "if you trust it, set SSL_CERT_FILE to a PEM file that has "
_AUTHORITY = "the authority (the system's list is /etc/ssl/certs/ca-certificates.crt)"
_UNKNOWN_AUTHORITY = "comes from an authority that is not trusted here"
_CERTIFICATES = {
    9: ("is not valid yet", _CHECK_CLOCK),
    10: ("has expired", _CHECK_CLOCK),
    18: ("is self-signed", _TRUST + "it"),
    19: (_UNKNOWN_AUTHORITY, _TRUST + _AUTHORITY),
    20: (_UNKNOWN_AUTHORITY, _TRUST + _AUTHORITY),
    62: ("is for another host", ""),
    64: ("is for another host", ""),
}
"""What is wrong with a certificate and what to do, by OpenSSL's X509_V_ERR_..."""


def watch_peer(socket: trio.socket.SocketType) -> None:
    """Have the kernel break the connection (ETIMEDOUT) after PEER_SILENCE_S of silence."""
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, PROBE_AFTER_S)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPINTVL, PROBE_AFTER_S)
    socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(PEER_SILENCE_S * 1000))


def verifying_context() -> ssl.SSLContext:
    """The default for TLS, which honours SSL_CERT_FILE and SSL_CERT_DIR.

    Raises OSError, ValueError if what those name can't be used.
    """
    import httpx  # noqa: PLC0415 - 0.1 s, which a worker that needs no TLS does without

    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialer:
    """Connects to origins, through a proxy if the environment names one.

    `connect_timeout`: seconds for name lookup, TCP, proxy and TLS together. `nearest`: returns how
    near an origin may be at the moment.
    `ssl_context` None: the verifying default, which honours SSL_CERT_FILE and SSL_CERT_DIR.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        nearest: Callable[[], Locality],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = connect_timeout
        self._nearest = nearest
        self._proxies = Proxies()
        self._ssl = ssl_context

    def relay(self, origin: Origin) -> SplitResult | None:
        """The proxy for `origin`, or None. Raises `Invalid` for an unsupported kind of proxy."""
        return self._proxies.find(*origin)

    def request_target(self, origin: Origin, netloc: str, path: str) -> tuple[str, list[str]]:
        """The target of a request for `path` (with its query), and header lines for a proxy.

        A proxy gets a plain http request with the whole URL. https goes through a tunnel.

        `netloc`: host and port as the URL has them. Raises what `relay` raises.
        """
        relay = self.relay(origin) if origin.scheme == "http" else None
        if relay is None:
            return path, []

        return f"http://{netloc}{path}", _authorization(relay)

    async def connect(self, origin: Origin) -> Connection:
        """A new connection.

        Raises:
            ServerUnreachable: no connection can be made.
            TimedOut: it takes too long.
            InvalidResponse: the server may not lead to that address.
        """
        if address := literal(origin.host):
            self._check(origin.host, address)

        relay = self.relay(origin)
        # The port, where it is not the usual one: that may be what is wrong.
        place = origin.host
        if origin.port != PORTS[origin.scheme]:
            place = origin.authority
        hint = CHECK_NETWORK
        if relay is not None:
            place += f" (through the proxy {place_of(relay)})"
            hint = _CHECK_PROXY

        try:
            with trio.fail_after(self._timeout):
                if relay is None:
                    return await self._direct(origin)
                return await self._through(relay, origin)
        except trio.TooSlowError:
            raise TimedOut(
                f"{place}: no connection within {self._timeout:g} s", hint=hint
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a name that is no host name
            raise _unreachable(place, error, hint) from error

    def _check(self, host: str, address: Address) -> None:
        """Raise `InvalidResponse` if `address` is nearer than the API's own."""
        where = locality(address)
        nearest = self._nearest()
        if where <= nearest:
            return

        what = {Locality.PRIVATE: "a private network", Locality.LOOPBACK: "this machine"}.get(where)
        text = f"the API sent a signed URL for {host}"
        if what is None:
            raise InvalidResponse(f"{text}: no server can be at {address}")

        hint = "--allow-plain-http allows it" if where is Locality.PRIVATE else ""
        raise InvalidResponse(f"{text}: {address} is in {what}, and the API is not", hint=hint)

    async def _direct(self, origin: Origin) -> Connection:
        if literal(origin.host) is None:
            for *_, found in await trio.socket.getaddrinfo(
                origin.host, origin.port, type=sockets.SOCK_STREAM
            ):
                self._check(origin.host, ipaddress.ip_address(found[0]))

        stream = await trio.open_tcp_stream(origin.host, origin.port)
        try:
            # Connecting looked the name up again, perhaps with another result.
            self._check(origin.host, ipaddress.ip_address(stream.socket.getpeername()[0]))
        except BaseException:
            stream.socket.close()
            raise

        return await self._spoken(stream, origin)

    async def _spoken(self, stream: trio.SocketStream, origin: Origin) -> Connection:
        """The connection on `stream`, with TLS if the origin's scheme is https."""
        watch_peer(stream.socket)
        if origin.scheme == "http":
            return Connection(stream, stream.socket)
        return await self._secured(stream, stream.socket, origin)

    async def _through(self, relay: SplitResult, origin: Origin) -> Connection:
        proxy = Origin(relay.scheme, relay.hostname or "", relay.port or PORTS[relay.scheme])
        try:
            stream = await trio.open_tcp_stream(proxy.host, proxy.port)
        except (OSError, ValueError) as error:
            raise _unreachable(f"the proxy {place_of(relay)}", error, _CHECK_PROXY) from error

        connection = await self._spoken(stream, proxy)
        # A plain http request takes no tunnel: it names the whole URL.
        if origin.scheme == "http":
            return connection

        try:
            return await self._tunnel(connection, relay, origin)
        except (ConnectionGone, InvalidResponse, ServerFault) as error:
            raise ServerUnreachable(
                f"the proxy {place_of(relay)} made no tunnel to {origin.host}: {error}",
                hint=_CHECK_PROXY,
            ) from error

    async def _tunnel(
        self, connection: Connection, relay: SplitResult, origin: Origin
    ) -> Connection:
        """TLS to `origin` through CONNECT on the connection to the proxy."""
        lines = [
            f"CONNECT {origin.authority} HTTP/1.1",
            f"Host: {origin.authority}",
            *_authorization(relay),
        ]
        try:
            head = await connection.ask(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            if not 200 <= head.status < 300:
                hint = _CHECK_PROXY
                if head.status == 407:
                    hint = "put user and password into the proxy's URL"

                raise ServerUnreachable(
                    f"the proxy {place_of(relay)} refused a tunnel to {origin.host}"
                    f" (HTTP {head.status})",
                    hint=hint,
                )
        except BaseException:
            connection.close()
            raise

        return await self._secured(connection.stream, connection.socket, origin)

    async def _secured(
        self, stream: trio.abc.Stream, socket: trio.socket.SocketType, origin: Origin
    ) -> Connection:
        if self._ssl is None:
            self._ssl = verifying_context()

        # Python before 3.11.4 sets it: a truncated body without a length would look complete.
        self._ssl.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        secured = trio.SSLStream(stream, self._ssl, server_hostname=origin.host)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            socket.close()
            raise _insecure(origin.host, error.__cause__ or error) from error
        except BaseException:
            socket.close()
            raise

        return Connection(secured, socket)


def _insecure(host: str, cause: BaseException) -> ServerUnreachable:
    """Why there is no TLS with `host`."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        verdict, hint = _CERTIFICATES.get(
            cause.verify_code, (f"is refused ({clean(cause.verify_message)})", "")
        )
        error = ServerUnreachable(f"the certificate of {host} {verdict}", hint=hint or _CHECK_HOST)
        error.final = True
        return error
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return ServerUnreachable(f"{host} does not speak TLS (https)", hint=_CHECK_HOST)

    return ServerUnreachable(
        f"{host}: no secure connection: {clean(str(cause))}", hint=CHECK_NETWORK
    )


def _unreachable(place: str, error: Exception, hint: str) -> ServerUnreachable:
    """Why there is no connection. `place`: the host or the proxy."""
    if isinstance(error, sockets.gaierror):
        return _unknown(place, error, hint)

    # trio says that all attempts have failed, and its cause why.
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]

    reason = clean(str(error))
    if isinstance(cause, OSError) and cause.errno:
        reason = os.strerror(cause.errno)

    return ServerUnreachable(f"{place} can't be reached: {reason}", hint=hint)


def _unknown(place: str, error: sockets.gaierror, hint: str) -> ServerUnreachable:
    """Why the name in `place` has no address."""
    if error.errno == sockets.EAI_AGAIN:
        return ServerUnreachable(
            f"{place} can't be looked up: DNS does not answer",
            hint="check the network and its name server (/etc/resolv.conf)",
        )

    if hint == CHECK_NETWORK:
        hint = "check the spelling of --base-url, and the network's DNS"
    return ServerUnreachable(f"{place} can't be reached: DNS knows no such host", hint=hint)


def _authorization(relay: SplitResult) -> list[str]:
    """The header lines that give the proxy the user and password in its URL."""
    if relay.username is None:
        return []
    pair = f"{unquote(relay.username)}:{unquote(relay.password or '')}".encode()
    return [f"Proxy-Authorization: Basic {base64.b64encode(pair).decode('ascii')}"]
