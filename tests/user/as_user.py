"""`unshare --mount python as_user.py UID GID FOLDER COMMAND...`: run a command in a folder as
another user.

What pictofs and this Python are made of may lie where others can't go: a checkout or a pyenv below
/root, whose mode is 0700. In this process's own mount namespace such folders are covered by open
ones that hold nothing but what is needed, bound to the place where it always was. No mode on the
disk is changed, and nobody else sees it. Then the user is changed for good: no capability is left,
and fusermount3 has to give what only root may do.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import tempfile
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
BIND = 0x1000 | 0x4000
"""MS_BIND and MS_REC."""
CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> None:
    uid, gid, folder, *command = sys.argv[1:]
    for path in (
        CHECKOUT,
        Path(folder),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve(),
    ):
        expose(path)

    open_device(Path("/dev/fuse"))
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.chdir(folder)
    os.execvp(command[0], command)


def expose(wanted: Path) -> None:
    """Open the way to a path, and the folder there itself, to everybody."""
    for folder in [*reversed(wanted.parents), wanted]:
        found = folder.stat()
        if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o001 == 0 and found.st_uid == 0:
            if folder == wanted:
                cover(folder, list(folder.iterdir()))
            else:
                cover(folder, [folder / wanted.relative_to(folder).parts[0]])


def open_device(device: Path) -> None:
    """Put a device that everybody may open, as on most systems, in the place of one that is
    root's."""
    found = device.stat()
    if found.st_mode & 0o006 == 0o006:
        return
    folder = Path(tempfile.mkdtemp())
    mount("pictofs-test", folder, "tmpfs", 0, "mode=0755")
    twin = folder / device.name
    os.mknod(twin, stat.S_IFCHR, found.st_rdev)
    twin.chmod(0o666)
    mount(str(twin), device, None, BIND)
    detach(folder)
    folder.rmdir()


def cover(folder: Path, kept: list[Path]) -> None:
    """Put an empty folder in a folder's place, open to all, with some of what it held."""
    held = [(path, os.open(path, os.O_PATH | os.O_NOFOLLOW)) for path in kept]
    mount("pictofs-test", folder, "tmpfs", 0, "mode=0755")

    for path, fd in held:
        mode = os.fstat(fd).st_mode
        if stat.S_ISLNK(mode):
            path.symlink_to(os.readlink("", dir_fd=fd))
        elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            path.mkdir() if stat.S_ISDIR(mode) else path.touch()
            mount(f"/proc/self/fd/{fd}", path, None, BIND)

        os.close(fd)


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2): mount(8) would look for the path behind a descriptor, which is covered by now."""
    words = [None if each is None else each.encode() for each in (source, str(target), kind)]
    if LIBC.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def detach(target: Path) -> None:
    """umount2(2), lazily."""
    LIBC.umount2(str(target).encode(), 2)


if __name__ == "__main__":
    main()
