"""Starts and ends processes beside the mount's own, which work for it."""

from __future__ import annotations

import socket
import subprocess

import trio

from pictofs import programs

SHUTDOWN_TIMEOUT_S = 2.0
"""Seconds that a process has for clearing up before it is killed."""
POLL_S = 0.01
"""Seconds between two checks whether it has ended."""


class CannotStart(Exception):
    """A process can't be started."""


def start(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Run `module` as a program of its own, with `theirs` as its standard input.

    It holds nothing of this process's memory, least of all the API key, and nothing of it is in its
    environment. It has a session of its own: Ctrl-C and Ctrl-Z at the terminal are meant for the
    mount, which ends it when it ends itself.

    Raises:
        CannotStart: no process or no descriptor is left, for example.
    """
    environ = {
        name: value
        for name, value in programs.environment().items()
        if not name.upper().startswith("PICTO")
    }

    try:
        return _spawn(programs.python(module), environ, theirs)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CannotStart(str(error)) from None


def _spawn(
    command: list[str], environ: dict[str, str], theirs: socket.socket
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - this very program
        command,
        cwd="/",
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env=environ,
        start_new_session=True,
    )


async def end(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process that was told to end has done so; kill it if that takes too long.

    Not in a thread: a mount must be able to end even if no thread can be started any more.
    """
    if await _ended(process):
        return

    process.kill()
    await _ended(process)  # a process that waits for a hanging disk ends when the disk answers


async def _ended(process: subprocess.Popen[bytes]) -> bool:
    with trio.move_on_after(SHUTDOWN_TIMEOUT_S):
        while process.poll() is None:  # noqa: ASYNC110 - only looking tells
            await trio.sleep(POLL_S)

    return process.returncode is not None
