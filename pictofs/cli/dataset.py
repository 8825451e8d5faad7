"""`pictofs dataset`."""

# ruff: noqa: PLC0415 - trio, httpx and rich are imported only by who uses them, never for --help

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pictofs.api.key import ApiKey
from pictofs.cli import completion
from pictofs.cli.failure import say_retry
from pictofs.cli.formatting import bytes_text, printable, say
from pictofs.cli.options import ApiKeyFile, AsJson, Profile, access_for, with_settings
from pictofs.cli.refresh import show_change
from pictofs.config import ServerSettings, resolve
from pictofs.errors import Invalid
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from pictofs.app.datasets import Datasets
    from pictofs.model.records import Dataset, Export

T = TypeVar("T")
Given = str | bool | None

WIDE_COLUMNS = 100
"""Of a terminal that has room for all columns of a list."""

app = typer.Typer(help="List, show, make, change and delete datasets. No mount is needed.")

_NAME = typer.Argument(
    metavar="NAME",
    show_default=False,
    autocompletion=completion.datasets,
    help="The dataset's name, or its id.",
)
Name = Annotated[str, _NAME]
Description = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="What it holds, in words.")
]
Readme = Annotated[
    Path | None,
    typer.Option(
        "--readme",
        metavar="FILE",
        help="Its readme: a file in Markdown, or - for standard input. It is its description, too.",
    ),
]


@app.command("list")
@with_settings(ServerSettings)
def list_(
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many.", show_default=False)
    ] = None,
    archived: Annotated[
        bool, typer.Option("--archived", metavar="", help="Archived ones instead of active ones.")
    ] = False,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """List the datasets of the organization, newest first as a rule: 1,000 for a request."""
    settings, api_key = _access(profile, api_key_file, given)
    rows = _run(settings, api_key, lambda datasets: datasets.rows(limit, archived=archived))

    if as_json:
        print(json.dumps([row.raw for row in rows], indent=2))
    else:
        _print_rows(rows)


@app.command("get", hidden=True)
@app.command()
@with_settings(ServerSettings)
def show(
    name: Annotated[str | None, _NAME] = None,
    identity: Annotated[
        str | None,
        typer.Option("--id", metavar="UUID", help="The dataset's id, in place of its name."),
    ] = None,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """Show one dataset. With --json exactly what its dataset.json in a mount holds."""
    if (name is None) == (identity is None):
        raise Invalid("name the dataset, either by NAME or by --id")

    def find(datasets: Datasets) -> Awaitable[Dataset]:
        if identity is None:
            return datasets.find(name or "")
        return datasets.by_id(identity)

    row = _run(*_access(profile, api_key_file, given), find)

    if as_json:
        _print_object(row)
    else:
        _print_one(row)


@app.command()
@with_settings(ServerSettings)
def exports(
    name: Name,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """List the exports of a dataset, its versions that stay, newest first. Needs the role viewer.

    A finished one is a folder in a mount, at the path that is shown; `ls` of the dataset does not
    list `exports`. With --json the API's objects, each with its `path`.
    """
    settings, api_key = _access(profile, api_key_file, given)
    dataset, found = _run(settings, api_key, lambda datasets: datasets.exports(name))
    paths = _export_paths(dataset, found)

    if as_json:
        print(
            json.dumps([{**each.raw, "path": paths.get(each.identity)} for each in found], indent=2)
        )
    else:
        _print_exports(found, paths)


@app.command()
@with_settings(ServerSettings)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    description: Description = None,
    readme: Readme = None,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """Make an empty dataset. Needs the role member."""
    text = _description(description, readme)
    settings, api_key = _access(profile, api_key_file, given)
    row = _run(settings, api_key, lambda datasets: datasets.create(name, text))
    show_change(settings.base_url)
    _print_done("created", row, as_json=as_json)


@app.command()
@with_settings(ServerSettings)
def update(
    name: Name,
    rename: Annotated[
        str | None, typer.Option("--rename", "--new-name", metavar="NEW", help="Its new name.")
    ] = None,
    description: Description = None,
    readme: Readme = None,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """Rename a dataset or describe it. Needs the role member."""
    text = _description(description, readme)
    if rename is None and text is None:
        raise Invalid("nothing to change: name it by --rename, --readme or --description")

    settings, api_key = _access(profile, api_key_file, given)
    row = _run(
        settings,
        api_key,
        lambda datasets: datasets.update(name, rename=rename, description=text),
    )
    show_change(settings.base_url)
    _print_done("updated", row, as_json=as_json)


@app.command()
@with_settings(ServerSettings)
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="Don't ask.")] = False,
    as_json: AsJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: Given,
) -> None:
    """Delete a dataset with all of its images and annotations, for good. Needs the role admin.

    Asks on a terminal, by having its name typed. Without a terminal it needs --yes.
    """
    if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Invalid(
            "there is no terminal to ask on: say --yes to delete the dataset with all its images"
        )

    settings, api_key = _access(profile, api_key_file, given)
    row = _run(settings, api_key, lambda datasets: datasets.find(name))
    if not yes:
        _ask(row)

    _run(settings, api_key, lambda datasets: datasets.delete(row))
    show_change(settings.base_url)
    _print_done("deleted", row, as_json=as_json)


def _access(
    profile: str | None, key_file: Path | None, given: dict[str, Given]
) -> tuple[ServerSettings, ApiKey]:
    access = access_for(profile, key_file, given)
    return ServerSettings(**resolve(ServerSettings, given, os.environ)), ApiKey(
        access.api_key, access.source
    )


