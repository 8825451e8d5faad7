"""`Storage` against servers that keep, bend and break the rules."""

from __future__ import annotations

import base64
import gc
import os
import ssl
from collections.abc import AsyncIterator

import google_crc32c
import pytest
import trio
from api_server import FakeClock, Handler, Peer, always, answer, once, read_all, served, silent

from pictofs.api.pool import IDLE_MAX_S
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.errors import (
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    PictofsError,
    ServerFault,
    ServerUnreachable,
    Throttled,
    TimedOut,
    UrlExpired,
)

DATA = bytes(range(256)) * 40


@pytest.fixture
async def storage(clock: FakeClock, request_stats: RequestStats) -> AsyncIterator[Storage]:
    async with Storage(
        clock=clock, request_stats=request_stats, connect_timeout=2, inactivity_timeout=2
    ) as storage:
        yield storage


async def fetched(storage: Storage, url: str, **options: object) -> bytes:
    async with storage.get(url, **options) as body:  # type: ignore[arg-type]
        return await read_all(body)


def chunked(*pieces: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class TestBodies:
    async def test_a_whole_object_with_its_facts(
        self, storage: Storage, request_stats: RequestStats
    ) -> None:
        crc = google_crc32c.value(DATA)
        hashes = f"crc32c={base64.b64encode(crc.to_bytes(4, 'big')).decode()}"
        md5 = f"md5={base64.b64encode(b'm' * 16).decode()}"
        head = answer(DATA, ETag='"e1"', X_Goog_Hash=hashes, x_goog_hash=md5)

        async with (
            served(always(head)) as server,
            storage.get(server.url + "/a%2Fb?sig=x%20y") as body,
        ):
            assert (body.start, body.length, body.total, body.ranged) == (
                0,
                len(DATA),
                len(DATA),
                False,
            )
            assert (body.crc32c, body.etag) == (crc, '"e1"')
            assert await read_all(body) == DATA
            assert await body.receive() == b""

        request = server.requests[0].decode().split("\r\n")

        assert request[0] == "GET /a%2Fb?sig=x%20y HTTP/1.1"

        names = {line.split(":")[0].lower() for line in request[1:]}

        assert names == {"host", "user-agent", "accept", "accept-encoding"}
        assert "Accept-Encoding: identity" in request
        assert request_stats.bytes_in["storage"] == len(DATA)

    async def test_hashes_of_objects_unpacked_on_the_way_are_not_theirs(
        self, storage: Storage
    ) -> None:
        head = answer(DATA, X_Goog_Hash="crc32c=AAAAAA==", X_Goog_Stored_Content_Encoding="gzip")
        async with served(always(head)) as server, storage.get(server.url) as body:
            assert body.crc32c is None

    @pytest.mark.parametrize("value", ["crc32c=!", "crc32c=AA==", "nonsense", "md5=,crc32c=", "é"])
    async def test_broken_hashes_are_no_hashes(self, storage: Storage, value: str) -> None:
        head = answer(DATA, X_Goog_Hash=value)
        async with served(always(head)) as server, storage.get(server.url) as body:
            assert body.crc32c is None
            assert await read_all(body) == DATA

    async def test_chunks(self, storage: Storage) -> None:
        async with served(always(chunked(b"one", DATA, b"three"))) as server:
            async with storage.get(server.url) as body:
                assert body.length is None
                assert await read_all(body) == b"one" + DATA + b"three"
            assert await fetched(storage, server.url) == b"one" + DATA + b"three"
        assert server.connections == 1

    async def test_chunks_that_dribble(self, storage: Storage) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            for byte in chunked(b"one", b"two"):
                await peer.send(bytes([byte]))

        async with served(handler) as server:
            assert await fetched(storage, server.url) == b"onetwo"

    async def test_a_body_until_the_end_of_the_connection(self, storage: Storage) -> None:
        async with served(once(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)) as server:
            async with storage.get(server.url) as body:
                assert body.length is None
                assert await read_all(body) == DATA
            await server.until_idle()

    async def test_informational_answers_are_passed_over(self, storage: Storage) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        async with served(always(early + answer(DATA))) as server:
            assert await fetched(storage, server.url) == DATA

    async def test_a_large_body(self, storage: Storage) -> None:
        large = os.urandom(1 << 20) * 5
        async with served(always(answer(large))) as server:
            assert await fetched(storage, server.url) == large


class TestRanges:
    async def test_a_part(self, storage: Storage) -> None:
        head = answer(
            DATA[10:20],
            206,
            Content_Range=f"bytes 10-19/{len(DATA)}",
            X_Goog_Hash="crc32c=AAAAAA==",
        )
        async with served(always(head)) as server:
            async with storage.get(server.url, start=10, end=20, if_range='"e1"') as body:
                facts = (body.start, body.length, body.total, body.ranged, body.crc32c)
                assert facts == (10, 10, len(DATA), True, None)
                assert await read_all(body) == DATA[10:20]
            assert await fetched(storage, server.url, start=10) == DATA[10:20]

        assert b'\r\nRange: bytes=10-19\r\nIf-Range: "e1"' in server.requests[0]
        assert b"\r\nRange: bytes=10-" in server.requests[1]

    async def test_the_server_may_ignore_the_range(self, storage: Storage) -> None:
        async with (
            served(always(answer(DATA))) as server,
            storage.get(server.url, start=10) as body,
        ):
            assert (body.start, body.length, body.ranged) == (0, len(DATA), False)

    @pytest.mark.parametrize(
        "content_range",
        [
            "bytes 11-19/100",
            "bytes 10-20/100",
            "bytes 10-9/100",
            "bytes 10-19/15",
            "bytes 10-18/100",
            "bytes */100",
            "items 10-19/100",
            "",
        ],
    )
    async def test_a_part_that_is_another_one(self, storage: Storage, content_range: str) -> None:
        async with served(always(answer(DATA[10:20], 206, Content_Range=content_range))) as server:
            with pytest.raises(InvalidResponse):
                await fetched(storage, server.url, start=10, end=20)

    async def test_a_part_longer_than_its_range(self, storage: Storage) -> None:
        raw = b"HTTP/1.1 206 P\r\nContent-Range: bytes 10-19/100\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n"
        async with served(once(raw + b"x" * 11 + b"\r\n0\r\n\r\n")) as server:
            with pytest.raises(InvalidResponse):
                await fetched(storage, server.url, start=10, end=20)

    async def test_a_part_that_nobody_asked_for(self, storage: Storage) -> None:
        async with served(always(answer(DATA, 206, Content_Range="bytes 0-9/100"))) as server:
            with pytest.raises(InvalidResponse):
                await fetched(storage, server.url)

    @pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4), (-1, None)])
    async def test_no_byte_in_the_range(
        self, storage: Storage, start: int, end: int | None
    ) -> None:
        with pytest.raises(Invalid):
            await fetched(storage, "http://127.0.0.1:9", start=start, end=end)

    @pytest.mark.parametrize("tag", ['W/"a"', "a", '"a"\r\nX-Evil: 1', ""])
    async def test_if_range_takes_strong_tags(self, storage: Storage, tag: str) -> None:
        with pytest.raises(Invalid):
            await fetched(storage, "http://127.0.0.1:9", start=1, if_range=tag)

    async def test_a_weak_tag_is_not_shown(self, storage: Storage) -> None:
        async with (
            served(always(answer(DATA, ETag='W/"e"'))) as server,
            storage.get(server.url) as body,
        ):
            assert body.etag is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, UrlExpired),
            (401, UrlExpired),
            (403, UrlExpired),
            (404, NoSuchEntry),
            (410, NoSuchEntry),
            (416, Invalid),
            (408, ServerFault),
            (429, Throttled),
            (500, ServerFault),
            (503, ServerFault),
            (302, InvalidResponse),
            (204, InvalidResponse),
            (418, InvalidResponse),
        ],
    )
    async def test_each_status(
        self, storage: Storage, request_stats: RequestStats, status: int, kind: type[PictofsError]
    ) -> None:
        async with served(
            always(answer(b"<Error><Code>SomeCode</Code></Error>", status))
        ) as server:
            with pytest.raises(kind, match=rf"127\.0\.0\.1 answered HTTP {status}") as caught:
                await fetched(storage, server.url + "/?X-Goog-Signature=feedface")

        assert type(caught.value) is kind
        assert "feedface" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert request_stats.errors[kind.__name__] == 1

    async def test_the_code_is_told_and_the_connection_kept(self, storage: Storage) -> None:
        body = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code></Error>"
        async with served(always(answer(body, 403))) as server:
            for _ in range(3):
                with pytest.raises(UrlExpired, match="ExpiredToken"):
                    await fetched(storage, server.url)
            assert server.connections == 1

    @pytest.mark.parametrize(
        ("status", "value", "seconds"), [(429, "7", 7.0), (503, "9", 9.0), (429, "x", None)]
    )
    async def test_retry_after(
        self, storage: Storage, status: int, value: str, seconds: float | None
    ) -> None:
        async with served(always(answer(b"", status, Retry_After=value))) as server:
            with pytest.raises(Throttled) as caught:
                await fetched(storage, server.url)
        assert caught.value.retry_after == seconds

    async def test_redirects_are_not_followed(self, storage: Storage) -> None:
        async with served(always(answer(DATA))) as other:
            async with served(always(answer(b"", 307, Location=other.url))) as server:
                with pytest.raises(InvalidResponse, match="redirects are not followed"):
                    await fetched(storage, server.url)
            assert other.connections == 0

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://127.0.0.1/x",
            "file:///etc/passwd",
            "/relative",
            "",
            "http://",
            "http://user:secret@127.0.0.1/x",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/a\r\nX-Evil: 1",
            "http://127.0.0.1/é",
            "http://127.0.0.1:99999/x",
            "http://[::1/x",
            "http://storage.example/x",
            "https://" + "a" * 300 + "/\ud800",
        ],
    )
    async def test_urls_that_are_not_asked(self, storage: Storage, url: str) -> None:
        with pytest.raises(InvalidResponse):
            await fetched(storage, url)


