"""Quantities as a person reads them."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

from pictofs.model.printable import bytes_text, clock_text, printable

__all__ = ["bytes_text", "clock_text", "duration_text", "printable", "say", "share_text", "wrapped"]


def duration_text(seconds: float) -> str:
    """Seconds in the two largest units: `2 h 5 min`."""
    left = max(0, round(seconds))
    days, left = divmod(left, 86400)
    hours, left = divmod(left, 3600)
    minutes, left = divmod(left, 60)

    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)

    shown = [f"{value} {unit}" for value, unit in parts[:2] if value or len(parts) == 1]
    return " ".join(shown) or "0 s"


def share_text(part: float, whole: float) -> str:
    """A percentage, or a dash if there is nothing to divide by."""
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def say(*lines: str, to: TextIO | None = None, verbatim: bool = False) -> None:
    """Print lines, whatever names and words of a server are in them.

    On a terminal, a line that is too long goes on between two words, and not within one.

    `to`: standard output by default. `verbatim`: whether the lines are no prose, and stay whole.
    """
    stream = sys.stdout if to is None else to
    width = None if verbatim else _columns(stream)
    for line in lines:
        for part in wrapped(printable(line), width):
            print(part, file=stream, flush=True)


def wrapped(line: str, width: int | None, indent: int = 2) -> list[str]:
    """A line in pieces of up to `width` columns, of which a longer word keeps more.

    `width` None: the line as it is. `indent`: columns by which further pieces are set in beyond the
    first one.
    """
    if width is None or len(line) <= width:
        return [line]

    margin = len(line) - len(line.lstrip()) + indent
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * min(margin, width // 2),
        # A path or a URL is of use in one piece alone.
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(stream: TextIO) -> int | None:
    """The width of the terminal that `stream` is; None if it is none, or does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None
