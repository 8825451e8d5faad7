"""Text for people: others' text made safe for a terminal or a log, sizes, and times of day."""

from __future__ import annotations

import math
import time

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    """`text` on one line, with the characters escaped that a terminal would act on or not show.

    Anyone who can upload an image chooses its name. A line break could forge a line of the log, an
    escape sequence move the cursor or set the clipboard, and a change of direction reverse a name.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def bytes_text(count: float) -> str:
    """Bytes in thousands, three digits or so: `1.23 MB`."""
    unit = 0
    while count >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        count /= 1000
        unit += 1

    digits = f"{count:.0f}" if unit == 0 else f"{count:.3g}"
    return f"{digits} {_BYTE_UNITS[unit]}"


def clock_text(at: float) -> str:
    """A time of today, rounded up to the minute: `14:19`. `at`: seconds since the epoch."""
    return time.strftime("%H:%M", time.localtime(math.ceil(at / 60) * 60))
