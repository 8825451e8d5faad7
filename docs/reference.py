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

PAGE = Path(__file__).with_name("reference.md")
HEAD = """\
# Reference

Every command, every option, every exit code. `make docs` makes this page of what the program itself declares. What
a mount promises is in [semantics.md](semantics.md).
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
            [f"[`pictofs {name}`](#{_anchor(name)})", _paragraphs(each)[0]]
            for name, each in commands.items()
        ),
    )
    sections = (_section(name, each) for name, each in commands.items())
    return "\n".join([HEAD, "## Commands\n", index, *sections, CODES, _exit_codes()])


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    shown = {name: command for name, command in group.commands.items() if not command.hidden}
    for name, command in shown.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _anchor(name: str) -> str:
    return f"pictofs {name}".replace(" ", "-")


def _paragraphs(command: Any) -> list[str]:
    return [" ".join(text.split()) for text in inspect.cleandoc(command.help).split("\n\n")]


def _section(name: str, command: Any) -> str:
    shown = [each for each in command.params if not each.hidden]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    places = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    usage = " ".join(["pictofs", name, *places, *(["[OPTIONS]"] if options else [])])
    parts = [
        f"## pictofs {name}\n",
        f"`{usage}`\n",
        *(text + "\n" for text in _paragraphs(command)),
    ]
    explained = [[f"`{each.metavar}`", each.help] for each in arguments if each.help]
    if explained:
        parts.append(_table(["argument", "what it is"], explained))
    panels: dict[str, list[Any]] = defaultdict(list)
    for each in options:
        panels[each.rich_help_panel or ""].append(each)
    if name == "mount":
        parts.append(SETTINGS)
    for panel, within in panels.items():
        parts += [f"**{panel}**\n"] if panel else []
        parts.append(_options(within))

    return "\n".join(parts)


def _options(options: list[Any]) -> str:
    rows = [_option(each) for each in options]
    head = ["option", "what it does", "default", "variable"]
    used = [index for index in range(len(head)) if index < 2 or any(row[index] for row in rows)]
    return _table([head[index] for index in used], ([row[index] for index in used] for row in rows))


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
