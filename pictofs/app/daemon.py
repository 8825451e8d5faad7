"""A mount's own process.

It is started from the terminal, reports back once, and is then on its own with a log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pictofs import programs
from pictofs.app.logs import log_path, log_to_file
from pictofs.config import MountSettings
from pictofs.errors import MountFailed, PictofsError, TimedOut, from_exit_code

Serve = Callable[[Callable[[], None]], None]
"""Does the mount's work until it is unmounted; calls its argument once the mount answers."""


@dataclass(frozen=True)
class Report:
    """What the mount's process tells its parent, last that the mount answers: no error."""

    error: str | None = None
    exit_code: int = 0
    hint: str = ""
    docs: str = ""
    retrying: str | None = None
    """Why the server is asked again. Another report follows."""


_log = logging.getLogger("pictofs.app.daemon")


def _descriptor(handler: logging.StreamHandler[Any]) -> int:
    return int(handler.stream.fileno())


def start(
    serve: Serve,
    settings: MountSettings,
    seconds: float,
    *,
    on_retry: Callable[[str], None],
    keep: Collection[int] = (),
) -> int:
    """Run `serve` in a process of its own and wait until it says that the mount answers.

    `seconds`: how long to wait at most. `on_retry` is called with the reason for which the process
    asks the server again. `keep`: descriptors that the process needs.

    To be called before any thread or event loop starts: only the calling thread lives on after a
    fork.

    Returns: the process id.

    Raises:
        PictofsError: what the process said is wrong (its message and exit code).
        TimedOut: it said nothing in time, and was ended.
        MountFailed: it died without a word.
    """
    log = log_path(settings)
    handler = log_to_file(log, settings)
    reader, writer = os.pipe()

    sys.stdout.flush()
    sys.stderr.flush()
    pid, mask = programs.fork()
    if pid == 0:
        _run(serve, log, writer, {_descriptor(handler), writer, *keep})

    os.close(writer)
    logging.getLogger().removeHandler(handler)
    handler.close()

    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        report = _read_report(reader, seconds, on_retry)
    except BaseException:
        # Also when Ctrl-C comes: nothing is left behind that nobody waits for.
        _end(pid)
        raise
    finally:
        os.close(reader)

    if report is None:
        _, status = os.waitpid(pid, 0)
        raise MountFailed(
            f"the mount's process ended at once ({_ending(status)}); its log is {log}"
        )

    if report.error:
        os.waitpid(pid, 0)
        raise from_exit_code(report.exit_code, report.error, hint=report.hint, docs=report.docs)

    return pid


def _read_report(reader: int, seconds: float, on_retry: Callable[[str], None]) -> Report | None:
    """The last line that the process sends; None if it ended without one."""
    end = time.monotonic() + seconds
    pending = b""
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        chunk = os.read(reader, 65536)
        if not chunk:
            return None

        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            report = Report(**json.loads(line))
            if report.retrying is None:
                return report
            on_retry(report.retrying)

    raise TimedOut(f"the mount did not answer within {seconds:g} s")


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _run(serve: Serve, log: Path, writer: int, keep: set[int]) -> NoReturn:
    """The forked process: never returns into the parent's code."""
    code = 1
    try:
        _detach(log, keep)
        code = _serve(serve, log, writer)
    except BaseException:
        _log.exception("The mount's process ends by an error")
    finally:
        logging.shutdown()
        os._exit(code)


def _serve(serve: Serve, log: Path, writer: int) -> int:
    from pictofs.api.retries import telling  # noqa: PLC0415 - trio, which the parent does without

    pending = [writer]

    def tell(report: Report) -> None:
        if not pending:
            return

        # The parent may be gone: then nobody wants to know.
        with contextlib.suppress(BrokenPipeError):
            os.write(pending[0], json.dumps(dataclasses.asdict(report)).encode() + b"\n")
        if report.retrying is None:
            os.close(pending.pop())

    try:
        with telling(lambda error: tell(Report(retrying=error.message))):
            serve(lambda: tell(Report()))
    except PictofsError as error:
        _log.error("The mount ends: %s", error)
        tell(Report(error.message, error.exit_code, error.hint, error.docs))
        return error.exit_code
    except BaseException:
        _log.exception("The mount ends by a bug")
        tell(Report(f"an unexpected error, which is a bug; what happened is in {log}", 1))
        return 1

    tell(Report("the mount was ended before it answered", 1))
    return 0


def _detach(log: Path, keep: set[int]) -> None:
    """Leave the terminal and all that the parent had open, but for the descriptors `keep`."""
    os.setsid()

    # Until the mount listens for it: a terminal that closes, or a rotated log, must not end it on
    # its way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    os.chdir("/")
    os.umask(0o077)

    # What C code or a dying interpreter prints belongs to the log.
    null = os.open(os.devnull, os.O_RDWR)
    stderr = os.open(log, os.O_WRONLY | os.O_APPEND)
    for target, source in enumerate((null, null, stderr)):
        os.dup2(source, target)

    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            # The listing's own descriptor is gone already.
            with contextlib.suppress(OSError):
                os.close(int(name))
