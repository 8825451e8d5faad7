"""The environment's proxies: one set of rules for the API and for storage.

HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name a proxy, NO_PROXY the hosts that are reached without one.
Libraries read NO_PROXY differently, and some fail on an IPv6 range, so that one half of a mount
would use the proxy and the other would not.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from pictofs.api.address import is_loopback, literal
from pictofs.errors import Invalid

PORTS = {"http": 80, "https": 443}
USUAL_STORAGE = "storage.googleapis.com"
"""The host of the public server's signed URLs. NO_PROXY should name it if it names the API."""

_BRACKETED = re.compile(r"\[([^\]]+)\]:(\d{1,5})")
_WITH_PORT = re.compile(r"([^:]+):(\d{1,5})")


@dataclass(frozen=True)
class _Exemption:
    """One entry of NO_PROXY."""

    network: IPv4Network | IPv6Network | None
    name: str
    """A host, which includes its subdomains; "" for a network, and for the entry of all hosts."""
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        """Whether a request to `host` needs no proxy."""
        if self.port not in (None, port):
            return False

        address = literal(host)
        if self.network is not None:
            return address is not None and address in self.network
        if not self.name:
            return True

        return host == self.name or (address is None and host.endswith(f".{self.name}"))


class Proxies:
    """The environment's proxies when this object was made."""

    def __init__(self) -> None:
        self._urls = getproxies()
        self._exemptions = [
            _exemption(word) for word in re.split(r"[\s,]+", self._urls.get("no", "")) if word
        ]

    def find(self, scheme: str, host: str, port: int) -> SplitResult | None:
        """The proxy for a URL, None if it is reached directly.

        This machine is never reached through a proxy, whose loopback is not ours. Raises `Invalid`
        for a proxy that is not http or https.
        """
        url = self._urls.get(scheme) or self._urls.get("all")
        host = host.lower().rstrip(".")
        if not url or is_loopback(host):
            return None
        if any(each.covers(host, port) for each in self._exemptions):
            return None

        variable = self._variable(scheme)
        cure = (
            f"set {scheme.upper()}_PROXY=http://HOST:PORT, "
            f"or NO_PROXY={','.join(dict.fromkeys((host, USUAL_STORAGE)))} to go without a proxy"
        )
        with suppress(ValueError):
            parts = urlsplit(url if "://" in url else f"http://{url}")
            if parts.scheme not in PORTS:
                raise Invalid(
                    f"{variable} names a {parts.scheme[:20]} proxy, "
                    f"and only http:// and https:// proxies can be used; {cure}"
                )
            if parts.hostname and parts.port != 0:
                return parts

        raise Invalid(f"what {variable} names is not a URL; {cure}")

    def _variable(self, scheme: str) -> str:
        """The environment variable with the proxy of a scheme, in the user's spelling."""
        kind = scheme if self._urls.get(scheme) else "all"
        lower = f"{kind}_proxy"
        return lower if os.environ.get(lower) else lower.upper()


def place_of(proxy: SplitResult) -> str:
    """Host and port of a proxy, for messages: its URL may hold a password."""
    host = proxy.hostname or ""
    if ":" in host:
        host = f"[{host}]"

    return f"{host}:{proxy.port or PORTS[proxy.scheme]}"


def _exemption(word: str) -> _Exemption:
    word = word.lower().rpartition("://")[2]
    port = None
    if found := _BRACKETED.fullmatch(word) or _WITH_PORT.fullmatch(word):
        word = found[1]
        port = int(found[2])

    word = word.replace("[", "").replace("]", "")
    try:
        return _Exemption(ip_network(word, strict=False), "", port)
    except ValueError:
        pass

    name = word.lstrip("*").strip(".")
    if not name and "*" not in word:
        name = "."  # a lone dot: no host

    return _Exemption(None, name, port)
