"""How this program begins, and how it starts others: nothing of a folder that somebody else can write to is run.

Python puts the working folder, or what an empty entry of PYTHONPATH stands for, before its own modules; a shell
does the same by an empty entry of PATH. `cd /tmp; sudo pictofs mount` would run anybody's `msgspec.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where helpers are looked for first: cron and services often have a PATH without the half of them."""

PR_SET_DUMPABLE = 4


def python(module: str) -> list[str]:
    """The command that runs `module` by this interpreter, without the working folder on its path."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """What a program gets that we start: our environment, without the working folder in its search paths."""
    return {**os.environ, **_search_paths()}


def which(name: str) -> str | None:
    """The absolute path of a helper of the system; None if there is none."""
    folders = [*SYSTEM_FOLDERS, _absolute(os.environ.get("PATH", ""))]
    return shutil.which(name, path=os.pathsep.join(filter(None, folders)))


def harden() -> None:
    """Make this process safe to hold a key and to start programs, whatever it was started with.

    No core is dumped, to a file or to a collector, and other processes of the user can't look into this one:
    both would show the key. A closed standard stream is opened on /dev/null, because the next file to be opened
    would get its number, and everything that is printed.
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
    """A search path without its relative entries; an empty one is the working folder."""
    return os.pathsep.join(filter(os.path.isabs, path.split(os.pathsep)))


def _forbid_dumps() -> None:
    # The limit alone won't do: the kernel pipes cores to a collector (apport, say) in spite of it.
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
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good

    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is written out, and ends no command.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
