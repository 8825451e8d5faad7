"""How a run that fetches files looks: a bar on a terminal, lines elsewhere, JSON for programs."""

# ruff: noqa: PLC0415 - rich takes longer to import than --json takes to run

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pictofs.cli.formatting import bytes_text, clock_text, duration_text, printable, say
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

LINE_EVERY_S = 10.0
"""Seconds between two lines if there is no terminal."""
WAITING_EVERY_S = 60.0
"""The same while something is waited for."""
BAR_LEAST = 10
"""Columns below which a bar shows little."""
ECHO_COLUMNS = 3
"""Columns for `^C`, and for the cursor behind it."""
WINDOW_S = 20.0
"""Seconds of which rates are the mean."""
SHOWN = 20
"""Failures that a person gets to see."""

Facts = dict[str, Any]

_STATES = {
    "listing": "listing",
    "looking": "looking at what is there",
    "exporting": "waiting for the export of annotations",
    "fetching": "fetching",
    "waiting": "waiting for the request budget",
    "done": "done",
}


class Progress(Protocol):
    """What shows a run."""

    def show(self, progress: Facts) -> None:
        """How far it is."""

    def close(self) -> None:
        """Nothing more will be shown: leave the terminal as it was."""


@contextmanager
def showing(*, as_json: bool, stays: bool = True) -> Iterator[Progress]:
    """What shows the progress of a run, as it suits what standard error is.

    `stays`: whether a bar is left in its last state, and not wiped off: one of a run that only looks
    never becomes full.

    It is closed in the end, and says what is left if Ctrl-C ends the run.
    """
    progress: Progress
    if as_json:
        progress = JsonProgress()
    elif _can_draw():
        progress = BarProgress(stays=stays)
    else:
        progress = LineProgress()

    try:
        yield progress
    except KeyboardInterrupt:
        progress.close()
        say("stopped: what has come stays, and the same command goes on from there", to=sys.stderr)
        raise
    finally:
        progress.close()


def _can_draw() -> bool:
    """Whether standard error is a terminal that can draw over a line, and somebody looks at it."""
    is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    can_move = os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return sys.stderr.isatty() and can_move and not is_ci


class JsonProgress:
    """An object a line."""

    def show(self, progress: Facts) -> None:
        """Print it."""
        print(json.dumps(progress), flush=True)

    def close(self) -> None:
        """Nothing to leave."""


class LineProgress:
    """A line now and then, on standard error."""

    def __init__(self) -> None:
        self._speed = Speed()
        self._told_at = time.monotonic()
        self._told: Any = None
        self._notice: str | None = None

    def show(self, progress: Facts) -> None:
        """Print a line if there is news."""
        now = time.monotonic()
        self._speed.feel(progress, now)
        if progress["notice"] != self._notice:
            self._notice = progress["notice"]
            self._say(str(self._notice or ""))

        state = progress["state"]
        news = (state, progress.get("reason"))
        since = now - self._told_at
        if state == "waiting":
            is_due = news != self._told or since >= WAITING_EVERY_S
        elif not progress["files"]:
            # Most listings are there before anybody wonders.
            is_due = since >= LINE_EVERY_S
        else:
            is_due = news != self._told or since >= LINE_EVERY_S

        # How it ended is told in the end.
        if not is_due or state == "done":
            return

        self._told = news
        self._told_at = now

        line = heading(progress)
        if progress.get("reason"):
            line += f" ({progress.get('reason')})"
        if progress["files"]:
            line += f": {', '.join([*how_far(progress), *self._speed.texts(progress)])}"
        self._say(line)

    def _say(self, line: str) -> None:
        say(line, to=sys.stderr)

    def close(self) -> None:
        """Nothing to leave."""


class BarProgress:
    """A bar on the terminal."""

    def __init__(self, *, stays: bool = True) -> None:
        """`stays`: whether its last state is left on the terminal."""
        from rich.console import Console
        from rich.live import Live

        self._stays = stays
        self._speed = Speed()
        self._row = _Row()
        self._told: set[str] = set()
        self._live = Live(
            self._row, console=Console(stderr=True), refresh_per_second=10, transient=not stays
        )
        self._live.start()

    def show(self, progress: Facts) -> None:
        """Move the bar."""
        self._speed.feel(progress, time.monotonic())
        for text in (progress["notice"], progress.get("reason")):
            if text and text not in self._told:
                from rich.text import Text

                self._told.add(text)
                self._live.console.print(Text(printable(text)))

        if progress["state"] == "done" and not self._stays:
            return

        files = progress["files"]
        *rate, left = self._speed.texts(progress) or [""]
        share = f"{100 * progress['files_done'] // files} %" if files else ""
        count, *others = how_far(progress)

        self._row.heading = heading(progress)
        self._row.done = progress["files_done"]
        self._row.total = files or None
        self._row.essential = [text for text in (share, left) if text]
        self._row.extras = [count, *rate, *others] if files else []

    def close(self) -> None:
        """End the bar: its last state is left, or nothing.

        One that has never known what there is to do is no news.
        """
        self._live.transient = not self._stays or self._row.total is None
        self._live.stop()


