"""Where requests go and in whose name: path slots, and which hosts are this machine."""

from __future__ import annotations

import functools
import ipaddress
import re
from urllib.parse import quote

from pictofs import __version__
from pictofs.errors import Invalid

USER_AGENT = f"pictofs/{__version__}"

_SUB_ROUTES = frozenset({"metadata", "data-bundle", "review", "split"})
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


def slot(value: str) -> str:
    """`value`, an id or a name, as one percent-encoded path segment.

    Raises `Invalid` for a name that no path carries: the item is to be addressed by its id.
    """
    if not is_addressable(value):
        raise Invalid(f"the API can't address {value!r} by name; use its id")
    return quote(value, safe="")


def image_path(directory: str, filename: str) -> str:
    """The path of an image below its dataset, percent-encoded: `cam%201/a.jpg`, as the vendor's SDK writes it.

    Raises `Invalid` for a name that no path carries, and for one that is the name of a sub-route.
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
    # `.` and `..` are resolved by HTTP clients, `%2F` is decoded by routers, and an id with blanks around it
    # is taken for the id: each would address something else. A lone surrogate has no UTF-8.
    if value in ("", ".", "..") or "/" in value or (value != value.strip() and is_uuid(value.strip())):
        return False
    return not any("\ud800" <= char <= "\udfff" for char in value)
