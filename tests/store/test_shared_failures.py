"""A shared engine that fails, in each way that one can: a node goes on as if there were none.

Nothing is raised, nothing hangs, nothing wrong is believed, and all is well again afterwards.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from shared_rig import (
    API_KEY,
    SERVER,
    Engine,
    MovingClock,
    Node,
    Patience,
    engine,
    free_port,
    listener,
    node,
    until,
    way,
)

from pictofs.config.shared import SharedAddress
from pictofs.store.shared.breaker import FAILURES, REST_S, Breaker
from pictofs.store.shared.engine import PAUSE_S, QUEUE_BYTES
from pictofs.store.shared.port import Lease, Waited
from pictofs.store.shared.sealing import Sealer
from pictofs.store.shared.turns import shared

SEALER = Sealer(API_KEY, SERVER)
BOUND_S = 20.0
"""Seconds after which a call counts as one that hangs: ten times what is promised, as the machine
may be busy."""
RESTED_S = REST_S * 1.3
"""Seconds after which the breaker lets a probe through."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    with engine(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


async def alone(each: Node) -> None:
    """Use every method of the port, and see that a node by itself goes on."""
    with trio.fail_after(BOUND_S):
        assert await each.shared.get(["name", "other"]) == {}
        each.shared.put("name", b"{}", 300.0)
        lease = await each.shared.lease("name", 60.0)
        assert lease == Lease("name", None)
        each.shared.release(lease)
        assert await each.shared.wait("name", 60.0) is Waited.UNKNOWN
        assert await each.shared.count("n", ttl=60.0, start=1) is None


async def serves(each: Node, name: str = "again") -> None:
    """See that the engine is used."""
    await each.state("closed")
    each.shared.put(name, b"{}", 300.0)
    await each.sent()
    assert list(await each.shared.get([name])) == [name]


async def silent(each: Node) -> None:
    """Ask until the breaker has opened."""
    with trio.fail_after(BOUND_S):
        for _ in range(FAILURES):
            assert await each.shared.get(["name"]) == {}
    assert each.shared.stats().breaker == "open"


async def test_an_engine_that_was_never_there() -> None:
    async with node(SharedAddress("127.0.0.1", free_port()), wait=False) as here:
        await alone(here)
        await here.state("open")
        assert here.shared.stats().reason == "nothing listens there"
        await alone(here)
        assert here.shared.stats().alone == 2
        assert here.shared.stats().dropped == 2


async def test_an_engine_that_comes_later(tmp_path: Path) -> None:
    port = free_port()
    async with node(SharedAddress("127.0.0.1", port), wait=False) as here:
        await here.state("open")
        with engine(tmp_path, port=port):
            assert here.shared.stats().breaker == "open"
            here.clock.ahead += RESTED_S
            await serves(here)
            assert here.shared.stats().reason is None


async def test_an_engine_that_is_killed_and_comes_back_empty(redis: Engine) -> None:
    async with node(redis.address) as here:
        await serves(here, "before")
        redis.kill()
        await here.state("open")
        await alone(here)

        redis.start()
        here.clock.ahead += RESTED_S
        await here.state("closed")
        assert await here.shared.get(["before"]) == {}
        await serves(here)


async def test_an_engine_that_is_killed_while_many_wait_for_it(redis: Engine) -> None:
    async with node(redis.address) as here:
        lease = await here.shared.lease("name", 600.0)
        assert lease is not None
        ended: list[Waited] = []

        async def wait() -> None:
            ended.append(await here.shared.wait("name", 600.0))

        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(wait)
                await until(lambda: here.shared.stats().calls >= 51)
                redis.kill()

        assert ended == [Waited.UNKNOWN] * 50
        here.shared.release(lease)


async def test_an_engine_that_stands_still(redis: Engine, patience: Patience) -> None:
    async with node(redis.address) as here:
        await serves(here, "before")
        patience.short()
        redis.stop()
        await silent(here)
        skipped = here.shared.stats().skipped
        await alone(here)
        assert here.shared.stats().skipped > skipped
        assert here.shared.stats().reason == "no answer within 0.1 s"

        # It still stands still when it is tried again.
        here.clock.ahead += RESTED_S
        await until(lambda: here.shared.stats().opened == 2)
        await alone(here)

        patience.long()
        redis.go_on()
        here.clock.ahead += RESTED_S
        await here.state("closed")
        assert list(await here.shared.get(["before"])) == ["before"]


