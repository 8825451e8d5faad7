"""`pictofs top`."""

# ruff: noqa: PLC0415 - msgspec is imported when a mount is talked to, rich when something is drawn

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pictofs.app import mount_table, probe, running
from pictofs.errors import Invalid, MountFailed, NoSuchEntry, PictofsError, ServerUnreachable

if TYPE_CHECKING:
    from pictofs.cli.top_frame import Frame
    from pictofs.cli.top_overview import Overview
    from pictofs.model.status import Status

ANSWER_SECONDS = 2.0
"""How long a mount may take to tell its status: nothing is drawn until then."""
TURN_S = 0.1
"""Seconds between looks at the keyboard and the terminal's size."""
ROWS = 24
"""Of a frame that is printed."""


def top(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            show_default=False,
            parser=Path,  # typer's own asks the mount, which may hang, or be closed to this user
            help="Only this mount, in full; without it, a line for each if there are several.",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, max=60, help="Between two looks.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", metavar="", help="Print one frame, also without a terminal.")
    ] = False,
) -> None:
    """Watch a mount: bytes from storage and to readers, operations, hit rate, request budget.

    q or Ctrl-C ends it. It costs the mount no file operation and no request.
    """
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Invalid(
            "top needs a terminal; --once prints one frame, and pictofs status --json is for programs"
        )

    paths = choose(mountpoint)
    watched: Watched | WatchedMounts = WatchedMounts(interval)
    if len(paths) == 1:
        watched = _watched(paths[0], interval)

    if once:
        _print(watched)
        return

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), _keys():
        _watch(watched)


def choose(named: Path | None) -> list[Path]:
    """The mount points that are meant: of the mount that `named` lies in, or of all.

    Raises NoSuchEntry if there is none.
    """
    if named is not None:
        return [running.mountpoint_of(mount_table.resolve(named))]

    found = _mount_points()
    if not found:
        raise NoSuchEntry("nothing is mounted: pictofs mount, or pictofs demo")
    return found


def _mount_points() -> list[Path]:
    return sorted({mount.path for mount in mount_table.all_mounts() if mount.ours})


def _watched(path: Path, interval: float) -> Watched:
    """A mount that tells its status. Raises PictofsError if it does not."""
    watched = Watched(path, interval)
    if watched.frame().status is None:
        told = str(watched.trouble)
        raise PictofsError(told if str(path) in told else f"{path}: {told}")

    return watched


class Watched:
    """A mount that is looked at again and again, also after it has ended and was made anew."""

    def __init__(self, mountpoint: Path, interval: float) -> None:
        from pictofs.cli.top_history import History

        self.mountpoint = mountpoint
        self.interval = interval
        self.trouble: str | None = None
        self._socket: Path | None = None
        self._status: Status | None = None
        self._history = History()

    def frame(self) -> Frame:
        """Look, and what there is to show then."""
        from pictofs.cli.top_frame import Frame

        found = self._look()
        now = time.monotonic()
        self._history.add(now, found)
        self._status = found or self._status

        return Frame(self.mountpoint, self._history, self._status, self.trouble, self.interval, now)

    def _look(self) -> Status | None:
        """The status, by the mount's socket: reading the file would be among what it counts."""
        from pictofs.control.client import ask
        from pictofs.control.messages import StatusRequest
        from pictofs.model.status import to_status

        self.trouble = None
        try:
            if self._socket is None:
                self._socket = self._find()
            return to_status(ask(self._socket, StatusRequest(), dict[str, Any], ANSWER_SECONDS))
        except ServerUnreachable as error:
            # Nobody listens there any more, or never did where this process can see it.
            gone = probe.state_of(self.mountpoint, ANSWER_SECONDS) == "stale"
            self.trouble = "its process is gone" if gone else str(error)
        except PictofsError as error:
            self.trouble = str(error)

        self._socket = None
        if mount_table.mount_at(self.mountpoint) is None:
            self.trouble = "the mount has ended"
        return None

    def _find(self) -> Path:
        if probe.state_of(self.mountpoint, ANSWER_SECONDS) == "stale":
            raise MountFailed(
                f"its process is gone: pictofs unmount {self.mountpoint}, or mount it again"
            )
        return running.control_socket(self.mountpoint)


class WatchedMounts:
    """The mounts of this machine, as they come and go."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._mounts: dict[Path, Watched] = {}
        self.frame()

    def frame(self) -> Overview:
        """Look at each, and what there is to show then."""
        from pictofs.cli.top_overview import Overview

        before = self._mounts
        self._mounts = {
            path: before.get(path) or Watched(path, self.interval) for path in _mount_points()
        }
        return Overview([each.frame() for each in self._mounts.values()], self.interval)


def _print(watched: Watched | WatchedMounts) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    rows = min(console.height, ROWS) if console.is_terminal else ROWS

    time.sleep(watched.interval)
    console.print(watched.frame().render(console.width, rows, for_keys=False))


def _watch(watched: Watched | WatchedMounts) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        frame = watched.frame()
        drawn = None
        due = 0.0

        while True:
            if time.monotonic() >= due:
                frame = watched.frame()
                drawn = None
                due = time.monotonic() + watched.interval

            if drawn != console.size:
                drawn = console.size
                live.update(frame.render(drawn.width, drawn.height), refresh=True)

            if select.select([sys.stdin], [], [], TURN_S)[0]:
                key = os.read(sys.stdin.fileno(), 1)
                # No byte: the terminal is gone.
                if not key or key in b"qQ":
                    return


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys are read one by one and not shown inside."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)

    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
