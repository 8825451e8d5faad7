"""What mounting takes of the machine and of a folder, and taking mounts away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shlex
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from pictofs import programs
from pictofs.app import mount_table, probe, running
from pictofs.errors import Conflict, Forbidden, Invalid, MountFailed, NoSuchEntry

CLAIM_TIMEOUT_S = 60.0
"""How long `Claim` waits: as long as a mount may take to start."""

FUSE_CONF = Path("/etc/fuse.conf")
DEVICE = Path("/dev/fuse")
DEVICE_NUMBER = os.makedev(10, 229)
"""That of /dev/fuse, which need not be there where a descriptor of it is."""
READ_AHEAD_FILE = "/sys/class/bdi/{}/read_ahead_kb"
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
"""Flags of umount2(2)."""
READ_AHEAD_BYTES = 1 << 20
"""Bytes, eight times the default.

A cached file of 512 MiB is read at 2,050 MiB/s in place of 1,230.
"""


def check_machine(allow_other: bool) -> None:
    """Raise MountFailed with what to do if this machine or user can't mount at all."""
    if not DEVICE.exists():
        raise MountFailed(
            "there is no /dev/fuse",
            hint="load the module by `modprobe fuse`, or start the container with "
            "--device /dev/fuse --cap-add SYS_ADMIN",
        )
    # For root libfuse mounts by itself if it may.
    if os.geteuid() == 0:
        return

    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountFailed(
            "/dev/fuse is not open to you", hint="ask for `chmod 666 /dev/fuse`, or run as root"
        )
    if not programs.which("fusermount3"):
        raise MountFailed("fusermount3 is missing", hint="install it by `apt-get install fuse3`")
    if allow_other and not may_allow_other():
        raise MountFailed(
            "--allow-other is not permitted",
            hint="add a line user_allow_other to /etc/fuse.conf, or run as root",
        )


def may_allow_other() -> bool:
    """Whether users other than root may let others in."""
    try:
        lines = FUSE_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


class Claim:
    """The right to mount at a folder, from before a process looks until it has mounted.

    One process at a time has it. It is a lock on the folder itself, so that users, caches and
    namespaces don't matter, and a crash frees it. A forked process shares it. If the disk knows no
    locks there is none; `check_free` then sees most of what comes between.
    """

    def __init__(self, path: Path, seconds: float = CLAIM_TIMEOUT_S) -> None:
        """Wait up to `seconds` for a process that is mounting at `path` (see `mount_table.resolve`).

        Raises:
            Conflict: it still is.
        """
        self.fd = -1

        # Of a mount that is there already, and may hang, this opens nothing.
        if mount_table.mount_at(path) is None:
            # If that fails, `check_folder` says what is wrong with the folder.
            with contextlib.suppress(OSError):
                self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

        if self.fd >= 0:
            self._lock(path, time.monotonic() + seconds)

    def _lock(self, path: Path, end: float) -> None:
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    self.release()
                    raise Conflict(
                        f"{path} is being mounted by another process: wait, or end that"
                    ) from None

                time.sleep(0.05)
            except OSError:
                # A disk that knows no locks.
                return

    def release(self) -> None:
        """Let others look: it is mounted, or won't be."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def check_free(path: Path) -> None:
    """Raise Conflict if something is mounted at `path` by now: a mount over it would hide it."""
    mount = mount_table.mount_at(path)
    if mount is not None and mount.ours:
        raise Conflict(
            f"{path} is mounted already",
            hint=f"use it, or `pictofs unmount {shlex.quote(str(path))}` first",
        )
    if mount is not None:
        raise Conflict(f"{path} is busy: {mount.source} ({mount.fstype}) is mounted there")


def prepare(path: Path) -> bool:
    """Make sure that `path` (see `mount_table.resolve`) can be mounted on.

    A stale mount of ours there is taken away.

    Returns: whether there was a stale one.

    Raises:
        MountFailed, NoSuchEntry, Invalid, Conflict: it can't be; the message says why.
    """
    recovered = False
    while mount := mount_table.mount_at(path):
        if not mount.ours or probe.state_of(path) != "stale":
            check_free(path)
            continue

        detach(path, lazy=True)
        recovered = True

    check_folder(path)
    return recovered


def check_folder(path: Path) -> None:
    """Raise, as `prepare` does, unless `path` is a folder to mount on.

    Nothing is mounted there.
    """
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise NoSuchEntry(
            f"{path} does not exist", hint=f"create it by `mkdir -p {shlex.quote(str(path))}`"
        ) from None
    except NotADirectoryError:
        raise Invalid(f"{path} is not a folder", hint="name an empty folder to mount on") from None
    except OSError as error:
        raise MountFailed(f"{path} can't be opened: {error.strerror}") from None

    if not empty:
        raise Conflict(
            f"{path} is not empty: a mount would hide what is there", hint="name an empty folder"
        )
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountFailed(
            f"{path} is not yours to mount on", hint="you need to be able to write to it"
        )


def check_given(fd: int, path: Path) -> None:
    """Make sure that `fd` is an open /dev/fuse that is mounted: at `path`, as far as can be seen.

    It may be mounted where this process does not see it, as in another container. Programs that
    are started from now on don't get it.

    Raises:
        Invalid: it is none.
        MountFailed: it is mounted nowhere, or no more.
        Conflict: something else is mounted at `path`.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        raise Invalid(
            f"--fuse-fd {fd}: there is no such descriptor",
            hint="whoever starts pictofs opens /dev/fuse, mounts it, and hands the descriptor on",
        ) from None
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != DEVICE_NUMBER:
        raise Invalid(f"--fuse-fd {fd}: that descriptor is not one of /dev/fuse")

    os.set_inheritable(fd, False)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise MountFailed(
            f"--fuse-fd {fd}: that descriptor is not mounted",
            hint=f"mount it first, by `mount -i -t {mount_table.FSTYPE} -o fd={fd},...`",
        )

    mount = mount_table.mount_at(path)
    if mount is None:
        return
    if not mount.ours:
        raise Conflict(
            f"{path} is busy: {mount.source} ({mount.fstype}) is mounted there",
            hint=f"mount the descriptor by the type {mount_table.FSTYPE}",
        )

    # Not every kernel tells.
    with contextlib.suppress(OSError):
        told = Path(f"/proc/self/fdinfo/{fd}").read_text()
        connection = re.search(r"^fuse_connection:\s*([0-9]+)$", told, re.MULTILINE)
        if connection is not None and connection[1] != mount.device.partition(":")[2]:
            raise Conflict(f"{path} is another mount of pictofs than that of --fuse-fd {fd}")