async def test_a_lease_that_was_asked_for_of_an_engine_that_stood_still_is_free_afterwards(
    redis: Engine, patience: Patience
) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        patience.short()
        redis.stop()
        with trio.fail_after(BOUND_S):
            lease = await here.shared.lease("name", 600.0)
        assert lease == Lease("name", None)

        patience.long()
        redis.go_on()
        lease = await there.shared.lease("name", 600.0)
        while lease is None:  # what was sent meanwhile is done by and by
            assert await there.shared.wait("name", 5.0) is Waited.FREE
            lease = await there.shared.lease("name", 600.0)
        assert lease.is_shared


async def test_an_engine_that_is_wiped(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        await serves(here, "before")
        lease = await here.shared.lease("name", 600.0)
        assert lease is not None
        redis.say("FLUSHALL")

        assert await here.shared.get(["before"]) == {}
        assert await there.shared.wait("name", 600.0) is Waited.FREE
        theirs = await there.shared.lease("name", 600.0)
        assert theirs is not None
        assert theirs.is_shared
        here.shared.release(lease)
        await here.sent()
        assert here.shared.stats().lost == 1
        assert here.shared.stats().opened == 0


async def test_an_engine_whose_values_are_all_garbage(redis: Engine) -> None:
    async with node(redis.address) as here, redis.client() as client:
        names = [f"record/{number}" for number in range(20)]
        for name in names:
            here.shared.put(name, name.encode(), 300.0)
        await here.sent()
        assert await here.shared.lease("leased", 60.0) is not None
        assert await here.shared.count("n", ttl=60.0, start=1) is not None
        async for key in client.scan_iter():
            await client.set(key, os.urandom(100))

        assert await here.shared.get(names) == {}
        assert here.shared.stats().unusable == 20
        assert await here.shared.count("n", ttl=60.0) is None
        # A lease that is nobody's, and has no end, is waited for no longer than said.
        assert await here.shared.lease("leased", 60.0) is None
        with trio.fail_after(BOUND_S):
            assert await here.shared.wait("leased", 0.3) is Waited.HELD

            async def ask() -> bytes:
                return b"right"

            for name in (names[0], "leased"):
                record = await shared(
                    here.shared,
                    name,
                    ask,
                    clock=here.clock,
                    ttl=300.0,
                    longest=60.0,
                    patience=0.3,
                )
                assert record.value == b"right"
        assert here.shared.stats().opened == 0


async def test_a_garbage_record_while_another_node_is_at_it(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        lease = await there.shared.lease("name", 60.0)
        redis.say("SET", SEALER.record("name").decode(), "garbage")
        asked = []

        async def ask() -> bytes:
            asked.append(1)
            return b"right"

        with trio.fail_after(BOUND_S):
            record = await shared(
                here.shared, "name", ask, clock=here.clock, ttl=9.0, longest=9.0, patience=1.0
            )
        assert record.value == b"right"
        assert asked == [1]
        assert lease is not None
        # It has looked now and then, and not all the time.
        assert here.shared.stats().waits < 20


async def test_an_engine_that_is_full(redis: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async with node(redis.address) as here:
        await serves(here, "before")
        redis.say("CONFIG", "SET", "maxmemory", "1")
        here.shared.put("name", b"{}", 300.0)
        await until(lambda: here.shared.stats().dropped == 1)

        # What is there can be read; nothing is put, and no turn is shared, for a while.
        assert list(await here.shared.get(["before"])) == ["before"]
        assert await here.shared.lease("name", 60.0) == Lease("name", None)
        here.shared.put("name", b"{}", 300.0)
        assert here.shared.stats().dropped == 2
        assert here.shared.stats().breaker == "closed"

        redis.say("CONFIG", "SET", "maxmemory", "0")
        here.clock.ahead += RESTED_S
        await serves(here)
        lease = await here.shared.lease("name", 60.0)
        assert lease is not None
        assert lease.is_shared

    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [f"the shared engine {redis.address} takes nothing: its memory is full"]


async def test_a_turn_and_a_number_of_an_engine_that_is_full(redis: Engine) -> None:
    async with node(redis.address) as here:
        mine = await here.shared.lease("mine", 60.0)
        assert await here.shared.count("n", ttl=60.0, start=5) is not None
        redis.say("CONFIG", "SET", "maxmemory", "1")

        assert await here.shared.lease("name", 60.0) == Lease("name", None)
        assert await here.shared.count("n", ttl=60.0, change=1) is None
        assert (await here.shared.count("n", ttl=60.0)) is not None
        # What was leased before can be given back.
        assert mine is not None
        here.shared.release(mine)
        await until(lambda: redis.say("EXISTS", SEALER.lease("mine").decode()) == "0")


async def test_a_replica_that_can_not_be_written(redis: Engine, tmp_path: Path) -> None:
    async with node(redis.address) as writer:
        await serves(writer, "before")
        await writer.shared.count("n", ttl=60.0, start=5)
        folder = tmp_path / "replica"
        folder.mkdir()
        with engine(folder, "--replicaof", f"127.0.0.1 {redis.port}") as replica:
            await until(lambda: replica.say("EXISTS", SEALER.record("before").decode()) == "1")
            async with node(replica.address) as here:
                assert await here.shared.lease("name", 60.0) == Lease("name", None)
                assert list(await here.shared.get(["before"])) == ["before"]
                assert await here.shared.count("n", ttl=60.0, change=1) is None
                assert await here.shared.count("n", ttl=60.0) is not None
                assert here.shared.stats().breaker == "closed"


async def answer(stream: trio.SocketStream, answers: dict[bytes, bytes], otherwise: bytes) -> None:
    """Talk as an engine does, with prepared answers by the command's name."""
    held = b""
    async for piece in stream:
        held += piece
        while True:
            words, rest = taken(held)
            if not words:
                break
            held = rest
            name = words[0].upper()
            if name == b"HELLO":
                hello = (
                    b"%3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n"
                )
                await stream.send_all(answers.get(name, hello))
            elif name == b"SUBSCRIBE":
                channel = b"$%d\r\n%b\r\n" % (len(words[1]), words[1])
                subscribed = b">3\r\n$9\r\nsubscribe\r\n" + channel + b":1\r\n"
                await stream.send_all(answers.get(name, subscribed))
            elif name == b"PING":
                await stream.send_all(answers.get(name, b"+PONG\r\n"))
            else:
                await stream.send_all(answers.get(name, otherwise))


def taken(held: bytes) -> tuple[list[bytes], bytes]:
    """The first whole command in `held`, and what is behind it."""
    head, found, rest = held.partition(b"\r\n")
    if not found:
        return [], held
    words = []
    for _ in range(int(head[1:])):
        length, found, rest = rest.partition(b"\r\n")
        size = int(length[1:]) if found else 0
        if not found or len(rest) < size + 2:
            return [], held
        words.append(rest[:size])
        rest = rest[size + 2 :]
    return words, rest


@asynccontextmanager
async def acted(otherwise: bytes, **answers: bytes) -> AsyncIterator[SharedAddress]:
    prepared = {name.encode(): text for name, text in answers.items()}

    async def serve(stream: trio.SocketStream) -> None:
        await answer(stream, prepared, otherwise)

    async with listener(serve) as address:
        yield address


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"PING": b"-LOADING Redis is loading\r\n"}, "it is still loading its data"),
        ({"HELLO": b"-LOADING Redis is loading\r\n"}, "it is still loading its data"),
        ({"PING": b"-NOAUTH Authentication required.\r\n"}, "it wants a password"),
        ({"HELLO": b"-WRONGPASS invalid\r\n"}, "it refuses the user or the password"),
        ({"HELLO": b"-ERR unknown command 'HELLO'\r\n"}, "it is older than Redis 6"),
        ({"HELLO": b"-NOPROTO unsupported\r\n"}, "it is older than Redis 6"),
        ({"HELLO": b"+OK\r\n"}, "what listens there is not a Valkey or Redis"),
        ({"HELLO": b"%0\r\n"}, "what listens there is not a Valkey or Redis"),
        ({"HELLO": b"-\xff\xfe\r\n"}, "what listens there is not a Valkey or Redis"),
        ({"SUBSCRIBE": b"-NOPERM no channels\r\n"}, "the user may not do what is needed"),
        ({"PING": b""}, "no answer within 0.1 s"),
        ({"HELLO": b""}, "no connection within 1 s"),
    ],
)
async def test_an_engine_that_does_not_greet(
    answers: dict[str, bytes], reason: str, patience: Patience
) -> None:
    if "no" in reason.split():
        patience.short()
    async with acted(b"+OK\r\n", **answers) as address, node(address, wait=False) as here:
        await here.state("open")
        assert here.shared.stats().reason == reason
        await alone(here)


