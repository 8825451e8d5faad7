"""Mounts on this machine: which there are, whether they answer, and how they are taken away.

A mount whose process died fails every access with ENOTCONN ("stale"); one whose process hangs
blocks every process that touches it, for good. So nothing here touches a mount but through
`run_in_subprocess`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from pictofs import programs
from pictofs.errors import Conflict, Invalid, MountFailed, NoSuchEntry, TimedOut

FSTYPE = "fuse.pictofs"
PROBE_SECONDS = 5.0
"""How long a mount may take to answer a question that costs it no request."""

CLAIM_SECONDS = 60.0
"""How long `Claim` waits: as long as a mount may take to start."""

MOUNTINFO = Path("/proc/self/mountinfo")
FUSE_CONF = Path("/etc/fuse.conf")
DEVICE = Path("/dev/fuse")
BDI = "/sys/class/bdi/{}/read_ahead_kb"
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
"""Flags of umount2(2)."""
READ_AHEAD_BYTES = 1 << 20
"""Bytes, eight times the default.

A cached file of 512 MiB is read at 2,050 MiB/s in place of 1,230.
"""

State = Literal["live", "stale", "silent"]


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    path: Path
    fstype: str
    source: str
    device: str
    """Major and minor number, as in `0:45`."""

    @property
    def ours(self) -> bool:
        """Whether pictofs made it."""
        return self.fstype == FSTYPE


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a mountinfo file, oldest first. Lines of another shape are skipped."""
    found = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        left = before.split(" ")
        right = after.split(" ")
        if dash and len(left) >= 6 and len(right) >= 2:
            found.append(Mount(Path(_plain(left[4])), _plain(right[0]), _plain(right[1]), left[2]))

    return found


def _plain(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)


def all_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    # Not read_text, which would end a line at a carriage return in a path: the kernel writes those
    # as they are.
    return parse_mountinfo(MOUNTINFO.read_bytes().decode("utf-8", "surrogateescape"))


def mount_at(path: Path) -> Mount | None:
    """The topmost mount at exactly `path` (see `resolve`)."""
    return next((mount for mount in reversed(all_mounts()) if mount.path == path), None)


def mount_of(path: Path) -> Mount | None:
    """The mount that `path` (see `resolve`) lies in."""
    inside = [mount for mount in all_mounts() if path.is_relative_to(mount.path)]
    return max(inside, key=lambda mount: len(mount.path.parts), default=None)


def read_ahead(path: Path) -> None:
    """Let the kernel read ahead by READ_AHEAD_BYTES in the mount at `path` (see `resolve`).

    Nothing happens if this user may not say so.
    """
    mount = mount_at(path)
    if mount is not None:
        # Root alone may, and not in every container.
        with contextlib.suppress(OSError):
            Path(BDI.format(mount.device)).write_text(str(READ_AHEAD_BYTES >> 10))


def resolve(path: Path) -> Path:
    """`path` as mountinfo spells it: absolute, no symbolic links.

    What is mounted at `path` is not asked, because it may hang: only the folders above are.
    """
    path = Path(os.path.abspath(path))
    above = Path(os.path.realpath(path.parent)) / path.name
    if mount_at(above):
        return above
    return Path(os.path.realpath(above))


