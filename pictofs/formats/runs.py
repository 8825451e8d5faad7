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
"""Crossings of edges and columns that are computed: about 1 s. A polygon of 1,000 points around a
hole in an image of 10,000 pixels has 20,000 to 100,000."""


def encode(rings: Sequence[Sequence[Point]], width: int, height: int) -> list[int] | None:
    """The lengths of the runs; None if it would take more than STEPS_MAX."""
    columns = _crossings(rings, width)
    if columns is None:
        return None

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


def _crossings(rings: Sequence[Sequence[Point]], width: int) -> dict[int, list[float]] | None:
    """For each column, at which y its middle line crosses an edge."""
    columns: dict[int, list[float]] = {}
    steps = 0

    for ring in rings:
        x0, y0 = ring[-1]
        for x1, y1 in ring:
            left = min(x0, x1)
            right = max(x0, x1)
            # Of an edge the left end counts and the right end does not, so that a corner between
            # two edges is crossed once.
            first = max(math.ceil(left - 0.5), 0)
            last = min(math.ceil(right - 0.5), width)
            steps += max(last - first, 0) + 1
            if steps > STEPS_MAX:
                return None
            if first < last:
                slope = (y1 - y0) / (x1 - x0)
                for column in range(first, last):
                    y = y0 + (column + 0.5 - x0) * slope
                    columns.setdefault(column, []).append(y)
            x0 = x1
            y0 = y1

    return columns