@pytest.mark.parametrize(
    "otherwise",
    [
        b"-LOADING Redis is loading\r\n",
        b"-MOVED 1 10.0.0.1:6379\r\n",
        b"-CLUSTERDOWN Hash slot not served\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-NOAUTH Authentication required.\r\n",
    ],
)
async def test_an_engine_that_no_longer_serves(otherwise: bytes) -> None:
    async with acted(otherwise) as address, node(address) as here:
        assert await here.shared.get(["name"]) == {}
        assert here.shared.stats().breaker == "open"
        assert here.shared.stats().errors == 1
        await alone(here)


@pytest.mark.parametrize(
    "otherwise",
    [
        b"+OK\r\n",
        b":-7\r\n",
        b"$-1\r\n",
        b"_\r\n",
        b"*0\r\n",
        b"*2\r\n+a\r\n+b\r\n",
        b"*1\r\n*1\r\n*1\r\n$1\r\nx\r\n",
        b"$3\r\nabc\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"~1\r\n+a\r\n",
        b"-ERR whatever\r\n",
        b"-OOM command not allowed\r\n",
        b"-MISCONF can't save\r\n",
        b"-NOPERM not you\r\n",
        b"-READONLY replica\r\n",
        b"-\r\n",
    ],
)
async def test_an_engine_that_answers_what_was_not_asked(otherwise: bytes) -> None:
    async with acted(otherwise) as address, node(address) as here:
        with trio.fail_after(BOUND_S):
            for _ in range(3):
                assert await here.shared.get(["name", "other", "third"]) == {}
                assert await here.shared.count("n", ttl=60.0, start=1) is None
                here.shared.put("name", b"{}", 300.0)
                assert isinstance(await here.shared.wait("name", 0.1), Waited)
                lease = await here.shared.lease("name", 60.0)
                if lease is not None:
                    here.shared.release(lease)
        assert here.shared.stats().hits == 0


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"\r\n",
        b"$99999999999999999999\r\n",
        b"*99999999999\r\n",
        b"$x\r\n",
        b"*1\r\n" * 10_000,
        b"\0" * 100_000,
        b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n" * 1000,
        os.urandom(4096),
        b"",
    ],
    ids=["http", "empty", "bulk", "array", "word", "nested", "nul", "pushes", "random", "hangup"],
)
async def test_a_listener_that_is_no_engine(noise: bytes, patience: Patience) -> None:
    patience.short()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(noise)
        if noise:
            await trio.sleep_forever()

    async with listener(serve) as address, node(address, wait=False) as here:
        await here.state("open")
        assert here.shared.stats().reason is not None
        await alone(here)