class TestFaults:
    @pytest.mark.parametrize(
        ("raw", "kind"),
        [
            (b"", ServerFault),
            (b"HTTP/1.1 200 OK\r\nContent-Le", ServerFault),
            (answer(DATA[:100], length=101), ServerFault),
            (chunked(b"one")[:-5], ServerFault),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", InvalidResponse),
            (answer(DATA[:100], length=99), InvalidResponse),
            (chunked(b"one") + b"more", InvalidResponse),
            (b"SSH-2.0-OpenSSH\r\n\r\n", InvalidResponse),
            (b"\r\n\r\n", InvalidResponse),
            (b"x" * 70_000, InvalidResponse),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                InvalidResponse,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                InvalidResponse,
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", InvalidResponse),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", InvalidResponse),
            (answer(DATA, Content_Encoding="gzip"), InvalidResponse),
            (
                b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                InvalidResponse,
            ),
        ],
    )
    async def test_broken_answers(
        self, storage: Storage, request_stats: RequestStats, raw: bytes, kind: type[PictofsError]
    ) -> None:
        before = open_files()
        async with served(once(raw)) as server:
            with pytest.raises(kind):
                await fetched(storage, server.url)
            await server.until_idle()
        assert open_files() == before
        assert request_stats.errors == {kind.__name__: 1}

    async def test_a_trailer_without_end(self, storage: Storage) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(chunked(b"one")[:-2])
            while True:
                await peer.send(b"X: " + b"y" * 10_000 + b"\r\n")

        async with served(handler) as server:
            with pytest.raises(InvalidResponse, match="trailer"):
                await fetched(storage, server.url)

    async def test_more_than_announced_later(self, storage: Storage) -> None:
        large = bytes(3 << 20)
        async with served(once(answer(large, length=len(large) - 5))) as server:
            with pytest.raises(InvalidResponse):
                await fetched(storage, server.url)

    async def test_a_reset_inside_the_body(self, storage: Storage) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(DATA, length=1 << 20))
            await trio.sleep(0.01)
            peer.reset()

        async with served(handler) as server:
            with pytest.raises(ServerFault):
                await fetched(storage, server.url)

    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", answer(b"abc", length=10)])
    async def test_silence(
        self, clock: FakeClock, request_stats: RequestStats, sent: bytes
    ) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(sent)
            await silent(peer)

        storage = Storage(clock=clock, request_stats=request_stats, inactivity_timeout=0.05)

        async with served(handler) as server:
            with pytest.raises(TimedOut):
                await fetched(storage, server.url)
            await server.until_idle()

    async def test_nobody_listens(self, storage: Storage) -> None:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1"):
            await fetched(storage, "http://127.0.0.1:1/x")

    async def test_no_such_host(self, storage: Storage) -> None:
        for host in ("does-not-exist.invalid", "a" * 64 + ".invalid"):
            with pytest.raises(ServerUnreachable):
                await fetched(storage, f"https://{host}/x")