def _run(settings: ServerSettings, api_key: ApiKey, work: Callable[[Datasets], Awaitable[T]]) -> T:
    from pictofs.app import datasets

    return datasets.run(settings, api_key, work, on_retry=say_retry)


def _description(description: str | None, readme: Path | None) -> str | None:
    """What --description or --readme says, which are one thing to the API; None if neither."""
    if readme is None:
        return description
    if description is not None:
        raise Invalid("a readme is the description, too: name either --description or --readme")

    try:
        text = sys.stdin.buffer.read() if str(readme) == "-" else readme.read_bytes()
        return text.decode()
    except OSError as error:
        raise Invalid(f"{readme}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Invalid(f"{readme} is not text in UTF-8") from None


def _print_done(done: str, row: Dataset, *, as_json: bool) -> None:
    """Say what was done to a dataset; as JSON, what it was before it was deleted."""
    if as_json:
        _print_object(row)
    else:
        say(f"{done} {row.name} ({row.id})")


def _print_object(row: Dataset) -> None:
    from pictofs.model.records import document

    sys.stdout.write(document(row.raw).decode())


def _ask(row: Dataset) -> None:
    """Raise Invalid unless the dataset's name is typed."""
    images = counted(row.image_count, "image")
    if row.archived_image_count:
        images += f" and {counted(row.archived_image_count, 'archived one')}"

    name = printable(row.name)
    say(f"{name} goes for good, with {images}, {bytes_text(row.total_size)}.", to=sys.stderr)
    print("Type its name to delete it: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().rstrip("\n") not in (row.name, name):
        raise Invalid("nothing was deleted: that is not its name")


def _print_rows(rows: list[Dataset]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a pipe each dataset is one line, however long.
    console = Console(width=None if sys.stdout.isatty() else 100_000, soft_wrap=False)
    columns = ["images", "complete", "size"]
    if console.width >= WIDE_COLUMNS:
        columns.append("created")

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True)

    for row in rows:
        cells = {
            "images": f"{row.image_count:,}",
            "complete": f"{row.completed_image_count:,}",
            "size": bytes_text(row.total_size),
            "created": _moment(row.created_ns),
        }
        name = Text(printable(row.name))
        table.add_row(name, *(cells[column] for column in columns), Text(printable(row.id)))

    console.print(table)


def _export_paths(dataset: Dataset, exports: list[Export]) -> dict[str, str]:
    """Where each finished export is in a mount, by what identifies it."""
    from pictofs.model.names import entry_name
    from pictofs.model.records import export_entries

    folder = f"datasets/{entry_name(dataset.name, dataset.id)}/exports"
    entries = export_entries(exports)
    return {each.identity: f"{folder}/{entry}" for entry, each in entries.items()}


def _print_exports(exports: list[Export], paths: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # As in `_print_rows`.
    console = Console(width=None if sys.stdout.isatty() else 100_000, soft_wrap=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", overflow="fold")
    for column in ("format", "status"):
        table.add_column(column, no_wrap=True)
    for column in ("images", "annotations", "size", "created"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")

    for each in exports:
        counts = ("-", "-", "-")
        if each.identity in paths:
            counts = (
                f"{each.image_count:,}",
                f"{each.annotation_count:,}",
                bytes_text(each.file_size),
            )

        table.add_row(
            Text(printable(each.name)),
            Text(printable(each.format or "-")),
            Text(printable(each.status)),
            *counts,
            _moment(each.created_ns),
            Text(printable(paths.get(each.identity, "-"))),
        )

    console.print(table)


def _print_one(row: Dataset) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")

    for name, value in _facts(row):
        table.add_row(name, Text(printable(value)))

    Console().print(table)

    readme = _text(row.raw.get("readme"))
    if readme:
        say("", *readme.splitlines(), verbatim=True)


def _facts(row: Dataset) -> list[tuple[str, str]]:
    from pictofs.model.moment import time_ns

    raw = row.raw
    types = [each for each in _list(raw.get("annotation_types")) if isinstance(each, str)]
    images = f"{row.image_count:,}, of which {row.completed_image_count:,} complete"
    description = row.description or "-"
    if description == raw.get("readme"):
        description = "the readme, below"

    return [
        ("name", row.name),
        ("id", row.id),
        ("description", description),
        ("images", images),
        ("archived images", f"{row.archived_image_count:,}"),
        ("size", bytes_text(row.total_size)),
        ("annotation types", ", ".join(types) or "-"),
        ("classes", _classes(raw.get("classes")) or "-"),
        ("views", "by-status/ and by-split/ in its folder in a mount; ls does not list them"),
        ("exports", "exports/ in its folder in a mount, which ls does not list either"),
        ("storage", row.storage_class),
        ("created", _moment(row.created_ns)),
        ("updated", _moment(time_ns(row.updated_at))),
        ("archived", "yes" if row.is_archived else "no"),
    ]


def _classes(given: object) -> str:
    """The names of the classes by their type: `stop, yield (box); road (polygon)`."""
    names: dict[str, list[str]] = {}
    for each in _list(given):
        if isinstance(each, dict) and _text(each.get("name")):
            names.setdefault(_text(each.get("type")), []).append(each["name"])

    return "; ".join(
        ", ".join(of_type) + (f" ({kind})" if kind else "") for kind, of_type in names.items()
    )


def _list(given: object) -> list[object]:
    """A value of the API's object, which may be anything: empty unless it is a list."""
    return given if isinstance(given, list) else []


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def _moment(ns: int) -> str:
    """A time of the server, UTC, to the minute; a dash if it told none."""
    return f"{datetime.fromtimestamp(ns / 1e9, UTC):%Y-%m-%d %H:%M}" if ns else "-"
