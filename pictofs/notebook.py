"""A mount that lasts for a `with` block, from a notebook or a program.

    import pictofs

    with pictofs.mounted() as root:
        print(sorted(path.name for path in (root / "datasets").iterdir()))

It runs the commands `pictofs mount` and `pictofs unmount`. It does not fork: a notebook has threads
and a running event loop, which do not survive a fork.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from pictofs import programs
from pictofs.config import MountSettings, Setting, declared, values
from pictofs.errors import Conflict, NoSuchEntry, PictofsError, from_exit_code

__all__ = ["mounted"]

_WARNING = "warning: "


@contextmanager
def mounted(
    base_url: str | None = None,
    *,
    profile: str | None = None,
    api_key_file: str | os.PathLike[str] | None = None,
    mountpoint: str | os.PathLike[str] | None = None,
    **settings: object,
) -> Iterator[Path]:
    """Mount as `pictofs mount` does, yield the mount point, and unmount at the end.

    Unmounting is lazy if files are in use. `mountpoint`: an empty folder; by default a new
    temporary one, which is removed after unmounting. `settings`: those of `pictofs mount` by name,
    such as `cache_size="20GB"`, `metadata_ttl=30`, `offline=True`.

    The key is found as `pictofs mount` finds it. If this process is killed, the mount remains until
    `pictofs unmount`.

    Raises:
        TypeError: there is no such setting.
        PictofsError: mounting failed, with the message and the exit code of the command.
    """
    options = _options({"base_url": base_url, **settings})
    if profile is not None:
        options.append(f"--profile={profile}")
    if api_key_file is not None:
        options.append(f"--api-key-file={os.path.expanduser(api_key_file)}")

    path = Path(mountpoint or tempfile.mkdtemp(prefix="pictofs-")).expanduser().absolute()
    try:
        _pictofs("mount", *options, "--", str(path))

        # For a block that never ends, such as a generator that is not closed.
        at_exit = atexit.register(partial(_unmount, path))
        try:
            yield path
        finally:
            atexit.unregister(at_exit)
            _unmount(path)
    finally:
        if mountpoint is None:
            _remove(path)


def _options(settings: dict[str, object]) -> list[str]:
    known = {item.name: item for item in declared(MountSettings)}
    del known["foreground"]  # the command would never return
    del known["fuse_fd"]  # the command would not get it

    options = []
    for name, value in settings.items():
        if name not in known:
            raise TypeError(
                f"{name!r} is no setting of a mount; there is: {', '.join(known)}{_hint(name)}"
            )
        if value is not None:
            options += _option(known[name], value)

    return options


def _hint(name: str) -> str:
    if "key" in name:
        return ". A key belongs in PICTOGRAPH_API_KEY, a profile or a file"
    return ""


def _option(item: Setting, value: object) -> list[str]:
    if item.parse is None:
        if not isinstance(value, bool):
            raise TypeError(f"{item.name} is True or False, not {value!r}")
        return [item.flag] if value else []

    if item.parse is values.octal and isinstance(value, int):
        return [f"{item.flag}={value:o}"]
    return [f"{item.flag}={value}"]


def _unmount(path: Path) -> None:
    with suppress(NoSuchEntry):  # somebody has unmounted it already
        try:
            _pictofs("unmount", "--", str(path))
        except Conflict:
            _pictofs("unmount", "--lazy", "--", str(path))


def _remove(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        # Busy: `mount` was interrupted after it had mounted, before it returned.
        _unmount(path)
        with suppress(OSError):
            path.rmdir()


def _pictofs(*arguments: str) -> None:
    """Run a command of `pictofs`. Raises PictofsError with its message if it fails."""
    process = subprocess.Popen(  # noqa: S603 - this very program
        [*programs.python("pictofs"), *arguments],
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _, said = process.communicate()
    except BaseException:
        # Ctrl-C: a notebook sends it to this process alone.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise

    lines = said.splitlines()
    for line in lines:
        if line.startswith(_WARNING):
            warnings.warn(line.removeprefix(_WARNING), stacklevel=4)

    if process.returncode:
        raise _error(process.returncode, lines)


def _error(exit_code: int, lines: list[str]) -> PictofsError:
    """What the lines of a command that failed say."""
    told = dict.fromkeys(("error:", "Fix:", "Docs:"), "")
    for line in lines:
        head, _, text = line.strip().partition(" ")
        if head in told:
            told[head] = text

    message, hint, docs = told.values()
    return from_exit_code(exit_code, message or " ".join(lines), hint=hint, docs=docs)
