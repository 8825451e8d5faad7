"""Connections that are dead without a sign of it: after sleep, in another network, behind a relay
that forgot them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
from api_server import FakeClock, Handler, Peer, answer, enveloped, read_all, served

from pictofs.api.client import Api
from pictofs.api.http_transport import CONNECTIONS
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.clock import SystemClock
from pictofs.errors import ServerFault, TimedOut

SOON = 8
"""Seconds: a third of an operation's deadline, and much for a machine that has nothing to do."""
DATA = bytes(1000)


class Way:
    """The way to the server: what was connected before it was `cut` is silent since."""

    def __init__(self, body: bytes = DATA, delay: float = 0.0) -> None:
        self.body, self.delay = body, delay
        self.cuts = 0
        self.unheard = 0
        """Requests that reached nobody."""

    def handler(self) -> Handler:
        async def handle(peer: Peer) -> None:
            born = self.cuts
            while await peer.request() is not None:
                if born != self.cuts:
                    self.unheard += 1
                    await trio.sleep_forever()
                await trio.sleep(self.delay)
                await peer.send(answer(self.body))

        return handle


async def fetched(storage: Storage, url: str) -> bytes:
    async with storage.get(url) as body:
        return await read_all(body)


async def at_once(count: int, work: Any) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(work)


