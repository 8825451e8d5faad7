"""Whether this machine and user can mount at all."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from pictofs import __version__, programs
from pictofs.app import mounting
from pictofs.app.doctor.finding import Finding, fail, ok, warn

OUR_STATUS = Path("/proc/self/status")
SYS_ADMIN = 1 << 21
"""The capability that mounting takes."""
PROGRAM_SECONDS = 5.0

_CONTAINER = "start the container with --device /dev/fuse --cap-add SYS_ADMIN"


def check_machine() -> Iterator[Finding]:
    """The device, the helper program, what the user may do, and versions."""
    yield _device()
    yield _rights()
    yield _helper()
    yield _allow_other()
    yield _library()
    yield ok(
        "versions",
        f"pictofs {__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}",
    )


def _device() -> Finding:
    try:
        os.close(os.open(mounting.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return fail("/dev/fuse", "it does not exist", f"modprobe fuse; or {_CONTAINER}")
    except PermissionError as error:
        closed = not os.access(mounting.DEVICE, os.R_OK | os.W_OK)
        advice = f"chmod 666 {mounting.DEVICE} (as root)" if closed else _CONTAINER
        return fail("/dev/fuse", f"it can't be opened: {error.strerror}", advice)
    except OSError as error:
        return fail("/dev/fuse", f"it can't be opened: {error.strerror}", "modprobe fuse (as root)")

    return ok("/dev/fuse", "opens")


def _rights() -> Finding:
    found = dict(
        re.findall(r"^(CapEff|NoNewPrivs):\s+(\w+)$", OUR_STATUS.read_text(), re.MULTILINE)
    )

    if os.geteuid() == 0:
        if int(found.get("CapEff", "0"), 16) & SYS_ADMIN:
            return ok("rights", "root, and may mount")
        return fail("rights", "root, but without the capability to mount", _CONTAINER)

    if found.get("NoNewPrivs") == "1":
        return fail(
            "rights",
            "this process may gain no rights (no_new_privs), and fusermount3 needs some",
            "start the container without no-new-privileges, or mount as root",
        )

    return ok("rights", f"user {os.geteuid()}, mounts by fusermount3")


def _helper() -> Finding:
    path = programs.which("fusermount3")
    if path is None:
        message = "it is not installed"
        advice = "apt-get install fuse3"
        if os.geteuid() == 0:
            return warn("fusermount3", f"{message}; root can do without", advice)
        return fail("fusermount3", message, advice)

    try:
        said = subprocess.run(  # noqa: S603 - a fixed program, and nobody's argument
            [path, "--version"], capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=True
        )
        number = said.stdout.split()[-1]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return fail(
            "fusermount3",
            f"{path} does not run ({type(error).__name__})",
            "apt-get install --reinstall fuse3",
        )

    if os.geteuid() != 0 and not os.stat(path).st_mode & stat.S_ISUID:
        return fail(
            "fusermount3",
            f"{path} is not setuid root, and can't mount for you",
            f"chmod u+s {path} (as root)",
        )

    return ok("fusermount3", f"{number}, {path}")


def _allow_other() -> Finding:
    if os.geteuid() == 0 or mounting.may_allow_other():
        return ok("allow_other", "--allow-other can be used")
    return ok(
        "allow_other",
        f"--allow-other can't be used: {mounting.FUSE_CONF} has no line user_allow_other",
    )


def _library() -> Finding:
    try:
        importlib.import_module("pictofs.fuse.session")
    except ImportError as error:
        return fail(
            "libfuse",
            f"pyfuse3 can't be loaded: {error}",
            "apt-get install libfuse3-3, then install pictofs anew",
        )

    try:
        function = ctypes.CDLL("libfuse3.so.3").fuse_pkgversion
        function.restype = ctypes.c_char_p
        number = function().decode()
    except (OSError, AttributeError):
        # Another name, or older than 3.0: pyfuse3 was loaded all the same.
        number = "of an unknown version"

    return ok(
        "libfuse",
        f"{number}, pyfuse3 {version('pyfuse3')}, trio {version('trio')} on {sys.executable}",
    )
