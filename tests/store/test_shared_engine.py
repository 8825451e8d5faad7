"""What nodes share through a real engine: records, turns, numbers, and nothing in plain."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from shared_rig import API_KEY, SERVER, Engine, Node, Patience, engine, free_port, node, until

from pictofs.config.shared import SharedAddress
from pictofs.store.shared.connection import verifying_context
from pictofs.store.shared.engine import HOLD_S, SharedEngine
from pictofs.store.shared.port import Count, Lease, Record, SharedStore, Waited
from pictofs.store.shared.probe import probe
from pictofs.store.shared.sealing import Sealer
from pictofs.store.shared.turns import shared

LISTING = json.dumps([{"filename": f"image-{number}.jpg"} for number in range(500)]).encode()
SEALER = Sealer(API_KEY, SERVER)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    Patience(monkeypatch)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine for all tests that do it no harm."""
    with engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def redis(one: Engine) -> Engine:
    one.say("FLUSHALL")
    return one


# Records.


async def test_what_one_node_puts_another_gets(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        here.shared.put("listing", LISTING, 300.0)
        here.shared.put("empty", b"", 300.0)
        await here.sent()
        found = await there.shared.get(["listing", "nothing", "empty", "listing"])

        assert {name: record.value for name, record in found.items()} == {
            "listing": LISTING,
            "empty": b"",
        }
        assert there.shared.stats().hits == 2
        assert there.shared.stats().misses == 1
        assert here.shared.stats().puts == 3  # `sent` puts one


async def test_many_records_are_asked_for_at_once(redis: Engine) -> None:
    async with node(redis.address) as here:
        names = [f"annotation/{number}" for number in range(500)]
        for name in names:
            here.shared.put(name, name.encode() * 200, 300.0)
        await here.sent()
        before = here.shared.stats().calls
        found = await here.shared.get(names)

        assert {name: record.value for name, record in found.items()} == {
            name: name.encode() * 200 for name in names
        }
        assert here.shared.stats().calls == before + 1
        assert await here.shared.get([]) == {}


async def test_a_large_record(redis: Engine) -> None:
    value = os.urandom(4 << 20)
    async with node(redis.address) as here:
        here.shared.put("urls", value, 300.0)
        await here.sent()

        assert (await here.shared.get(["urls"]))["urls"].value == value


async def test_a_record_that_is_too_large_is_dropped(redis: Engine) -> None:
    async with node(redis.address) as here:
        here.shared.put("huge", bytes((64 << 20) + 1), 300.0)
        here.shared.put("large", os.urandom(9 << 20), 300.0)
        await here.sent()

        assert here.shared.stats().dropped == 2
        assert await here.shared.get(["huge", "large"]) == {}


async def test_a_record_has_an_age_and_an_end(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        here.shared.put("export", b"{}", 300.0, age=100.0)
        here.shared.put("over", b"{}", 300.0, age=300.0)
        await here.sent()
        found = await there.shared.get(["export", "over"])

        assert list(found) == ["export"]
        assert 100 <= found["export"].age < 200
        # The engine throws it away by itself.
        assert 100_000 < int(redis.say("PTTL", SEALER.record("export").decode())) <= 200_000


async def test_a_record_that_is_brought_back_after_its_time_is_a_miss(redis: Engine) -> None:
    async with node(redis.address) as here:
        here.shared.put("listing", b"old", 300.0)
        await here.sent()
        async with redis.client() as client:
            old = await client.get(SEALER.record("listing"))
            assert old is not None
            await client.delete([SEALER.record("listing")])
            await client.set(SEALER.record("listing"), old)

            # Within its time to live it is believed: that is what a writer of the engine can do.
            assert (await here.shared.get(["listing"]))["listing"].value == b"old"
            here.clock.ahead = 301.0
            assert await here.shared.get(["listing"]) == {}

        assert here.shared.stats().outdated == 1
        assert here.shared.stats().unusable == 0


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
async def test_a_node_whose_time_is_wrong_believes_nothing_and_is_not_believed(
    redis: Engine, off: float
) -> None:
    async with node(redis.address) as right, node(redis.address) as wrong:
        wrong.off = off
        right.shared.put("right", b"{}", 300.0)
        await right.sent()
        wrong.shared.put("wrong", b"{}", 300.0)
        await wrong.sent()

        assert await wrong.shared.get(["right"]) == {}
        assert await right.shared.get(["wrong"]) == {}
        # Once it knows better, both agree again.
        wrong.off = 0.0
        assert list(await wrong.shared.get(["right"])) == ["right"]


async def test_times_that_differ_a_little_do_no_harm(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        there.off = -30.0
        here.shared.put("name", b"{}", 300.0)
        await here.sent()

        assert await there.shared.get(["name"]) == {"name": Record(b"{}", 0.0)}


async def test_another_key_or_server_gets_nothing(redis: Engine) -> None:
    async with (
        node(redis.address) as here,
        node(redis.address, api_key=API_KEY + "x") as viewer,
        node(redis.address, server="https://other.example") as elsewhere,
    ):
        here.shared.put("datasets", b"[]", 300.0)
        await here.sent()
        lease = await here.shared.lease("datasets", 60.0)

        for other in (viewer, elsewhere):
            assert await other.shared.get(["datasets"]) == {}
            assert other.shared.stats().unusable == 0
            other_lease = await other.shared.lease("datasets", 60.0)
            assert other_lease is not None
            assert other_lease.is_shared
        assert lease is not None


@pytest.mark.parametrize(
    "kind", ["another name's", "another key's", "older", "cut", "noise", "list"]
)
async def test_what_was_not_sealed_for_the_name_is_a_miss(redis: Engine, kind: str) -> None:
    place = SEALER.record("name")
    sealed = SEALER.seal("name", b"{}", 0.0, 1e9)
    values = {
        "another name's": SEALER.seal("other", b"{}", 0.0, 1e9),
        "another key's": Sealer("other", SERVER).seal("name", b"{}", 0.0, 1e9),
        "older": bytes([0]) + sealed[1:],
        "cut": sealed[:-1],
        "noise": os.urandom(300),
    }
    async with node(redis.address) as here, redis.client() as client:
        if kind == "list":
            await client.rpush(place, [b"a", b"b"])
        else:
            await client.set(place, values[kind])

        assert await here.shared.get(["name"]) == {}
        assert here.shared.stats().unusable == (kind != "list")
        assert here.shared.stats().misses == 1
        assert here.shared.stats().breaker == "closed"
        # A node that asks the server puts it right.
        here.shared.put("name", b"right", 300.0)
        await here.sent()
        assert (await here.shared.get(["name"]))["name"].value == b"right"


async def test_k2_nothing_in_the_engine_is_in_plain(redis: Engine) -> None:
    secrets = ["Straße der Namen", "road 7.jpg", "https://storage.example/x?sig=abcdef", "polygon"]
    secrets += [API_KEY, SERVER, "api.example", "b1946ac9-2a5c-4b6e-9f0e-0a1b2c3d4e5f"]
    async with node(redis.address) as here, redis.client() as client:
        for number, secret in enumerate(secrets):
            name = f"annotation/{secret}"
            here.shared.put(name, json.dumps({secret: secret}).encode(), 300.0)
            here.shared.put(f"{name}/{number}", secret.encode() * 100, 300.0)
            assert await here.shared.lease(name, 60.0) is not None
            assert await here.shared.count(name, ttl=60.0, start=1) == Count(1, True)
        await here.sent()

        keys = [key async for key in client.scan_iter()]
        values = [await client.get(key) for key in keys]
        assert len(keys) == 4 * len(secrets) + 1
        held = "\n".join(repr(each) for each in [*keys, *values])
        raw = b"\n".join([*keys, *(value or b"" for value in values)])
        for secret in secrets:
            for part in (secret, secret[:12]):
                assert part not in held
                assert part.encode() not in raw
                assert part.encode().hex().encode() not in raw
        # Every key is of one namespace, which is a digest.
        assert {key.rsplit(b":", 1)[0] for key in keys} == {SEALER.record("").rsplit(b":", 1)[0]}


# Turns.


async def test_one_node_has_the_turn_and_the_others_learn_of_its_end(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        lease = await here.shared.lease("export", 60.0)
        assert lease is not None
        assert lease.is_shared
        assert await there.shared.lease("export", 60.0) is None
        assert await here.shared.lease("export", 60.0) is None

        ended: list[Waited] = []

        async def wait() -> None:
            ended.append(await there.shared.wait("export", 60.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: there.shared.stats().waits == 1)
            here.shared.put("export", LISTING, 300.0)
            here.shared.release(lease)

        assert ended == [Waited.RECORD]
        assert (await there.shared.get(["export"]))["export"].value == LISTING
        again = await there.shared.lease("export", 60.0)
        assert again is not None
        assert again.is_shared


async def test_who_waits_is_woken_and_does_not_only_look_now_and_then(
    redis: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pictofs.store.shared.engine.POLL_S", 3600.0)
    async with node(redis.address) as here, node(redis.address) as there:
        lease = await here.shared.lease("name", 60.0)
        assert lease is not None
        ended: list[Waited] = []

        async def wait() -> None:
            ended.append(await there.shared.wait("name", 7200.0))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(wait)
                await until(lambda: there.shared.stats().calls == 5)
                here.shared.release(lease)

        assert ended == [Waited.FREE] * 5
        # Nobody listens any more but for the channel that each connection begins with.
        await until(lambda: len(redis.say("PUBSUB", "CHANNELS").split()) == 1)


async def test_a_turn_that_is_not_given_back_is_waited_for_no_longer_than_said(
    redis: Engine,
) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        lease = await here.shared.lease("name", 60.0)
        with trio.fail_after(30):
            assert await there.shared.wait("name", 0.5) is Waited.HELD
            assert await there.shared.wait("name", 0.0) is Waited.HELD
        assert lease is not None


async def test_a_node_that_dies_loses_its_turn(redis: Engine) -> None:
    async with node(redis.address) as there:
        async with node(redis.address) as here:
            assert await here.shared.lease("name", 600.0) is not None
        # It can't give it back any more. The engine has it for so long:
        left = int(redis.say("PTTL", SEALER.lease("name").decode()))
        assert 0 < left <= HOLD_S * 1000
        redis.say("PEXPIRE", SEALER.lease("name").decode(), "50")

        with trio.fail_after(30):
            assert await there.shared.wait("name", 600.0) is Waited.FREE
        assert await there.shared.lease("name", 600.0) is not None


async def test_a_turn_is_kept_while_its_holder_lives_and_for_its_longest_time(
    redis: Engine,
) -> None:
    long, short = (SEALER.lease(name).decode() for name in ("long", "short"))

    def left(place: str) -> int:
        return int(redis.say("PTTL", place))

    async with node(redis.address) as here:
        leases = [await here.shared.lease("long", 600.0), await here.shared.lease("short", 15.0)]
        for ahead, kept in ((4.0, [long, short]), (20.0, [long])):
            for place in (long, short):
                redis.say("PEXPIRE", place, "1000000")
            here.clock.ahead = ahead
            await until(lambda: left(long) <= HOLD_S * 1000)

            assert [place for place in (long, short) if left(place) <= HOLD_S * 1000] == kept
        for lease in leases:
            assert lease is not None
            here.shared.release(lease)
        await here.sent()
        assert (left(long), left(short)) == (-2, -2)


async def test_a_late_holder_does_not_give_anothers_turn_back(redis: Engine) -> None:
    async with node(redis.address) as late, node(redis.address) as next_:
        mine = await late.shared.lease("name", 60.0)
        redis.say("DEL", SEALER.lease("name").decode())
        theirs = await next_.shared.lease("name", 60.0)
        assert mine is not None
        assert theirs is not None

        late.shared.release(mine)
        late.shared.release(Lease("name", b"guessed"))
        await late.sent()

        assert late.shared.stats().lost == 2
        assert redis.say("EXISTS", SEALER.lease("name").decode()) == "1"
        assert await late.shared.lease("name", 60.0) is None
        next_.shared.release(theirs)
        await next_.sent()
        assert next_.shared.stats().lost == 0
        assert redis.say("EXISTS", SEALER.lease("name").decode()) == "0"


async def test_a_caller_that_is_cancelled_leaves_no_turn_behind(redis: Engine) -> None:
    async with node(redis.address) as here:
        for _ in range(20):
            with trio.move_on_after(0) as scope:
                await here.shared.lease("name", 60.0)
            assert scope.cancelled_caught
        await here.sent()

        lease = await here.shared.lease("name", 60.0)
        assert lease is not None
        assert lease.is_shared


async def test_64_readers_of_8_nodes_ask_once(redis: Engine) -> None:
    asked = []

    async with trio.open_nursery() as lives:
        nodes = [Node(redis.address, API_KEY, SERVER) for _ in range(8)]
        for each in nodes:
            lives.start_soon(each.shared.run)
            await each.state("closed")
        found: list[Record] = []

        async def read(each: Node) -> None:
            async def ask() -> bytes:
                asked.append(each)
                await trio.sleep(0.3)
                return LISTING

            record = await shared(
                each.shared, "x", ask, clock=each.clock, ttl=300.0, longest=60.0, patience=60.0
            )
            found.append(record)

        async with trio.open_nursery() as nursery:
            for each in nodes * 8:
                nursery.start_soon(read, each)
        lives.cancel_scope.cancel()

    assert len(asked) == 1
    assert [record.value for record in found] == [LISTING] * 64
    assert sum(each.shared.stats().alone for each in nodes) == 0


async def test_a_turn_that_fails_is_the_next_nodes(redis: Engine) -> None:
    asked = []

    async with node(redis.address) as here, node(redis.address) as there:

        async def fail() -> bytes:
            asked.append("here")
            await until(lambda: there.shared.stats().waits > 0)
            raise ValueError("the server failed")

        async def answer() -> bytes:
            asked.append("there")
            return b"{}"

        async def first() -> None:
            with pytest.raises(ValueError, match="the server failed"):
                await shared(
                    here.shared, "x", fail, clock=here.clock, ttl=9.0, longest=60.0, patience=60.0
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await until(lambda: asked == ["here"])
            record = await shared(
                there.shared, "x", answer, clock=there.clock, ttl=9.0, longest=60.0, patience=60.0
            )

        assert record.value == b"{}"
        assert asked == ["here", "there"]


async def test_a_record_that_is_too_old_for_one_node_is_asked_for_again(redis: Engine) -> None:
    async with node(redis.address) as here:
        here.shared.put("x", b"old", 300.0, age=100.0)
        await here.sent()

        async def ask() -> bytes:
            return b"new"

        for max_age, expected in ((200.0, b"old"), (50.0, b"new")):
            record = await shared(
                here.shared,
                "x",
                ask,
                clock=here.clock,
                ttl=300.0,
                longest=60.0,
                patience=60.0,
                max_age=max_age,
            )
            assert record.value == expected


async def test_without_an_engine_everybody_asks() -> None:
    here = Node(SharedAddress("127.0.0.1", free_port()), API_KEY, SERVER)
    store: SharedStore = here.shared
    asked = []

    async def ask() -> bytes:
        asked.append(1)
        return b"{}"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.shared.run)
        await here.state("open", "probing")
        for _ in range(3):
            record = await shared(
                store, "x", ask, clock=here.clock, ttl=9.0, longest=60.0, patience=60.0
            )
            assert record.value == b"{}"
        assert len(asked) == 3
        assert await store.count("x", ttl=1.0, start=1) is None
        assert await store.wait("x", 1.0) is Waited.UNKNOWN
        nursery.cancel_scope.cancel()


# Numbers.


async def test_a_number_is_changed_by_one_node_at_a_time(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        async with trio.open_nursery() as nursery:
            for each in (here, there) * 100:

                async def add(each: Node = each) -> None:
                    assert await each.shared.count("n", ttl=60.0, start=0, change=1) is not None

                nursery.start_soon(add)

        assert await here.shared.count("n", ttl=60.0) == Count(200, True)


async def test_a_budget_is_never_taken_below_what_is_kept(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        taken = []
        async with trio.open_nursery() as nursery:
            for each in (here, there) * 100:

                async def take(each: Node = each) -> None:
                    count = await each.shared.count("left", ttl=60.0, start=150, change=-1, keep=50)
                    assert count is not None
                    taken.append(count.changed)

                nursery.start_soon(take)

        assert sum(taken) == 100
        assert await here.shared.count("left", ttl=60.0) == Count(50, True)
        # What the server says counts, if it is less.
        assert await here.shared.count("left", ttl=60.0, at_most=20) == Count(20, True)
        assert await here.shared.count("left", ttl=60.0, at_most=90) == Count(20, True)
        assert await here.shared.count("left", ttl=60.0, change=-1, keep=50) == Count(20, False)


async def test_a_generation_only_grows_also_after_it_was_lost(redis: Engine) -> None:
    async with node(redis.address) as here:
        assert await here.shared.count("g", ttl=60.0) is None
        assert await here.shared.count("g", ttl=60.0, start=1_000) == Count(1_000, True)
        assert await here.shared.count("g", ttl=60.0, start=1_000, change=1) == Count(1_001, True)
        assert await here.shared.count("g", ttl=60.0, at_least=5_000) == Count(5_000, True)
        assert await here.shared.count("g", ttl=60.0, at_least=70) == Count(5_000, True)

        redis.say("FLUSHALL")
        assert await here.shared.count("g", ttl=60.0, start=900, at_least=5_000) == Count(
            5_000, True
        )


async def test_the_life_of_a_number(redis: Engine) -> None:
    place = SEALER.count("n").decode()
    async with node(redis.address) as here:
        await here.shared.count("n", ttl=1000.0, start=5)
        redis.say("PEXPIRE", place, "500000")
        await here.shared.count("n", ttl=1000.0, start=5, change=1)
        assert int(redis.say("PTTL", place)) <= 500_000
        await here.shared.count("n", ttl=1000.0, extend=True)
        assert int(redis.say("PTTL", place)) > 500_000
        # One that would live for ever does not.
        redis.say("PERSIST", place)
        await here.shared.count("n", ttl=1000.0, change=1)
        assert 0 < int(redis.say("PTTL", place)) <= 1_000_000


@pytest.mark.parametrize("garbage", ["", "x", "1.5", "nan", "inf", "1e300", "list"])
async def test_what_is_no_number_counts_as_absent(redis: Engine, garbage: str) -> None:
    place = SEALER.count("n").decode()
    if garbage == "list":
        redis.say("RPUSH", place, "a")
    else:
        redis.say("SET", place, garbage)
    async with node(redis.address) as here:
        assert await here.shared.count("n", ttl=60.0) is None
        assert await here.shared.count("n", ttl=60.0, start=7, change=-1) == Count(6, True)
        assert here.shared.stats().breaker == "closed"


async def test_large_and_negative_numbers_are_exact(redis: Engine) -> None:
    async with node(redis.address) as here:
        start = 1_772_355_600_123
        assert await here.shared.count("n", ttl=60.0, start=start, change=1) == Count(
            start + 1, True
        )
        assert await here.shared.count("n", ttl=60.0) == Count(start + 1, True)
        assert await here.shared.count("m", ttl=60.0, start=0, change=-3) == Count(-3, True)


# TLS, passwords, and what a look at an engine tells.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, private = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    command += f" -keyout {private} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, private


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[SharedAddress]:
    cert, private = certificate
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(cert)]
    options += ["--tls-key-file", str(private), "--tls-auth-clients", "no"]
    options += ["--requirepass", "hunter2", "--maxmemory", "100mb"]
    options += ["--maxmemory-policy", "allkeys-lru"]
    with engine(tmp_path_factory.mktemp("engine"), *options):
        yield SharedAddress("127.0.0.1", port, 3, tls=True, password="hunter2")


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


async def test_tls_with_a_password_and_a_database(
    secured: SharedAddress, certificate: tuple[Path, Path]
) -> None:
    clock = Node(secured, API_KEY, SERVER).clock
    made = SharedEngine(
        secured,
        API_KEY,
        SERVER,
        clock=clock,
        common_time=clock.wall,
        context=trusting(certificate),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await until(lambda: made.stats().breaker == "closed")
        made.put("name", LISTING, 300.0)
        await until(lambda: made.stats().puts == 1)
        assert (await made.get(["name"]))["name"].value == LISTING
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"password": None}, "it wants a password"),
        ({"password": "wrong"}, "it refuses the user or the password"),
        ({"user": "nobody"}, "it refuses the user or the password"),
        ({"database": 4000}, "it has no database 4000"),
        (
            {"tls": False},
            "it breaks the connection off: is it the right one of redis:// and rediss:// ?",
        ),
        ({"host": "localhost"}, "its certificate does not hold for localhost"),
    ],
)
async def test_a_look_says_why_an_engine_can_not_be_used(
    secured: SharedAddress,
    certificate: tuple[Path, Path],
    change: dict[str, object],
    reason: str,
) -> None:
    fields = {"host": secured.host, "port": secured.port, "database": secured.database}
    fields |= {"tls": True, "user": None, "password": "hunter2"} | change
    address = SharedAddress(**fields)  # type: ignore[arg-type]
    context = trusting(certificate) if address.tls else None
    found = await probe(address, context)

    assert (found.reachable, found.reason) == (False, reason)
    assert "hunter2" not in repr(found)
    assert found.has_password == (address.password is not None)


async def test_a_certificate_of_nobody_is_refused(secured: SharedAddress) -> None:
    found = await probe(secured, verifying_context())

    assert found.reason == "its certificate does not hold for 127.0.0.1"


async def test_a_look_at_an_engine(
    redis: Engine, secured: SharedAddress, certificate: tuple[Path, Path]
) -> None:
    plain = await probe(redis.address)
    safe = await probe(secured, trusting(certificate))

    for found in (plain, safe):
        assert found.reachable
        assert found.reason is None
        assert found.product in ("redis", "valkey")
        assert found.version is not None
        assert found.role == "master"
        assert found.persists is False
        assert found.round_trip is not None
        assert found.clients is not None
        assert found.memory_used is not None
        assert found.evicted == 0
    assert (plain.tls, plain.has_password) == (False, False)
    assert (safe.tls, safe.has_password) == (True, True)
    assert (plain.memory_policy, plain.memory_limit) == ("noeviction", 0)
    assert (safe.memory_policy, safe.memory_limit) == ("allkeys-lru", 100 << 20)
    assert redis.keys() == []


async def test_a_look_at_what_is_not_there() -> None:
    found = await probe(SharedAddress("127.0.0.1", free_port()))
    assert (found.reachable, found.reason) == (False, "nothing listens there")
    found = await probe(SharedAddress("no-such-host.invalid"))
    assert found.reason == "there is no host no-such-host.invalid"


async def test_a_node_that_ends_leaves_nothing_behind_that_others_wait_for(redis: Engine) -> None:
    async with node(redis.address) as here, node(redis.address) as there:
        lease = await here.shared.lease("x", 60.0)
        assert lease is not None
        for number in range(500):
            here.shared.put(f"record/{number}", b"value", 60.0)
        here.shared.release(lease)
        await here.shared.flush(30.0)
        assert len(await there.shared.get([f"record/{number}" for number in range(500)])) == 500
        assert await there.shared.wait("x", 30.0) is Waited.FREE


async def test_an_end_does_not_wait_for_an_engine_that_is_away(redis: Engine) -> None:
    async with node(redis.address) as here:
        redis.kill()
        await here.state("open", "probing")
        here.shared.put("x", b"value", 60.0)
        await here.shared.flush(3600.0)
