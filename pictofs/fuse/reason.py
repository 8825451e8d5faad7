"""What libfuse and fusermount3 say while they mount.

They write it to standard error, and return a failure alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class Reason:
    """What was said, on one line; empty while nothing was."""

    text = ""


@contextmanager
def heard() -> Iterator[Reason]:
    """Standard error is heard inside, and given on if it does not belong to a failure."""
    reason = Reason()
    said = os.memfd_create("pictofs-mounting", os.MFD_CLOEXEC)
    before = os.dup(2)
    failed = True

    os.dup2(said, 2)
    try:
        yield reason
        failed = False
    finally:
        os.dup2(before, 2)
        words = os.pread(said, 4096, 0)
        if words and not failed:
            os.write(2, words)

        reason.text = "; ".join(words.decode(errors="replace").splitlines())
        os.close(before)
        os.close(said)
