"""Run-length codes of polygons with holes, as COCO has them.

A mask is read column by column from the top left; the code is the lengths of its runs, of pixels
outside and inside in turn, starting outside. A pixel is inside if its centre is, by the even-odd
rule over all rings. pycocotools paints a boundary by rounding on a finer grid, so that it may
differ in pixels that a ring passes through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pictofs.formats.sample import Point

STEPS_MAX = 2_000_000
"""Crossings of edges and columns that are computed for one image: about 1 s. A polygon of 1,000
points around a hole in an image of 10,000 pixels has 20,000 to 100,000."""


class Budget:
    """How many steps are left for an image: hostile polygons could take hours."""

    def __init__(self) -> None:
        self._left = STEPS_MAX

    def take(self, rings: Sequence[Sequence[Point]], width: int) -> bool:
        """Whether the steps for these rings are left; they are then taken."""
        steps = 0
        for ring in rings:
            before = ring[-1][0]
            for x, _ in ring:
                steps += 1 + max(_last(max(before, x), width) - _first(min(before, x)), 0)
                before = x

        if steps > self._left:
            return False
        self._left -= steps
        return True


def encode(rings: Sequence[Sequence[Point]], width: int, height: int) -> list[int]:
    """The lengths of the runs."""
    columns = _crossings(rings, width)
    counts: list[int] = []
    inside_to = 0
    for column in sorted(columns):
        start = column * height
        crossings = sorted(columns[column])
        for top, bottom in zip(crossings[::2], crossings[1::2], strict=True):
            # The pixels whose centres (y + 0.5) lie between the two crossings.
            first = start + min(max(math.ceil(top - 0.5), 0), height)
            last = start + min(max(math.ceil(bottom - 0.5), 0), height)
            if first >= last:
                continue
            if counts and first == inside_to:
                counts[-1] += last - first
            else:
                counts.append(first - inside_to)
                counts.append(last - first)
            inside_to = last

    rest = width * height - inside_to
    if rest:
        counts.append(rest)
    return counts


def _crossings(rings: Sequence[Sequence[Point]], width: int) -> dict[int, list[float]]:
    """For each column, at which y its middle line crosses an edge."""
    columns: dict[int, list[float]] = {}
    for ring in rings:
        x0, y0 = ring[-1]
        for x1, y1 in ring:
            first = _first(min(x0, x1))
            last = _last(max(x0, x1), width)
            if first < last:
                slope = (y1 - y0) / (x1 - x0)
                for column in range(first, last):
                    y = y0 + (column + 0.5 - x0) * slope
                    columns.setdefault(column, []).append(y)
            x0 = x1
            y0 = y1

    return columns


def _first(left: float) -> int:
    """The first column whose middle is not left of an edge that begins at `left`."""
    return max(math.ceil(left - 0.5), 0)


def _last(right: float, width: int) -> int:
    """The column after the last one whose middle is left of `right`.

    A middle at `right` does not count, so that a corner between two edges is crossed once.
    """
    return min(math.ceil(right - 0.5), width)
