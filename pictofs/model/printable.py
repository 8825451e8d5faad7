"""Text for people: others' text made safe for a terminal or a log, and times of day."""

from __future__ import annotations

import math
import time


def printable(text: str) -> str:
    """`text` on one line, with the characters escaped that a terminal would act on or not show.

    Anyone who can upload an image chooses its name. A line break could forge a line of the log, an
    escape sequence move the cursor or set the clipboard, and a change of direction reverse a name.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clock_text(at: float) -> str:
    """A time of today, rounded up to the minute: `14:19`. `at`: seconds since the epoch."""
    return time.strftime("%H:%M", time.localtime(math.ceil(at / 60) * 60))
