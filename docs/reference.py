"""Writes reference.md from the declarations that the command line itself is made of: `make docs`
runs it."""

from __future__ import annotations

import errno
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from pictofs import errors
from pictofs.cli.commands import app
from pictofs.cli.failure import INTERRUPTED
from pictofs.cli.help import EXAMPLES, paragraphs

PAGE = Path(__file__).with_name("reference.md")
HEAD = """\
# Reference

Every command, every option, every exit code. `make docs` makes this page of what the program itself declares. What
a mount promises is in [semantics.md](semantics.md).
"""
COMMON = "Pictograph"
"""The panel of the options that every command has that talks to the server."""
HEADINGS = ["option", "what it does", "default", "variable"]
SHARED = """\
## Common options

Every command that talks to the server takes these. All commands take `-h`.
"""
SETTINGS = """\
An option wins over its variable, a variable over the default. Sizes: `k`, `M`, `G`, `T` count in thousands, `Ki`,
`Mi`, `Gi`, `Ti` in 1024s. The smallest cache is 1MB.
"""
CODES = """\
## Exit codes

Those of the vendor's command line. When each error occurs is in [semantics.md](semantics.md#errors), with the errno
that a program that reads the mount gets to see.
"""


def page() -> str:
    """The whole page."""
    commands = dict(_commands(typer.main.get_command(app)))
    index = _table(
        ["command", "what it does"],
        (
            [f"[`pictofs {name}`](#{_anchor(name)})", paragraphs(each.help)[0]]
            for name, each in commands.items()
        ),
    )
    # `login` has no key to take yet, and so fewer of these options than all others.
    common = _common(each for name, each in commands.items() if name != "login")
    sections = (_section(name, each, common) for name, each in commands.items())
    shared = f"{SHARED}\n{_table(HEADINGS, common)}"
    return "\n".join([HEAD, "## Commands\n", index, shared, *sections, CODES, _exit_codes()])


def _common(commands: Iterable[Any]) -> list[list[str]]:
    """The options that every command has that talks to the server, as rows of a table."""
    talking = [panels[COMMON] for panels in map(_panels, commands) if COMMON in panels]
    first, *others = [[_option(each) for each in options] for options in talking]
    return [row for row in first if all(row in rows for rows in others)]


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    shown = {name: command for name, command in group.commands.items() if not command.hidden}
    for name, command in shown.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _anchor(name: str) -> str:
    return f"pictofs {name}".replace(" ", "-")


def _section(name: str, command: Any, common: list[list[str]]) -> str:
    shown = [each for each in command.params if not each.hidden]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    panels = _panels(command)
    places = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    usage = " ".join(["pictofs", name, *places, *(["[OPTIONS]"] if panels else [])])
    parts = [
        f"## pictofs {name}\n",
        f"`{usage}`\n",
        *(text + "\n" for text in paragraphs(command.help)),
    ]
    explained = [[f"`{each.metavar}`", each.help] for each in arguments if each.help]
    if explained:
        parts.append(_table(["argument", "what it is"], explained))
    if name in EXAMPLES:
        parts.append("\n".join(["```sh", *EXAMPLES[name], "```\n"]))
    if name == "mount":
        parts.append(SETTINGS)
    its_own = [_option(each) for each in panels.get(COMMON, [])]
    if takes_all := bool(its_own) and all(row in its_own for row in common):
        parts.append("It takes the [common options](#common-options), too.\n")
    for panel, within in panels.items():
        rows = [row for row in map(_option, within) if not takes_all or row not in common]
        if rows:
            parts += [f"**{panel}**\n"] if panel else []
            parts.append(_options(rows))

    return "\n".join(parts)


def _panels(command: Any) -> dict[str, list[Any]]:
    """The options that help shows, by the panel that it shows them in."""
    panels: dict[str, list[Any]] = defaultdict(list)
    for each in command.params:
        if not each.hidden and each.param_type_name == "option":
            panels[each.rich_help_panel or ""].append(each)
    return panels


def _options(rows: list[list[str]]) -> str:
    used = [index for index in range(len(HEADINGS)) if index < 2 or any(row[index] for row in rows)]
    return _table(
        [HEADINGS[index] for index in used], ([row[index] for index in used] for row in rows)
    )


def _option(each: Any) -> list[str]:
    spelled = (f"`{flag} {each.metavar}`" if each.metavar else f"`{flag}`" for flag in each.opts)
    match = re.fullmatch(r"(.*?)(?: Default: (.*?)\.)?(?: Or set (\w+)\.)?", each.help)
    assert match
    words, default, variable = match.groups()
    words += " Required." if each.required else ""
    if each.max is not None:
        words += f" From {each.min:,} to {each.max:,}."
    if each.show_default and each.default not in (None, False):
        default = str(each.default)
    return [", ".join(spelled), words, _code(default or ""), _code(variable or "")]


def _code(text: str) -> str:
    return f"`{text}`" if text and (" " not in text or "<" in text) else text


def _exit_codes() -> str:
    raised: dict[int, list[str]] = defaultdict(list)
    for name, each in inspect.getmembers(errors, inspect.isclass):
        code = errno.errorcode[each.errno].replace("ENOTSUP", "EOPNOTSUPP")  # one number, two names
        raised[each.exit_code].append(f"`{name}` ({code})")
    rows = [["0", "it is done"], *([str(code), ", ".join(raised[code])] for code in sorted(raised))]
    return _table(["exit code", "error (errno)"], [*rows, [str(INTERRUPTED), "Ctrl-C"]])


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, *rows)]
    lines.insert(1, " | ".join("---" for _ in head))
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