class TestStorage:
    async def test_t4_one_silent_connection_is_news_about_all(
        self, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(delay=0.05)
        async with (
            served(way.handler()) as server,
            Storage(clock=clock, request_stats=request_stats, inactivity_timeout=2) as storage,
        ):
            await at_once(5, partial(fetched, storage, server.url))
            assert server.connections == 5

            clock.now += 1
            way.cuts += 1

            with trio.fail_after(SOON):
                assert await fetched(storage, server.url) == DATA
                assert await fetched(storage, server.url) == DATA

        assert (way.unheard, server.connections) == (1, 6)

    async def test_t4_readers_of_the_same_moment_wait_once(
        self, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(delay=0.05)
        async with (
            served(way.handler()) as server,
            Storage(clock=clock, request_stats=request_stats, inactivity_timeout=4) as storage,
        ):
            await at_once(4, partial(fetched, storage, server.url))
            clock.now += 1
            way.cuts += 1
            with trio.fail_after(SOON):
                await at_once(8, partial(fetched, storage, server.url))

            assert (way.unheard, server.connections) == (4, 12)

    async def test_t4_a_transfer_that_stands_still_is_news_too(
        self, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        half = [True]

        async def handle(peer: Peer) -> None:
            while await peer.request() is not None:
                if half and server.connections > 1:
                    half.clear()
                    await peer.send(answer(DATA, length=2000))
                    way.cuts += 1
                    await trio.sleep_forever()

                if way.cuts and server.connections < 3:
                    await trio.sleep_forever()
                await trio.sleep(0.05)
                await peer.send(answer(DATA))

        way = Way()

        async with (
            served(handle) as server,
            Storage(clock=clock, request_stats=request_stats, inactivity_timeout=0.5) as storage,
        ):
            await fetched(storage, server.url)
            async with storage.get(server.url) as kept:
                assert await read_all(kept) == DATA
                with pytest.raises(TimedOut, match="stood still"):
                    await fetched(storage, server.url)

            clock.now += 1

            assert await fetched(storage, server.url) == DATA

    async def test_t4_a_slow_server_is_not_asked_twice(
        self, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(delay=0.6)
        async with (
            served(way.handler()) as server,
            Storage(clock=clock, request_stats=request_stats, inactivity_timeout=1) as storage,
        ):
            for _ in range(4):
                await fetched(storage, server.url)
        assert (len(server.requests), server.connections, request_stats.retries) == (4, 1, 0)


class TestApi:
    async def test_t4_one_silent_connection_is_news_about_all(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(enveloped([]), delay=0.05)
        async with (
            served(way.handler()) as server,
            Api(
                server.url, key, clock=clock, request_stats=request_stats, timeout=2, max_retries=0
            ) as api,
        ):
            await at_once(5, api.datasets)
            assert server.connections == 5

            way.cuts += 1

            with trio.fail_after(SOON):
                await api.datasets()
                await api.datasets()

        assert (way.unheard, server.connections, clock.sleeps) == (1, 6, [])
        assert request_stats.requests["api", "GET /datasets/", "foreground"] == 8

    async def test_t4_a_slow_server_is_not_asked_twice(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(enveloped([]), delay=0.6)
        async with (
            served(way.handler()) as server,
            Api(
                server.url, key, clock=clock, request_stats=request_stats, timeout=1, max_retries=0
            ) as api,
        ):
            for _ in range(4):
                await api.datasets()

        assert (len(server.requests), server.connections) == (4, 1)

    async def test_t4_what_may_not_be_sent_twice_takes_a_new_connection(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(enveloped([]))
        async with (
            served(way.handler()) as server,
            Api(
                server.url, key, clock=clock, request_stats=request_stats, timeout=2, max_retries=0
            ) as api,
        ):
            await api.datasets()
            way.cuts += 1
            await api.delete_dataset("d")

        assert (way.unheard, server.connections) == (0, 2)

    async def test_t4_connections_age_while_the_machine_sleeps(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(enveloped([]))
        async with (
            served(way.handler()) as server,
            Api(
                server.url, key, clock=clock, request_stats=request_stats, timeout=2, max_retries=0
            ) as api,
        ):
            await api.datasets()
            way.cuts += 1
            clock.now += 3600  # httpcore's own clock has stood still
            await api.datasets()

        assert (way.unheard, server.connections) == (0, 2)

    async def test_t4_an_answer_goes_on_where_its_generation_is_dropped(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        way = Way(bytes(1 << 20))
        async with (
            served(way.handler()) as server,
            Api(
                server.url, key, clock=clock, request_stats=request_stats, timeout=2, max_retries=0
            ) as api,
            api.image_stream("i") as body,
        ):
            first = await body.receive()
            await api.delete_dataset("d")  # on a connection of its own
            assert len(first) + len(await read_all(body)) == 1 << 20

        await server.until_idle()


def test_t4_the_clock_runs_while_the_machine_sleeps() -> None:
    import time

    assert abs(SystemClock().monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


SERVER = """
import http.server, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b'{"data": [], "pagination": {}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if self.path != "/half" else 1000000))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if self.path == "/half":
            time.sleep(3600)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler)
print("ready", flush=True)
server.serve_forever()
"""


class Moving:
    """A server in a network of its own, and this machine's end of the cable to it."""

    def __init__(self, device: str, net: str) -> None:
        self._device, self._net = device, net
        self.url = f"http://{net}.2:8000"

    def move(self) -> None:
        """Get another address, as in another network: what is connected hears nothing any more."""
        ip("addr", "del", f"{self._net}.1/24", "dev", self._device)
        ip("addr", "add", f"{self._net}.3/24", "dev", self._device)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def moving() -> Iterator[Moving]:
    number = os.getpid()  # others may run this test beside us
    space, ours, theirs = f"pictofs-{number}", f"pt{number}a", f"pt{number}b"
    net = f"10.{200 + number // 250 % 50}.{number % 250}"

    try:
        ip("netns", "add", space)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made: {error}")

    server = None

    try:
        try:
            ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            ip("link", "set", theirs, "netns", space)
            ip("addr", "add", f"{net}.1/24", "dev", ours)
            ip("link", "set", ours, "up")
            ip("-n", space, "addr", "add", f"{net}.2/24", "dev", theirs)
            ip("-n", space, "link", "set", theirs, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no pair of network devices can be made: {error.stderr.decode()}")

        server = subprocess.Popen(
            ["ip", "netns", "exec", space, sys.executable, "-c", SERVER], stdout=subprocess.PIPE
        )

        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

        yield Moving(ours, net)
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["ip", "netns", "del", space], check=False)
        subprocess.run(["ip", "link", "del", ours], check=False, capture_output=True)


async def test_t4_the_kernel_tells_of_a_network_that_is_gone(moving: Moving, key: ApiKey) -> None:
    """With deadlines of a minute: it is no timeout of ours that tells."""
    clock, request_stats = SystemClock(), RequestStats()
    storage = Storage(
        clock=clock, request_stats=request_stats, inactivity_timeout=60, allow_plain_http=True
    )
    api = Api(
        moving.url,
        key,
        clock=clock,
        request_stats=request_stats,
        timeout=60,
        max_retries=0,
        allow_plain_http=True,
    )

    async with storage, api:
        await api.datasets()
        with trio.fail_after(30):
            async with storage.get(moving.url + "/half") as body:
                await body.receive()
                moving.move()
                with pytest.raises(ServerFault):
                    await body.receive()

            assert await fetched(storage, moving.url)

            await api.datasets()


async def test_waiting_for_a_turn_ends(
    key: ApiKey, clock: FakeClock, request_stats: RequestStats
) -> None:
    """Work that nobody waits for has no deadline: bodies that nobody reads must not hold it."""
    way = Way(DATA)
    async with (
        served(way.handler()) as server,
        Api(
            server.url,
            key,
            clock=clock,
            request_stats=request_stats,
            timeout=0.2,
            max_retries=0,
        ) as api,
        AsyncExitStack() as held,
    ):
        for number in range(CONNECTIONS):
            await held.enter_async_context(api.image_stream(str(number)))

        with trio.fail_after(SOON):
            with pytest.raises(TimedOut, match="32 requests are under way"):
                await api.datasets()

    assert len(server.requests) == CONNECTIONS
