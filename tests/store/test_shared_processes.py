"""Nodes in several processes: what all want is asked for once, and the dead hold nobody up."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from shared_rig import API_KEY, SERVER, Engine, Patience, engine, node, python_environment

from pictofs.errors import Invalid
from pictofs.store.shared import extra
from pictofs.store.shared.port import Waited
from pictofs.store.shared.sealing import Sealer

WORKER = Path(__file__).with_name("shared_worker.py")
SEALER = Sealer(API_KEY, SERVER)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    with engine(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    Patience(monkeypatch)


@contextmanager
def workers(
    count: int, redis: Engine, task: str, argument: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have connected, and wait for a line to begin."""
    command = [sys.executable, str(WORKER), str(redis.port), task, argument]
    made = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=python_environment(),
        )
        for _ in range(count)
    ]
    try:
        for each in made:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        yield made
    finally:
        for each in made:
            each.kill()
            each.communicate()


def begin(each: subprocess.Popen[str]) -> None:
    assert each.stdin is not None
    each.stdin.write("\n")
    each.stdin.flush()


def test_four_processes_ask_for_each_record_once(redis: Engine) -> None:
    with workers(4, redis, "read", "50") as made:
        for each in made:
            begin(each)
        said = [each.communicate(timeout=100)[0].splitlines() for each in made]

    asked = Counter(line for lines in said for line in lines if line.startswith("asked"))
    assert [lines[-1] for lines in said] == ["right 100"] * 4
    assert asked == Counter(f"asked record/{number}" for number in range(50))


async def test_a_process_that_is_killed_loses_its_turn(redis: Engine) -> None:
    place = SEALER.lease("name").decode()
    with workers(1, redis, "hold", "name") as (holder,):
        begin(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "shared\n"
        async with node(redis.address) as here:
            assert await here.shared.lease("name", 60.0) is None
            holder.kill()
            holder.wait()
            # Nobody tells the engine of it any more; it would be free in 10 s at the latest.
            assert 0 < int(redis.say("PTTL", place)) <= 10_000
            redis.say("PEXPIRE", place, "100")
            with trio.fail_after(60):
                assert await here.shared.wait("name", 600.0) is Waited.FREE
            lease = await here.shared.lease("name", 60.0)
            assert lease is not None
            assert lease.is_shared


def test_a_mount_that_shares_nothing_loads_nothing_of_it() -> None:
    names = ["config.shared", "store.shared.port", "store.shared.turns", "store.shared.extra"]
    names += ["store.shared.stats", "store.shared.breaker", "cli"]
    program = "import sys\n" + "\n".join(f"import pictofs.{name}" for name in names)
    program += "\nassert not {'coredis', 'cryptography', 'anyio', 'beartype'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    extra.require_cluster()
    monkeypatch.setattr(extra, "find_spec", lambda name: None)

    with pytest.raises(Invalid) as refused:
        extra.require_cluster()
    assert str(refused.value) == (
        "sharing among nodes needs coredis and cryptography; "
        "install the extra: pip install 'pictofs[cluster]'"
    )
    assert refused.value.exit_code == 6