class TestConnections:
    async def test_kept_and_used_again(self, storage: Storage, request_stats: RequestStats) -> None:
        async with served(always(answer(DATA))) as server:
            for _ in range(5):
                assert await fetched(storage, server.url) == DATA
            assert (server.connections, request_stats.connections) == (1, 1)
            async with storage:
                pass
            await server.until_idle()

    async def test_the_last_used_is_used_first_and_old_ones_go(
        self, storage: Storage, clock: FakeClock
    ) -> None:
        async with served(always(answer(DATA))) as server:
            async with storage.get(server.url) as one, storage.get(server.url) as two:
                await read_all(one)
                await read_all(two)

            assert server.open == 2

            clock.now += IDLE_MAX_S * 0.6
            await fetched(storage, server.url)
            clock.now += IDLE_MAX_S * 0.6
            await fetched(storage, server.url)
            await trio.testing.wait_all_tasks_blocked(0.01)

            assert (server.open, server.connections) == (1, 2)

            clock.now += IDLE_MAX_S * 1.1
            await fetched(storage, server.url)

            assert server.connections == 3

    async def test_no_more_are_kept_than_allowed(
        self, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async with (
            served(always(answer(DATA))) as server,
            Storage(clock=clock, request_stats=request_stats, max_idle=2) as storage,
        ):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(fetched, storage, server.url)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert server.open <= 2

    async def test_connection_close_is_obeyed(self, storage: Storage) -> None:
        async with served(always(answer(DATA, Connection="Close"))) as server:
            await fetched(storage, server.url)
            await fetched(storage, server.url)
            assert server.connections == 2

    async def test_one_that_the_server_closed_is_noticed(
        self, storage: Storage, request_stats: RequestStats
    ) -> None:
        async with served(once(answer(DATA))) as server:
            await fetched(storage, server.url)
            await server.until_idle()
            assert await fetched(storage, server.url) == DATA
            assert (server.connections, request_stats.retries) == (2, 0)

    async def test_one_that_dies_under_the_request_is_replaced(
        self, storage: Storage, request_stats: RequestStats
    ) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(DATA))
            await peer.request()  # and close without a word

        async with served(handler) as server:
            await fetched(storage, server.url)
            assert await fetched(storage, server.url) == DATA
            assert (server.connections, request_stats.retries) == (2, 1)

    async def test_a_kept_one_that_breaks_inside_an_answer_is_not_asked_again(
        self, storage: Storage
    ) -> None:
        async with served(always(answer(DATA), answer(DATA, length=1))) as server:
            await fetched(storage, server.url)
            with pytest.raises(InvalidResponse):
                await fetched(storage, server.url)
            assert server.connections == 1

    async def test_bytes_that_nobody_asked_for_end_it(self, storage: Storage) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(DATA))
            await trio.sleep(0.01)
            await peer.send(answer(b"poison"))
            await peer.request()

        async with served(handler) as server:
            await fetched(storage, server.url)
            await trio.sleep(0.03)
            assert await fetched(storage, server.url) == DATA

    async def test_a_body_that_is_not_read_costs_the_connection(self, storage: Storage) -> None:
        async with served(always(answer(bytes(1 << 20)))) as server:
            async with storage.get(server.url) as body:
                await body.receive()
            await server.until_idle()

    @pytest.mark.parametrize(
        "phase", ["connect", "head", "half a head", "body", "chunk", "error body", "tls"]
    )
    async def test_cancelled_in_each_phase(
        self,
        storage: Storage,
        phase: str,
        certificate: tuple[ssl.SSLContext, ssl.SSLContext],
    ) -> None:
        sent = {
            "half a head": b"HTTP/1.1 200 OK\r\nCont",
            "body": answer(b"abc", length=10),
            "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "error body": answer(b"abc", 403, length=10),
        }.get(phase, b"")

        async def handler(peer: Peer) -> None:
            await peer.stream.receive_some()
            await peer.send(sent)
            await silent(peer)

        before = open_files()

        async with served(handler) as server:
            url = server.url.replace("http:", "https:") if phase == "tls" else server.url
            with trio.move_on_after(0 if phase == "connect" else 0.05) as scope:
                await fetched(storage, url)
            assert scope.cancelled_caught
            await server.until_idle()

        assert open_files() == before


