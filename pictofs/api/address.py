"""Builds request paths, and tells how near a host is."""

from __future__ import annotations

import enum
import functools
import ipaddress
import re
import socket
from contextlib import suppress
from urllib.parse import quote, unquote

from pictofs import __version__
from pictofs.errors import Invalid

USER_AGENT = f"pictofs/{__version__}"

_SUB_ROUTES = frozenset({"metadata", "data-bundle", "review", "split"})
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def is_uuid(path_segment: str) -> bool:
    """Whether the API takes `path_segment` for an id rather than a name."""
    return _UUID.fullmatch(path_segment) is not None


class Locality(enum.IntEnum):
    """How near an address is.

    A server may send this machine to addresses that are as near as the server itself, not nearer.
    """

    PUBLIC = 0
    PRIVATE = 1
    """A company's or a home's network."""
    LOOPBACK = 2
    """This machine."""
    NOWHERE = 3
    """No server's address: link-local (clouds serve credentials there), multicast, unspecified."""


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")
)
"""Addresses outside the link-local ranges at which clouds serve a machine's credentials."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@functools.lru_cache(256)
def literal(host: str) -> Address | None:
    """The IP address that `host` spells, None for a name.

    `localhost` counts as an address, whatever the name service says.
    """
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost":
        return ipaddress.IPv4Address("127.0.0.1")

    with suppress(ValueError):
        return _embedded(ipaddress.ip_address(host))

    # inet_aton reads only as far as the first blank.
    if any(char.isspace() for char in host):
        return None

    # The C library takes 127.1, 0x7f000001 and 2130706433 for addresses as well.
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)

    return address.ipv4_mapped or address.sixtofour or address


def locality(address: Address) -> Locality:
    """How near an address is, by the IPv4 address if an IPv6 one stands for that."""
    address = _embedded(address)
    if address.is_loopback:
        return Locality.LOOPBACK

    unusable = (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
    )
    if unusable or address in _METADATA or (address.version == 4 and int(address) >> 24 == 0):
        return Locality.NOWHERE

    return Locality.PUBLIC if address.is_global else Locality.PRIVATE


def is_loopback(host: str) -> bool:
    """Whether `host` is spelled as an address of this machine. No name is looked up."""
    address = literal(host)
    return address is not None and address.is_loopback


def path_segment(value: str) -> str:
    """`value`, an id or a name, as one percent-encoded path segment.

    Raises `Invalid` for a name that no path can carry: only its id addresses the item.
    """
    if not is_addressable(value):
        raise Invalid(f"the API can't address {value!r} by name; use its id")
    return quote(value, safe="")


def export_segment(name: str) -> str:
    """The name of an export as one percent-encoded path segment; it may have `/` in it.

    Raises `Invalid` for a name that no path can carry.
    """
    if not all(is_addressable(part) for part in name.split("/") if part) or not name.strip("/"):
        raise Invalid(f"the API can't address the export {name!r} by name")
    return quote(name, safe="")


def item_of(route: str, path: str) -> str:
    """What the request to `path` is about, for messages, such as `dataset 'cars'`.

    `route`: the template of `path`. "" if nothing in it is named.
    """
    words = re.split(r"\{(\w+)\}", route)
    pattern = "".join(
        ("(.+)" if word == "path" else "([^/]+)") if place % 2 else re.escape(word)
        for place, word in enumerate(words)
    )
    found = re.fullmatch(pattern, path)
    if found is None or not found.groups():
        return ""

    kind = words[-2].replace("path", "image")
    return f"{kind} {unquote(found.groups()[-1], errors='replace')!r}"


def image_path(directory: str, filename: str) -> str:
    """The percent-encoded path of an image in its dataset, as the vendor's SDK writes it.

    An example is `cam%201/a.jpg`. Raises `Invalid` for a name that no path can carry, and for the
    name of a sub-route.
    """
    parts = [part for part in directory.split("/") if part]
    for part in (*parts, filename):
        if not is_addressable(part):
            raise Invalid(f"the API can't address {part!r} by name")

    if filename in _SUB_ROUTES:
        raise Invalid(f"the API takes {filename!r} at the end of a path for one of its routes")

    return "/".join(quote(part, safe="") for part in (*parts, filename))


def is_addressable(value: str) -> bool:
    """Whether a path can carry `value` as one segment."""
    # HTTP clients resolve `.` and `..`, routers decode `%2F`, and an id with blanks around it is
    # taken for the id: each would address something else. A lone surrogate has no UTF-8.
    if (
        value in ("", ".", "..")
        or "/" in value
        or (value != value.strip() and is_uuid(value.strip()))
    ):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)
