"""Where requests go: base URL, path slots, and which hosts plain http may reach."""

from __future__ import annotations

import functools
import ipaddress
import re
from urllib.parse import quote

import httpx

from pictofs.errors import Invalid

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def is_uuid(slot: str) -> bool:
    """Whether the API takes `slot` for an id rather than a name."""
    return _UUID.fullmatch(slot) is not None


@functools.lru_cache(64)
def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def api_root(base_url: str, *, allow_plain_http: bool) -> str:
    """The URL that every route starts with: a prefix is kept, a trailing slash is not.

    Raises `Invalid` for what is no base URL, and for plain http to another machine: the key would be readable
    on the way.
    """
    try:
        url = httpx.URL(base_url.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"the base URL is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise Invalid(
            "the base URL must look like https://api.pictograph.io, without user, query or fragment"
        )
    if url.scheme == "http" and not allow_plain_http and not is_loopback(url.host):
        raise Invalid(f"plain http would show the API key on the way to {url.host}; use https")
    return str(url).rstrip("/") + "/api/v1/developer"


def slot(value: str) -> str:
    """`value`, an id or a name, as one percent-encoded path segment.

    Raises `Invalid` for a name that no path carries: the item is to be addressed by its id.
    """
    if not is_addressable(value):
        raise Invalid(f"the API can't address {value!r} by name; use its id")
    return quote(value, safe="")


def is_addressable(value: str) -> bool:
    """Whether a path can carry `value` as one segment."""
    # `.` and `..` are resolved by HTTP clients, `%2F` is decoded by routers, and an id with blanks around it
    # is taken for the id: each would address something else. A lone surrogate has no UTF-8.
    if value in ("", ".", "..") or "/" in value or (value != value.strip() and is_uuid(value.strip())):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)
