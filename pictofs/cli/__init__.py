"""The command line: words, exit codes, and nothing that another program would want to call."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pictofs import programs
from pictofs.cli import fstab
from pictofs.cli.commands import app
from pictofs.cli.failure import explain, finish


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (of this process, by default).

    Returns: the exit code; what went wrong is one line on standard error.
    """
    programs.harden()
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]

    if fstab.asked(arguments):
        return fstab.main(arguments)
    try:
        code: int | None = app(args=arguments, prog_name="pictofs", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        return explain(error, show_traceback="debug" in arguments)
    # Also what a command printed that ends with a code of its own, as doctor does.
    unwritten = finish()
    return code or unwritten
