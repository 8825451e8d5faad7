"""`pictofs doctor`."""

# ruff: noqa: PLC0415 - the checks import the store and httpx, never for --help

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pictofs.app import mount_table
from pictofs.cli.formatting import printable, wrapped
from pictofs.cli.options import ApiKeyFile, AsJson, Profile, with_settings
from pictofs.config import LibrarySettings, home_folder
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from pictofs.app.doctor import Finding

COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
MARGIN = 19
"""Columns of outcome and check, before what was found."""


@with_settings(LibrarySettings)
def doctor(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            show_default=False,
            parser=Path,  # typer's own asks the mount, which may hang
            help="Only this mount, or a folder to mount on.",
        ),
    ] = None,
    as_json: AsJson = False,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            metavar="",
            help="Compare the server with what pictofs expects of it, by some 15 read-only "
            "requests, and print each difference as a line for a report: "
            "without the key, names or ids.",
        ),
    ] = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: str | bool | None,
) -> int:
    """Look for what keeps a mount from working, and say what to do.

    Takes the options that the mount is given. Changes nothing, and asks the API once. Exits with 1
    when something fails.
    """
    from pictofs.app.doctor import run_checks

    found = []
    for each in run_checks(
        mount_table.resolve(mountpoint) if mountpoint else None,
        given,
        profile=profile,
        key_file=api_key_file,
        environ=os.environ,
        home=home_folder(),
        contract=contract,
    ):
        found.append(each)
        if not as_json:
            _print(each)

    failed = sum(each.outcome == "fail" for each in found)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        asked = sum(each.requests for each in found)
        print(f"{len(found)} checks, {failed or 'nothing'} failed; {counted(asked, 'API request')}")

    return int(failed > 0)


def _print(each: Finding) -> None:
    """A line, and below it what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    width = console.width if console.is_terminal else None

    head = f"{each.outcome:5}{each.check:14}"
    line = Text("\n".join(wrapped(head + printable(each.message), width, MARGIN)))
    line.stylize(COLORS[each.outcome], 0, 5)
    line.stylize("bold", 5, len(head))
    console.print(line, soft_wrap=True)

    if each.advice:
        advice = wrapped(f"{'':{MARGIN}}-> {printable(each.advice)}", width, 3)
        console.print(Text("\n".join(advice), style="cyan"), soft_wrap=True)
