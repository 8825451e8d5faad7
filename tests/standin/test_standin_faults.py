from __future__ import annotations

import time

import httpx
import pytest

from standin import Fault, Match, StandIn, faults

PAGE = "/images/?dataset=small"


def put(standin: StandIn, do: faults.Action, host: str = "storage", **fields: object) -> Fault:
    return standin.faults.add(Fault(Match(host), do, **fields))  # type: ignore[arg-type]


@pytest.fixture
def url(signed: dict[str, str]) -> str:
    return next(iter(signed.values()))


@pytest.fixture
def right(standin: StandIn, signed: dict[str, str]) -> bytes:
    image = standin.organization.images[next(iter(signed))]
    return image.body().read(0, image.size)


def test_times_and_recovery(standin: StandIn, storage: httpx.Client, url: str) -> None:
    fault = put(standin, faults.error(503), times=2)
    assert [storage.get(url).status_code for _ in range(4)] == [503, 503, 200, 200]
    assert fault.hits == 2
    assert standin.log.count(host="storage", status=503) == 2


def test_probability_is_seeded(standin: StandIn, storage: httpx.Client, url: str) -> None:
    def draw() -> list[int]:
        standin.faults.clear()
        put(standin, faults.error(500), probability=0.5, seed=7)
        return [storage.get(url).status_code for _ in range(20)]

    first = draw()
    assert first == draw()
    assert set(first) == {200, 500}


def test_match_by_route_method_and_pattern(standin: StandIn, api: httpx.Client) -> None:
    standin.faults.add(Fault(Match("api", "GET", "/datasets/{dataset}"), faults.error(500)))
    standin.faults.add(Fault(Match(path=r"image-00000[0-3]\.jpg$"), faults.error(502)))
    assert api.get("/datasets/").status_code == 200
    assert api.get("/datasets/small").status_code == 500
    assert api.get("/images/small/part-000/image-000000.jpg").status_code == 502
    assert api.get("/images/small/part-001/image-000004.jpg").status_code == 200


def test_removing_a_fault(standin: StandIn, storage: httpx.Client, url: str) -> None:
    fault = put(standin, faults.error(500))
    assert storage.get(url).status_code == 500
    standin.faults.remove(fault)
    assert storage.get(url).status_code == 200


def read_into(received: list[bytes], storage: httpx.Client, url: str) -> None:
    with storage.stream("GET", url) as answer:
        received.extend(answer.iter_raw())


@pytest.mark.parametrize("after", [None, 0, 500])
def test_reset(standin: StandIn, storage: httpx.Client, url: str, after: int | None) -> None:
    put(standin, faults.Reset(after), times=1)
    received: list[bytes] = []
    with pytest.raises(httpx.ReadError):
        read_into(received, storage, url)
    assert len(b"".join(received)) == (after or 0)
    assert storage.get(url).status_code == 200


