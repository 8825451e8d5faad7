"""Makes text from others safe for a terminal or a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line, with the characters escaped that a terminal would act on or not show.

    Anyone who can upload an image chooses its name. A line break could forge a line of the log, an
    escape sequence move the cursor or set the clipboard, and a change of direction reverse a name.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
