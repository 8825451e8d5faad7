"""Calls of the disk: each one ends, whatever becomes of the thread that makes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pictofs.library.content.disk import Disk


class Panic(BaseException):
    """What a compiled extension raises: no Exception."""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be another user; root's threads are not limited"
)
def test_t2_calls_end_where_no_thread_can_be_started() -> None:
    script = Path(__file__).with_name("threadless.py")
    ran = subprocess.run([sys.executable, "-B", script], capture_output=True, text=True, timeout=60)
    words = ["limited", "0", "1", "4", "ValueError", "Panic", "9", "16", "NoThread"]
    assert ran.stdout.split() == words, ran.stderr


def test_t2_a_call_that_panics_holds_up_no_other() -> None:
    def panic() -> None:
        raise Panic

    async def main() -> list[object]:
        disk, found = Disk(), []

        async def call(work, *args) -> None:
            try:
                found.append(await disk.call(work, *args))
            except Panic as error:
                found.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.serve)
            with trio.fail_after(10):
                async with trio.open_nursery() as calls:
                    for work in (panic, list, panic, dict):
                        calls.start_soon(call, work)

            nursery.cancel_scope.cancel()

        return found

    found = trio.run(main)

    assert sorted(map(str, found)) == sorted(map(str, [Panic, [], Panic, {}]))
