"""How a run that fetches files looks: a bar on a terminal, lines elsewhere, JSON for programs."""

# ruff: noqa: PLC0415 - rich takes longer to import than --json takes to run

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pictofs.cli.formatting import bytes_text, duration_text, printable

LINE_EVERY_S = 10.0
"""Seconds between two lines if there is no terminal."""
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
def showing(*, as_json: bool) -> Iterator[Progress]:
    """What shows the progress of a run, as it suits what standard error is.

    It is closed in the end, and says what is left if Ctrl-C ends the run.
    """
    progress: Progress
    if as_json:
        progress = JsonProgress()
    elif sys.stderr.isatty():
        progress = BarProgress()
    else:
        progress = LineProgress()

    try:
        yield progress
    except KeyboardInterrupt:
        progress.close()
        print(
            "stopped: what has come stays, and the same command goes on from there", file=sys.stderr
        )
        raise
    finally:
        progress.close()


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
        self._told_at = 0.0
        self._told: Any = None

    def show(self, progress: Facts) -> None:
        """Print a line if there is news."""
        now = time.monotonic()
        self._speed.feel(progress, now)

        news = (progress["state"], progress["notice"])
        if not progress["files"] or (news == self._told and now - self._told_at < LINE_EVERY_S):
            return

        self._told = news
        self._told_at = now
        print(
            f"{heading(progress)}: {how_far(progress)}{self._speed.text(progress)}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Nothing to leave."""


class BarProgress:
    """A bar on the terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._speed = Speed()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[far]}"),
            console=Console(stderr=True),
            expand=True,
        )
        self._task = self._bar.add_task("listing", total=None, far="")
        self._notice: str | None = None
        self._bar.start()

    def show(self, progress: Facts) -> None:
        """Move the bar."""
        self._speed.feel(progress, time.monotonic())
        if progress["notice"] != self._notice:
            from rich.text import Text

            self._notice = progress["notice"]
            self._bar.console.print(Text(printable(str(self._notice or ""))))

        self._bar.update(
            self._task,
            description=heading(progress),
            completed=progress["files_done"],
            total=progress["files"] or None,
            far=how_far(progress) + self._speed.text(progress),
        )

    def close(self) -> None:
        """Leave the last state of the bar."""
        self._bar.stop()


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

    def text(self, progress: Facts) -> str:
        """Bytes or files a second, and the time left; empty as long as nobody can tell."""
        if len(self._seen) < 2:
            return ""

        start, files, size = self._seen[0]
        end, files_now, bytes_now = self._seen[-1]
        if end <= start or files_now <= files:
            return ""

        took = end - start
        waits = [(progress["files"] - files_now) * took / (files_now - files)]
        rate = f"{(files_now - files) / took:,.0f} files/s"

        if bytes_now > size:
            waits.append((progress["bytes"] - bytes_now) * took / (bytes_now - size))
            rate = f"{bytes_text((bytes_now - size) / took)}/s"

        return f", {rate}, {duration_text(max(waits))} left"


def heading(progress: Facts) -> str:
    """What it does now."""
    text = _STATES[progress["state"]]
    if progress["state"] == "waiting" and progress["until"]:
        text += f" until {time.strftime('%H:%M:%S', time.localtime(progress['until']))}"
    return text


def how_far(progress: Facts) -> str:
    """Files, bytes, requests."""
    files = f"{progress['files_done']:,} of {progress['files']:,} files"

    size = ""
    if progress["bytes"]:
        done = bytes_text(progress["bytes_done"])
        size = f", {done} of {bytes_text(progress['bytes'])} of images"

    failed = f", {progress['failed']:,} failed" if progress["failed"] else ""
    return f"{files}{size}{failed}, {requests_text(progress['requests'])}"


def outcome(result: Facts) -> list[str]:
    """What a run that fetched, or was to, has come to."""
    lines = [f"{result['path']}: {how_far(result)}"]
    failures = result["failures"]
    lines += [f"  {each['path']}: {each['error']}" for each in failures[:SHOWN]]

    if result["failed"] > SHOWN:
        lines.append(f"  and {result['failed'] - SHOWN:,} more: --json tells each")
    if result["notice"]:
        lines.append(result["notice"])

    return lines


def requests_text(count: int) -> str:
    """So many requests, in words."""
    return f"{count:,} API request{'s' if count != 1 else ''}"
