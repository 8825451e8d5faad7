"""Rectangles and polygons, cut to the image.

Points are pairs of pixels. A box here is (left, top, right, bottom).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pictofs.formats.sample import Annotation, OrientedBox, Point

Corners = tuple[float, float, float, float]
_HULL_ANGLES = 64
"""Edges of a hull whose directions `turned_box` tries: one of 1,000 edges would cost 0.1 s."""


def clip_corners(box: Corners, width: int, height: int) -> Corners | None:
    """What of a box lies within the image; None if nothing does."""
    left = max(box[0], 0.0)
    top = max(box[1], 0.0)
    right = min(box[2], float(width))
    bottom = min(box[3], float(height))
    if left >= right or top >= bottom:
        return None

    return left, top, right, bottom


def extent(points: Sequence[Point]) -> Corners:
    """The smallest upright box around the points, of which there is at least one."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def clip_annotation(annotation: Annotation, width: int, height: int) -> Corners | None:
    """The upright box around what of a `bbox` or a `polygon` lies within the image.

    None if nothing does, or if what is left has no area.
    """
    if annotation.kind == "bbox" or _is_inside(annotation.bounds, width, height):
        return clip_corners(annotation.bounds, width, height)

    ring = clip_ring(annotation.rings[0], width, height)
    if not ring:
        return None
    return clip_corners(extent(ring), width, height)


def is_outside(annotation: Annotation, width: int, height: int) -> bool:
    """Whether the box around a label has nothing in common with the image."""
    left, top, right, bottom = annotation.bounds
    return right <= 0 or bottom <= 0 or left >= width or top >= height


def _is_inside(box: Corners, width: int, height: int) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height


def rectangle(box: Corners) -> list[Point]:
    """The corners of an upright box: top left, top right, bottom right, bottom left."""
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def turned_corners(box: OrientedBox) -> list[Point]:
    """The corners of a turned box, in the order of `rectangle` before it was turned."""
    angle = math.radians(box.angle)
    cos = math.cos(angle)
    sin = math.sin(angle)

    points = []
    for along, across in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        x = along * box.w
        y = across * box.h
        points.append((box.cx + x * cos - y * sin, box.cy + x * sin + y * cos))
    return points


def outline(annotation: Annotation) -> list[Point]:
    """The outer ring of a `polygon`, or the corners of a `bbox`, turned if it is."""
    if annotation.kind == "polygon":
        return list(annotation.rings[0])
    if annotation.oriented is not None:
        return turned_corners(annotation.oriented)
    return rectangle(annotation.bounds)


def clip_outline(annotation: Annotation, width: int, height: int) -> list[Point]:
    """The outline, cut to the image; [] if nothing is left."""
    points = outline(annotation)
    if annotation.oriented is None and _is_inside(annotation.bounds, width, height):
        return points
    return clip_ring(points, width, height)


def clip_ring(ring: Sequence[Point], width: int, height: int) -> list[Point]:
    """A polygon cut to the image, by Sutherland and Hodgman's method; [] if nothing is left.

    A polygon of which several pieces are left stays one ring, whose pieces are joined along the
    image's edge: its area is right.
    """
    if _is_inside(extent(ring), width, height):
        return list(ring)

    points = list(ring)
    for axis, limit, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, height, -1)):
        if not points:
            return []
        points = _clip_side(points, axis, float(limit), sign)

    # Interpolation may miss the edge by one rounding.
    return [(min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for x, y in points]


def _clip_side(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """The part of a polygon on one side of an upright or level line."""
    kept = []
    previous = points[-1]
    previous_depth = (previous[axis] - limit) * sign

    for point in points:
        depth = (point[axis] - limit) * sign
        if (depth >= 0) != (previous_depth >= 0):
            share = previous_depth / (previous_depth - depth)
            kept.append(
                (
                    previous[0] + (point[0] - previous[0]) * share,
                    previous[1] + (point[1] - previous[1]) * share,
                )
            )
        if depth >= 0:
            kept.append(point)
        previous = point
        previous_depth = depth

    return kept


def area(ring: Sequence[Point]) -> float:
    """The area of a polygon that does not cross itself, by the shoelace formula."""
    total = 0.0
    x0, y0 = ring[-1]
    for x, y in ring:
        total += x0 * y - x * y0
        x0 = x
        y0 = y
    return abs(total) / 2


def turned_box(points: Sequence[Point]) -> list[Point]:
    """The corners of the smallest turned rectangle around the points, which is near it for a hull
    of more than 64 corners. [] if the points lie on one line.
    """
    hull = _hull(points)
    if len(hull) < 3:
        return []

    best: list[Point] = []
    best_area = math.inf
    step = max(1, len(hull) // _HULL_ANGLES)

    for place in range(0, len(hull), step):
        x0, y0 = hull[place - 1]
        x1, y1 = hull[place]
        length = math.hypot(x1 - x0, y1 - y0)
        if length == 0:
            continue
        cos = (x1 - x0) / length
        sin = (y1 - y0) / length

        along = [x * cos + y * sin for x, y in hull]
        across = [y * cos - x * sin for x, y in hull]
        low = min(along), min(across)
        high = max(along), max(across)
        size = (high[0] - low[0]) * (high[1] - low[1])
        if size < best_area:
            best_area = size
            turned = rectangle((low[0], low[1], high[0], high[1]))
            best = [(x * cos - y * sin, x * sin + y * cos) for x, y in turned]

    return best


def _hull(points: Sequence[Point]) -> list[Point]:
    """The convex hull, by Andrew's monotone chain."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    hull: list[Point] = []
    for half in (ordered, ordered[::-1]):
        chain: list[Point] = []
        for point in half:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        hull.extend(chain[:-1])
    return hull


def _turn(first: Point, second: Point, third: Point) -> float:
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (
        third[0] - first[0]
    )
