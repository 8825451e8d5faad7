"""What a person reads when a command fails, and the exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

import typer

from pictofs.errors import Invalid, PictofsError

INTERRUPTED = 130


def warn(message: str) -> None:
    """One line of warning."""
    print(f"pictofs: warning: {message}", file=sys.stderr)


def explain(error: BaseException, *, show_traceback: bool) -> int:
    """Print one line for `error`, and return the command's exit code."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    if isinstance(error, PictofsError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, typer.BadParameter.__mro__[1]):  # UsageError, which typer does not export
        _say(_usage(error))
        return Invalid.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader left, as `head` does. Nothing can be written any more, not even by the last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if show_traceback:
        traceback.print_exception(error)
        _say("that is a bug in pictofs")
    else:
        with tempfile.NamedTemporaryFile(
            "w", prefix="pictofs-bug-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            traceback.print_exception(error, file=log)
        _say(f"unexpected {type(error).__name__}, which is a bug in pictofs; what happened is in {log.name}")
    return 1


def _usage(error: BaseException) -> str:
    message = getattr(error, "format_message")()  # noqa: B009 - of a class that has no public name
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pictofs"
    return f"{message.rstrip('.')}. See {command} --help"


def _say(message: str) -> None:
    print(f"pictofs: {' '.join(message.split())}", file=sys.stderr)