def run_in_subprocess(seconds: float, ask: Callable[[], bytes]) -> bytes:
    """What `ask`, which touches a mount, returns.

    It is asked in a process that is left behind if it hangs. A thread won't do: the kernel lets no
    process end while a thread of it waits for an answer that a mount's process has begun to work
    on.

    Raises:
        TimedOut: no answer within `seconds`.
        OSError: the one that `ask` raised.
    """
    reader, writer = os.pipe()
    pid, mask = programs.fork()
    if pid == 0:
        _answer(ask, writer)

    os.close(writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    chunks = []
    end = time.monotonic() + seconds
    with open(reader, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
            if chunk := stream.read(65536):
                chunks.append(chunk)
                continue

            # The end of the pipe: the process has answered, or died.
            os.waitpid(pid, 0)
            answer = b"".join(chunks)
            failed = int.from_bytes(answer[:4], "little") if answer else errno.EIO
            if failed:
                raise OSError(failed, os.strerror(failed))
            return answer[4:]

    raise TimedOut(f"no answer within {seconds:g} s")


def _answer(ask: Callable[[], bytes], writer: int) -> NoReturn:
    """The forked process of `run_in_subprocess`.

    It sends the errno or 0 in four bytes, then the answer.
    """
    try:
        null = os.open(os.devnull, os.O_RDWR)
        # A program that reads our output must not wait for a process that hangs.
        for target in range(3):
            os.dup2(null, target)

        try:
            failed = 0
            answer = ask()
        except OSError as error:
            failed = error.errno or errno.EIO
            answer = b""

        with open(writer, "wb") as stream:
            stream.write(failed.to_bytes(4, "little") + answer)
    finally:
        os._exit(0)


def state_of(path: Path, seconds: float = PROBE_SECONDS) -> State:
    """How the mount at `path` is.

    Live, stale (its process is gone) or silent (it does not answer).
    """

    def ask() -> bytes:
        # Not stat, which the kernel answers from its cache after the process is gone.
        os.statvfs(path)
        return b""

    try:
        run_in_subprocess(seconds, ask)
    except TimedOut:
        return "silent"
    except OSError as error:
        # ENOTCONN after the process is gone, ECONNABORTED while it goes.
        return "stale" if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else "live"

    return "live"


def check_machine(allow_other: bool) -> None:
    """Raise MountFailed with what to do if this machine or user can't mount at all."""
    if not DEVICE.exists():
        raise MountFailed(
            "there is no /dev/fuse: load the module by `modprobe fuse`, "
            "or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
        )
    # For root libfuse mounts by itself if it may.
    if os.geteuid() == 0:
        return

    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountFailed(
            "/dev/fuse is not open to you: ask for `chmod 666 /dev/fuse` or run as root"
        )
    if not programs.which("fusermount3"):
        raise MountFailed("fusermount3 is missing: install it by `apt-get install fuse3`")
    if allow_other and not may_allow_other():
        raise MountFailed(
            "--allow-other is not permitted: add a line user_allow_other to /etc/fuse.conf, or run as root"
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

    def __init__(self, path: Path, seconds: float = CLAIM_SECONDS) -> None:
        """Wait up to `seconds` for a process that is mounting at `path` (see `resolve`).

        Raises:
            Conflict: it still is.
        """
        self.fd = -1

        # Of a mount that is there already, and may hang, this opens nothing.
        if mount_at(path) is None:
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
    mount = mount_at(path)
    if mount is not None and mount.ours:
        raise Conflict(f"{path} is mounted already: use it, or `pictofs unmount {path}` first")
    if mount is not None:
        raise Conflict(f"{path} is busy: {mount.source} ({mount.fstype}) is mounted there")


def prepare(path: Path) -> bool:
    """Make sure that `path` (see `resolve`) can be mounted on.

    A stale mount of ours there is taken away.

    Returns: whether there was a stale one.

    Raises:
        MountFailed, NoSuchEntry, Invalid, Conflict: it can't be; the message says why.
    """
    recovered = False
    while mount := mount_at(path):
        if not mount.ours or state_of(path) != "stale":
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
            f"{path} does not exist", hint=f"create it by `mkdir -p {path}`"
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


def unmount(path: Path, *, lazy: bool = False, seconds: float = 10.0) -> None:
    """Take the mount of ours at `path` (see `resolve`) away; a stale one lazily.

    Raises:
        NoSuchEntry, Invalid: nothing, or something else, is mounted there.
        Conflict: it is in use, with the processes that use it as far as they can be seen.
        MountFailed: the system refused, or it is still there after `seconds`.
    """
    mount = mount_at(path)
    if mount is None:
        inside = mount_of(path)
        hint = f"; it lies in the mount {inside.path}" if inside and inside.ours else ""
        raise NoSuchEntry(f"{path} is not mounted{hint}")
    if not mount.ours:
        raise Invalid(f"{path} is no pictofs mount but {mount.source} ({mount.fstype}): use umount")

    count = len([mount for mount in all_mounts() if mount.path == path])
    detach(path, lazy=lazy or state_of(path) == "stale")

    end = time.monotonic() + seconds
    while len([mount for mount in all_mounts() if mount.path == path]) >= count:
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
