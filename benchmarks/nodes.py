"""A thousand nodes and one engine: `python -m benchmarks.nodes [NODES [NAMES]]`.

A simulation of the nodes alone: each is the real client of the engine with connections of its own,
takes real turns, and seals and opens real records; the server is a pause of 20 ms, and asking it is
counted. All nodes want the same annotation files, 13 kB each, and begin together. What the engine
itself has to do does not depend on how fast the simulated nodes are.
"""

from __future__ import annotations

import gc
import os
import sys
import time

import trio

from benchmarks.share import _be_patient, engine, info
from pictofs.clock import SystemClock
from pictofs.config.shared import SharedAddress
from pictofs.store.shared.engine import SharedEngine
from pictofs.store.shared.turns import shared

SIZE = 12_600
"""Bytes of an annotation file with ten polygons."""
SERVER_S = 0.02
READERS = 4
POLL_S = 2.0
"""Seconds between two looks of a node at what others have refreshed: two numbers and a record."""


async def _simulate(address: SharedAddress, number: int, names: int) -> tuple[int, float]:
    """Returns how often the server was asked, and the seconds that all of it took."""
    clock = SystemClock()
    body = os.urandom(SIZE // 4).hex().encode() * 2
    asked = 0

    async def ask() -> bytes:
        nonlocal asked
        asked += 1
        await trio.sleep(SERVER_S)
        return body

    async def node(store: SharedEngine) -> None:
        left = iter(range(names))

        async def read() -> None:
            for name in left:
                record = await shared(
                    store,
                    f"1/annotation/{name}",
                    ask,
                    clock=clock,
                    ttl=3600.0,
                    longest=600.0,
                    patience=600.0,
                )
                assert record.value == body

        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(read)

    async with trio.open_nursery() as nursery:
        stores = []
        for _ in range(number):
            store = SharedEngine(
                address,
                "pk_live_of-a-simulation",
                "https://api",
                clock=clock,
                common_time=time.time,
            )
            nursery.start_soon(store.run)
            stores.append(store)
            while store.stats().breaker != "closed":  # noqa: ASYNC110 - nothing tells it
                await trio.sleep(0.005)

        began = time.perf_counter()
        async with trio.open_nursery() as readers:
            for store in stores:
                readers.start_soon(node, store)
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()

    return asked, took


def _cpu(address: SharedAddress) -> float:
    said = info(address)
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


async def _idle(address: SharedAddress, polls: int) -> None:
    """So many looks of a node at what others have refreshed."""
    store = SharedEngine(
        address,
        "pk_live_of-a-simulation",
        "https://api",
        clock=SystemClock(),
        common_time=time.time,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        for _ in range(polls):
            for name in ("1/refresh", "1/refresh/*"):
                await store.count(name, ttl=60.0, start=1, extend=True)
            await store.get(["1/limit"])
        nursery.cancel_scope.cancel()


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    names = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    _be_patient()
    gc.freeze()

    with engine() as address:
        before = _cpu(address)
        asked, took = trio.run(_simulate, address, number, names)
        cpu = _cpu(address) - before
        said = info(address)

        before = _cpu(address)
        polls = 2000
        trio.run(_idle, address, polls)
        idle = (_cpu(address) - before) / polls

    reads = number * names
    each = cpu / reads
    print(f"{number} nodes, {names} files each: {asked} requests instead of {reads}, {took:.0f} s")
    print(
        f"engine: {cpu:.1f} s of CPU, {1e6 * each:.0f} us a file and node, "
        f"{said['used_memory_peak_human']} at most, {said['total_connections_received']} connections"
    )
    print(f"engine, idle nodes: {1e6 * idle:.0f} us a look, one each {POLL_S:g} s and node")
    full = POLL_S / idle
    print(
        f"one core of the engine is full with {1 / each:,.0f} files a second of all nodes together,"
    )
    print(f"or with {full:,.0f} nodes that do nothing but look")


main()
