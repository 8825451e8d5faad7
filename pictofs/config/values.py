"""Parsers for what a person writes as a setting.

Each takes the text and returns the value, or raises ValueError with a message that says what to
write.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

MINIMUM_CACHE_BYTES = 1_000_000
"""Bytes. Everything is read through the cache, so an empty one can't serve anything."""

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmgt])(i?))?b?", re.IGNORECASE | re.ASCII)
_SIZE_HINT = "write a size such as 20MB, 1.5GiB or a number of bytes"
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True)
class FreeSpace:
    """How much of a disk stays free: a share of it, or a number of bytes."""

    share: float = 0.0
    bytes: int = 0

    def of(self, total: int) -> int:
        """Bytes to keep free on a disk of `total` bytes."""
        return max(self.bytes, int(total * self.share))


def size(text: str) -> int:
    """Bytes. `k`, `M`, `G`, `T` are powers of 1000, `Ki`, `Mi`, `Gi`, `Ti` of 1024.

    A `B` may follow.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(_SIZE_HINT)

    digits, letter, binary = match.groups()
    power = " kmgt".index(letter.lower()) if letter else 0
    # Decimal, because a float would round large sizes.
    value = int(Decimal(digits) * (1024 if binary else 1000) ** power)
    if value > _MAX_SIZE:
        raise ValueError("that is more than any disk holds; " + _SIZE_HINT)

    return value


def cache_size(text: str) -> int:
    """Bytes, at least `MINIMUM_CACHE_BYTES`."""
    value = size(text)
    if value < MINIMUM_CACHE_BYTES:
        raise ValueError("write 1MB or more")
    return value


def free_space(text: str) -> FreeSpace:
    """A percentage below 100, or a size."""
    text = text.strip()
    if not text.endswith("%"):
        try:
            return FreeSpace(bytes=size(text))
        except ValueError:
            raise ValueError("write a share such as 5% or a size such as 10GB") from None

    share = number(text[:-1]) / 100
    if not 0 <= share < 1:
        raise ValueError("write a share from 0% up to, not including, 100%")

    return FreeSpace(share=share)


def number(text: str) -> float:
    """A finite decimal number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan

    if not math.isfinite(value):
        raise ValueError("write a number")

    return value


def positive_seconds(text: str) -> float:
    """Seconds, more than 0."""
    value = number(text)
    if value <= 0:
        raise ValueError("write a number of seconds above 0")
    return value


def seconds(text: str) -> float:
    """Seconds, 0 or more."""
    value = number(text)
    if value < 0:
        raise ValueError("write a number of seconds, 0 or more")
    return value


def count(text: str) -> int:
    """An integer, 0 or more."""
    if not re.fullmatch("[0-9]{1,9}", text.strip()):
        raise ValueError("write a whole number, 0 or more")
    return int(text.strip())


def port(text: str) -> int:
    """A TCP port."""
    if not re.fullmatch("[0-9]{1,5}", text.strip()) or not 0 < int(text.strip()) < 65536:
        raise ValueError("write a port from 1 to 65535")
    return int(text.strip())


def descriptor(text: str) -> int:
    """The number of a file descriptor that is no standard stream."""
    if not re.fullmatch("[0-9]{1,7}", text.strip()) or int(text) < 3:
        raise ValueError("write the number of an open file descriptor, 3 or more")
    return int(text)


def numeric_id(text: str) -> int:
    """A numeric user or group id."""
    try:
        return count(text)
    except ValueError:
        raise ValueError("write a numeric id, such as `id -u` and `id -g` print") from None


def octal(text: str) -> int:
    """Permission bits in octal."""
    if not re.fullmatch("(0o)?[0-7]{1,4}", text.strip()) or int(text.strip(), 8) > 0o777:
        raise ValueError("write permission bits in octal, such as 022")
    return int(text.strip(), 8)


def one_of(*names: str) -> Callable[[str], str]:
    """A parser of one of `names`, in any case."""

    def parse(text: str) -> str:
        if text.strip().lower() not in names:
            raise ValueError(f"write {', '.join(names[:-1])} or {names[-1]}")
        return text.strip().lower()

    return parse


def path(text: str) -> Path:
    """An absolute path; `~` is the home folder."""
    if not text.strip() or "\0" in text:
        raise ValueError("write a path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def url(text: str) -> str:
    """The root URL of an API: http or https, a host, and perhaps a path prefix.

    A slash at the end is removed.
    """
    hint = "write a URL such as https://api.pictograph.io"
    try:
        # Reading the port raises ValueError if it is not a number from 0 to 65535.
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False

    if not valid or re.search(r"[\s\x00-\x1f]", text.strip()):
        raise ValueError(hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(hint + ", without a user, a query or a fragment")

    return parts.geturl().rstrip("/")


def is_loopback(address: str) -> bool:
    """Whether the host of the URL `address` is this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
