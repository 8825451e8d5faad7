"""A node in a process of its own: `python shared_worker.py PORT TASK ARGUMENT`.

It prints a line after each step, so that whoever started it can follow, count and kill without
sleeping.
"""

from __future__ import annotations

import sys

import trio
from shared_rig import API_KEY, SERVER

import pictofs.store.shared.engine as module
from pictofs.clock import SystemClock
from pictofs.config.shared import SharedAddress
from pictofs.store.shared.engine import SharedEngine
from pictofs.store.shared.turns import shared

# The machine may be busy.
module.SILENCE_S = module.CALL_MAX_S = module.PUT_SILENCE_S = module.PUT_MAX_S = 30.0


def say(word: str) -> None:
    print(word, flush=True)


async def read(store: SharedEngine, names: int) -> None:
    """Ask for records by turns, 16 readers at once; say which the server was asked for."""
    clock = SystemClock()
    right = 0

    async def one(name: str) -> None:
        nonlocal right

        async def ask() -> bytes:
            say(f"asked {name}")
            await trio.sleep(0.02)
            return name.encode() * 100

        record = await shared(store, name, ask, clock=clock, ttl=300.0, longest=60.0, patience=60.0)
        right += record.value == name.encode() * 100

    async with trio.open_nursery() as nursery:
        for number in range(names):
            for _ in range(2):
                nursery.start_soon(one, f"record/{number}")
    say(f"right {right}")


async def hold(store: SharedEngine, name: str) -> None:
    """Lease a name, and never give it back."""
    lease = await store.lease(name, 600.0)
    say("shared" if lease is not None and lease.is_shared else "none")
    await trio.sleep_forever()


async def main(port: int, task: str, argument: str) -> None:
    clock = SystemClock()
    address = SharedAddress("127.0.0.1", port)
    store = SharedEngine(address, API_KEY, SERVER, clock=clock, common_time=clock.wall)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        while store.stats().breaker != "closed":  # noqa: ASYNC110 - the engine has no event for it
            await trio.sleep(0.01)
        say("ready")
        await trio.to_thread.run_sync(sys.stdin.readline)
        if task == "read":
            await read(store, int(argument))
        else:
            await hold(store, argument)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2], sys.argv[3])
