"""`pictofs status`."""

# ruff: noqa: PLC0415 - rich takes longer to import than --json takes to run

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pictofs.app import mount_table, probe
from pictofs.cli import completion
from pictofs.cli.formatting import bytes_text, duration_text, printable, share_text
from pictofs.errors import PictofsError, TimedOut

if TYPE_CHECKING:
    from rich.console import RenderableType

Facts = dict[str, Any]
"""One mount: `mountpoint`, `state`, and `status`, its status.json or None if that can't be read."""


def status(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            show_default=False,
            autocompletion=completion.mount_points,
            help="Only this mount.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print a JSON array for programs.")
    ] = False,
) -> int:
    """Show the mounts of this machine: server, requests, cache, rate budget.

    Exits with 1 when MOUNTPOINT is named and no live mount.
    """
    wanted = mount_table.resolve(mountpoint) if mountpoint else None
    found = [facts(m.path) for m in mount_table.all_mounts() if m.ours and wanted in (None, m.path)]
    if wanted and not found:
        raise PictofsError(f"{wanted} is not a pictofs mount")

    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)

    return int(wanted is not None and found[-1]["state"] != "live")


def facts(path: Path) -> Facts:
    """What is known of the mount at `path`, without ever waiting long for it."""
    state = probe.state_of(path)
    document = read_status(path) if state == "live" else None
    return {"mountpoint": str(path), "state": state, "status": document}


def read_status(path: Path) -> Facts | None:
    """The status.json of the mount at `path`; None if it can't be read."""
    file = path / ".pictofs/status.json"
    try:
        document = json.loads(probe.run_in_subprocess(probe.TIMEOUT_S, file.read_bytes))
    except (OSError, TimedOut, ValueError):
        return None

    return document if isinstance(document, dict) else None


def _print(found: list[Facts]) -> None:
    from rich.console import Console

    console = Console()
    if not found:
        console.print("No pictofs mounts.")

    for one in found:
        console.print(_block(one))


def _block(one: Facts) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _rows(one):
        table.add_row(name, Text(printable(value)))

    color = {"live": "green", "stale": "red", "silent": "yellow"}[one["state"]]
    title = Text(printable(one["mountpoint"]))
    return Panel(table, title=title, title_align="left", border_style=color)


def _rows(one: Facts) -> list[tuple[str, str]]:
    path = one["mountpoint"]
    document = one["status"]

    if one["state"] == "stale":
        return [("state", f"stale: its process is gone. pictofs unmount {path}, or mount it again")]
    if one["state"] == "silent":
        return [("state", f"silent: its process does not answer. pictofs unmount --lazy {path}")]
    if document is None:
        return [("state", "live; its .pictofs/status.json can't be read by you")]

    return describe(document, time.time())


def describe(document: Facts, now: float) -> list[tuple[str, str]]:
    """The lines of a status document; whatever it lacks is left out.

    `now`: in seconds since the epoch.
    """
    lines: list[tuple[str, str]] = []
    requests = _table(document, "requests")
    moved = _table(document, "bytes")
    cache = _table(document, "cache")
    rate = _table(document, "rate")

    online = document.get("online")
    offline_since = _number(document, "offline_since")
    server = ""
    if online is not None:
        server = ", online" if online else ", offline"
    if online is False and offline_since is not None:
        server += f" for {duration_text(now - offline_since)}"
    lines.append(("server", f"{document.get('base_url', 'unknown')}{server}"))

    started = _number(document, "started_at")
    age = f"up {duration_text(now - started)}, " if started is not None else ""
    lines.append(("process", f"{age}id {document.get('pid', 'unknown')}"))

    if requests:
        by_route = _table(requests, "by_route")
        routes = ", ".join(f"{name} {count}" for name, count in by_route.items())
        hosts = f"{requests.get('api', 0)} to the API, {requests.get('storage', 0)} to storage"
        lines.append(("requests", f"{hosts} ({routes})" if routes else hosts))

    if moved:
        downloaded, read = (bytes_text(_number(moved, key) or 0) for key in ("downloaded", "read"))
        lines.append(("bytes", f"{downloaded} downloaded, {read} read"))

    if cache:
        used = _number(cache, "used") or 0
        limit = _number(cache, "limit") or 0
        hits = _number(cache, "hits") or 0
        misses = _number(cache, "misses") or 0

        full = f"{bytes_text(used)} of {bytes_text(limit)} ({share_text(used, limit)})"
        lines.append(("cache", full))
        lines.append(("hit rate", share_text(hits, hits + misses)))
        if cache.get("dir"):
            lines.append(("cache folder", str(cache["dir"])))

    lines += _labels(_table(document, "annotations"), now)

    ahead = _table(document, "prefetch")
    orders = [order for order in ahead.get("orders") or () if isinstance(order, dict)]
    if _number(ahead, "fetched"):
        used = _number(ahead, "used") or 0
        lines.append(("fetched ahead", f"{ahead['fetched']:,}, of which {used:,.0f} were read"))
    for order in orders:
        told = _number(order, "images") or 0
        to_come = _number(order, "left") or 0
        lines.append(("order told", f"{told:,.0f} images, {to_come:,.0f} not fetched yet"))

    left, of, reset = (_number(rate, key) for key in ("remaining", "limit", "reset_at"))
    if left is not None:
        total = f" of {of:,.0f}" if of is not None else ""
        when = ""
        if reset is not None and reset > now:
            when = f", full again in {duration_text(reset - now)}"
        lines.append(("request budget", f"{left:,.0f}{total} left{when}"))

    if "open_files" in document:
        lines.append(("open files", str(document["open_files"])))

    return lines


def _labels(annotations: Facts, now: float) -> list[tuple[str, str]]:
    """How old the annotation files are that were given, and where they came from."""
    lines = []
    oldest = _number(annotations, "oldest_confirmed_at")
    held = _number(_table(annotations, "renewals"), "held_back") or 0
    if oldest is not None:
        age = duration_text(max(0.0, now - oldest))
        late = f", {held:,.0f} wait for a renewal" if held else ""
        lines.append(("oldest label", f"confirmed {age} ago{late}"))

    came = _table(annotations, "from")
    if came.get("requests") or came.get("exports"):
        text = f"{_number(came, 'requests') or 0:,.0f} by requests"

        exports = annotations.get("exports")
        last = exports[-1] if isinstance(exports, list) and exports else None
        if isinstance(last, dict):
            text += f", {_number(came, 'exports') or 0:,.0f} by exports, last {last.get('name')}"
            made_at = _number(last, "created_at")
            if made_at is not None:
                text += f", made {duration_text(max(0.0, now - made_at))} ago"

        lines.append(("labels came", text))

    return lines


def _table(document: Facts, key: str) -> Facts:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _number(document: Facts, key: str) -> float | None:
    value = document.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None
