"""Declares a setting once, for the command's option, the variable, the check and the docs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pictofs.errors import Invalid

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """One setting of a dataclass of settings."""

    name: str
    """The field's name, from which the flag is made."""
    help: str
    panel: str
    """The heading in the help text."""
    parse: Callable[[str], Any] | None
    """Turns text into the value, or raises ValueError that says what to write.

    None for a switch, which is on if it is given.
    """
    metavar: str | None
    shown: str
    """The default as a person would write it."""
    env: str | None
    parse_variable: Callable[[str], Any] | None
    """What takes the place of `parse` for the variable; None: nothing."""

    @property
    def flag(self) -> str:
        """The command's option."""
        return "--" + self.name.replace("_", "-")


def setting(
    help: str,
    *,
    panel: str,
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    default: str = "",
    make: Callable[[], Any] | None = None,
    env: str | None = None,
    parse_variable: Callable[[str], Any] | None = None,
) -> Any:
    """A field of a frozen dataclass that is a setting.

    `default` is text as a person would write it. If the value depends on the machine, `make`
    computes it and `default` describes it. Without `parse` the setting is a switch, off by default.
    `parse_variable`: takes the place of `parse` for the variable, which may hold a secret.
    """
    meta = {_KEY: (help, panel, parse, metavar, default, env, parse_variable)}
    if make is not None:
        return dataclasses.field(default_factory=make, metadata=meta)
    return dataclasses.field(default=parse(default) if parse else False, metadata=meta)


def declared(settings: type) -> Iterator[Setting]:
    """The settings of a dataclass, in order."""
    for field in dataclasses.fields(settings):
        if _KEY in field.metadata:
            yield Setting(field.name, *field.metadata[_KEY])


def resolve(
    settings: type, given: Mapping[str, str | bool | None], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Values by field name, from the options `given`, then the environment.

    Switches are always included. Other settings that neither has are left out.

    Raises:
        Invalid: a value can't be understood.
    """
    values: dict[str, Any] = {}
    for item in declared(settings):
        text = given.get(item.name)
        if item.parse is None:
            values[item.name] = bool(text)
            continue

        source = item.flag
        parse = item.parse
        if text is None and item.env:
            text = lookup(environ, item.env)
            source = item.env
            parse = item.parse_variable or item.parse

        if text is None:
            continue

        try:
            values[item.name] = parse(str(text))
        except ValueError as error:
            raise Invalid(f"{source}: {quoted(str(text))} won't do: {error}") from None

    return values


def lookup(environ: Mapping[str, str], name: str) -> str | None:
    """The variable's value. Blank counts as unset and case does not matter, as in the SDK."""
    if name in environ:
        return environ[name].strip() or None

    for key, value in environ.items():
        if key.upper() == name:
            return value.strip() or None

    return None


def quoted(text: str) -> str:
    """`text` for a message: short, on one line, and no API key that was put in the wrong place."""
    if re.search("pk_[a-z]+_|@", text):
        return "the value (not shown: it may hold a secret)"
    return repr(text if len(text) <= 60 else text[:57] + "...")
