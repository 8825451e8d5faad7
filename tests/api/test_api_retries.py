"""How often work is retried, and how long it waits."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
import trio
from api_server import FakeClock, always, answer, served

from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.retries import API_CALL, DATASET_REMOVAL, DOWNLOAD, EXPORT_POLL, Retries
from pictofs.api.stats import RequestStats
from pictofs.errors import ServerUnreachable


def waits(retries: Retries, most: int = 12) -> list[float]:
    """What is waited before each retry, up to the last one."""
    found: list[float] = []
    while len(found) < most and (wait := retries.next_wait()) is not None:
        found.append(wait)

    return found


async def test_waits_double_up_to_the_longest() -> None:
    clock = FakeClock()
    often = replace(DOWNLOAD, max_retries=7)
    assert waits(Retries(clock, DOWNLOAD)) == [0.5, 1.0, 2.0]
    assert waits(Retries(clock, often)) == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert waits(Retries(clock, API_CALL)) == [1.0, 2.0, 4.0]
    assert waits(Retries(clock, DATASET_REMOVAL)) == [1.0, 2.0, 4.0]
    assert waits(Retries(clock, EXPORT_POLL), 9)[-3:] == [32.0, 45.0, 45.0]


async def test_all_waits_together_have_a_bound() -> None:
    retries = Retries(FakeClock(), replace(API_CALL, max_retries=100))
    assert sum(waits(retries)) == 15.0
    assert retries.left == 5.0


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 0.375), (0.5, 0.5), (1.0, 0.625)])
async def test_chance_makes_a_wait_a_quarter_shorter_or_longer(chance: float, wait: float) -> None:
    class Chance(FakeClock):
        def chance(self) -> float:
            return chance

    assert Retries(Chance(), DOWNLOAD).next_wait() == wait


@pytest.mark.parametrize(
    ("asked", "wait"), [(0.0, 0.5), (7.0, 7.0), (20.0, 20.0), (20.1, None), (900.0, None)]
)
async def test_a_retry_after_makes_a_wait_longer_or_ends_the_retries(
    asked: float, wait: float | None
) -> None:
    assert Retries(FakeClock(), DOWNLOAD).next_wait(asked) == wait


async def test_what_needs_no_wait_counts_all_the_same() -> None:
    retries = Retries(FakeClock(), DOWNLOAD)
    assert retries.next_wait(at_once=True) == 0.0
    assert waits(retries) == [1.0, 2.0]


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    clock = FakeClock()
    with trio.move_on_after(0.7):
        retries = Retries(clock, DOWNLOAD)
        assert await retries.wait()
        assert not await retries.wait()

    assert clock.sleeps == [0.5]


async def test_e3_a_certificate_that_is_refused_is_not_asked_for_again(
    key: ApiKey,
    clock: FakeClock,
    request_stats: RequestStats,
    certificate: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    theirs, _ = certificate
    async with (
        served(always(answer(b"{}")), theirs) as server,
        Api(server.url, key, clock=clock, request_stats=request_stats) as api,
    ):
        with pytest.raises(ServerUnreachable, match="the certificate of") as caught:
            await api.datasets()

        assert caught.value.final
        assert clock.sleeps == []
        assert server.connections == 1
