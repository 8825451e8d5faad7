"""`Api`: what is sent where, what is tried again, and what every answer turns into."""

from __future__ import annotations

import gzip
import json
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import trio
from api_server import (
    SECRET,
    FakeClock,
    Peer,
    always,
    answer,
    enveloped,
    once,
    read_all,
    served,
    silent,
)

from pictofs.api.client import Api
from pictofs.api.connection import ConnectionGone
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats, background
from pictofs.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    NotSupported,
    PictofsError,
    QuotaExceeded,
    ServerFault,
    ServerUnreachable,
    Throttled,
    TimedOut,
    Unauthorized,
)

ID = "6f1c0000-0000-4000-8000-000000000001"
IMAGE = {
    "id": "9a0e",
    "filename": "a.jpg",
    "created_at": "2026-03-01T09:00:00+00:00",
    "file_size": 7,
}
DATASET = {"id": ID, "name": "d", "created_at": "2026-03-01T09:00:00+00:00", "image_count": 1}


class Script:
    """Answers in turn, the last one again and again, and what was asked."""

    def __init__(self) -> None:
        self.answers: list[httpx.Response | Exception] = []
        self.requests: list[httpx.Request] = []

    def say(self, status: int = 200, body: Any = None, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(httpx.Response(status, content=content, headers=fields))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        turn = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(turn, Exception):
            raise turn
        return httpx.Response(turn.status_code, content=turn.content, headers=turn.headers)

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def api(
    script: Script, key: ApiKey, clock: FakeClock, request_stats: RequestStats
) -> AsyncIterator[Api]:
    transport = httpx.MockTransport(script)
    async with Api(
        "https://h.example/pre/", key, clock=clock, request_stats=request_stats, transport=transport
    ) as api:
        yield api


def connected(
    url: str, key: ApiKey, clock: FakeClock, request_stats: RequestStats, **options: Any
) -> Api:
    return Api(url, key, clock=clock, request_stats=request_stats, **options)


class TestRequests:
    async def test_headers_and_prefix(self, api: Api, script: Script) -> None:
        script.say(body={"data": [DATASET]})
        page = await api.datasets()

        assert [row.name for row in page.rows] == ["d"]

        sent = script.last

        assert (
            str(sent.url) == "https://h.example/pre/api/v1/developer/datasets/?limit=1000&offset=0"
        )
        assert sent.headers["x-api-key"] == SECRET
        assert sent.headers["user-agent"].startswith("pictofs/")
        assert sent.headers["accept"] == "application/json"
        assert "authorization" not in sent.headers
        assert "idempotency-key" not in sent.headers

    async def test_each_read(self, api: Api, script: Script) -> None:
        async def path(call: Awaitable[Any], body: Any) -> str:
            script.answers.clear()
            script.say(body=body)
            await call
            return script.last.url.raw_path.decode().removeprefix("/pre/api/v1/developer")

        page = {"data": []}

        assert (
            await path(api.datasets(5, 6, archived=True), page)
            == "/datasets/?limit=6&offset=5&archived=true"
        )
        assert await path(api.dataset("a d/".rstrip("/")), {"data": DATASET}) == "/datasets/a%20d"
        assert (
            await path(api.dataset_images_answer(ID, 3), {"data": {**DATASET, "images": []}})
            == f"/datasets/{ID}?include_images=true&images_limit=10000&images_offset=3"
        )
        assert await path(api.images("d"), page) == "/images/?dataset=d&limit=1000&offset=0"

        asked = await path(
            api.images(
                "d",
                directory="/a b",
                filename="c&d",
                status="new",
                offset=1,
                limit=2,
                include_archived=True,
            ),
            page,
        )

        assert unquote(asked.replace("+", " ")) == (
            "/images/?dataset=d&directory_path=/a b&filename=c&d&status=new"
            "&limit=2&offset=1&include_archived=true"
        )
        assert await path(api.image("i"), {"data": IMAGE}) == "/images/i/metadata"
        assert await path(api.directory_tree("d"), []) == "/directories/d/tree"
        assert (
            await path(api.download_items("d", status="new"), {"data": {"items": []}})
            == "/datasets/d/download?mode=images_only&limit=10000&status_filter=new"
        )
        assert await path(api.annotation_file("i"), {}) == "/annotations/i/file"

        row = {"data": {"name": "e", "status": "pending", "download_url": "https://s/x"}}

        assert (
            await path(api.export("d d", "e/f".replace("/", "-")), row)
            == "/exports/e-f?dataset=d+d"
        )
        assert await path(api.export_download_url("d", "e"), row) == "/exports/e/download?dataset=d"
        assert await path(api.delete_export("d", "e"), row) == "/exports/e?dataset=d"
        assert script.last.method == "DELETE"
        assert await path(api.delete_dataset(ID), row) == f"/datasets/{ID}"
        assert script.last.method == "DELETE"

    async def test_each_change(self, api: Api, script: Script) -> None:
        script.say(201, {"data": DATASET})
        await api.create_dataset("n", "words")

        assert script.last.method == "POST"
        assert json.loads(script.last.content) == {
            "name": "n",
            "readme": "words",
            "description": "words",
        }

        first = script.last.headers["idempotency-key"]

        assert len(first) == 32

        await api.update_dataset(ID, new_name="m")

        assert script.last.method == "PATCH"
        assert json.loads(script.last.content) == {"new_name": "m"}
        assert script.last.headers["idempotency-key"] != first

        script.answers.clear()
        script.say(201, {"data": {"name": "e", "status": "pending"}})

        assert (await api.create_export("d", "e", status="new")).status == "pending"
        assert json.loads(script.last.content) == {
            "dataset_name": "d",
            "name": "e",
            "format": "pictograph",
            "include_images": False,
            "status_filter": "new",
        }

    @pytest.mark.parametrize(
        "name", ["100%", "a?b", "a#b", "a+b", "a:b", "日本", "a b", "é\x00", "...", " x "]
    )
    async def test_names_are_encoded_as_the_sdk_does(
        self, api: Api, script: Script, name: str
    ) -> None:
        script.say(body={"data": DATASET})
        await api.dataset(name)
        last = script.last.url.raw_path.decode().rpartition("/")[2]
        assert unquote(last) == name
        assert not set(last) & set("?#+: /")

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "/", "../x", f" {ID}", f"{ID}\n", "\ud800"]
    )
    async def test_names_that_no_path_carries(self, api: Api, script: Script, name: str) -> None:
        for call in (
            api.dataset,
            api.image,
            api.annotation_file,
            api.delete_dataset,
            api.directory_tree,
        ):
            with pytest.raises(Invalid, match="use its id"):
                await call(name)
        assert script.requests == []

    async def test_what_no_request_can_say(self, api: Api) -> None:
        for call in (
            api.images("d", filename="\ud800"),
            api.create_dataset("\ud800"),
            api.dataset("x" * 70_000),
        ):
            with pytest.raises(Invalid):
                await call

    async def test_an_id_that_the_server_takes_for_a_name(self, api: Api, script: Script) -> None:
        script.say(body={"data": {**DATASET, "id": ID[:-1] + "2", "name": ID}})
        with pytest.raises(InvalidResponse, match="another dataset"):
            await api.dataset(ID)


class TestBaseUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "nonsense",
            "ftp://h",
            "https://",
            "https://u:p@h",
            "https://h?x",
            "https://h#f",
            "http://h",
            "https://[::1",
        ],
    )
    def test_refused(
        self, url: str, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        with pytest.raises(Invalid):
            connected(url, key, clock, request_stats)

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:1", "http://localhost/x/", "http://[::1]:8", "http://127.9.9.9"]
    )
    def test_this_machine_may_speak_plainly(
        self, url: str, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        connected(url, key, clock, request_stats)

    def test_another_only_on_request(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        connected("http://h", key, clock, request_stats, allow_plain_http=True)


class TestEnvironment:
    @pytest.mark.parametrize("proxy", ["socks5://h:1", "http://h:bad", "gopher://h"])
    def test_a_proxy_that_can_not_be(
        self,
        proxy: str,
        key: ApiKey,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(Invalid, match="_PROXY"):
            connected("https://h.example", key, clock, request_stats)

    async def test_without_ssl_cert_file_the_usual_authorities_are_read(
        self,
        key: ApiKey,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        async with (
            served(always(answer(b'{"data": []}'))) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            assert (await api.datasets()).rows == []


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (301, InvalidResponse),
            (307, InvalidResponse),
            (400, Invalid),
            (401, Unauthorized),
            (402, QuotaExceeded),
            (403, Forbidden),
            (404, NoSuchEntry),
            (405, NotSupported),
            (408, TimedOut),
            (409, Conflict),
            (410, NoSuchEntry),
            (413, Invalid),
            (418, InvalidResponse),
            (422, Invalid),
            (423, Conflict),
            (429, Throttled),
            (500, ServerFault),
            (502, ServerFault),
            (599, ServerFault),
        ],
    )
    async def test_each_status(
        self,
        api: Api,
        script: Script,
        request_stats: RequestStats,
        status: int,
        kind: type[PictofsError],
    ) -> None:
        script.say(status, {"error": {"code": "x", "message": "the words"}}, X_Request_Id="req-1")
        with pytest.raises(PictofsError) as caught:
            await api.image("i")

        assert type(caught.value) is kind

        text = str(caught.value)

        assert "{image}" not in text
        assert f"HTTP {status}" in text
        assert "the words" in text
        assert "req-1" in text
        assert "\n" not in text
        assert request_stats.errors == {kind.__name__: 1}

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"error": {"code": "c", "message": "m1"}, "detail": "m2"}, "m1"),
            ({"detail": "m2"}, "m2"),
            ({"error": "code", "message": "m3"}, "m3"),
            ({"error": "only"}, "only"),
            ({"detail": {"code": "c", "message": "m4"}}, "m4"),
            ({"detail": [{"loc": ["query", "limit"], "msg": "too big"}]}, "(limit: too big)"),
            (
                {
                    "error": {
                        "message": "no",
                        "details": {"errors": [{"loc": ["a"], "msg": "b"}, 7]},
                    }
                },
                "no (a: b)",
            ),
        ],
    )
    async def test_the_servers_words(self, api: Api, script: Script, body: Any, words: str) -> None:
        script.say(422, body)
        with pytest.raises(Invalid) as caught:
            await api.datasets()
        assert f'"{words}"' in str(caught.value)

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b"7", b'{"error": [1]}', b"\xff", b"[" * 9999]
    )
    async def test_no_words(self, api: Api, script: Script, body: bytes) -> None:
        script.say(404, body)
        with pytest.raises(NoSuchEntry) as caught:
            await api.datasets()
        assert "says" not in str(caught.value)

    async def test_words_are_cleaned_and_cut(self, api: Api, script: Script) -> None:
        script.say(403, {"detail": "a\r\n\x1b[31mb\u2028c" + "x" * 5000}, X_Request_Id="r" * 500)
        with pytest.raises(Forbidden) as caught:
            await api.datasets()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600

    async def test_kinds_of_conflict(self, api: Api, script: Script) -> None:
        for status, detail, kind in [
            (409, {"error": {"code": "dataset_cold", "message": "cold"}}, Conflict),
            (409, {"error": {"code": "conflict", "message": "name"}}, AlreadyExists),
            (400, {"detail": "A dataset of that name already exists"}, AlreadyExists),
        ]:
            script.answers.clear()
            script.say(status, detail)
            with pytest.raises(kind):
                await api.create_dataset("n")

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[", b"null", b"7", b'{"data": 7}', b'{"data": {"id": 1}}']
    )
    async def test_answers_of_no_sense(
        self, api: Api, script: Script, request_stats: RequestStats, body: bytes
    ) -> None:
        script.say(200, body)

        async def dataset_images() -> None:
            await api.dataset_images("d", await api.dataset_images_answer("d"))

        calls: list[Callable[[], Awaitable[Any]]] = [
            api.datasets,
            lambda: api.image("i"),
            lambda: api.dataset("d"),
            dataset_images,
            lambda: api.images("d"),
            lambda: api.download_items("d"),
            lambda: api.export("d", "e"),
            lambda: api.export_download_url("d", "e"),
        ]

        for call in calls:
            with pytest.raises(InvalidResponse):
                await call()

        assert request_stats.errors["InvalidResponse"] == len(calls)