def take_away(mount: mount_table.Mount | None) -> None:
    """Unmount what somebody else has mounted for us, if it is there and this process may."""
    if mount is None or mount_table.mount_at(mount.path) != mount:
        return
    with contextlib.suppress(Conflict, MountFailed):
        detach(mount.path, lazy=True)


def unmount(path: Path, *, lazy: bool = False, seconds: float = 10.0) -> None:
    """Take the mount of ours at `path` (see `mount_table.resolve`) away; a stale one lazily.

    Raises:
        NoSuchEntry, Invalid: nothing, or something else, is mounted there.
        Forbidden: it is another user's.
        Conflict: it is in use, with the processes that use it as far as they can be seen, or its
            process does not answer.
        MountFailed: the system refused, or it is still there after `seconds`.
    """
    mount = mount_table.mount_at(path)
    if mount is None:
        inside = mount_table.mount_of(path)
        hint = f"; it lies in the mount {inside.path}" if inside and inside.ours else ""
        raise NoSuchEntry(f"{path} is not mounted{hint}")
    if not mount.ours:
        raise Invalid(f"{path} is no pictofs mount but {mount.source} ({mount.fstype}): use umount")
    if os.geteuid() not in (0, mount.owner):
        raise Forbidden(
            f"{path} is {mount.owner_name}'s mount: only its owner and root may unmount it",
            hint=f"sudo pictofs unmount {shlex.quote(str(path))}",
        )

    state = "live" if lazy else probe.state_of(path)
    if state == "silent":
        problem, advice = running.trouble(path, state)
        raise Conflict(f"{path} can't be unmounted: {problem}", hint=advice)

    count = len([mount for mount in mount_table.all_mounts() if mount.path == path])
    detach(path, lazy=lazy or state == "stale")

    end = time.monotonic() + seconds
    while len([mount for mount in mount_table.all_mounts() if mount.path == path]) >= count:
        if time.monotonic() > end:
            raise MountFailed(f"{path} is still mounted after {seconds:g} s: try --lazy")

        time.sleep(0.05)


def detach(path: Path, *, lazy: bool) -> None:
    """Ask the system to unmount `path`; `unmount` says what it raises."""
    reason = _detach_as_root(path, lazy=lazy) if os.geteuid() == 0 else "only root may"
    if reason:
        reason = _detach_by_helper(path, reason, lazy=lazy)
    if reason is None:
        return

    if "busy" in reason:
        users = ", ".join(f"{name} ({pid})" for pid, name in holders(path))
        raise Conflict(
            f"{path} is in use by {users or 'a process that you may not see'}: end it, or use --lazy"
        )

    raise MountFailed(f"{path} can't be unmounted: {reason}")


def _detach_as_root(path: Path, *, lazy: bool) -> str | None:
    """Unmount without a helper, which a small container lacks.

    Returns: the reason if that fails.
    """
    import ctypes  # noqa: PLC0415 - not for --help

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def _detach_by_helper(path: Path, reason: str, *, lazy: bool) -> str | None:
    """Unmount by fusermount3. Returns: its reason if that fails, `reason` if root lacks it."""
    helper = programs.which("fusermount3")
    if helper is None:
        if os.geteuid() == 0:
            return reason
        return "fusermount3 is missing: install it by `apt-get install fuse3`"

    # A program of the system; the path is one argument after `--`.
    done = subprocess.run(  # noqa: S603
        [helper, "-u", *(["-z"] if lazy else []), "--", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**programs.environment(), "LC_ALL": "C"},
        check=False,
    )
    if done.returncode == 0:
        return None

    return " ".join(done.stderr.split()) or f"fusermount3 ended with {done.returncode}"


def holders(path: Path) -> Iterator[tuple[int, str]]:
    """Processes (id, name) with a working folder or an open file below `path`.

    Those that this user can't see are left out.
    """
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue

        # Processes end while we look, and those of others are closed to us.
        with contextlib.suppress(OSError):
            links = [Path(entry, "cwd"), Path(entry, "root"), *Path(entry, "fd").iterdir()]
            if any(_points_into(link, path) for link in links):
                yield int(entry.name), Path(entry, "comm").read_text(errors="replace").strip()


def _points_into(link: Path, path: Path) -> bool:
    try:
        return Path(os.readlink(link)).is_relative_to(path)  # reads /proc only, never the mount
    except OSError:
        return False


def set_read_ahead(path: Path) -> None:
    """Let the kernel read ahead by READ_AHEAD_BYTES in the mount at `path` (see `mount_table.resolve`).

    Nothing happens if this user may not say so.
    """
    mount = mount_table.mount_at(path)
    if mount is not None:
        # Root alone may, and not in every container.
        with contextlib.suppress(OSError):
            Path(READ_AHEAD_FILE.format(mount.device)).write_text(str(READ_AHEAD_BYTES >> 10))
