"""Other people's words on a terminal or in a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line, with everything that a terminal would act upon, or not show, written out.

    Names come from whoever can upload an image: a line break would forge a line of a log, an escape sequence move
    the cursor or set the clipboard, and a change of direction turn a name round.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