@pytest.mark.parametrize("endless", [b"x" * 65_536, b"$1000000000\r\n" + bytes(65_536)])
async def test_an_engine_that_sends_without_end(endless: bytes, patience: Patience) -> None:
    sent = []
    patience.short()

    async def flood(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        while True:
            await stream.send_all(endless)
            sent.append(len(endless))

    async with listener(flood) as address, node(address, wait=False) as here:
        await here.state("open")
        # It was hung up on, and not read until the memory is full.
        assert sum(sent) < 32 << 20
        await alone(here)


async def test_an_answer_that_nobody_asked_for_ends_the_connection(redis: Engine) -> None:
    async with acted(b"*1\r\n$-1\r\n$5\r\nextra\r\n") as address, node(address) as here:
        with trio.fail_after(BOUND_S):
            while here.shared.stats().breaker == "closed":
                assert await here.shared.get(["name"]) == {}
        assert here.shared.stats().hits == 0


WORDS = (
    *(
        b"+OK\r\n",
        b"$-1\r\n",
        b":1\r\n",
        b":x\r\n",
        b"_\r\n",
        b"#x\r\n",
        b",nan\r\n",
        b"\r\n",
        b"\n",
    ),
    *(
        b"*1\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*3\r\n:1\r\n",
        b"%1\r\n",
        b"~2\r\n",
        b">2\r\n",
        b">0\r\n",
    ),
    *(
        b"-ERR x\r\n",
        b"-LOADING\r\n",
        b"-\r\n",
        b"-\xff\r\n",
        b"+\r\n",
        b"\xff",
        b"(9" * 20 + b"\r\n",
    ),
    *(b"$5\r\nabcde\r\n", b"$3\r\nab\r\n", b"$0\r\n\r\n", b"$2147483647\r\n", b"=2\r\nab\r\n"),
    *(b">3\r\n$7\r\nmessage\r\n$-1\r\n$-1\r\n", b">3\r\n$7\r\nmessage\r\n*1\r\n+a\r\n$-1\r\n"),
    *(b"%1\r\n*1\r\n+a\r\n+b\r\n", b"~1\r\n%1\r\n+a\r\n*1\r\n+x\r\n", b"|1\r\n+a\r\n+b\r\n"),
)
"""Words of the protocol, right and wrong ones."""


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100))
async def test_an_engine_that_says_anything(seed: int, patience: Patience) -> None:
    chance = random.Random(seed)
    patience.short()

    def anything(most: int) -> bytes:
        return b"".join(chance.choice(WORDS) for _ in range(chance.randint(1, most)))

    greeting = [name for name in ("HELLO", "SUBSCRIBE", "PING") if chance.random() < 0.1]
    answers = {name: anything(3) for name in greeting}
    async with acted(anything(4), **answers) as address, node(address, wait=False) as here:
        with trio.fail_after(3 * BOUND_S):
            for _ in range(3):
                assert await here.shared.get(["name", "other"]) == {}
                await here.shared.count("n", ttl=60.0, start=1)
                here.shared.put("name", b"{}", 300.0)
                assert isinstance(await here.shared.wait("name", 0.1), Waited)
                lease = await here.shared.lease("name", 60.0)
                if lease is not None:
                    here.shared.release(lease)
        assert here.shared.stats().reason != "it failed in an unforeseen way"


