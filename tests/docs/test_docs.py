"""The pages say what the code does, as far as a program can tell."""

from __future__ import annotations

import ast
import errno
import inspect
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pictofs import errors
from pictofs.cli.commands import app
from pictofs.config import MountSettings, declared
from standin import Switches, faults

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SEMANTICS = (ROOT / "docs/semantics.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
TROUBLES = (ROOT / "docs/troubleshooting.md").read_text()
PROMISES = re.findall(r"^\*\*([A-Z]\d+)\*\* ", SEMANTICS, re.MULTILINE)
SOURCES = [*sorted((ROOT / "pictofs").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_reference_is_that_of_the_code() -> None:
    made: str = runpy.run_path(str(ROOT / "docs/reference.py"))["page"]()
    assert made == (ROOT / "docs/reference.md").read_text(), "run make docs"


def test_the_ways_of_the_standin_are_those_of_the_code() -> None:
    made: str = runpy.run_path(str(ROOT / "docs/standin.py"))["page"]()
    assert made == (ROOT / "docs/standin.md").read_text(), "run make docs"
    for name in Switches.__dataclass_fields__:
        assert f"| `{name}` |" in made
    for name, kind in inspect.getmembers(faults, inspect.isclass):
        if kind.__module__ == faults.__name__ and name != "Action" and "__call__" in vars(kind):
            assert f"| `{name}` |" in made


def test_the_errors_are_those_of_the_code() -> None:
    named = re.findall(r"^\| `(\w+)` \| (E\w+) \| (\d+) \|", SEMANTICS, re.MULTILINE)
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    table = [(each.__name__, errno.errorcode[each.errno], str(each.exit_code)) for each in classes]
    # ENOTSUP is the same number, and Python's name for it.
    assert sorted(named) == sorted(
        (name, code.replace("ENOTSUP", "EOPNOTSUPP"), exit) for name, code, exit in table
    )


def test_promises_are_numbered_once_and_in_order() -> None:
    assert len(PROMISES) == len(set(PROMISES)) > 40
    for letter in {promise[0] for promise in PROMISES}:
        numbers = [int(promise[1:]) for promise in PROMISES if promise[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def mentioned() -> Iterator[tuple[Path, str]]:
    """Promises that a test's name, or a word about the page, claims to hold."""
    for path in SOURCES:
        text = path.read_text()
        for names in re.findall(r"def test_((?:[a-z]\d+_)+)", text):
            yield from ((path, name.upper()) for name in names.strip("_").split("_"))
        for words in re.findall(r"semantics\.md[,:]? ((?:[A-Z]\d+(?:, | and | to )?)+)", text):
            yield from ((path, name) for name in re.findall(r"[A-Z]\d+", words))


def test_every_promise_that_a_test_names_exists() -> None:
    assert [(path.name, name) for path, name in mentioned() if name not in PROMISES] == []


def test_every_promise_has_a_test_that_names_it() -> None:
    named = {name for path, name in mentioned() if path.name.startswith("test_")}
    assert [promise for promise in PROMISES if promise not in named] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_promises_that_pages_name_exist(page: Path) -> None:
    named = re.findall(r"[(,] ?([A-Z]\d{1,2})(?=[),:])", page.read_text())
    assert [name for name in named if name not in PROMISES] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_blocks_parse(page: Path) -> None:
    for block in blocks(page, "sh"):
        text = block.replace("<this repository>", "URL")
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0, block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]


def test_pages_name_no_option_that_does_not_exist() -> None:
    known = {item.flag for item in declared(MountSettings)}
    root = typer.main.get_command(app)
    pending = [root]

    while pending:
        command = pending.pop()
        known |= {flag for parameter in command.params for flag in parameter.opts}
        pending += getattr(command, "commands", {}).values()

    # Of other programs, or named as missing.
    known |= {
        "--device",
        "--no-deps",
        "--cap-add",
        "--no-install-recommends",
        "--user",
        "--now",
        "--name",
        "--preset",
        "--security-opt",
        "--restart",
        "--ntasks",
        "--global",
        "--path",
        "--force",
        "--force-reinstall",
        "--set",
        "--nproc-per-node",
        "--reuid",
        "--regid",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set",
        "--inh-caps",
        "--port",
        "--save",
        "--daemonize",
    }

    for page in PAGES:
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
        assert found <= known, page.name


def constants() -> str:
    """All text that the code can say, with what is put into it left out."""
    parts = []
    for path in sorted((ROOT / "pictofs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(re.sub(r"%[dsg]|%\.\df", "\n", node.value))
    return "\n".join(parts)


def test_messages_are_those_of_the_code() -> None:
    said = constants()
    rows = OPERATIONS.split("## Log")[1].split("## Uninstall")[0]
    rows += TROUBLES.split("## By message")[1]
    messages = re.findall(
        r"`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \| ", rows, re.MULTILINE))
    )

    assert len(messages) > 25

    for message in messages:
        if message == "pictofs: ...":
            continue
        pieces = re.split(r"\.\.\.|\b[NM]\b|\b3\b|'", message)
        for piece in pieces:
            assert piece.strip(" ():;,") in said, message


def test_the_doors_of_make_are_those_that_pages_name() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"`?\bmake ([a-z-]+)", page.read_text()):
            assert target in targets or f"`make {target}" not in page.read_text(), (
                page.name,
                target,
            )
