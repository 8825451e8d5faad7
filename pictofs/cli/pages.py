"""`pictofs help`: the pages of the documentation, as far as a user needs them."""

# ruff: noqa: PLC0415 - rich is imported only when something is shown

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from pictofs.cli.formatting import say
from pictofs.errors import NoSuchEntry

PAGES = (
    "quickstart",
    "howto",
    "operations",
    "reference",
    "annotations",
    "troubleshooting",
    "semantics",
    "cluster",
    "performance",
    "upgrade",
)
"""What an installation brings, as `pyproject.toml` has it; the other pages are for developers."""
_HERE = Path(__file__).parents[1]
_FOLDERS = (_HERE / "docs", _HERE.parent / "docs")
"""Where they lie once installed, and in a checkout."""
_HEADING = re.compile(r"(#{1,6}) (.+)")


def help_(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC", show_default=False, help="A page, or a heading in one; all by default."
        ),
    ] = None,
) -> None:
    """Show a page of the documentation, or a part of it.

    On a terminal it is shown page by page; into a pipe it is printed as it is, in Markdown.
    """
    if topic is None:
        say(*(f"{name:16} {_title(page(name))}" for name in PAGES))
        say("", "pictofs help TOPIC shows a page, or what a page has below a heading.")
        return

    text = find(topic)
    if sys.stdout.isatty():
        _show(text)
    else:
        sys.stdout.write(text)


def page(name: str) -> str:
    """The text of one of `PAGES`. Raises NoSuchEntry if it was not installed."""
    for folder in _FOLDERS:
        path = folder / f"{name}.md"
        if path.is_file():
            return path.read_text(encoding="utf-8")

    raise NoSuchEntry(f"the page {name!r} was not installed")


def find(topic: str) -> str:
    """The page of that name, or what the first page has below such a heading.

    Raises NoSuchEntry.
    """
    wanted = _slug(topic.removesuffix(".md"))
    if wanted in PAGES:
        return page(wanted)

    for name in PAGES:
        found = "\n".join(_section(page(name), wanted))
        if found:
            return found.rstrip() + "\n"

    raise NoSuchEntry(
        f"no page and no heading is named {topic!r}", hint="pictofs help names the pages"
    )


def _section(text: str, wanted: str) -> Iterator[str]:
    """The lines of a page from a heading on, up to the next one that is not below it."""
    depth = 0
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading is not None and depth and len(heading[1]) <= depth:
            return
        if heading is not None and not depth and _slug(heading[2]) == wanted:
            depth = len(heading[1])
        if depth:
            yield line


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _slug(heading: str) -> str:
    """A heading as links name it: `mount-at-boot`."""
    return "-".join(re.sub(r"[^\w\s-]", "", heading.lower()).split())


def _show(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.pager():
        console.print(Markdown(text, hyperlinks=False))
