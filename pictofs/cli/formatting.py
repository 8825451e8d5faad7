"""Quantities as a person reads them."""

from __future__ import annotations

from typing import TextIO

from pictofs.model.printable import bytes_text, clock_text, printable

__all__ = ["bytes_text", "clock_text", "duration_text", "printable", "say", "share_text"]


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


def say(*lines: str, to: TextIO | None = None) -> None:
    """Print lines, whatever names and words of a server are in them.

    `to`: standard output by default.
    """
    for line in lines:
        print(printable(line), file=to, flush=True)
