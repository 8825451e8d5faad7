"""Finds the API key and the base URL, by the vendor's rules: both command lines act alike.

The first of these that is there has the key: `--api-key-file`, the profile of `--profile`,
`PICTOGRAPH_API_KEY`, the profile of `PICTOGRAPH_PROFILE`, `[default]`. The first of these has the
URL: `--base-url`, the profile of `--profile`, `PICTOGRAPH_BASE_URL`, the profile of
`PICTOGRAPH_PROFILE`, `[default]`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
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
_OWN = ("api_key", "base_url")
_OWN_LINE = re.compile(rf"\s*({'|'.join(_OWN)})\s*=")
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
            hint="run `pictofs login`, set PICTOGRAPH_API_KEY, or name a file by --api-key-file",
        )

    return Access(key, source, base_url, tuple(profiles.warnings))


def profile_names(home: Path) -> list[str]:
    """All profiles in alphabetical order. Raises Invalid if the file can't be used."""
    return sorted(_Profiles(home / PROFILE_FILE).tables)


def save_profile(home: Path, name: str, api_key: str, base_url: str) -> Path:
    """Keep a key and its URL as the profile `name`, and all else in the file as it is.

    `api_key`: what an HTTP header can carry. Returns: the file, which is open to its owner alone.

    Raises:
        Invalid: `name` can't be a profile, or the file can't be read, understood or written.
    """
    check_profile_name(name, "--profile")
    path = home / PROFILE_FILE
    profiles = _Profiles(path)
    table: dict[str, object] = {"api_key": api_key}
    if base_url != _DEFAULT_URL:
        table["base_url"] = base_url

    new = _with_table(profiles.text, name, table)
    kept = _parsed(profiles.text, path)
    former = kept.get(name)
    if isinstance(former, dict):
        table = {**{k: v for k, v in former.items() if k not in _OWN}, **table}

    # TOML can write a table in ways that a look at its lines does not see.
    try:
        understood = tomllib.loads(new) == {**kept, name: table}
    except tomllib.TOMLDecodeError:
        understood = False
    if not understood:
        raise Invalid(f"[{name}] in {path} is written in a way that only you can change")

    try:
        _replace(path, new)
    except OSError as error:
        raise Invalid(f"can't write {path}: {_reason(error)}") from None

    return path


def _with_table(text: str, name: str, table: Mapping[str, object]) -> str:
    """`text`, a TOML file, with the values of `table` in its table `name`."""
    values = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if re.match(r"\s*\[", line)]
    head = re.compile(rf"\s*\[\s*{re.escape(name)}\s*\]\s*(#.*)?")
    start = next((number for number in heads if head.fullmatch(lines[number])), None)
    if start is None:
        return "\n".join([*lines, *[""] * bool(lines), f"[{name}]", *values, ""])

    end = next((number for number in heads if number > start), len(lines))
    others = [line for line in lines[start + 1 : end] if not _OWN_LINE.match(line)]
    return "\n".join([*lines[: start + 1], *values, *others, *lines[end:], ""])


def _replace(path: Path, text: str) -> None:
    """Write a file that no other user can read, at once or not at all."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # A link to a folder of dotfiles stays one.
    target = path.resolve()
    descriptor, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise


def check_profile_name(name: str, source: str) -> None:
    """Raise Invalid if `name`, which `source` gave, can't be a profile's."""
    if not _PROFILE_NAME.fullmatch(name):
        raise Invalid(
            f"{source}: {quoted(name)} can't be a profile: letters, digits, - and _, "
            "at most 64, with a letter or digit first"
        )


def _parsed(text: str, path: Path) -> dict[str, object]:
    """The TOML of the file `path`. Raises Invalid."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Only the position is shown: the rest of the message may quote the line with the key.
        place = re.search(r"\(at [^()]*\)$", str(error))
        raise Invalid(f"{path} is not TOML {place.group() if place else ''}".rstrip()) from None


class _Profiles:
    """The profile file, read when first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[Warned] = []

    def named(self, name: str, source: str) -> Profile:
        """The profile `name`, which must exist."""
        check_profile_name(name, source)
        if name not in self.tables:
            known = ", ".join(sorted(self.tables)) or "none"
            raise Unauthorized(
                f"no profile {name!r} (named by {source}) in {self.path}; there is: {known}",
                hint=f"make it by `pictofs login --profile {name}`",
            )

        return self.tables[name]

    @cached_property
    def text(self) -> str:
        """The file; empty if there is none."""
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"can't read {self.path}: {_reason(error)}") from None

    @cached_property
    def tables(self) -> dict[str, Profile]:
        """Every profile by name; empty if there is no file."""
        data = _parsed(self.text, self.path)
        if data:
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
