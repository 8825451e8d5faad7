"""Several libraries in one process, each with a cache of its own, that share a real engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from rig import Mount, Rig
from shared_rig import MovingClock, until

from pictofs.config.shared import SharedAddress
from pictofs.library.generations import Generations
from pictofs.library.library import Shared
from pictofs.store.shared.engine import SharedEngine
from pictofs.store.shared.stats import SharedStats
from standin import StandIn


class NodeClock(MovingClock):
    """The machine's clock, or one that is wrong; a test can move time on, the server's as well."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = off

    def wall(self) -> float:
        return super().wall() + self.off


class Node(Mount):
    """A mount that shares."""

    engine: SharedEngine
    put_names: list[str]
    """Names of the records that it has put."""

    @property
    def stats(self) -> SharedStats:
        return self.engine.stats()

    @property
    def generations(self) -> Generations:
        """The numbers of refreshes, as it knows them."""
        found = self.library.answers.generations
        assert found is not None
        return found

    @property
    def looks(self) -> int:
        """How often it has looked at what others have refreshed."""
        return self.generations.looks

    async def state(self, *wanted: str) -> None:
        """Wait until the breaker is in a state."""
        await until(lambda: self.stats.breaker in wanted)

    async def sent(self) -> None:
        """Wait until what was put has been taken, or dropped."""
        await until(lambda: self.stats.queued == 0)
        before = self.stats.puts + self.stats.dropped
        self.engine.put("sent", b"", 60.0)
        await until(lambda: self.stats.puts + self.stats.dropped > before)


class Cluster:
    """Nodes of one stand-in and one engine."""

    def __init__(self, standin: StandIn, address: SharedAddress, folder: Path) -> None:
        self.standin = standin
        self.address = address
        self.folder = folder
        self.clocks: list[NodeClock] = []
        self._ahead = 0.0

    @asynccontextmanager
    async def node(
        self,
        *,
        off: float = 0.0,
        key: str | None = None,
        address: SharedAddress | None = None,
        home: str | None = None,
        store: bool = True,
        wait: bool = True,
        **more: Any,
    ) -> AsyncIterator[Node]:
        """A node. `off`: seconds by which its clock is wrong. `home`: the name of its cache.
        `store`: whether it shares. `wait`: whether to wait for the engine."""
        clock = NodeClock(off)
        clock.ahead = self._ahead
        folder = self.folder / (home or f"node-{len(self.clocks)}")
        self.clocks.append(clock)
        rig = Rig(self.standin, folder)
        rig.clock = clock  # type: ignore[assignment]
        key = key or self.standin.keys["member"]
        mounts: list[Mount] = []

        def common_time() -> float:
            now = mounts[0].request_stats.server_time.at(clock.monotonic()) if mounts else None
            return clock.wall() if now is None else now

        engine = SharedEngine(
            address or self.address,
            key,
            self.standin.api_url,
            clock=clock,
            common_time=common_time,
        )
        names: list[str] = []
        put = engine.put

        def noted(name: str, *values: Any, **others: Any) -> bool:
            names.append(name)
            return put(name, *values, **others)

        engine.put = noted  # type: ignore[method-assign]
        shared = Shared(engine, str(self.address), engine.stats) if store else None
        async with rig.mount(key=key, shared=shared, timeout=30.0, **more) as mount:
            mounts.append(mount)
            mount.__class__ = Node
            assert isinstance(mount, Node)
            mount.engine = engine
            mount.put_names = names
            if store:
                mount.nursery.start_soon(engine.run)
                if wait:
                    await mount.state("closed")
            yield mount

    @asynccontextmanager
    async def nodes(self, number: int, **more: Any) -> AsyncIterator[list[Node]]:
        """So many nodes of the same kind."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.node(**more)) for _ in range(number)]

    def advance(self, seconds: float) -> None:
        """Move time on for all."""
        self.standin.clock.advance(seconds)
        self._ahead += seconds
        for clock in self.clocks:
            clock.ahead += seconds

    @property
    def asked(self) -> Counter[str]:
        """The requests to the API since the log was cleared, as `METHOD route`."""
        requests = self.standin.log.requests("api")
        return Counter(f"{each.method} {each.route}" for each in requests)

    def forget_log(self) -> None:
        self.standin.log.clear()


async def at_once(works: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """What several tasks return that begin together."""
    found: list[Any] = [None] * len(works)

    async def run(number: int) -> None:
        found[number] = await works[number]()

    async with trio.open_nursery() as nursery:
        for number in range(len(works)):
            nursery.start_soon(run, number)

    return found
