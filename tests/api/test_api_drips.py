"""Answers that drip: nothing waits for their end for days."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from api_server import FakeClock, Peer, answer, read_all, served

from pictofs.api.body import Body
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.retries import SLOWEST_BYTES, WINDOW_S, Pace
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.errors import InvalidResponse, PictofsError, TimedOut


async def test_t1_a_body_that_drips_ends(autojump_clock: trio.testing.MockClock) -> None:
    async def drip() -> bytes:
        await trio.sleep(9)
        return b"x"

    body = Body(drip, length=100_000)
    started = trio.current_time()
    with pytest.raises(TimedOut, match="too slow"):
        await read_all(body)
    assert trio.current_time() - started <= WINDOW_S + 9


async def test_t1_a_slow_body_that_comes_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pieces = [bytes(10_000)] * 50

    async def slow() -> bytes:
        await trio.sleep(9)
        return pieces.pop() if pieces else b""

    assert len(await read_all(Body(slow, length=500_000))) == 500_000


def test_t1_what_nobody_asked_for_meanwhile_does_not_count() -> None:
    pace = Pace()
    for _ in range(100):
        pace.came(int(SLOWEST_BYTES * 10), 9.0)
    for _ in range(3):
        pace.came(1, 9.0)
    with pytest.raises(TimedOut):
        pace.came(1, 9.0)


async def drip_head(peer: Peer) -> None:
    await peer.request()
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
        await peer.send(bytes([byte]))
        await trio.sleep(0.02)


async def informing(peer: Peer) -> None:
    await peer.request()
    while True:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


@pytest.mark.parametrize("handler", [drip_head, informing], ids=["drip", "1xx"])
async def test_t1_a_head_without_end(
    handler: object, key: ApiKey, clock: FakeClock, request_stats: RequestStats
) -> None:
    async with served(handler) as server:  # type: ignore[arg-type]
        with trio.fail_after(8):
            async with Api(
                server.url,
                key,
                clock=clock,
                request_stats=request_stats,
                timeout=0.5,
                max_retries=0,
            ) as api:
                with pytest.raises(PictofsError):
                    await api.datasets()

            async with Storage(
                clock=clock, request_stats=request_stats, inactivity_timeout=0.5
            ) as storage:
                with pytest.raises((TimedOut, InvalidResponse)):
                    async with storage.get(server.url):
                        pass


async def test_t1_a_refusal_that_drips(
    key: ApiKey, clock: FakeClock, request_stats: RequestStats
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"", 500, length=9000))
        while True:
            await peer.send(b"x")
            await trio.sleep(0.1)

    async with served(handler) as server:
        with trio.fail_after(8):
            async with Storage(
                clock=clock, request_stats=request_stats, inactivity_timeout=0.5
            ) as storage:
                with pytest.raises(PictofsError, match="HTTP 500"):
                    async with storage.get(server.url):
                        pass
