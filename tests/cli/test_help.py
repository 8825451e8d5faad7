"""What --help shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pictofs.cli.commands import app
from pictofs.cli.help import EXAMPLES

DOCS = Path(__file__).parents[2] / "docs"
ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, words: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and group that help shows, by its words."""
    for name, each in group.commands.items():
        if not each.hidden:
            yield words + name, each
            yield from commands(each, f"{words}{name} ") if hasattr(each, "commands") else ()


@pytest.mark.parametrize("words", ["", *dict(commands())])
def test_no_type_of_python_is_shown(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    app([*words.split(), "--help"], standalone_mode=False)

    said = capsys.readouterr().out
    assert "Usage:" in said
    assert not re.search(r"<(bool|float|int|list|path|str)", said)
    assert ("Examples:" in said) == (words in EXAMPLES)


def test_every_command_has_examples() -> None:
    assert {words for words, each in commands() if not hasattr(each, "commands")} == set(EXAMPLES)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_are_understood(line: str) -> None:
    program, *words = shlex.split(line)
    command = ROOT
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]

    assert program == "pictofs"
    command.make_context("", words).close()


def test_what_is_mistyped_is_not_understood() -> None:
    with pytest.raises(Exception, match="colour"):
        ROOT.commands["mount"].make_context("", ["--colour", "x"])


def test_what_how_to_names_takes_json() -> None:
    text = " ".join((DOCS / "howto.md").read_text().split())
    said = re.search(r"and (`status`.*?) take `--json`", text)
    assert said
    named = set(re.findall(r"`(\w+)`", said[1]))
    shown = dict(commands())
    takes = {words for words, each in shown.items() if any("--json" in p.opts for p in each.params)}

    assert {words.split()[0] for words in takes} == named
