"""`pictofs status`."""

# ruff: noqa: PLC0415 - rich and msgspec take longer to import than --json takes to run

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pictofs.app import mount_table, probe, running
from pictofs.cli import completion
from pictofs.cli.formatting import bytes_text, clock_text, duration_text, printable, say, share_text
from pictofs.cli.options import AsJson
from pictofs.errors import NoSuchEntry
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pictofs.model.status import (
        AnnotationsStatus,
        FormatStatus,
        RateStatus,
        SharedStatus,
        Status,
    )

WINDOW_S = 3600.0
"""Seconds after which the rate limit is there again at the latest."""

ROUTES_SHOWN = 3
ORDERS_SHOWN = 2
FORMATS_SHOWN = 2
"""So many, so that a mount's status fits on a terminal of 24 lines; --json has all of them."""

WIDE_COLUMNS = 100
"""Of a terminal that has room for the servers of several mounts."""
STATE_COLORS = {
    "live": "green",
    "online": "green",
    "offline": "yellow",
    "silent": "yellow",
    "closed": "dim",
    "stale": "red",
}

Facts = dict[str, Any]
"""One mount: `mountpoint`, `state`, and `status`, its status.json or None if that can't be read.

If the mount is silent, also `process`: `id` and `stopped`, or None if it can't be told.
"""


