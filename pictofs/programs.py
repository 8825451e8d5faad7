"""Starts this program and others safely: nothing is run from a folder that others can write to.

Python puts the working folder before its own modules, and so does an empty entry in PYTHONPATH. An
empty entry in PATH does the same in a shell. Without the precautions here,
`cd /tmp; sudo pictofs mount` would run anybody's `msgspec.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where helpers are looked for first. The PATH of cron and of services often lacks some."""

PR_SET_DUMPABLE = 4


def python(module: str) -> list[str]:
    """The command that runs `module` with this interpreter, without the working folder."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """The environment for a child process: ours, without relative entries in its search paths."""
    return {**os.environ, **_search_paths()}


def which(name: str) -> str | None:
    """The absolute path of a system program, None if there is none."""
    folders = [*SYSTEM_FOLDERS, _absolute(os.environ.get("PATH", ""))]
    return shutil.which(name, path=os.pathsep.join(filter(None, folders)))


def harden() -> None:
    """Make this process safe to hold a key and to start programs, whatever its environment.

    No core is dumped, neither to a file nor to a collector, and the user's other processes can't
    inspect this one: both would show the key. A closed standard stream is opened on /dev/null.
    Otherwise the next file to be opened would get its number, and everything that is printed.
    """
    os.environ.update(_search_paths())

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    _forbid_dumps()

    _open_standard_streams()


def _search_paths() -> dict[str, str]:
    found = {}
    for name in ("PATH", "PYTHONPATH"):
        if name in os.environ:
            found[name] = _absolute(os.environ[name])

    return found


def _absolute(path: str) -> str:
    """A search path without its relative entries. An empty entry means the working folder."""
    return os.pathsep.join(filter(os.path.isabs, path.split(os.pathsep)))


def _forbid_dumps() -> None:
    # The limit is not enough: the kernel pipes cores to a collector (apport, say) in spite of it.
    try:
        import ctypes  # noqa: PLC0415 - a Python without libffi is a Python all the same

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def _open_standard_streams() -> None:
    with contextlib.suppress(OSError):  # a chroot without /dev
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                null = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - stays open
                setattr(sys, name, null)

    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is escaped instead of raising.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def fork() -> tuple[int, set[int | signal.Signals]]:
    """What `os.fork` returns, and the signal mask to restore once an exception may come.

    Signals that end a command are held until then, in the parent. A handler that raises within a
    hook of fork (logging has some) loses its exception, and leaves logging's lock taken for good.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, mask
