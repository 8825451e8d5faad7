"""Numbers with what they count."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and what it counts, in the singular or with an `s`: `1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