def status(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            show_default=False,
            parser=Path,  # typer's own asks the mount, which may hang, or be closed to this user
            autocompletion=completion.mount_points,
            help="Only this mount.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show the mounts of this machine: server, requests, cache, rate budget.

    Where there are several, a line for each; name one to see it in full.

    Exits with 4 if MOUNTPOINT is named and no mount of pictofs is there, and with 1 if that mount
    is stale (its process died) or silent (it does not answer).
    """
    wanted = mount_table.resolve(mountpoint) if mountpoint else None
    found = [facts(m.path) for m in mount_table.all_mounts() if m.ours and wanted in (None, m.path)]
    if wanted and not found:
        raise NoSuchEntry(f"{wanted} is not a pictofs mount")

    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)

    return int(wanted is not None and found[-1]["state"] != "live")


def facts(path: Path) -> Facts:
    """What is known of the mount at `path`, without ever waiting long for it."""
    state = probe.state_of(path)
    document = running.read_document(path) if state == "live" else None
    found = {"mountpoint": str(path), "state": state, "status": document}
    if state == "silent":
        process = running.process_of(path)
        found["process"] = asdict(process) if process else None

    return found


def _print(found: list[Facts]) -> None:
    from rich.console import Console

    if len(found) > 1:
        _print_overview(found)
        return

    console = Console()
    if not found:
        console.print("No pictofs mounts.")
    for one in found:
        console.print(_block(one))


def _print_overview(found: list[Facts]) -> None:
    """A line for each mount, and below them what a reader should know of some."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Into a pipe each mount is one line, however long.
    console = Console(width=None if sys.stdout.isatty() else 100_000)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("mount point", overflow="fold")
    table.add_column("state", no_wrap=True)
    if console.width >= WIDE_COLUMNS:
        table.add_column("server", overflow="fold")
    table.add_column("up", no_wrap=True)
    table.add_column("hit rate", justify="right", no_wrap=True)
    table.add_column("requests left", justify="right", no_wrap=True)

    remarks = []
    for one in found:
        line = outline(one, time.time())
        cells = [
            Text(printable(one["mountpoint"])),
            Text(line.state, style=STATE_COLORS[line.state]),
        ]
        if console.width >= WIDE_COLUMNS:
            cells.append(Text(printable(line.server)))
        table.add_row(*cells, line.up, line.hit_rate, line.left)
        if line.remark:
            remarks.append(f"{one['mountpoint']}: {line.remark}")

    console.print(table)
    say("", *remarks, "pictofs status MOUNTPOINT shows one of them in full.")


@dataclass(frozen=True)
class Outline:
    """A mount in a line; "-" for what is not known."""

    state: str
    """`online`, `offline`, `stale`, `silent`, or `closed` if it is another user's."""
    server: str = "-"
    up: str = "-"
    hit_rate: str = "-"
    left: str = "-"
    remark: str = ""
    """What is wrong with it, and what to do."""


def outline(one: Facts, now: float) -> Outline:
    """The line of a mount. `now`: in seconds since the epoch."""
    from pictofs.model.status import CacheStatus, to_status

    if one["state"] != "live" or one["status"] is None:
        [(_, remark)] = _rows(one)
        state = "closed" if one["state"] == "live" else one["state"]
        return Outline(state, remark=remark.partition("; " if state == "closed" else ": ")[2])

    status = to_status(one["status"])
    cache = status.cache or CacheStatus()
    hits = cache.hits or 0
    age = "-" if status.started_at is None else duration_text(now - status.started_at)

    return Outline(
        state="offline" if status.online is False else "online",
        server=status.base_url or "-",
        up=age,
        hit_rate=share_text(hits, hits + (cache.misses or 0)),
        left=_left(status.rate) or "-",
        remark=limit_text(status.rate, now),
    )


def _block(one: Facts) -> RenderableType:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _rows(one):
        table.add_row(name, Text(printable(value)))

    title = Text(printable(one["mountpoint"]))
    return Panel(table, title=title, title_align="left", border_style=STATE_COLORS[one["state"]])


def _rows(one: Facts) -> list[tuple[str, str]]:
    from pictofs.model.status import to_status

    path = Path(one["mountpoint"])
    document = one["status"]

    if one["state"] != "live":
        problem, advice = running.trouble(path, one["state"])
        return [("state", f"{one['state']}: {problem}. {advice}")]
    if document is None:
        owner = running.owner_else(path)
        whose = f"it is {owner}'s mount, closed to you" if owner else "its status can't be read"
        return [("state", f"live; {whose}")]

    return describe(to_status(document), time.time())


def describe(status: Status, now: float) -> list[tuple[str, str]]:
    """The lines of a status; whatever it lacks is left out.

    `now`: in seconds since the epoch.
    """
    lines: list[tuple[str, str]] = []

    server = ""
    if status.online is not None:
        server = ", online" if status.online else ", offline"
    if status.online is False and status.offline_since is not None:
        server += f" for {duration_text(now - status.offline_since)}"
    lines.append(("server", f"{status.base_url or 'unknown'}{server}"))

    spent = limit_text(status.rate, now)
    if spent:
        lines.append(("hourly limit", spent))

    age = ""
    if status.started_at is not None:
        age = f"up {duration_text(now - status.started_at)}, "
    lines.append(("process", f"{age}id {status.pid or 'unknown'}"))
    if status.log:
        lines.append(("log", status.log))

    requests = status.requests
    if requests is not None:
        routes = _routes(requests.by_route)
        hosts = f"{requests.api} to the API, {requests.storage} to storage"
        lines.append(("requests", f"{hosts} ({routes})" if routes else hosts))

    moved = status.bytes
    if moved is not None:
        text = f"{bytes_text(moved.downloaded)} downloaded, {bytes_text(moved.read)} read"
        lines.append(("bytes", text))

    cache = status.cache
    if cache is not None:
        used = cache.used or 0
        limit = cache.limit or 0
        hits = cache.hits or 0
        misses = cache.misses or 0

        full = f"{bytes_text(used)} of {bytes_text(limit)} ({share_text(used, limit)})"
        lines.append(("cache", f"{full}, hit rate {share_text(hits, hits + misses)}"))
        if cache.dir:
            lines.append(("cache folder", cache.dir))

    if status.shared is not None:
        lines.append(("shared engine", shared_text(status.shared)))

    lines += _labels(status.annotations, now)

    lines += _formats(status.formats)

    ahead = status.prefetch
    if ahead.fetched:
        read = f"{ahead.used:,} {'was' if ahead.used == 1 else 'were'} read"
        lines.append(("fetched ahead", f"{ahead.fetched:,}, of which {read}"))
    for order in ahead.orders[:ORDERS_SHOWN]:
        text = f"{counted(order.images, 'image')}, {order.left:,} not fetched yet"
        lines.append(("order told", text))
    if len(ahead.orders) > ORDERS_SHOWN:
        lines.append(("", f"and {counted(len(ahead.orders) - ORDERS_SHOWN, 'other order')}"))

    rate = status.rate
    if rate.remaining is not None:
        when = ""
        if rate.reset_at is not None and rate.reset_at > now:
            when = f", full again in {duration_text(rate.reset_at - now)}"
        lines.append(("request budget", f"{_left(rate)} left{when}"))

    if status.open_files is not None:
        lines.append(("open files", str(status.open_files)))

    return lines


def _left(rate: RateStatus) -> str:
    """What is left of the hourly limit; empty if the server has not told."""
    if rate.remaining is None:
        return ""
    return (
        f"{rate.remaining:,} of {rate.limit:,}" if rate.limit is not None else f"{rate.remaining:,}"
    )


def limit_text(rate: RateStatus, now: float) -> str:
    """What the spent rate limit means for readers; empty while it is not spent.

    `now`: in seconds since the epoch.
    """
    until = rate.spent_until
    if until is None or not 0 < until - now <= WINDOW_S:
        return ""

    do = "wait" if until - now <= rate.wait else "fail"
    return f"reads of what is not cached {do} until {clock_text(until)}: the hourly limit is spent"


def shared_text(shared: SharedStatus) -> str:
    """What there is to say of the shared engine, in a line."""
    state = "answers"
    if shared.state == "connecting":
        state = "is being connected"
    elif shared.state != "closed":
        state = f"is left alone: {shared.reason or 'it does not answer'}"

    used = share_text(shared.hits, shared.hits + shared.misses)
    text = f"{shared.engine} {state}; hit rate {used}"
    if shared.calls:
        text += f", {1000 * shared.seconds / shared.calls:.1f} ms a call"
    if shared.errors:
        text += f", {counted(shared.errors, 'error')}"
    return text


def _routes(by_route: dict[str, int]) -> str:
    """The routes that took the most requests, each with its number."""
    most = sorted(by_route.items(), key=lambda item: item[1], reverse=True)
    shown = [f"{name} {count}" for name, count in most[:ROUTES_SHOWN]]
    if len(most) > ROUTES_SHOWN:
        shown.append(f"others {sum(count for _, count in most[ROUTES_SHOWN:])}")
    return ", ".join(shown)


def _formats(formats: list[FormatStatus]) -> list[tuple[str, str]]:
    """What the formats whose files were made can't hold."""
    lines = []
    for each in formats[:FORMATS_SHOWN]:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in each.left_out.items())
        place = f"{each.dataset}/by-status/{each.of_status}" if each.of_status else each.dataset
        text = f"{place}: {counted(each.labels, 'label')}"
        if left_out:
            text += f"; left out or reduced: {left_out} (see report.json)"
        lines.append((f"formats/{each.format}", text))
    if len(formats) > FORMATS_SHOWN:
        lines.append(("", f"and {counted(len(formats) - FORMATS_SHOWN, 'other format')}"))

    return lines


def _labels(annotations: AnnotationsStatus, now: float) -> list[tuple[str, str]]:
    """How old the annotation files are that were given, and where they came from."""
    lines = []
    held = annotations.renewals.held_back
    if annotations.oldest_confirmed_at is not None:
        age = duration_text(max(0.0, now - annotations.oldest_confirmed_at))
        late = f", {held:,} wait for a renewal" if held else ""
        lines.append(("oldest label", f"confirmed {age} ago{late}"))

    came = annotations.origin
    if came.requests or came.exports or came.shared:
        text = f"{came.requests:,} one by one"
        if came.shared:
            text += f", {came.shared:,} from other nodes"

        if annotations.exports:
            last = annotations.exports[-1]
            text += f", {came.exports:,} by exports, last {last.name}"
            if last.created_at is not None:
                text += f", made {duration_text(max(0.0, now - last.created_at))} ago"

        lines.append(("labels came", text))

    return lines
