"""What `pictofs top` shows of several mounts: a line for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pictofs.cli.formatting import bytes_text, printable, share_text
from pictofs.cli.status import STATE_COLORS
from pictofs.cli.top_frame import Frame, cut
from pictofs.model.status import RateStatus

AROUND = 3
"""Rows of the terminal that hold no mount: the head, and what is said below."""


COLUMNS = {"state": 7, "in": 9, "out": 9, "ops/s": 6, "hits": 7, "limit left": 10}
"""The columns beside the path, and how wide they are: a figure that grows moves no other one."""
DISPENSABLE = ("ops/s", "hits")
"""Those that a narrow terminal goes without, the first one first."""
LEAST_PATH = 12


@dataclass(frozen=True)
class Overview:
    """The mounts at one moment."""

    frames: list[Frame]
    interval: float
    """Seconds between two looks."""

    def render(self, width: int, height: int, *, for_keys: bool = True) -> RenderableType:
        """In `width` columns and at most `height` rows. `for_keys`: as in `Frame.render`."""
        columns = dict(COLUMNS)
        for name in DISPENSABLE:
            if width - _taken(columns) < LEAST_PATH:
                del columns[name]

        longest = max((len(str(each.mountpoint)) for each in self.frames), default=0)
        most = max(LEAST_PATH, min(longest, width - _taken(columns)))

        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(" mount point", no_wrap=True, width=most + 1)
        for name, wide in columns.items():
            side: Literal["left", "right"] = "left" if name == "state" else "right"
            table.add_column(name, justify=side, no_wrap=True, width=wide)

        shown = self.frames
        if len(shown) > max(1, height - AROUND):
            shown = shown[: max(1, height - AROUND - 1)]
        for frame in shown:
            cells = _cells(frame)
            path = cut(printable(str(frame.mountpoint)), most)
            table.add_row(Text(f" {path}"), *(cells[name] for name in columns))

        parts: list[RenderableType] = [table]
        if len(shown) < len(self.frames):
            parts.append(Text(f" and {len(self.frames) - len(shown):,} more", style="dim"))

        words = " pictofs top MOUNTPOINT shows one in full"
        if for_keys:
            words += f"; q quits; every {self.interval:g} s"
        parts.append(Text(words, style="dim", no_wrap=True, overflow="ellipsis"))

        return Group(*parts)


def _taken(columns: Mapping[str, int]) -> int:
    """Columns of the terminal that the path does not have: the others, and a blank around each."""
    return sum(wide + 1 for wide in columns.values()) + 2


def _cells(frame: Frame) -> dict[str, Text]:
    """What a line holds, by the names of `COLUMNS`."""
    status = frame.status
    last = frame.history.last

    state = "online"
    if frame.trouble is not None or status is None:
        state = "away"
    elif not status.online:
        state = "offline"

    rates = ["-", "-", "-"]
    if last is not None:
        rates = [
            f"{bytes_text(last.storage)}/s",
            f"{bytes_text(last.read)}/s",
            f"{last.total:,.0f}",
        ]

    rate = RateStatus() if status is None else status.rate
    left = "-" if rate.remaining is None else f"{rate.remaining:,}"
    spent = rate.remaining is not None and rate.remaining <= rate.reserve

    hits, misses = frame.history.opens()
    return {
        "state": Text(state, style=STATE_COLORS.get(state, "red")),
        "in": Text(rates[0]),
        "out": Text(rates[1]),
        "ops/s": Text(rates[2]),
        "hits": Text(share_text(hits, hits + misses)),
        "limit left": Text(left, style="red" if spent else ""),
    }
