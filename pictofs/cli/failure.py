"""What a person reads when a command fails, and the exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import traceback

import typer

from pictofs.cli.formatting import printable, say
from pictofs.errors import Invalid, PictofsError

INTERRUPTED = 130

_told: set[str] = set()
"""Why the server was asked again, as far as it was told."""


def warn(message: str) -> None:
    """One line of warning."""
    _say("warning", message)


def say_retry(message: str) -> None:
    """Tell, on a terminal and once for each reason, that the server is asked again."""
    reason = message.partition(";")[0]  # without the server's words and the request's id
    if sys.stderr.isatty() and reason not in _told:
        _told.add(reason)
        _say("warning", f"{reason}; trying again")


def explain(error: BaseException, *, show_traceback: bool) -> int:
    """Print what went wrong, what to do and where to read on, each as a line.

    Returns: the command's exit code.
    """
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    if isinstance(error, PictofsError):
        _say("error", error.message, fix=error.hint, docs=error.docs)
        return error.exit_code
    # UsageError, which typer does not export.
    if isinstance(error, typer.BadParameter.__mro__[1]):
        _say("error", *_usage(error))
        return Invalid.exit_code
    if isinstance(error, OSError) and (failed := _output_failed(error)):
        # A reader that left, as `head` does, knows why.
        if failed.errno != errno.EPIPE:
            _say("error", f"the output can't be written: {failed.strerror}")
        return 1

    told = "".join(traceback.format_exception(error)).splitlines()
    if show_traceback:
        say(*told, to=sys.stderr, verbatim=True)
        _say("error", "that is a bug in pictofs")
        return 1

    where = _keep(told)
    _say("error", f"unexpected {type(error).__name__}, which is a bug in pictofs; {where}")
    return 1


def finish() -> int:
    """Write out what was printed. Returns: the exit code, 1 if that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return explain(error, show_traceback=False)
    return 0


def _output_failed(error: OSError) -> OSError | None:
    """Why standard output takes nothing more; None if `error` is another one.

    Standard output is let go then, or the last flush would fail.
    """
    failed = None

    # What is longer than the buffer fails as it is written, and leaves nothing to flush. No file
    # has a name then.
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EPIPE, errno.EIO):
        failed = error

    try:
        sys.stdout.flush()
    except OSError as flushing:
        failed = flushing

    if failed is not None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return failed


def _keep(lines: list[str]) -> str:
    """Keep a traceback in a file. Returns: where it is, in words."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="pictofs-bug-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write("".join(printable(line) + "\n" for line in lines))
    except OSError as error:
        return f"what happened can't be kept in a file ({error.strerror}): set TMPDIR, and run it again"

    return f"what happened is in {log.name}"


def _usage(error: BaseException) -> tuple[str, str]:
    """What is wrong with the command line, and what to do."""
    message = getattr(error, "format_message")()  # noqa: B009 - of a class that has no public name
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pictofs"
    return message.rstrip("."), f"see {command} --help"


def _say(kind: str, message: str, fix: str = "", docs: str = "") -> None:
    """Print in the form of the vendor's command line."""
    lines = {f"{kind}: ": message, "  Fix: ": fix, "  Docs: ": docs}
    say(*(head + " ".join(text.split()) for head, text in lines.items() if text), to=sys.stderr)
