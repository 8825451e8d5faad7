"""Looking at a mount that may hang.

A mount whose process died fails every access with ENOTCONN ("stale"); one whose process hangs
blocks every process that touches it, for good. So no command touches a mount but through
`run_in_subprocess`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn

from pictofs import programs
from pictofs.errors import TimedOut

TIMEOUT_S = 5.0
"""How long a mount may take to answer a question that costs it no request."""

State = Literal["live", "stale", "silent"]


def run_in_subprocess(seconds: float, ask: Callable[[], bytes]) -> bytes:
    """What `ask`, which touches a mount, returns.

    It is asked in a process that is left behind if it hangs. A thread won't do: the kernel lets no
    process end while a thread of it waits for an answer that a mount's process has begun to work
    on.

    Raises:
        TimedOut: no answer within `seconds`.
        OSError: the one that `ask` raised.
    """
    reader, writer = os.pipe()
    pid, mask = programs.fork()
    if pid == 0:
        _answer(ask, writer)

    os.close(writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    chunks = []
    end = time.monotonic() + seconds
    with open(reader, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
            if chunk := stream.read(65536):
                chunks.append(chunk)
                continue

            # The end of the pipe: the process has answered, or died.
            os.waitpid(pid, 0)
            answer = b"".join(chunks)
            failed = int.from_bytes(answer[:4], "little") if answer else errno.EIO
            if failed:
                raise OSError(failed, os.strerror(failed))
            return answer[4:]

    raise TimedOut(f"no answer within {seconds:g} s")


def _answer(ask: Callable[[], bytes], writer: int) -> NoReturn:
    """The forked process of `run_in_subprocess`.

    It sends the errno or 0 in four bytes, then the answer.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR)
        # A program that reads our output must not wait for a process that hangs.
        for target in range(3):
            os.dup2(null, target)

        try:
            failed = 0
            answer = ask()
        except OSError as error:
            failed = error.errno or errno.EIO
            answer = b""

        with open(writer, "wb") as stream:
            stream.write(failed.to_bytes(4, "little") + answer)
    finally:
        os._exit(0)


def state_of(path: Path, seconds: float = TIMEOUT_S, *, fork: bool = True) -> State:
    """How the mount at `path` is.

    Live, stale (its process is gone) or silent (it does not answer within `seconds`). `fork`:
    whether another process looks; without, this one waits for a silent mount.
    """

    def ask() -> bytes:
        # Not stat, which the kernel answers from its cache after the process is gone.
        os.statvfs(path)
        return b""

    try:
        if fork:
            run_in_subprocess(seconds, ask)
        else:
            ask()
    except TimedOut:
        return "silent"
    except OSError as error:
        # ENOTCONN after the process is gone, ECONNABORTED while it goes.
        return "stale" if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else "live"

    return "live"