class TestRetries:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_until_it_works(
        self, api: Api, script: Script, clock: FakeClock, request_stats: RequestStats, status: int
    ) -> None:
        script.say(status)
        script.say(status)
        script.say(200, {"data": IMAGE})
        assert (await api.image("i")).size == 7
        assert clock.sleeps == [1.0, 2.0]
        assert (request_stats.retries, request_stats.errors) == (2, {})
        assert request_stats.requests["api", "GET /images/{image}/metadata", "foreground"] == 3

    async def test_and_no_longer(self, api: Api, script: Script, clock: FakeClock) -> None:
        script.say(500)
        with pytest.raises(ServerFault):
            await api.image("i")
        assert clock.sleeps == [1.0, 2.0, 4.0]

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (ServerUnreachable("refused"), ServerUnreachable),
            (ServerFault("cut"), ServerFault),
            (TimedOut("slow"), TimedOut),
            (ConnectionGone("reset"), ServerFault),
            (httpx.DecodingError("no gzip"), InvalidResponse),
        ],
    )
    async def test_transport_failures(
        self, api: Api, script: Script, clock: FakeClock, fault: Exception, kind: type[PictofsError]
    ) -> None:
        script.answers = [fault]
        with pytest.raises(kind) as caught:
            await api.image("i")
        assert len(clock.sleeps) == 3
        assert caught.value.__cause__ is fault

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 501])
    async def test_refusals_are_final(
        self, api: Api, script: Script, clock: FakeClock, status: int
    ) -> None:
        script.say(status)
        with pytest.raises(PictofsError):
            await api.image("i")
        assert clock.sleeps == []

    async def test_changes_keep_their_idempotency_key(self, api: Api, script: Script) -> None:
        script.say(503)
        script.say(201, {"data": DATASET})
        await api.create_dataset("n")
        keys = {request.headers["idempotency-key"] for request in script.requests}
        assert (len(script.requests), len(keys)) == (2, 1)

    async def test_deletes_are_repeated_only_where_nothing_was_done(
        self, api: Api, script: Script, clock: FakeClock
    ) -> None:
        script.say(502)
        with pytest.raises(ServerFault):
            await api.delete_dataset(ID)

        assert clock.sleeps == []

        script.answers.clear()
        script.requests.clear()
        script.say(429)
        script.say(204, b"")
        await api.delete_dataset(ID)

        assert len(clock.sleeps) == 1

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("value", ["5", "date"])
    async def test_a_short_retry_after_is_waited(
        self, api: Api, script: Script, clock: FakeClock, status: int, value: str
    ) -> None:
        # 1,700,000,000 is Tue, 14 Nov 2023 22:13:20 GMT
        script.say(
            status, Retry_After="Tue, 14 Nov 2023 22:13:25 GMT" if value == "date" else value
        )
        script.say(200, {"data": IMAGE})
        await api.image("i")
        assert clock.sleeps == [5.0]

    async def test_retry_after_never_shortens_the_backoff(
        self, api: Api, script: Script, clock: FakeClock
    ) -> None:
        script.say(429, Retry_After="0")
        script.say(200, {"data": IMAGE})
        await api.image("i")
        assert clock.sleeps == [1.0]

    @pytest.mark.parametrize("status", [429, 503])
    async def test_a_long_one_surfaces_at_once(
        self, api: Api, script: Script, clock: FakeClock, request_stats: RequestStats, status: int
    ) -> None:
        script.say(status, Retry_After="600")
        with pytest.raises(Throttled) as caught:
            await api.image("i")
        assert caught.value.retry_after == 600
        assert clock.sleeps == []
        assert request_stats.throttles == (status == 429)

    @pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "9" * 30, "Tue, 99 Nov 2023"])
    async def test_a_senseless_one_counts_as_none(
        self, api: Api, script: Script, clock: FakeClock, value: str
    ) -> None:
        script.say(429, Retry_After=value)
        with pytest.raises(Throttled) as caught:
            await api.image("i")
        assert caught.value.retry_after is None
        assert clock.sleeps == [1.0, 2.0, 4.0]

    async def test_the_waits_have_a_sum(self, api: Api, script: Script, clock: FakeClock) -> None:
        script.say(429, Retry_After="9")
        with pytest.raises(Throttled):
            await api.image("i")
        assert clock.sleeps == [9.0, 9.0]

    async def test_no_wait_beyond_the_callers_deadline(
        self, api: Api, script: Script, clock: FakeClock
    ) -> None:
        script.say(429, Retry_After="5")
        with trio.move_on_after(4), pytest.raises(Throttled):
            await api.image("i")
        assert clock.sleeps == []


