"""A line chart in braille dots."""

# ruff: noqa: PLC0415 - plotext takes longer to import than most commands take to run

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

Point = tuple[float, float | None]
"""x and y; no y is a gap in the line."""

LABEL = 8
"""Columns of the labels to the left, so that charts on top of one another share their x."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    points: Sequence[Point]
    color: str
    """As both plotext and rich call it."""


def chart(
    lines: Sequence[Line],
    *,
    width: int,
    height: int,
    span: float,
    ticks: Sequence[tuple[float, str]],
    least: float,
    label: Callable[[float], str],
) -> Text:
    """`lines` from `-span` to 0, in `width` columns and `height` rows, frame and labels included.

    `ticks`: labels below, by x; without any that row is left out. `least`: what the chart reaches
    up to at least. `label`: how a value is written.
    """
    import plotext
    from rich.text import Text

    highest = max((y for line in lines for _, y in line.points if y is not None), default=0.0)
    top = round_up(max(highest, least))

    plotext.terminal.limit(False, False)  # the size is ours to know
    plot = plotext.figure
    plot.clear()
    plot.theme("simple").canvas("default")
    plot.plot_size(width, height)
    plot.axes(False, axis="x", side="upper").axes(False, axis="y", side="right")

    for line in lines:
        for part in _unbroken(line.points):
            marker = plotext.marker("braille", line.color)
            plot.draw(plot.signal(*zip(*part, strict=True), marker=marker).lines())

    marks = (0.0, top / 2, top) if height >= 7 else (0.0, top)
    plot.ruler("y").lim(0, top).ticks(marks, [label(value).rjust(LABEL) for value in marks])
    plot.ruler("x").lim(-span, 0).ticks([x for x, _ in ticks], [text for _, text in ticks])

    return Text.from_ansi(plot.build().string().rstrip("\n"))


def round_up(value: float) -> float:
    """The first of 1, 2, 5, 10, 20, ... that is not below `value`, which is above 0."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 2, 5, 10) if unit * step >= value)


def _unbroken(points: Sequence[Point]) -> Iterator[list[tuple[float, float]]]:
    part: list[tuple[float, float]] = []
    for x, y in points:
        if y is not None:
            part.append((x, y))
        elif part:
            yield part
            part = []
    if part:
        yield part
