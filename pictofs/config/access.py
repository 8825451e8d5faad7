"""Finds the API key and the base URL, by the vendor's rules: both command lines act alike.

The first of these that is there has the key: `--api-key-file`, the profile of `--profile`,
`PICTOGRAPH_API_KEY`, the profile of `PICTOGRAPH_PROFILE`, `[default]`. The first of these has the
URL: `--base-url`, the profile of `--profile`, `PICTOGRAPH_BASE_URL`, the profile of
`PICTOGRAPH_PROFILE`, `[default]`.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pictofs.config import values
from pictofs.config.mount import MountSettings
from pictofs.config.setting import declared, lookup, quoted
from pictofs.errors import Invalid, Unauthorized

PROFILE_FILE = Path(".pictograph/config.toml")
"""Below the home folder; `pictofs login` and `pictograph login` write it."""

_PROFILE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_DEFAULT_URL = next(item.shown for item in declared(MountSettings) if item.name == "base_url")


@dataclass(frozen=True)
class Profile:
    """One table of the profile file."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None


class Warned(NamedTuple):
    """Something about a key that the user should mend, and how."""

    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}"


@dataclass(frozen=True)
class Access:
    """A key and the API that it belongs to."""

    api_key: str = field(repr=False)
    source: str
    """Where the key was found, in words."""
    base_url: str | None
    """None if only the built-in default applies."""
    warnings: tuple[Warned, ...] = ()


def home_folder() -> Path:
    """The user's home folder, or a folder that does not exist.

    A user whom a container does not list has no home.
    """
    home = os.path.expanduser("~")
    if os.path.isabs(home):
        return Path(home)

    # With a relative path, anybody's profile in the working folder could redirect the key.
    return Path("/nonexistent")


def find_access(
    *, profile: str | None, key_file: Path | None, environ: Mapping[str, str], home: Path
) -> Access:
    """The key, and the base URL that goes with it unless `--base-url` says otherwise.

    Raises:
        Unauthorized: there is no key, or a profile that was named is missing.
        Invalid: the key's file or the profile file can't be used.
    """
    profiles = _Profiles(home / PROFILE_FILE)
    chosen = None
    if profile is not None:
        chosen = profiles.named(profile, "--profile")

    named = lookup(environ, "PICTOGRAPH_PROFILE")

    def ambient() -> Profile:
        if named:
            return profiles.named(named, "PICTOGRAPH_PROFILE")
        return profiles.tables.get("default", Profile())

    base_url: str | None
    if chosen:
        # Not PICTOGRAPH_BASE_URL: it could send this profile's key to another host.
        base_url = chosen.base_url or _DEFAULT_URL
    else:
        base_url = lookup(environ, "PICTOGRAPH_BASE_URL") or ambient().base_url

    def of(name: str) -> str:
        return f"profile {name!r} in {profiles.path}"

    key: str | None
    if key_file is not None:
        key = _read_key_file(key_file)
        source = f"--api-key-file {key_file}"
        profiles.warn_if_open(key_file)
    elif chosen:
        key = chosen.api_key
        source = of(profile or "")
    elif environment := lookup(environ, "PICTOGRAPH_API_KEY"):
        key = environment
        source = "PICTOGRAPH_API_KEY"
    else:
        key = ambient().api_key
        source = of(named or "default")

    if not key:
        where = f" ({source} has none)" if profile or named else ""
        raise Unauthorized(
            f"no API key{where}",
            hint="set PICTOGRAPH_API_KEY, name a file by --api-key-file, or run `pictofs login`",
        )

    return Access(key, source, base_url, tuple(profiles.warnings))


def profile_names(home: Path) -> list[str]:
    """All profiles in alphabetical order. Raises Invalid if the file can't be used."""
    return sorted(_Profiles(home / PROFILE_FILE).tables)


class _Profiles:
    """The profile file, read when first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[Warned] = []

    def named(self, name: str, source: str) -> Profile:
        """The profile `name`, which must exist."""
        if not _PROFILE_NAME.fullmatch(name):
            raise Invalid(
                f"{source}: {quoted(name)} can't be a profile: letters, digits, - and _, "
                "at most 64, with a letter or digit first"
            )

        if name not in self.tables:
            known = ", ".join(sorted(self.tables)) or "none"
            raise Unauthorized(
                f"no profile {name!r} (named by {source}) in {self.path}; there is: {known}",
                hint=f"make it by `pictofs login --profile {name}`",
            )

        return self.tables[name]

    @cached_property
    def tables(self) -> dict[str, Profile]:
        """Every profile by name; empty if there is no file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"can't read {self.path}: {_reason(error)}") from None

        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            # Only the position is shown: the rest of the message may quote the line with the key.
            place = re.search(r"\(at [^()]*\)$", str(error))
            raise Invalid(
                f"{self.path} is not TOML {place.group() if place else ''}".rstrip()
            ) from None

        self.warn_if_open(self.path)
        return {
            name: self._profile(name, table)
            for name, table in data.items()
            if isinstance(table, dict)
        }

    def _profile(self, name: str, table: dict[str, object]) -> Profile:
        texts = {key: value.strip() for key, value in table.items() if isinstance(value, str)}
        base_url = texts.get("base_url") or None
        if base_url is not None:
            try:
                base_url = values.url(base_url)
            except ValueError as error:
                raise Invalid(f"base_url of [{name}] in {self.path}: {error}") from None

        return Profile(texts.get("api_key") or None, base_url)

    def warn_if_open(self, path: Path) -> None:
        """Add a warning if other users can access the file `path`, which holds a key."""
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            self.warnings.append(
                Warned(f"{path} holds a key and is open to other users", f"chmod 600 {path}")
            )


def _read_key_file(path: Path) -> str:
    shown = quoted(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"--api-key-file: can't read {shown}: {_reason(error)}") from None

    if not text.strip():
        raise Invalid(f"--api-key-file: {shown} is empty")

    return text.strip()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or "it can't be read"
    return "it is not text"
