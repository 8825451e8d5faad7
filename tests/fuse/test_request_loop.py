"""How the session loop takes requests: at once while there are some, and no task is forgotten."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pictofs.fuse import request_loop
from pictofs.fuse.request_loop import ReadLock, _Trio


async def test_t2_what_can_be_read_is_read_without_a_turn() -> None:
    shim = _Trio()
    ours, theirs = socket.socketpair()

    with ours, theirs:
        theirs.send(b"a request that nobody takes")
        await shim.lowlevel.wait_readable(ours.fileno())

        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await shim.lowlevel.wait_readable(ours.fileno())
            assert turns == 0
            nursery.cancel_scope.cancel()


async def test_t2_other_tasks_have_their_turn_though_requests_never_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_loop, "SLICE_S", 0.0001)
    shim = _Trio()
    ours, theirs = socket.socketpair()

    with ours, theirs, trio.fail_after(5):
        theirs.send(b"a request that nobody takes")
        had_a_turn = trio.Event()

        async def turn() -> None:
            had_a_turn.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn)
            while not had_a_turn.is_set():
                await shim.lowlevel.wait_readable(ours.fileno())


async def test_m2_a_wait_ends_when_the_session_does() -> None:
    shim = _Trio()
    ours, theirs = socket.socketpair()

    with ours, theirs, trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(shim.ClosedResourceError):
                    await shim.lowlevel.wait_readable(ours.fileno())

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            shim.lowlevel.notify_closing(ours.fileno())


async def test_t2_a_lock_that_is_let_go_wakes_who_waits() -> None:
    """Also if it is taken and let go again before that one runs: then its holder reads on."""
    lock = ReadLock()
    order: list[str] = []

    async def take(name: str) -> None:
        async with lock:
            order.append(name)
            await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            async with lock:
                for name in ("first", "second", "third"):
                    nursery.start_soon(take, name)
                    await wait_all_tasks_blocked()

            async with lock:
                order.append("again")

    assert order == ["again", "first", "second", "third"]


async def test_t3_a_task_that_gives_up_leaves_the_lock_to_the_others() -> None:
    lock = ReadLock()
    taken = trio.Event()

    async def take() -> None:
        async with lock:
            taken.set()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            async with lock:
                with trio.move_on_after(0.01) as scope:
                    await take()
                assert scope.cancelled_caught
                nursery.start_soon(take)
                await wait_all_tasks_blocked()

            await taken.wait()
