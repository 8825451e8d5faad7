"""Engines, nodes and clocks that fail: every byte stays right, and no reader gets an error."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import expected
from shared_rig import Engine, Patience, engine, way
from sharing import Cluster, Node, at_once

from pictofs.store.shared.port import Lease
from standin import StandIn

LIST = "GET /datasets/"
TREE = "GET /directories/{dataset}/tree"
LISTING = "GET /datasets/{dataset}"
FILE = "GET /annotations/{image_id:uuid}/file"

TIMEOUT_S = 30.0
"""Seconds that an operation may take."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    folder = tmp_path / "engine"
    folder.mkdir()
    with engine(folder) as made:
        yield made


@pytest.fixture
def cluster(standin: StandIn, redis: Engine, tmp_path: Path) -> Cluster:
    return Cluster(standin, redis.address, tmp_path)


async def is_right(cluster: Cluster, *nodes: Node) -> None:
    """Every byte is what the server has, on each node, and each read ends in time."""

    async def walked(node: Node) -> None:
        found = await node.walk(read=False)
        wanted = expected(cluster.standin)
        assert found.keys() == wanted.keys()
        for path, data in wanted.items():
            if data is not None:
                with trio.fail_after(TIMEOUT_S):
                    assert await node.read(path) == data, path

    await at_once([partial(walked, each) for each in nodes])


async def test_z5_an_engine_that_is_killed(
    cluster: Cluster, redis: Engine, patience: Patience
) -> None:
    async with cluster.nodes(3) as nodes:
        for each in nodes:
            await each.list("/datasets/small/images")
        patience.short()
        redis.kill()
        await is_right(cluster, *nodes)
        for each in nodes:
            await each.state("open", "probing")

        # It comes back empty, and is used again.
        redis.start()
        patience.long()
        cluster.advance(30)
        for each in nodes:
            await each.state("closed")
        await is_right(cluster, *nodes)


async def test_z5_an_engine_that_is_stopped(
    cluster: Cluster, redis: Engine, patience: Patience
) -> None:
    async with cluster.nodes(3) as nodes:
        for each in nodes:
            await each.list("/datasets")
        patience.short()
        redis.stop()
        try:
            await is_right(cluster, *nodes)
        finally:
            redis.go_on()


async def test_z5_a_node_that_begins_without_the_engine(
    cluster: Cluster, redis: Engine, patience: Patience
) -> None:
    patience.short()
    redis.kill()
    async with cluster.node(wait=False) as node:
        await is_right(cluster, node)
        assert not node.stats.hits


async def test_z5_an_engine_that_is_wiped_again_and_again(cluster: Cluster, redis: Engine) -> None:
    async with cluster.nodes(3) as nodes, trio.open_nursery() as nursery:

        async def wipe() -> None:
            while True:
                await trio.to_thread.run_sync(partial(redis.say, "flushall"))
                await trio.sleep(0.02)

        nursery.start_soon(wipe)
        await is_right(cluster, *nodes)
        nursery.cancel_scope.cancel()


