"""One frame of `pictofs top`: what a mount is at, in numbers above and lines below."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pictofs.cli.formatting import bytes_text, duration_text, printable, share_text
from pictofs.cli.line_chart import Line, Point, chart
from pictofs.cli.status import limit_text, shared_text
from pictofs.cli.top_history import History, Sample
from pictofs.model.status import CacheStatus, RateStatus, Status

STORAGE = "cyan"
READERS = "green"
OPERATIONS = "magenta"
"""The colors of the lines."""
LEAST_BYTES = 1e5
LEAST_OPERATIONS = 10.0
"""What the charts reach up to at least: an idle mount's few reads must not look like a load."""
NUMBERS = 7
HEADS = 3
"""Rows above the charts, and rows that are no chart below."""
LEAST_CHART = 4
"""Rows below which a chart shows nothing."""
BAR = 16
LABELS = 11
"""Columns of a bar, and of what names a row."""


@dataclass
class Frame:
    """What is shown. `now`: seconds on the history's clock."""

    mountpoint: Path
    history: History
    status: Status | None
    """The last status that was seen."""
    trouble: str | None
    """Why there is none now."""
    interval: float
    now: float

    def render(self, width: int, height: int, *, for_keys: bool = True) -> RenderableType:
        """In `width` columns and at most `height` rows.

        `for_keys`: whether somebody watches, who is told which key ends it.
        """
        parts: list[RenderableType] = [self._head(width)]
        if self.status is not None:
            spent = limit_text(self.status.rate, time.time())
            parts += [
                self._figures(self.status, width),
                Text(f" {spent}", style="bold red", no_wrap=True, overflow="ellipsis"),
            ]

        numbers = NUMBERS
        if self.status is not None and self.status.shared is not None:
            numbers += 1
        left = height - numbers - HEADS + (not for_keys)
        below = max(LEAST_CHART, left * 3 // 7)
        above = left - below
        if above >= LEAST_CHART:
            parts += [*self._bytes_chart(width, above), *self._operations_chart(width, below)]
        if for_keys:
            parts.append(Text(f" q quits; every {self.interval:g} s", style="dim"))

        return Group(*parts)

    def _head(self, width: int) -> Text:
        line = Text(no_wrap=True)
        line.append(f" {cut(printable(str(self.mountpoint)), width // 2)} ", style="bold reverse")

        status = self.status
        if self.trouble is not None:
            line.append(f"  {printable(self.trouble)}", style="bold red")
        elif status is not None:
            if status.online:
                line.append("  online", style="green")
            elif status.offline_since is not None:
                away = duration_text(time.time() - status.offline_since)
                line.append(f"  offline for {away}", style="bold red")
            if status.started_at is not None:
                line.append(f"  up {duration_text(time.time() - status.started_at)}")
            line.append(f"  {printable(status.base_url or '')}", style="dim")

        clock = time.strftime("%H:%M:%S ")
        line.truncate(max(0, width - len(clock) - 1), overflow="ellipsis")
        line.append(clock.rjust(width - line.cell_len), style="dim")
        line.truncate(width)

        return line

    def _figures(self, status: Status, width: int) -> Table:
        cache = status.cache or CacheStatus()
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim", width=LABELS, no_wrap=True)
        table.add_column(width=width - LABELS - 2, no_wrap=True, overflow="ellipsis")

        figures = [
            ("budget", self._budget(status.rate)),
            ("cache", self._cache(cache)),
            ("hit rate", self._hit_rate(cache)),
            ("in flight", self._in_flight(status)),
            ("per second", self._kinds()),
        ]
        if status.shared is not None:
            style = "" if status.shared.state == "closed" else "red"
            figures.append(("shared", Text(printable(shared_text(status.shared)), style=style)))

        for name, value in figures:
            table.add_row(f" {name}", value)

        return table

    def _budget(self, rate: RateStatus) -> RenderableType:
        left = rate.remaining
        of = rate.limit
        reset = rate.reset_at
        if left is None:
            return Text("the server has not told yet")

        words = f"{left:,} of {of:,} left" if of else f"{left:,} left"
        if reset and reset > time.time():
            words += f", full again in {duration_text(reset - time.time())}"
        if not of:
            return Text(words)

        color = "green"
        if left <= rate.reserve:
            color = "red"
        elif left < of / 4:
            color = "yellow"

        return _barred(left, of, color, words)

    def _cache(self, cache: CacheStatus) -> RenderableType:
        if cache.error is not None:
            return Text(printable(cache.error), style="red")
        if cache.used is None or cache.limit is None:
            return Text("-")

        words = f"{bytes_text(cache.used)} of {bytes_text(cache.limit)}, {cache.files or 0:,} files"
        return _barred(cache.used, cache.limit, "blue", words)

    def _hit_rate(self, cache: CacheStatus) -> Text:
        text = Text(style="bold")
        recent = self.history.opens()
        text.append(share_text(recent[0], sum(recent)))
        hits = cache.hits or 0
        overall = share_text(hits, hits + (cache.misses or 0))
        return text.append(f" of the last opens, {overall} since it was mounted", style="not bold")

    def _in_flight(self, status: Status) -> Text:
        if self.trouble is not None:
            return Text("-")

        operations = sum(each.under_way for each in status.operations.values())
        parts = [
            f"{operations} operations",
            f"{status.waiting.api} API requests",
            f"{status.waiting.readers} readers waiting",
            f"{status.open_files or 0} files open",
        ]
        if status.prefetch.under_way:
            parts.append(f"{status.prefetch.under_way} fetched ahead")

        return Text(", ".join(parts))

    def _kinds(self) -> Text:
        last = self.history.last
        if last is None:
            return Text("-")

        busiest = sorted(last.operations.items(), key=lambda item: -item[1])
        shown = [f"{kind} {rate:,.0f}" for kind, rate in busiest if rate >= 0.5]
        text = Text(", ".join(shown) or "nothing")
        if last.failed:
            text.append(f", {last.failed:,.1f} failed", style="bold red")

        return text

    def _bytes_chart(self, width: int, height: int) -> list[RenderableType]:
        storage = self._line(STORAGE, lambda each: each.storage)
        read = self._line(READERS, lambda each: each.read)

        last = self.history.last
        head = Text(" ")
        for line, name, value in (
            (storage, "in from storage", None if last is None else last.storage),
            (read, "out to readers", None if last is None else last.read),
        ):
            head.append("⣀⣀ ", style=line.color).append(name)
            head.append(f" {_rate(value)}   ", style="bold")

        drawn = self._chart([storage, read], width, height, LEAST_BYTES, _rate, ticked=False)
        return [head, drawn]

    def _operations_chart(self, width: int, height: int) -> list[RenderableType]:
        line = self._line(OPERATIONS, lambda each: each.total)
        last = self.history.last
        head = Text(" ").append("⣀⣀ ", style=line.color).append("operations")
        head.append(f" {_count(None if last is None else last.total)}", style="bold")
        return [head, self._chart([line], width, height, LEAST_OPERATIONS, _count, ticked=True)]

    def _line(self, color: str, value: Callable[[Sample], float]) -> Line:
        points: list[Point] = [
            (at - self.now, None if sample is None else value(sample))
            for at, sample in self.history.samples()
        ]
        return Line(points, color)

    def _chart(
        self,
        lines: list[Line],
        width: int,
        height: int,
        least: float,
        label: Callable[[float | None], str],
        *,
        ticked: bool,
    ) -> Text:
        span = self.history.span(self.now)
        ticks = [(-span * part / 4, f"-{duration_text(span * part / 4)}") for part in (4, 3, 2, 1)]

        return chart(
            lines,
            width=width,
            height=height,
            span=span,
            ticks=[*ticks, (0.0, "now")] if ticked else [],
            least=least,
            label=label,
        )


def cut(path: str, most: int) -> str:
    """The end of a path, which tells more than its front."""
    return path if len(path) <= most else "…" + path[len(path) - most + 1 :]


def _barred(part: float, whole: float, color: str, words: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=BAR)
    row.add_column(no_wrap=True, overflow="ellipsis")

    bar = ProgressBar(
        total=whole, completed=part, width=BAR, complete_style=color, finished_style=color
    )
    row.add_row(bar, Text(words))
    return row


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{bytes_text(value)}/s"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}/s"