class TestTls:
    async def test_a_trusted_host(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        certificate: tuple[ssl.SSLContext, ssl.SSLContext],
    ) -> None:
        theirs, ours = certificate
        large = os.urandom(1 << 20)

        async with (
            served(always(answer(large)), theirs) as server,
            Storage(clock=clock, request_stats=request_stats, ssl_context=ours) as storage,
        ):
            assert await fetched(storage, server.url) == large
            assert await fetched(storage, server.url) == large
            assert server.connections == 1

    async def test_a_cut_body_without_length(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        certificate: tuple[ssl.SSLContext, ssl.SSLContext],
    ) -> None:
        theirs, ours = certificate
        storage = Storage(clock=clock, request_stats=request_stats, ssl_context=ours)
        async with served(once(b"HTTP/1.0 200 OK\r\n\r\nabc"), theirs) as server:
            with pytest.raises(ServerFault):
                await fetched(storage, server.url)

    async def test_an_unknown_certificate(
        self, storage: Storage, certificate: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        async with served(always(answer(DATA)), certificate[0]) as server:
            with pytest.raises(ServerUnreachable, match="certificate"):
                await fetched(storage, server.url)
            assert server.requests == []
            await server.until_idle()

    async def test_a_host_without_tls(self, storage: Storage) -> None:
        async def handler(peer: Peer) -> None:
            await peer.stream.receive_some()
            await peer.send(answer(DATA, 400))

        async with served(handler) as server:
            with pytest.raises(ServerUnreachable):
                await fetched(storage, server.url.replace("http:", "https:"))


def tunnel(port: int, status: int = 200) -> Handler:
    """A proxy that leads every CONNECT to `port` on loopback."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 %d X\r\n\r\n" % status)
        if status != 200:
            return
        target = await trio.open_tcp_stream("127.0.0.1", port)

        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            async for data in source:
                await sink.send_all(data)
            nursery.cancel_scope.cancel()

        async with target, trio.open_nursery() as nursery:
            nursery.start_soon(pump, peer.stream, target)
            nursery.start_soon(pump, target, peer.stream)

    return handler


class TestProxies:
    async def test_connect_for_https(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        certificate: tuple[ssl.SSLContext, ssl.SSLContext],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        theirs, ours = certificate
        async with (
            served(always(answer(DATA)), theirs) as server,
            served(tunnel(server.port)) as proxy,
        ):
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
            async with Storage(
                clock=clock, request_stats=request_stats, ssl_context=ours
            ) as storage:
                assert await fetched(storage, "https://storage.example/x?y") == DATA
                assert await fetched(storage, "https://storage.example/x?y") == DATA

        assert len(proxy.requests) == 1
        assert proxy.requests[0].startswith(
            b"CONNECT storage.example:443 HTTP/1.1\r\nHost: storage.example:443"
        )
        assert b"Basic " + base64.b64encode(b"me:p@ss") in proxy.requests[0]
        assert len(server.requests) == 2
        assert b"Proxy" not in server.requests[0]

    @pytest.mark.parametrize("status", [403, 407, 502])
    async def test_a_proxy_that_refuses(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
    ) -> None:
        async with served(tunnel(0, status)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            storage = Storage(clock=clock, request_stats=request_stats)
            with pytest.raises(ServerUnreachable, match=f"HTTP {status}"):
                await fetched(storage, "https://storage.example/x")
            await proxy.until_idle()

    async def test_absolute_form_for_http(
        self, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with served(always(answer(DATA))) as proxy:
            monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
            async with Storage(
                clock=clock, request_stats=request_stats, allow_plain_http=True
            ) as storage:
                assert await fetched(storage, "http://storage.example/x?y") == DATA

        assert proxy.requests[0].startswith(
            b"GET http://storage.example/x?y HTTP/1.1\r\nHost: storage.example\r\n"
        )

    @pytest.mark.parametrize("no_proxy", ["storage.example", "*", ".example"])
    async def test_no_proxy(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
        no_proxy: str,
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        storage = Storage(clock=clock, request_stats=request_stats)
        with pytest.raises(ServerUnreachable) as caught:
            await fetched(storage, "https://storage.example/x")

        assert "proxy" not in str(caught.value)

    async def test_this_machine_is_asked_directly(
        self, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        async with (
            served(always(answer(DATA))) as server,
            Storage(clock=clock, request_stats=request_stats) as storage,
        ):
            assert await fetched(storage, server.url) == DATA

    async def test_socks_is_refused(
        self, clock: FakeClock, request_stats: RequestStats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
        with pytest.raises(Invalid, match="socks5"):
            await fetched(
                Storage(clock=clock, request_stats=request_stats), "https://storage.example/x"
            )

    @pytest.mark.parametrize("proxy", ["http://[::1", "http://h:bad", "http://"])
    async def test_a_proxy_that_is_no_url(
        self,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
        proxy: str,
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(Invalid):
            await fetched(
                Storage(clock=clock, request_stats=request_stats), "https://storage.example/x"
            )


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