async def test_z5_an_engine_whose_every_value_is_garbage(cluster: Cluster, redis: Engine) -> None:
    die = random.Random(7)
    async with cluster.node() as first:
        await is_right(cluster, first)
        await first.sent()

    async with redis.client() as client:
        keys = [each.encode() for each in redis.keys()]  # noqa: SIM118
        values = [await client.get(each) for each in keys]
        for number, key in enumerate(keys):
            value = values[number] or b""
            broken = bytearray(value)
            if number % 4 == 0 and broken:
                broken[die.randrange(len(broken))] ^= 1
            elif number % 4 == 1:
                broken = broken[: len(broken) // 2]
            elif number % 4 == 2:
                broken = bytearray(os.urandom(100))
            else:
                # Right, but of another name.
                broken = bytearray(values[number - 1] or b"")
            await client.set(key, bytes(broken))

    cluster.forget_log()
    async with cluster.nodes(2) as nodes:
        await is_right(cluster, *nodes)
        assert sum(each.stats.unusable for each in nodes) > 0
        assert cluster.asked[FILE] == 12


async def test_z5_nodes_of_another_key_share_nothing(cluster: Cluster) -> None:
    """Nor does a viewer see what a member's node has put."""
    async with cluster.node() as member:
        await is_right(cluster, member)
        await member.sent()
        cluster.forget_log()
        async with cluster.node(key=cluster.standin.keys["viewer"]) as viewer:
            await is_right(cluster, viewer)
            assert viewer.stats.hits == 0
        assert cluster.asked[FILE] == 12
        assert cluster.asked[LISTING] == cluster.asked[TREE] == 1


@pytest.mark.parametrize("off", [3600.0, -3600.0, 45.0, -45.0])
async def test_z5_a_node_whose_clock_is_wrong(cluster: Cluster, off: float) -> None:
    """The server's clock counts: it shares like the others, and nobody believes longer."""
    async with cluster.node() as first, cluster.node(off=off) as wrong:
        await is_right(cluster, first)
        await first.sent()
        cluster.forget_log()
        await is_right(cluster, wrong)
        assert cluster.asked == {LIST: 1}

        # The other way round.
        cluster.advance(86_400 * 2)
        await is_right(cluster, wrong)
        await wrong.sent()
        cluster.forget_log()
        await is_right(cluster, first)
        assert cluster.asked[FILE] == 0


async def test_z5_a_server_that_tells_no_time(cluster: Cluster) -> None:
    cluster.standin.switches.date_header = False
    async with cluster.nodes(2) as nodes:
        await is_right(cluster, *nodes)
        assert all(each.stats.hits == each.stats.puts == 0 for each in nodes)


async def test_z5_a_node_that_dies_in_its_turn(
    cluster: Cluster, redis: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pictofs.store.shared.engine.HOLD_S", 0.5)
    async with cluster.node() as node:
        await node.list("/datasets/small/annotations/part-000")
        leased: list[str] = []
        taken: list[Lease | None] = []
        lease = node.engine.lease

        async def after_a_dead_one(name: str, longest: float) -> Lease | None:
            if "annotation" in name and not leased:
                leased.append(name)
                async with cluster.node() as dying:
                    taken.append(await dying.engine.lease(name, 60.0))
                # It has not given it back.
            return await lease(name, longest)

        assert node.library.answers._store is not None
        monkeypatch.setattr(node.library.answers._store, "lease", after_a_dead_one)
        await is_right(cluster, node)
        assert taken[0] is not None
        assert taken[0].is_shared
        assert node.stats.waits > 0


async def test_z5_a_slow_network(cluster: Cluster, redis: Engine, patience: Patience) -> None:
    """200 ms in each direction: the engine is left alone."""
    async with way(redis) as (made, address), cluster.node(address=address) as slow:
        await slow.list("/datasets")
        made.delay = 0.2
        patience.short()
        await is_right(cluster, slow)
        assert slow.stats.opened > 0


async def test_z6_nothing_in_the_engine_is_plain(cluster: Cluster, redis: Engine) -> None:
    async with cluster.nodes(2) as nodes:
        await is_right(cluster, *nodes)
        await nodes[0].library.refresh("small")
        for each in nodes:
            await each.sent()

        wanted = [cluster.standin.keys["member"], "small", "part-000", "image-0", "bbox", "http"]
        wanted += ["X-Goog", "annotation", cluster.standin.organization["small"].id]
        wanted += list(cluster.standin.organization["small"].images)
        async with redis.client() as client:
            found = []
            for key in redis.keys():  # noqa: SIM118
                found += [key.encode(), await client.get(key.encode()) or b""]
        raw = b"\n".join(found).lower()
        assert len(found) > 30
        for word in wanted:
            assert word.lower().encode() not in raw, word
            assert word.replace("-", "").lower().encode() not in raw, word
