"""`pictofs` commands as processes of their own, without 0.6 s of CPU for what each would import.

A process that has imported it all and done nothing else forks for each command. What comes of it is
a child of the test's process, with arguments, environment, folder and standard streams of its own,
and ends as any Python does. A test of how a command starts (its search path, its imports,
/proc/PID/cmdline) runs `python -m pictofs` itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
IMPORTED = (
    "encodings.idna",
    "httpcore",
    "httpx",
    "markdown_it",
    "pictofs.app.datasets",
    "pictofs.app.doctor.checks",
    "pictofs.app.download",
    "pictofs.app.mount",
    "pictofs.app.warm",
    "pictofs.cli",
    "rich.progress",
    "typer._adapters",
    "typer.rich_utils",
)

_libc = ctypes.CDLL(None)
_lock = threading.Lock()
_forker: tuple[subprocess.Popen[bytes], socket.socket] | None = None


class Pictofs(subprocess.Popen[Any]):
    """What `subprocess.Popen` is, of `pictofs ARGUMENTS`: with `cwd`, `env` and streams as
    options."""

    def __init__(self, *arguments: str | Path, **options: Any) -> None:
        super().__init__([*map(str, arguments)], **options)

    def _execute_child(self, args, _executable, _preexec, _close, _pass, cwd, env, *rest) -> None:  # type: ignore[no-untyped-def]
        pipes = rest[3:9]  # what is read and what is written, of each stream
        streams = [
            end if end != -1 else number
            for number, end in enumerate((pipes[0], pipes[3], pipes[5]))
        ]
        environ = dict(os.environ if env is None else env)
        order = {"arguments": args, "environ": environ, "cwd": str(cwd or os.getcwd())}

        with _lock:
            forker = _forking()
            # A child whose parent ends becomes ours, not that of process 1.
            _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            socket.send_fds(forker, [json.dumps(order).encode()], streams)
            self.pid = int(forker.recv(100))

            assert forker.recv(100) == b"its parent has ended"

            _libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

        self._child_created = True
        self._close_pipe_fds(*pipes)


def run_pictofs(
    *arguments: str | Path, timeout: float = 100, input: bytes | str | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """What `subprocess.run` does, of `pictofs ARGUMENTS`, and with its output."""
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    streams = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    with Pictofs(*arguments, **streams, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise

        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _forking() -> socket.socket:
    global _forker  # noqa: PLW0603 - one for all tests of this process
    if _forker is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            _forker = (
                subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]),
                ours,
            )
    return _forker[1]


def _fork_for(asking: socket.socket) -> None:
    """Fork until nobody is there to ask. Returns in the children alone, each of which has become
    what was asked for."""
    while True:
        order, streams, *_ = socket.recv_fds(asking, 1 << 20, 3)
        if not order:
            os._exit(0)
        if parent := os.fork():
            os.waitpid(parent, 0)
            asking.send(b"its parent has ended")
            for fd in streams:
                os.close(fd)
        elif child := os.fork():
            asking.send(str(child).encode())
            os._exit(0)
        else:
            asking.close()
            _become(json.loads(order), streams)
            return


def _become(order: dict[str, Any], streams: list[int]) -> None:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)

    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    time.tzset()
    sys.argv[1:] = order["arguments"]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for good
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    for each in IMPORTED:
        importlib.import_module(each)
    gc.freeze()
    _fork_for(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(sys.modules["pictofs.cli"].main())
