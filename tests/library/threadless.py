"""A process that may start no thread uses the disk as the library does; prints what came of it."""

from __future__ import annotations

import os
import resource
import threading

import trio

from pictofs.library.content.disk import Disk
from pictofs.threads import NoThread, in_thread, only_in_thread

NOBODY = 54_321
"""A user who has no other process, so that a limit on processes is exact."""


class Panic(BaseException):
    """What a compiled extension raises."""


def panic() -> None:
    raise Panic("panic")


async def outcome(disk: Disk, *call: object) -> None:
    try:
        with trio.fail_after(10):
            print(await disk.call(*call))
    except (Exception, Panic) as error:
        print(type(error).__name__)


async def main() -> None:
    disk = Disk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.serve)
        for base in range(3):
            await outcome(disk, pow, base, 2)
        await outcome(disk, int, "x")
        await outcome(disk, panic)
        await outcome(disk, pow, 3, 2)
        print(await in_thread(pow, 4, 2))

        try:
            await only_in_thread(pow, 5, 2)
        except NoThread:
            print("NoThread")

        nursery.cancel_scope.cancel()


os.setgid(NOBODY)
os.setuid(NOBODY)  # not sooner: that user can't read what root has installed
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("limited")
trio.run(main)
