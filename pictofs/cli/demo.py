"""`pictofs demo`: a stand-in for the server, a mount of it, and a tour."""

# ruff: noqa: PLC0415 - rich is imported only when something is shown

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pictofs import programs
from pictofs.api.key import ApiKey
from pictofs.app import mount_table, mounting
from pictofs.cli.failure import warn
from pictofs.cli.formatting import say
from pictofs.cli.mount import run
from pictofs.config import MountSettings
from pictofs.config.setting import lookup
from pictofs.config.values import is_loopback
from pictofs.errors import Conflict, MountFailed, NotSupported, PictofsError

STAND_IN_SECONDS = 30.0
NEXT = "pictofs mount ~/picto, with a key of yours in PICTOGRAPH_API_KEY"
_REAL_KEY = re.compile(r"pk_[a-z]+_\S{32,}")


def demo(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT", show_default=False, help="A new temporary folder by default."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", metavar="", help="Stay until Ctrl-C or SIGTERM, also without a terminal."
        ),
    ] = False,
) -> None:
    """Show a mount of a made-up organization that runs on this machine: no account, no key, no
    network."""
    warn_of_the_real_world(os.environ)
    ending = _Ending()
    signal.signal(signal.SIGTERM, ending)
    signal.signal(signal.SIGHUP, ending)
    mounting.check_machine(allow_other=False)
    check_stand_in()

    root = Path(tempfile.mkdtemp(prefix="pictofs-demo-"))
    try:
        if mountpoint is None:
            mountpoint = root / "mnt"
            mountpoint.mkdir()

        path = mount_table.resolve(mountpoint)
        stay = keep or (sys.stdin.isatty() and sys.stdout.isatty())
        with _stand_in() as (url, keys), _mounted(path, root / "cache", url, keys["viewer"]):
            _show(path, ending, url, keys["admin"], stay=stay)
    finally:
        # The message of a PictofsError may name the log in there.
        if not isinstance(sys.exc_info()[1], PictofsError):
            shutil.rmtree(root, ignore_errors=True)

    say("The demo has ended: its mount, its server and its cache are gone.")
    say(f"Next: {NEXT}")


def warn_of_the_real_world(environ: Mapping[str, str]) -> None:
    """Warn of variables that point to a real account, as they usually do.

    The demo uses neither, but whoever runs it with them may believe that it shows their data.
    """
    host = lookup(environ, "PICTOGRAPH_BASE_URL")
    if host and is_loopback(host):
        return

    unused = ["PICTOGRAPH_BASE_URL"] if host else []
    if _REAL_KEY.match(lookup(environ, "PICTOGRAPH_API_KEY") or ""):
        unused.append("PICTOGRAPH_API_KEY")

    if unused:
        warn(f"the demo does not use your {' and '.join(unused)}: it shows made-up data")


def check_stand_in() -> None:
    """Raise NotSupported if what the stand-in server needs was not installed: mounts do without."""
    missing = [
        name for name in ("PIL", "starlette", "uvicorn") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise NotSupported(
            f"the demo's server needs {', '.join(missing)}: pip install 'pictofs[demo]', "
            "or `make demo` in a checkout"
        )


class _Ending:
    """Handles the signals that end the demo."""

    told = False
    """Whether one came. Where Python runs a callback of its own, as within `import`, it drops what
    a handler raises."""

    def __call__(self, _signal: int, _frame: object) -> NoReturn:
        self.told = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def _stand_in() -> Iterator[tuple[str, dict[str, str]]]:
    """A running stand-in: its API's URL, and by role the keys of its own making."""
    # Its own session: Ctrl-C at the terminal is ours to handle, the mount goes first.
    process = subprocess.Popen(  # noqa: S603 - this very program
        [*programs.python("standin"), "--preset", "sample"],
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None

    try:
        ready = select.select([process.stdout], [], [], STAND_IN_SECONDS)[0]
        line = process.stdout.readline() if ready else b""
        if not line:
            raise MountFailed("the stand-in for the server did not start")

        said = json.loads(line)
        yield said["api"], said["keys"]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _mounted(path: Path, cache: Path, url: str, api_key: str) -> Iterator[None]:
    given = {"base_url": url, "cache_dir": str(cache), "cache_size": "1GB"}

    # `run` is inside: a signal may come when it is mounted and has not said so.
    try:
        run(MountSettings.load(path, given, {}), ApiKey(api_key))
        yield
    finally:
        if mount_table.mount_at(path):
            try:
                mounting.unmount(path)
            except Conflict:  # somebody's shell is in it
                mounting.unmount(path, lazy=True)
            except PictofsError:
                # The mount's process may have been told to end as well, and was faster.
                if mount_table.mount_at(path):
                    raise


def _show(path: Path, ending: _Ending, url: str, api_key: str, *, stay: bool) -> None:
    from pictofs.cli.demo_steps import show_steps, show_what_to_try

    show_steps(path)
    if not stay:
        return

    show_what_to_try(path, url, api_key)
    with contextlib.suppress(KeyboardInterrupt):
        while mount_table.mount_at(path) and not ending.told:
            time.sleep(0.5)
    print()