class _Row:
    """The line with the bar. Where it is too narrow for everything, extras go, the last one first.

    It ends some columns before the terminal does: what the terminal shows for Ctrl-C would
    otherwise begin a line of its own, and the bar be drawn a second time below it.
    """

    def __init__(self) -> None:
        self.heading = _STATES["listing"]
        self.done = 0
        self.total: int | None = None
        """Files; None while that is not known."""
        self.essential: list[str] = []
        self.extras: list[str] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = max(1, options.max_width - ECHO_COLUMNS)
        texts = [*self.essential, *self.extras]
        while True:
            told = ", ".join(texts)
            left = width - len(self.heading) - len(told) - 2
            if left >= BAR_LEAST or len(texts) == len(self.essential):
                break
            texts.pop()

        row = Table.grid(padding=(0, 1))
        row.width = width
        row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_column(width=max(1, left))
        row.add_column(no_wrap=True, overflow="ellipsis")

        bar = ProgressBar(total=self.total, completed=self.done, width=max(1, left))
        row.add_row(Text(self.heading), bar, Text(told))
        yield row


class Speed:
    """Rates of the last seconds, and what they promise."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def feel(self, progress: Facts, now: float) -> None:
        """Take in how far the run is; `now` in seconds."""
        if progress["state"] != "fetching":
            self._seen.clear()
            return

        self._seen.append((now, progress["files_done"], progress["bytes_done"]))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()

    def texts(self, progress: Facts) -> list[str]:
        """Bytes or files a second, and the time left; empty as long as nobody can tell."""
        if len(self._seen) < 2:
            return []

        start, files, size = self._seen[0]
        end, files_now, bytes_now = self._seen[-1]
        if end <= start or files_now <= files:
            return []

        took = end - start
        waits = [(progress["files"] - files_now) * took / (files_now - files)]
        rate = f"{(files_now - files) / took:,.0f} files/s"

        if bytes_now > size:
            waits.append((progress["bytes"] - bytes_now) * took / (bytes_now - size))
            rate = f"{bytes_text((bytes_now - size) / took)}/s"

        return [rate, f"{duration_text(max(waits))} left"]


def heading(progress: Facts) -> str:
    """What it does now, and until when it waits."""
    state = progress["state"]
    if state == "waiting" and progress["until"]:
        until = clock_text(progress["until"])
        if progress.get("reason"):
            return f"waiting until {until} to try again"
        return f"waiting for the request budget until {until}"
    if state == "done" and progress["files_done"] < progress["files"]:
        return "stopped"

    return _STATES[state]


def how_far(progress: Facts) -> list[str]:
    """Files, failures, bytes, requests."""
    texts = [f"{progress['files_done']:,} of {counted(progress['files'], 'file')}"]
    if progress["failed"]:
        texts.append(f"{progress['failed']:,} failed")
    if progress["bytes"]:
        done = bytes_text(progress["bytes_done"])
        texts.append(f"{done} of {bytes_text(progress['bytes'])} of images")

    return [*texts, requests_text(progress["requests"])]


def outcome(result: Facts, found: str) -> list[str]:
    """What a run that fetched, or was to, has come to.

    `found`: what the files were that it had not to fetch, in a word.
    """
    texts = how_far(result)
    # A mount of an older version does not tell.
    if "fetched" in result:
        were = "was" if result["found"] == 1 else "were"
        texts[0] = f"{result['fetched']:,} fetched, {result['found']:,} {were} {found}: {texts[0]}"

    lines = [f"{result['path']}: {', '.join(texts)}"]
    failures = result["failures"]
    lines += [f"  {each['path']}: {each['error']}" for each in failures[:SHOWN]]

    if result["failed"] > SHOWN:
        lines.append(f"  and {result['failed'] - SHOWN:,} more: --json tells each")
    return lines


def requests_text(count: int) -> str:
    """So many requests, in words."""
    return counted(count, "API request")
