"""Command options made of the declared settings."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pictofs.cli import completion
from pictofs.cli.failure import warn
from pictofs.config import Access, Setting, declared, find_access, home_folder
from pictofs.config.setting import quoted
from pictofs.config.values import one_of
from pictofs.errors import Invalid
from pictofs.model.selection import CHOICES, Axis

F = TypeVar("F", bound=Callable[..., Any])

Mountpoint = Annotated[
    Path,
    # typer's own parser asks what is mounted there, which may hang.
    typer.Argument(metavar="MOUNTPOINT", show_default=False, parser=Path),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=completion.profiles,
        help="Take key and URL from this profile of ~/.pictograph/config.toml. Or set PICTOGRAPH_PROFILE.",
        rich_help_panel="Pictograph",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take the key from this file, not from PICTOGRAPH_API_KEY.",
        rich_help_panel="Pictograph",
    ),
]
CacheDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="The cache; the user's own by default. Or set PICTOFS_CACHE_DIR."
    ),
]


def _choice(axis: Axis) -> Any:
    """The option that takes images of one status or split alone."""
    choices = CHOICES[axis]
    parse = one_of(*choices)

    def check(text: str | None) -> str | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise Invalid(f"--{axis}: {quoted(text or '')} won't do: {error}") from None

    return typer.Option(
        metavar=axis.upper(),
        callback=check,
        autocompletion=completion.one_of(*choices),
        help=f"Only images of this {axis}: {', '.join(choices)}.",
    )


Status = Annotated[str | None, _choice("status")]
Split = Annotated[str | None, _choice("split")]
BulkAnnotations = Annotated[
    bool,
    typer.Option(
        "--bulk-annotations",
        metavar="",
        help="Fetch a dataset's annotations by one export archive. Needs the role member.",
    ),
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait", metavar="", help="End with exit code 8 when the request budget is spent."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")]
ProgressJson = Annotated[
    bool,
    typer.Option("--json", metavar="", help="Print progress and result as JSON, an object a line."),
]


def access_for(
    profile: str | None, key_file: Path | None, given: dict[str, str | bool | None]
) -> Access:
    """The key of a command, and in `given` the base URL that belongs to it.

    Prints what should be mended about the key. Raises Unauthorized, Invalid.
    """
    access = find_access(profile=profile, key_file=key_file, environ=os.environ, home=home_folder())
    for warning in access.warnings:
        warn(str(warning))

    given["base_url"] = given["base_url"] or access.base_url
    return access


def with_settings(settings: type) -> Callable[[F], F]:
    """A decorator that gives a command an option for each setting of a dataclass.

    The options take the place of the command's `**given`. The command gets what was written, by
    the setting's name: text, True for a switch, None for a setting that was left out.
    """

    def decorate(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        own = [
            p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [_parameter(item) for item in declared(settings)]
        both = [*own, *options]

        command.__signature__ = signature.replace(parameters=both)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in both}
        return command

    return decorate


def _help(item: Setting) -> str:
    default = f" Default: {item.shown}." if item.shown else ""
    variable = f" Or set {item.env}." if item.env else ""
    return item.help + default + variable


def _parameter(item: Setting) -> inspect.Parameter:
    switch = item.parse is None
    words = (item.metavar or "").split("|")
    option = typer.Option(
        item.flag,
        metavar=item.metavar or "",
        autocompletion=completion.one_of(*words) if all(map(str.islower, words)) else None,
        help=_help(item),
        show_default=False,
        rich_help_panel=item.panel,
    )
    annotation = Annotated[bool, option] if switch else Annotated[str | None, option]

    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if switch else None,
        annotation=annotation,
    )