async def test_a_network_that_takes_200_ms(redis: Engine, patience: Patience) -> None:
    async with way(redis) as (path, address), node(address) as here:
        await serves(here, "before")
        patience.short()
        path.delay = 0.2
        await silent(here)
        await alone(here)
        here.clock.ahead += RESTED_S
        await until(lambda: here.shared.stats().opened == 2)
        assert here.shared.stats().reason == "no answer within 0.1 s"

        patience.long()
        path.delay = 0.0
        here.clock.ahead += RESTED_S
        await here.state("closed")
        assert list(await here.shared.get(["before"])) == ["before"]


async def test_a_network_that_swallows_everything(redis: Engine, patience: Patience) -> None:
    async with way(redis) as (path, address), node(address) as here:
        await serves(here, "before")
        patience.short()
        path.silent = True
        await silent(here)
        await alone(here)
        opened = path.opened
        here.clock.ahead += RESTED_S
        await until(lambda: here.shared.stats().opened == 2)
        # One attempt, and not one for each caller.
        assert path.opened <= opened + 2

        patience.long()
        path.silent = False
        here.clock.ahead += RESTED_S
        await serves(here)


async def test_one_late_answer_is_nobody_elses(redis: Engine, patience: Patience) -> None:
    async with way(redis) as (path, address), node(address) as here:
        for name in ("a", "b", "c"):
            here.shared.put(name, name.encode(), 300.0)
        await here.sent()
        patience.short()
        path.delay = 0.2
        assert await here.shared.get(["a"]) == {}
        patience.long()
        path.delay = 0.0
        with trio.fail_after(BOUND_S):
            for _ in range(30):
                for name in ("b", "c"):
                    found = await here.shared.get([name])
                    assert found in ({}, {name: found.get(name)})
                    if found:
                        assert found[name].value == name.encode()


