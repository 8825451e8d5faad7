"""One node asks the server, the others wait for what it gets: the port's methods in their order."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

from pictofs.clock import Clock
from pictofs.store.shared.port import Record, SharedStore, Waited

PAUSE_S = 0.05
"""Seconds before another look at a record that the engine says is there, and that can't be used. It
doubles each time."""
PAUSE_MAX_S = 1.0
"""The longest of these pauses, in seconds."""


async def shared(
    store: SharedStore,
    name: str,
    ask: Callable[[], Awaitable[bytes]],
    *,
    clock: Clock,
    ttl: float | Callable[[], float],
    longest: float,
    patience: float,
    max_age: float = math.inf,
    crowd: float = 0.0,
) -> Record:
    """The record `name`, which some node asks the server for if it is not there.

    `ask` asks the server. `ttl`: seconds for which its answer is shared, or what tells them once it
    has come; nothing that is empty, or good for no time, is shared. `longest`: seconds that it
    may take before others ask, too. `patience`: seconds that this node waits for another one before
    it asks by itself; it may be a quarter less, and some seconds more. `max_age`: seconds of a
    record that still serves. `crowd`: seconds at most, by chance, between the end of a wait and the
    look at a large record, which many nodes would have in the same moment. Raises what `ask` raises;
    then the next node has its turn.
    """

    async def look() -> Record | None:
        found = (await store.get([name])).get(name)
        return found if found is not None and found.age <= max_age else None

    async def asked() -> Record:
        began = clock.monotonic()
        value = await ask()
        age = clock.monotonic() - began
        seconds = ttl if isinstance(ttl, float | int) else ttl()
        if value and seconds > 0:
            store.put(name, value, seconds, age=age)
        return Record(value, age)

    found = await look()
    end = clock.monotonic() + patience
    pause = PAUSE_S
    while found is None:
        lease = await store.lease(name, longest)
        if lease is not None:
            try:
                # Another node may have had its turn since this one looked.
                if lease.found is not None and lease.found.age <= max_age:
                    return lease.found
                return await asked()
            finally:
                store.release(lease)

        left = end - clock.monotonic()
        if left <= 0:
            return await asked()

        state = await store.wait(name, left)
        if state is Waited.HELD:
            return await asked()
        if state is not Waited.RECORD:
            continue

        if crowd:
            await clock.sleep(min(crowd, max(0.0, left)) * clock.chance())
        found = await look()
        if found is None:
            # It is too old, or nothing that can be believed, and another node is at it.
            await clock.sleep(pause)
            pause = min(PAUSE_MAX_S, 2 * pause)

    return found
