"""What the server has refused and will refuse again is not asked for again and again."""

from __future__ import annotations

import httpx
import pytest
import trio
from api_server import FakeClock
from test_api_client import Script

from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import PROBE_KEY, PROBE_LIMIT_S, RequestStats, background, insisting
from pictofs.errors import NoSuchEntry, PictofsError, QuotaExceeded, Throttled, Unauthorized

IMAGE = {"data": {"id": "9a0e", "filename": "a.jpg", "created_at": "2026-03-01T09:00:00+00:00"}}


class Refusing:
    """An API that answers as `script` says."""

    def __init__(self, key: ApiKey, clock: FakeClock, request_stats: RequestStats) -> None:
        self.script, self.clock, self.request_stats = Script(), clock, request_stats
        self.api = Api(
            "https://h.example",
            key,
            clock=clock,
            request_stats=request_stats,
            transport=httpx.MockTransport(self.script),
        )

    async def fails(self, kind: type[PictofsError]) -> PictofsError:
        with pytest.raises(kind) as caught:
            await self.api.image("i")
        return caught.value

    @property
    def asked(self) -> int:
        return len(self.script.requests)


@pytest.fixture
def server(key: ApiKey, clock: FakeClock, request_stats: RequestStats) -> Refusing:
    return Refusing(key, clock, request_stats)


async def test_o6_a_spent_limit_is_asked_for_once_a_minute(server: Refusing) -> None:
    server.script.say(429, Retry_After="3598")
    for second in range(600):
        error = await server.fails(Throttled)
        assert isinstance(error, Throttled)
        assert 3590 - 600 < (error.retry_after or 0) <= 3600
        assert "HTTP 429" in str(error)
        server.clock.now += 1
        assert server.asked == 1 + second // PROBE_LIMIT_S
    assert server.clock.sleeps == []


async def test_o6_no_two_look_at_once(server: Refusing) -> None:
    server.script.say(429, Retry_After="3598")
    await server.fails(Throttled)
    server.clock.now += PROBE_LIMIT_S + 1
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(server.fails, Throttled)
    assert server.asked == 2


async def test_o6_a_limit_that_was_raised_is_noticed(server: Refusing) -> None:
    server.script.say(429, Retry_After="3598")
    server.script.say(200, IMAGE)
    await server.fails(Throttled)
    server.clock.now += PROBE_LIMIT_S + 1
    for _ in range(5):
        await server.api.image("i")
    with background():
        await server.api.image("i")
    assert server.asked == 7


async def test_o6_the_time_that_was_named_ends_it(server: Refusing) -> None:
    server.script.say(429, Retry_After="50")
    server.script.say(200, IMAGE)
    await server.fails(Throttled)
    server.clock.now += 50
    await server.api.image("i")


async def test_o6_a_wait_that_an_operation_can_bear_is_borne_without_asking(
    server: Refusing,
) -> None:
    server.script.say(429, Retry_After="5")
    server.script.say(200, IMAGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.api.image, "i")
        nursery.start_soon(server.api.image, "i")
    assert server.asked <= 4
    assert server.request_stats.errors == {}


async def test_o6_a_limit_without_a_time_is_asked_for_less_and_less(server: Refusing) -> None:
    server.script.say(429)
    began = server.clock.now
    for _ in range(400):
        await server.fails(Throttled)
    minutes = (server.clock.now - began) / 60
    assert server.asked <= 12 + minutes


async def test_o6_a_person_may_ask(server: Refusing) -> None:
    server.script.say(429, Retry_After="3598")
    await server.fails(Throttled)
    with insisting():
        await server.fails(Throttled)
    await server.fails(Throttled)
    assert server.asked == 2


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (402, QuotaExceeded)])
async def test_o6_a_refused_key_is_shown_four_times_a_minute(
    server: Refusing, status: int, kind: type[PictofsError]
) -> None:
    server.script.say(status, {"detail": "the words"})
    for second in range(120):
        assert "the words" in str(await server.fails(kind))
        assert server.asked == 1 + second // PROBE_KEY
        server.clock.now += 1

    server.script.answers.clear()
    server.script.say(200, IMAGE)
    server.clock.now += PROBE_KEY
    for _ in range(3):
        await server.api.image("i")


async def test_o6_a_plan_that_is_used_up_for_one_thing_is_not_for_all(server: Refusing) -> None:
    server.script.say(402)
    server.script.say(200, {"data": []})
    await server.fails(QuotaExceeded)
    await server.api.datasets()
    await server.fails(QuotaExceeded)
    assert server.asked == 2


async def test_o6_a_clock_that_was_put_back_holds_nobody_up(server: Refusing) -> None:
    server.script.say(429, Retry_After="3598")
    server.script.say(200, IMAGE)
    await server.fails(Throttled)
    server.clock.now -= 86400
    await server.api.image("i")


@pytest.mark.parametrize("value", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_o6_no_server_wants_silence_for_more_than_an_hour(
    server: Refusing, value: str
) -> None:
    server.script.say(429, Retry_After=value)
    error = await server.fails(Throttled)
    assert isinstance(error, Throttled)
    assert error.retry_after == 3600


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (402, QuotaExceeded), (429, Throttled)]
)
async def test_e3_a_refusal_that_is_remembered_names_no_item(
    server: Refusing, status: int, kind: type[PictofsError]
) -> None:
    server.script.say(status, Retry_After="3598")
    for _ in range(2):
        assert "image 'i'" not in str(await server.fails(kind))
    assert server.asked == 1


async def test_e3_a_failure_names_the_item(server: Refusing) -> None:
    server.script.say(404)
    assert str(await server.fails(NoSuchEntry)).startswith("there is no image 'i', or ")
