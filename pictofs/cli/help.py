"""What --help shows: whole paragraphs, examples, and no type where nothing is to be written."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

EXAMPLES: dict[str, tuple[str, ...]] = {
    "mount": (
        "pictofs mount ~/picto",
        "pictofs mount --profile staging --cache-size 200GB ~/picto",
        "pictofs mount --writable --api-key-file ~/member.key ~/picto",
    ),
    "unmount": ("pictofs unmount ~/picto", "pictofs unmount --lazy ~/picto"),
    "status": ("pictofs status", "pictofs status --json ~/picto"),
    "top": ("pictofs top ~/picto",),
    "login": ("pictofs login", "pictofs login --profile staging"),
    "doctor": ("pictofs doctor", "pictofs doctor ~/picto"),
    "refresh": ("pictofs refresh ~/picto", "pictofs refresh ~/picto/datasets/night"),
    "warm": (
        "pictofs warm --dry-run ~/picto/datasets/night",
        "pictofs warm ~/picto/datasets/night",
        "pictofs warm --images --split train ~/picto/datasets/night",
        "pictofs warm --shard 0/8 ~/picto/datasets/night",
        "pictofs warm --check ~/picto/datasets/night",
    ),
    "prefetch": ("pictofs prefetch --order order.txt ~/picto/datasets/night",),
    "download": (
        "pictofs download night data",
        "pictofs download --status complete night data",
    ),
    "help": ("pictofs help", "pictofs help troubleshooting", "pictofs help mount-at-boot"),
    "demo": ("pictofs demo", "pictofs demo --keep /tmp/picto"),
    "dataset list": ("pictofs dataset list", "pictofs dataset list --archived --json"),
    "dataset show": ("pictofs dataset show night", "pictofs dataset show --json night"),
    "dataset exports": ("pictofs dataset exports night", "pictofs dataset exports --json night"),
    "dataset create": ("pictofs dataset create --readme night.md night",),
    "dataset update": (
        "pictofs dataset update --rename dusk night",
        "pictofs dataset update --readme night.md night",
    ),
    "dataset delete": ("pictofs dataset delete night",),
    "cache info": ("pictofs cache info", "pictofs cache info --cache-dir /data/cache --json"),
    "cache verify": ("pictofs cache verify",),
    "cache clear": ("pictofs cache clear",),
    "cache prune": ("pictofs cache prune", "pictofs cache prune --days 90"),
}
"""What to type, by the command's words."""


class Command(TyperCommand):
    """A command."""

    def __init__(self, *, help: str | None = None, **rest: Any) -> None:
        """`help`: its docstring, whose line ends mean nothing."""
        super().__init__(help="\n\n".join(paragraphs(help or "")), **rest)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options and arguments, those of the library included."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, those of the library included."""
        return _without_types(super().get_params(ctx))


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, each as one line."""
    return [" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n")]


def dress(app: typer.Typer, words: str = "") -> None:
    """Give the commands of `app` their help. `words`: what is typed before their names."""
    app.info.cls = Group
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        command.cls = Command
        shown = EXAMPLES.get(words + name, ())
        command.epilog = "\n\n".join(["Examples:", *shown]) if shown else None


def _without_types(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
        elif each.param_type_name == "argument":
            # Its name says what it is; the type would be one of Python's.
            each.display_type_rich = lambda ctx: None
    return parameters