async def test_connections_that_are_broken_off_are_made_again(redis: Engine) -> None:
    async with node(redis.address) as here:
        await serves(here, "before")
        here.clock.ahead += 10.0  # the connection has lived for a while
        redis.say("CLIENT", "KILL", "TYPE", "pubsub")
        redis.say("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with trio.fail_after(BOUND_S):
            while not await here.shared.get(["before"]):
                pass
        assert here.shared.stats().opened == 0


async def test_an_engine_that_breaks_every_connection_off_is_left_alone(redis: Engine) -> None:
    async with way(redis) as (path, address), node(address) as here:
        while here.shared.stats().opened == 0:
            redis.say("CLIENT", "KILL", "TYPE", "pubsub")
            await trio.sleep(0.01)
        opened = path.opened
        await alone(here)
        assert path.opened == opened


async def test_what_is_put_while_the_engine_stands_still_is_bounded(
    redis: Engine, patience: Patience
) -> None:
    async with node(redis.address) as here:
        patience.short()
        redis.stop()
        value = os.urandom(1 << 20)
        taken = [here.shared.put(f"{n}", value, 300.0) for n in range(2 * QUEUE_BYTES >> 20)]
        assert taken == [True] * (QUEUE_BYTES >> 20) + [False] * (QUEUE_BYTES >> 20)
        assert here.shared.stats().queued <= QUEUE_BYTES >> 20
        assert here.shared.stats().dropped >= QUEUE_BYTES >> 20

        await until(lambda: here.shared.stats().breaker != "closed")
        await until(lambda: here.shared.stats().queued == 0)
        assert here.shared.stats().puts == 0
        redis.go_on()


async def test_many_callers_of_an_engine_that_stands_still(
    redis: Engine, patience: Patience
) -> None:
    async with node(redis.address) as here:
        patience.short()
        redis.stop()
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(here.shared.get, ["name"])
                    nursery.start_soon(here.shared.lease, "name", 60.0)
        assert here.shared.stats().alone == 200
        assert here.shared.stats().opened == 1
        # No more connections than the two.
        patience.long()
        redis.go_on()
        here.clock.ahead += RESTED_S
        await here.state("closed")
        await until(lambda: len(redis.say("CLIENT", "LIST").splitlines()) == 3)


async def test_callers_that_are_cancelled_cost_no_connection(redis: Engine) -> None:
    async with way(redis) as (path, address), node(address) as here:
        path.delay = 0.02
        for number in range(100):
            with trio.move_on_after(0.001 * (number % 40)):
                await here.shared.get(["name"])
        path.delay = 0.0
        await serves(here)
        assert path.opened == 2


async def test_nodes_that_lost_the_engine_together_do_not_go_together(
    redis: Engine, patience: Patience
) -> None:
    async with node(redis.address) as here:
        patience.short()
        redis.stop()
        for luck in (0.0, 0.5, 0.9):
            here.clock.luck = luck
            here.clock.slept.clear()
            assert await here.shared.lease("name", 60.0) == Lease("name", None)
            assert PAUSE_S * luck in here.clock.slept
        redis.go_on()


def test_the_rest_of_the_breaker_is_never_the_same() -> None:
    clock = MovingClock()
    rests = []
    for luck in (0.0, 0.5, 0.999):
        clock.luck = luck
        breaker = Breaker(clock)
        breaker.close()
        assert [breaker.failed("silent") for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [
            True
        ]
        rests.append(round(breaker.rest_left))
        assert breaker.is_resting
        breaker.probe()
        assert breaker.is_resting
        breaker.close()
        assert not breaker.is_resting
    assert rests == [11, 15, 19]


def test_answers_in_between_keep_the_breaker_closed() -> None:
    breaker = Breaker(MovingClock())
    breaker.close()
    for _ in range(10):
        assert not breaker.failed("silent")
        assert not breaker.failed("silent")
        breaker.answered()
    assert breaker.state == "closed"


async def test_k2_the_log_says_once_that_the_engine_is_away_and_shows_no_password(
    redis: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    redis.say("CONFIG", "SET", "requirepass", "hunter2")
    address = SharedAddress("127.0.0.1", redis.port, password="hunter3")
    async with node(address, wait=False) as here:
        for attempt in range(1, 4):
            await until(lambda attempt=attempt: here.shared.stats().opened == attempt)
            here.clock.ahead += RESTED_S

    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "it refuses the user or the password; the next attempt is in 15 s" in caplog.text
    for secret in ("hunter2", "hunter3", API_KEY):
        assert secret not in caplog.text
        assert secret not in repr(here.shared.stats())
    assert not [record for record in caplog.records if record.name.startswith("coredis")]
