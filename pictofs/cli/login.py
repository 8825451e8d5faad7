"""`pictofs login`."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from pictofs.api.address import is_loopback
from pictofs.api.key import ApiKey
from pictofs.cli import completion
from pictofs.cli.failure import say_retry, warn
from pictofs.cli.formatting import say
from pictofs.cli.options import with_settings
from pictofs.config import (
    ServerSettings,
    check_profile_name,
    home_folder,
    lookup,
    resolve,
    save_profile,
)
from pictofs.model.plural import counted

PROMPT = "API key (from the platform's page on API keys; it is not shown): "


@with_settings(ServerSettings)
def login(
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.profiles,
            help="Keep the key as this profile. Or set PICTOGRAPH_PROFILE. Default: default.",
            rich_help_panel="Pictograph",
        ),
    ] = None,
    **given: str | bool | None,
) -> None:
    """Keep an API key in ~/.pictograph/config.toml, where the vendor's tools find it, too.

    Asks for the key, or reads it from standard input if that is no terminal. Shows it to the server
    once, and keeps it if the server takes it.
    """
    settings = ServerSettings(**resolve(ServerSettings, given, os.environ))
    name = profile or lookup(os.environ, "PICTOGRAPH_PROFILE") or "default"
    check_profile_name(name, "--profile" if profile else "PICTOGRAPH_PROFILE")
    api_key = ApiKey(_ask())

    from pictofs.app import datasets  # noqa: PLC0415 - not for --help

    count = datasets.run(settings, api_key, lambda each: each.count(), on_retry=say_retry)
    path = save_profile(home_folder(), name, api_key.reveal(), settings.base_url)

    seen = "" if count is None else f", sees {counted(count, 'dataset')}"
    say(f"{settings.base_url} takes the key{seen}; kept as profile {name!r} in {path}")
    if is_loopback(urlsplit(settings.base_url).hostname or ""):
        warn(f"profile {name!r} leads to a server on this machine, while that runs")
    if name != "default":
        say(f"use it by --profile {name}, or PICTOGRAPH_PROFILE={name}")
    if lookup(os.environ, "PICTOGRAPH_API_KEY") and profile is None:
        warn("PICTOGRAPH_API_KEY is set and goes before the profile: unset it")


def _ask() -> str:
    """The key as it was typed, without echo, or the first line of standard input."""
    if sys.stdin.isatty():
        return getpass.getpass(PROMPT, stream=sys.stderr)
    return sys.stdin.readline()