class TestBackground:
    async def test_it_leaves_the_reserve_alone(
        self, api: Api, script: Script, clock: FakeClock
    ) -> None:
        reset = str(int(clock.now) + 100)
        limits = {"X_RateLimit_Limit": "2000", "X_RateLimit_Reset": reset}
        script.say(200, {"data": IMAGE}, X_RateLimit_Remaining="201", **limits)
        script.say(200, {"data": IMAGE}, X_RateLimit_Remaining="200", **limits)

        with background():
            await api.image("i")
            await api.image("i")
            with pytest.raises(Throttled) as caught:
                await api.image("i")

        assert caught.value.retry_after == 100
        assert len(script.requests) == 2

        await api.image("i")
        clock.now += 101
        with background():
            await api.image("i")

    async def test_it_is_silent_while_the_server_wants_silence(
        self, api: Api, script: Script, clock: FakeClock
    ) -> None:
        script.say(429, Retry_After="60")
        with pytest.raises(Throttled):
            await api.image("i")
        with background(), pytest.raises(Throttled, match="background"):
            await api.image("i")
        assert len(script.requests) == 1


class TestSecrecy:
    async def test_redirects_get_nothing(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async with served(always(answer(b"{}"))) as other:
            handler = always(answer(b"", 307, Location=f"{other.url}/api/v1/developer/datasets/"))
            async with (
                served(handler) as server,
                connected(server.url, key, clock, request_stats) as api,
            ):
                with pytest.raises(
                    InvalidResponse, match=rf"redirects to {other.url}/.*login page"
                ):
                    await api.datasets()
                with pytest.raises(InvalidResponse):
                    async with api.image_stream("i"):
                        pass

            assert other.connections == 0

        assert all(SECRET.encode() in request for request in server.requests)

    async def test_the_key_is_in_no_word(
        self,
        api: Api,
        script: Script,
        clock: FakeClock,
        request_stats: RequestStats,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        echo = {"error": {"code": SECRET, "message": f"key {SECRET} is bad", "details": None}}

        for status in (400, 401, 403, 429, 500, 302):
            script.answers.clear()
            script.say(status, echo, X_Request_Id=SECRET)
            with pytest.raises(PictofsError) as caught:
                await api.image("i")

            assert SECRET not in "".join(traceback.format_exception(caught.value))
            assert "[API key]" in str(caught.value)

            clock.now += 3600  # a refusal is believed for a while (O6)

        script.answers = [ServerFault(f"while sending {SECRET}")]
        with pytest.raises(ServerFault) as caught:
            await api.image("i")

        assert SECRET not in str(caught.value)
        assert SECRET not in caplog.text
        assert SECRET not in repr(vars(api)) + repr(vars(request_stats))

    async def test_nor_in_the_debug_log_of_a_real_exchange(
        self,
        key: ApiKey,
        clock: FakeClock,
        request_stats: RequestStats,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with (
            served(always(answer(enveloped([])))) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            await api.datasets()

        assert SECRET.encode() in server.requests[0]
        assert SECRET not in caplog.text

    async def test_a_proxy_is_not_told_about_this_machine(
        self,
        key: ApiKey,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        async with (
            served(always(answer(enveloped([])))) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            assert (await api.datasets()).rows == []


class TestWire:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"HTTP/1.1 200",
            answer(b'{"data"', length=99),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            b"SSH-2.0\r\n\r\n",
        ],
    )
    async def test_broken_answers_are_asked_again(
        self, raw: bytes, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        turns = [raw, answer(enveloped([DATASET], total=1, has_more=False))]

        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(turns.pop(0))

        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            page = await api.datasets()

        assert (len(page.rows), page.total, page.has_more) == (1, 1, False)
        assert request_stats.retries == 1

    async def test_compressed_and_bounded(
        self,
        key: ApiKey,
        clock: FakeClock,
        request_stats: RequestStats,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("pictofs.api.transport.BODY_MAX_BYTES", 1000)
        small = answer(gzip.compress(enveloped([])), Content_Encoding="gzip")
        bomb = answer(gzip.compress(bytes(1 << 20)), Content_Encoding="gzip")

        async with (
            served(always(small, bomb)) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            assert (await api.datasets()).rows == []
            with pytest.raises(InvalidResponse, match="larger than"):
                await api.datasets()

    async def test_broken_compression(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        raw = answer(b"not gzip", Content_Encoding="gzip")
        async with (
            served(always(raw)) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            with pytest.raises(InvalidResponse):
                await api.datasets()

    async def test_silence(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async with served(silent) as server:
            async with connected(
                server.url, key, clock, request_stats, timeout=0.05, max_retries=1
            ) as api:
                with pytest.raises(TimedOut):
                    await api.datasets()
            assert server.connections == 2
            await server.until_idle()

    async def test_nobody_listens(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async with connected("http://127.0.0.1:1", key, clock, request_stats, max_retries=0) as api:
            with pytest.raises(ServerUnreachable):
                await api.datasets()

    @pytest.mark.parametrize(
        "sent", [b"", b"HTTP/1.1 200 OK\r\n", answer(b"{", length=9), answer(b"{", 500, 9)]
    )
    async def test_cancelled_in_each_phase(
        self, sent: bytes, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(sent)
            await silent(peer)

        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            with trio.move_on_after(0.05) as scope:
                await api.datasets()
            assert scope.cancelled_caught
            await server.until_idle()


class TestImageStream:
    async def test_bytes_and_facts(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        data = bytes(range(256)) * 1000
        async with (
            served(always(answer(data))) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            async with api.image_stream("i") as body:
                assert (body.start, body.length, body.total, body.ranged) == (
                    0,
                    len(data),
                    len(data),
                    False,
                )
                assert await read_all(body) == data

            async with api.image_stream("i", start=5) as body:
                assert not body.ranged

        assert b"accept-encoding: identity" in server.requests[0].lower()
        assert b"range: bytes=5-" in server.requests[1].lower()
        assert SECRET.encode() in server.requests[0]

    async def test_a_part(self, key: ApiKey, clock: FakeClock, request_stats: RequestStats) -> None:
        part = answer(b"56789", 206, Content_Range="bytes 5-9/10")
        async with (
            served(always(part)) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            async with api.image_stream("i", start=5) as body:
                assert (body.start, body.length, body.total, body.ranged) == (5, 5, 10, True)
                assert await read_all(body) == b"56789"

            with pytest.raises(InvalidResponse):
                async with api.image_stream("i", start=6):
                    pass

        assert request_stats.errors == {"InvalidResponse": 1}

    async def test_cut(self, key: ApiKey, clock: FakeClock, request_stats: RequestStats) -> None:
        handler = once(answer(b"abc", length=9))
        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            with pytest.raises(ServerFault):
                async with api.image_stream("i") as body:
                    await read_all(body)
        assert (server.connections, request_stats.errors) == (1, {"ServerFault": 1})

    async def test_opening_is_retried(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        handler = always(answer(b"", 503), answer(b"abc"))
        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
            api.image_stream("i") as body,
        ):
            assert await read_all(body) == b"abc"
        assert clock.sleeps == [1.0]

    async def test_left_half_way(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        handler = always(answer(bytes(1 << 22)))
        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            async with api.image_stream("i") as body:
                assert await body.receive()
            await server.until_idle()

    async def test_cancelled_inside(
        self, key: ApiKey, clock: FakeClock, request_stats: RequestStats
    ) -> None:
        async def handler(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(b"abc", length=9))
            await silent(peer)

        async with (
            served(handler) as server,
            connected(server.url, key, clock, request_stats) as api,
        ):
            with trio.move_on_after(0.05) as scope:
                async with api.image_stream("i") as body:
                    await read_all(body)
            assert scope.cancelled_caught
            await server.until_idle()
