#!/usr/bin/python3
"""Lets `pictofs mount` run without any right to mount: another process does that for it.

    pictofs-fuse serve SOCKET MOUNTPOINT          with rights: mounts, and hands the descriptor on
    pictofs-fuse run SOCKET -- COMMAND...         without: gets one, and becomes COMMAND

`serve` needs CAP_SYS_ADMIN and /dev/fuse. It knows no key and uses no network. Whoever connects to
SOCKET, a unix socket, gets an open /dev/fuse (SCM_RIGHTS) that is freshly mounted at MOUNTPOINT for
the connecting user; what was mounted there before is taken away. `run` puts the descriptor's number
in the place of `{}`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

FSTYPE = "fuse.pictofs"
SOURCE = "pictofs"
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MNT_DETACH = 2
WAIT_S = 60.0
"""How long `run` waits for the socket: the other container may start later."""

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise the OSError of a system call that has failed."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def is_ours(place: Path) -> bool:
    """Whether a mount of pictofs is at a path. It is not touched: it may hang."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[4] == str(place) and after.startswith(f"{FSTYPE} "):
            return True
    return False


def mount(place: Path, uid: int, gid: int) -> int:
    """Mount a new /dev/fuse at a path for a user. Returns: its descriptor."""
    while is_ours(place):
        check(libc.umount2(os.fsencode(place), MNT_DETACH), f"umount {place}")
    place.mkdir(parents=True, exist_ok=True)

    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = (
        f"fd={device},rootmode=40000,user_id={uid},group_id={gid},allow_other,default_permissions"
    )
    try:
        check(
            libc.mount(
                SOURCE.encode(),
                os.fsencode(place),
                FSTYPE.encode(),
                MS_RDONLY | MS_NOSUID | MS_NODEV,
                options.encode(),
            ),
            f"mount {place}",
        )
    except OSError:
        os.close(device)
        raise
    return device


def serve(address: str, place: Path) -> None:
    """Mount for each process that connects, until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Path(address).unlink(missing_ok=True)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        # The folder says who may reach it: a volume that two containers share.
        Path(address).chmod(0o666)
        listening.listen()
        print(f"mounting at {place} for whoever connects to {address}", flush=True)

        while True:
            peer, _ = listening.accept()
            with peer:
                pid, uid, gid = struct.unpack(
                    "3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                )
                try:
                    device = mount(place, uid, gid)
                except OSError as error:
                    print(f"not mounted: {error}", file=sys.stderr, flush=True)
                    continue

                # No copy is kept: the mount must break when the process that serves it ends.
                try:
                    socket.send_fds(peer, [b"fuse"], [device])
                except OSError as error:
                    print(f"process {pid} is gone: {error}", file=sys.stderr, flush=True)
                finally:
                    os.close(device)


def run(address: str, command: list[str]) -> None:
    """Get a descriptor, and become a command that serves it."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(address)
                _, descriptors, _, _ = socket.recv_fds(asking, 16, 1)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                sys.exit(f"error: nobody listens at {address}")
            time.sleep(0.2)

    if not descriptors:
        sys.exit("error: nothing was mounted; the log of `pictofs-fuse serve` says why")

    (device,) = descriptors
    os.set_inheritable(device, True)
    words = [word.replace("{}", str(device)) for word in command]
    os.execvp(words[0], words)  # noqa: S606 - what it was told to become


def main() -> None:
    """Do what the arguments ask for."""
    match sys.argv[1:]:
        case ["serve", address, place]:
            serve(address, Path(os.path.abspath(place)))
        case ["run", address, "--", *command] if command:
            run(address, command)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
