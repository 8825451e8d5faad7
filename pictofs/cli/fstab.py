"""`mount.pictofs`: mounting by mount(8) and /etc/fstab.

mount(8) runs `/sbin/mount.pictofs SOURCE DIR [-sfnv] [-o OPTIONS]` for the type `pictofs`. For
`fuse.pictofs` it runs /sbin/mount.fuse.pictofs if there is one, and else /sbin/mount.fuse, which
runs `pictofs SOURCE DIR -o OPTIONS`. In OPTIONS there is always `rw` or `ro`, even if nobody wrote
either.
"""

from __future__ import annotations

import contextlib
import difflib
import getopt
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pictofs import programs
from pictofs.cli.failure import explain
from pictofs.cli.mount import mount
from pictofs.config import MountSettings, declared
from pictofs.config.setting import quoted
from pictofs.errors import Invalid

SOURCE = "pictofs"
"""What stands in the place of a device.

The kernel shows the same, so that `mount -a` knows what is mounted already.
"""
MISUSED = 1
FAILED = 32
"""Exit codes of mount(8)."""

_GENERIC = frozenset(
    (
        *("ro", "rw", "defaults", "auto", "noauto", "user", "users", "nouser", "owner", "group"),
        *("nofail", "_netdev", "comment", "silent", "loud", "async", "sync", "dirsync"),
        *("dev", "nodev", "suid", "nosuid", "exec", "noexec", "default_permissions"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "lazytime", "nolazytime"),
    )
)
"""Options for mount(8), systemd or the kernel: a mount of images is the same with and without."""

Given = dict[str, str | bool | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Mount as mount(8) asks (of this process, by default). Returns: an exit code of mount(8)."""
    programs.harden()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _mount(arguments)
    except (Exception, KeyboardInterrupt) as error:
        return MISUSED if explain(error, show_traceback=False) == Invalid.exit_code else FAILED

    return 0


def asked(arguments: Sequence[str]) -> bool:
    """Whether `pictofs` was run by /sbin/mount.fuse."""
    return len(arguments) == 4 and os.path.isabs(arguments[1]) and arguments[2] == "-o"


def _mount(arguments: list[str]) -> None:
    try:
        flags, operands = getopt.gnu_getopt(arguments, "sfnvt:o:")
    except getopt.GetoptError as error:
        raise Invalid(f"{error}; usage: mount -t pictofs pictofs DIR -o OPTIONS") from None

    if len(operands) != 2:
        raise Invalid("usage: mount -t pictofs pictofs DIR -o OPTIONS")
    source, folder = operands
    # mount(8) makes a path of the source if there is a file of that name.
    if Path(source).name != SOURCE:
        raise Invalid(
            f"write {SOURCE} in the place of {quoted(source)}; base_url= names another API"
        )

    chosen = dict(flags)
    given = _given(",".join(text for flag, text in flags if flag == "-o"), sloppy="-s" in chosen)
    key_file = given.pop("api_key_file", None)
    profile = given.pop("profile", None)
    if "-f" in chosen:
        return

    with contextlib.ExitStack() as stack:
        if "-v" not in chosen:
            quiet = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(quiet))

        mount(
            Path(folder),
            profile=str(profile) if profile else None,
            api_key_file=Path(str(key_file)) if key_file else None,
            **{"base_url": None, **given},
        )


def _given(options: str, *, sloppy: bool) -> Given:
    """The settings among mount options, as `pictofs mount` would get them."""
    switches = {item.name: item.parse is None for item in declared(MountSettings)}
    switches |= {"profile": False, "api_key_file": False}
    del switches["foreground"]  # mount(8) waits for the helper to end
    del switches["fuse_fd"]  # mount(8) passes none on

    given: Given = {}
    for option in re.findall(r'(?:[^,"]|"[^"]*")+', options):
        name, equals, text = option.partition("=")
        if name in _GENERIC or name.startswith(("x-", "X-")):
            continue

        if name not in switches:
            _refuse_a_key(name)
            if not sloppy:
                raise Invalid(f"there is no option {quoted(name)}{_near(name, list(switches))}")
        elif bool(equals) == switches[name]:
            if equals:
                raise Invalid(f"write {name} alone, without a value")
            raise Invalid(f"write {name}=...")
        else:
            given[name] = text.replace('"', "") if equals else True

    if given.get("writable") and "ro" in options.split(","):
        raise Invalid("ro and writable exclude each other")

    return given


def _refuse_a_key(name: str) -> None:
    if "key" in name:
        raise Invalid(
            f"{name}= would show the key to everyone who can read /etc/fstab: write it to a file, "
            "chmod 600 it, and name that by api_key_file="
        )


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f": did you mean {near[0]}?"
    return "; pictofs mount --help lists them"
