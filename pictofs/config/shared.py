"""Where the shared engine is: a URL, whose user and password are never shown.

An argument can be read by every user of the machine (`ps`), so a URL with a password is taken from
a file or the environment alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from pictofs.config.setting import quoted
from pictofs.errors import Invalid

DEFAULT_PORT = 6379
"""The port of Valkey and Redis, with and without TLS."""
DATABASE_MAX = 65_535
"""The highest number of a database that is believed to be meant."""
_FILE_MAX_BYTES = 4096
_HINT = "write redis://HOST:PORT/DB, or rediss:// for TLS"


@dataclass(frozen=True)
class SharedAddress:
    """A parsed URL. `str` and `repr` have no user and no password."""

    host: str
    port: int = DEFAULT_PORT
    database: int = 0
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def has_secret(self) -> bool:
        """Whether it names a user or a password, and so may not be an argument."""
        return self.user is not None or self.password is not None

    def __str__(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.database}"


def parse_address(text: str) -> SharedAddress:
    """The engine that a URL names.

    The port is 6379 and the database 0 unless the URL says otherwise. User and password may be
    percent-encoded. Raises ValueError, which says what to write and quotes nothing of `text`.
    """
    text = text.strip()
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("it holds white space; " + _HINT)

    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        raise ValueError("its host or port can't be understood; " + _HINT) from None

    if parts.scheme in ("unix", "redis+unix"):
        raise ValueError("unix sockets are not supported; " + _HINT)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(_HINT)
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname):
        raise ValueError("it names no host; " + _HINT)
    if port == 0:
        raise ValueError("port 0 is not one; " + _HINT)
    if parts.query or parts.fragment:
        raise ValueError("a query or a fragment is not understood; " + _HINT)

    return SharedAddress(
        host=parts.hostname,
        port=port,
        database=_database(parts),
        tls=parts.scheme == "rediss",
        user=_secret(parts.username),
        password=_secret(parts.password),
    )


def argument_address(text: str) -> SharedAddress:
    """Like `parse_address`, for a command's argument: a user or a password is refused as well."""
    address = parse_address(text)
    if address.has_secret:
        raise ValueError(
            "every user of this machine can read an argument: "
            "put the URL with its password into a file or a variable"
        )

    return address


def read_address(path: Path) -> SharedAddress:
    """The engine that the URL in a file names. Raises Invalid, which shows nothing of it."""
    # What was given may be a key, or a URL, in the wrong place.
    shown = quoted(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        reason = error.strerror or "it can't be read"
        raise Invalid(f"can't read the URL of the shared engine from {shown}: {reason}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{shown} is not text", hint=_HINT) from None

    if not text.strip() or len(content) > _FILE_MAX_BYTES:
        raise Invalid(f"{shown} does not hold the URL of a shared engine", hint=_HINT)
    try:
        return parse_address(text)
    except ValueError as error:
        raise Invalid(f"the URL in {shown} won't do: {error}") from None


def _database(parts: SplitResult) -> int:
    digits = parts.path.removeprefix("/")
    if not digits:
        return 0
    if not re.fullmatch("[0-9]{1,5}", digits, re.ASCII) or int(digits) > DATABASE_MAX:
        raise ValueError("the database is a number, 0 by default; " + _HINT)

    return int(digits)


def _secret(text: str | None) -> str | None:
    """A user or a password as it was before percent-encoding; None for an empty one."""
    if not text:
        return None

    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("user and password are percent-encoded UTF-8; " + _HINT) from None