@pytest.mark.parametrize("after", [None, 0, 500])
def test_close(standin: StandIn, storage: httpx.Client, url: str, after: int | None) -> None:
    put(standin, faults.Close(after), times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        storage.get(url)


def test_truncated_and_overlong(
    standin: StandIn, storage: httpx.Client, url: str, right: bytes
) -> None:
    put(standin, faults.Truncate(300), times=1)
    assert storage.get(url).content == right[:300]
    put(standin, faults.Overrun(b"more"), times=1)
    assert storage.get(url).content == right + b"more"
    put(standin, faults.Overrun(b"more", announced=False), times=1)
    assert storage.get(url).content == right


def test_corrupt_keeps_length_and_hash(
    standin: StandIn, storage: httpx.Client, url: str, right: bytes
) -> None:
    good = storage.get(url)
    put(standin, faults.Corrupt(at=1000), times=1)
    bad = storage.get(url)
    assert len(bad.content) == len(right)
    assert [place for place in range(len(right)) if bad.content[place] != right[place]] == [1000]
    assert bad.headers["x-goog-hash"] == good.headers["x-goog-hash"]


def test_drip_and_delay(standin: StandIn, storage: httpx.Client, url: str, right: bytes) -> None:
    put(standin, faults.Drip(200_000), times=1)
    put(standin, faults.Delay(0.05), times=1)
    begun = time.monotonic()
    assert storage.get(url).content == right
    assert time.monotonic() - begun > 0.12


def test_hang_ends_with_the_host(standin: StandIn, storage: httpx.Client, url: str) -> None:
    put(standin, faults.Hang())
    with pytest.raises(httpx.ReadTimeout):
        storage.get(url, timeout=0.05)


def test_redirect_and_html(standin: StandIn, api: httpx.Client) -> None:
    put(standin, faults.redirect("http://elsewhere.invalid/"), "api", times=1)
    assert api.get(PAGE).headers["location"] == "http://elsewhere.invalid/"
    put(standin, faults.html(), "api", times=1)
    assert api.get(PAGE).headers["content-type"] == "text/html"


def test_rows_are_changed(standin: StandIn, api: httpx.Client) -> None:
    rows = api.get(PAGE).json()["data"]
    put(standin, faults.duplicated(2), "api", times=1)

    assert len(api.get(PAGE).json()["data"]) == 13

    put(standin, faults.dropped(0), "api", times=1)

    assert api.get(PAGE).json()["data"] == rows[1:]

    put(standin, faults.without("file_size"), "api", times=1)

    assert all("file_size" not in row for row in api.get(PAGE).json()["data"])

    put(standin, faults.with_fields(status="odd"), "api", times=1)
    embed = api.get("/datasets/small?include_images=true").json()["data"]["images"]

    assert {row["status"] for row in embed} == {"odd"}

    put(standin, faults.Mutate(lambda body: body["data"]), "api", times=1)

    assert isinstance(api.get(PAGE).json(), list)


def test_malformed_json(standin: StandIn, api: httpx.Client) -> None:
    put(standin, faults.MalformedJson(), "api", times=1)
    answer = api.get(PAGE)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()


@pytest.mark.parametrize("value", [None, 1, 3600, "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_throttled(standin: StandIn, api: httpx.Client, value: str | int | None) -> None:
    put(standin, faults.throttled(value), "api", times=1)
    answer = api.get(PAGE)
    assert answer.status_code == 429
    assert answer.headers.get("retry-after") == (None if value is None else str(value))


def test_latency_switch(standin: StandIn, api: httpx.Client) -> None:
    standin.switches.api_latency = 0.05
    begun = time.monotonic()
    api.get("/datasets/")
    assert time.monotonic() - begun > 0.045


def test_silent_connections_stay_silent_and_new_ones_answer(
    standin: StandIn, storage: httpx.Client, url: str, right: bytes
) -> None:
    assert storage.get(url).content == right
    put(standin, faults.Silent())
    with pytest.raises(httpx.ReadTimeout):
        storage.get(url, timeout=0.05)
    assert storage.get(url).content == right


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("to", [None, 7000])
def test_an_answer_without_a_length(
    standin: StandIn, storage: httpx.Client, url: str, right: bytes, chunked: bool, to: int | None
) -> None:
    put(standin, faults.Unsized(chunked, to))
    answer = storage.get(url)
    assert answer.content == right[:to]
    assert "content-length" not in answer.headers
    assert ("transfer-encoding" in answer.headers) == chunked


def test_one_url_of_a_batch_is_expired(
    standin: StandIn, api: httpx.Client, storage: httpx.Client
) -> None:
    put(standin, faults.expired_url(3), "api", times=1)
    urls = [
        item["image_url"] for item in api.get("/datasets/small/download").json()["data"]["items"]
    ]
    statuses = [storage.get(url).status_code for url in urls]
    assert [place for place, status in enumerate(statuses) if status == 403] == [3]
    assert set(statuses) == {200, 403}
