from __future__ import annotations

import io
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from standin import Fault, Match, StandIn
from standin.faults import Close


def truth(standin: StandIn, image_id: str) -> bytes:
    image = standin.organization.images[image_id]
    return image.body().read(0, image.size)


@pytest.fixture
def one(signed: dict[str, str]) -> tuple[str, str]:
    return next(iter(signed.items()))


def test_urls_look_like_googles(one: tuple[str, str], standin: StandIn) -> None:
    url = one[1]
    assert 350 < len(url) < 500
    assert url.startswith(f"{standin.storage_url}/")
    for field in ("Algorithm=GOOG4-RSA-SHA256", "Expires=900", "SignedHeaders=host"):
        assert f"X-Goog-{field}" in url
    assert re.search(r"X-Goog-Date=\d{8}T\d{6}Z", url)


def test_whole_object(standin: StandIn, storage: httpx.Client, one: tuple[str, str]) -> None:
    answer = storage.get(one[1])
    image = standin.organization.images[one[0]]

    assert answer.content == truth(standin, one[0])
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-goog-hash"] == image.crc32c().decode()
    assert answer.headers["etag"] == image.body().etag()
    assert answer.headers["x-goog-generation"]

    head = storage.head(one[1])

    assert head.content == b""
    assert {**head.headers, "date": ""} == {**answer.headers, "date": ""}


@pytest.mark.parametrize(
    ("asked", "cut"),
    [
        ("0-0", (0, 1)),
        ("100-199", (100, 200)),
        ("19990-", (19_990, 20_000)),
        ("-7", (19_993, 20_000)),
        ("5-99999", (5, 20_000)),
    ],
)
def test_ranges(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str], asked: str, cut: tuple[int, int]
) -> None:
    start, stop = cut
    answer = storage.get(one[1], headers={"Range": f"bytes={asked}"})
    assert answer.status_code == 206
    assert answer.content == truth(standin, one[0])[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/20000"
    assert standin.log.requests("storage")[-1].range == f"bytes={asked}"


def test_ranges_that_cannot_be(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    refused = storage.get(one[1], headers={"Range": "bytes=20000-"})
    assert (refused.status_code, refused.headers["content-range"]) == (416, "bytes */20000")
    for ignored in ("bytes=9-5", "bytes=-", "items=0-5", "bytes=0-1,5-6"):
        assert storage.get(one[1], headers={"Range": ignored}).status_code == 200
    standin.switches.storage_range = False
    assert storage.get(one[1], headers={"Range": "bytes=0-5"}).status_code == 200


def test_if_range(storage: httpx.Client, one: tuple[str, str]) -> None:
    tag = storage.head(one[1]).headers["etag"]
    for known, status in ((tag, 206), ('"other"', 200)):
        answer = storage.get(one[1], headers={"Range": "bytes=0-5", "If-Range": known})
        assert answer.status_code == status


def test_large_objects_are_streamed(
    standin: StandIn, api: httpx.Client, storage: httpx.Client
) -> None:
    organization = standin.organization
    image = organization.add_image(organization["small"], "large.jpg", size=30_000_000)
    url = api.get("/datasets/small/download?limit=1").json()["data"]["items"][0]["image_url"]
    crc = size = 0

    with storage.stream("GET", url) as answer:
        for chunk in answer.iter_bytes():
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)

    assert (size, crc) == (image.size, zlib.crc32(image.body().read(0, image.size)))

    tail = storage.get(url, headers={"Range": "bytes=29999990-"})

    assert tail.content == image.body().read(29_999_990, 30_000_000)


@pytest.mark.parametrize("header", ["X-API-Key", "x-api-KEY", "Authorization"])
def test_a_credential_is_refused_and_recorded(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str], header: str
) -> None:
    assert storage.get(one[1], headers={header: "secret"}).status_code == 400
    assert len(standin.log.key_leaks) == 1


def test_signatures(standin: StandIn, storage: httpx.Client, signed: dict[str, str]) -> None:
    (first, url), (second, _) = list(signed.items())[:2]
    for wrong in (
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace(first, second),
        url.split("?")[0],
    ):
        answer = storage.get(wrong)
        assert answer.status_code == 403
        assert "<Code>SignatureDoesNotMatch</Code>" in answer.text

    longer = url.replace("Expires=900", "Expires=9000")

    assert storage.get(longer).status_code == 403
    assert storage.put(url, content=b"x").status_code == 403


def test_expiry_follows_the_clock(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    standin.clock.advance(890)
    assert storage.get(one[1]).status_code == 200
    standin.clock.advance(20)
    expired = storage.get(one[1])
    assert (expired.status_code, "<Code>ExpiredToken</Code>" in expired.text) == (403, True)
    standin.switches.expired_status = 400
    assert storage.get(one[1]).status_code == 400


def test_a_deleted_image_is_gone(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    standin.organization.archive_image(standin.organization.images[one[0]])
    assert storage.get(one[1]).status_code == 200
    standin.organization.remove_image(standin.organization.images[one[0]])
    assert storage.get(one[1]).status_code == 404


def test_hash_headers_by_switch(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    standin.switches.md5_header = True
    assert [each[:4] for each in storage.get(one[1]).headers.get_list("x-goog-hash")] == [
        "crc3",
        "md5=",
    ]
    standin.switches.hash_header = False
    assert "x-goog-hash" not in storage.get(one[1]).headers


def test_upload_type_must_be_the_declared_one(api: httpx.Client, storage: httpx.Client) -> None:
    body = {
        "dataset": "small",
        "filename": "n.png",
        "directory_path": "/",
        "content_type": "image/png",
    }
    url = api.post("/images/upload-url", json=body).json()["data"]["upload_url"]

    assert storage.put(url, content=b"x", headers={"Content-Type": "image/jpeg"}).status_code == 403
    assert storage.get(url).status_code == 403
    assert storage.put(
        url, content=io.BytesIO(b"x" * 100_000).read(), headers={"Content-Type": "image/png"}
    )

    row = {key: body[key] for key in ("dataset", "filename", "content_type")} | {
        "file_size": 100_000
    }
    made = api.post("/images/register", json=row)

    assert (made.status_code, made.json()["data"]["file_size"]) == (201, 100_000)


def test_registration_without_an_upload_is_refused(api: httpx.Client) -> None:
    row = {"dataset": "small", "filename": "n.png", "content_type": "image/png", "file_size": 1}
    assert api.post("/images/register", json=row).status_code == 400


def test_many_at_once(standin: StandIn, storage: httpx.Client, signed: dict[str, str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = dict(
            zip(
                signed, pool.map(lambda url: storage.get(url).content, signed.values()), strict=True
            )
        )
    assert all(body == truth(standin, image_id) for image_id, body in bodies.items())
    assert standin.log.count(host="storage", status=200) == 12


def test_a_stream_nobody_reads_is_given_up(
    standin: StandIn, api: httpx.Client, storage: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty gigabytes that a client leaves after the first bytes must not keep the host busy."""
    organization = standin.organization
    standin.switches.hash_header = False
    organization.add_image(organization["small"], "large.jpg", size=20 * 2**30)
    url = api.get("/datasets/small/download?limit=1").json()["data"]["items"][0]["image_url"]
    with storage.stream("GET", url) as answer:
        assert next(answer.iter_raw())
    with httpx.Client(timeout=1) as another:
        assert another.head(url).status_code == 200

    assert {each.name for each in caplog.records} <= {"httpx", "httpcore"}


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_answers_without_a_length(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str], framing: str
) -> None:
    standin.switches.storage_framing = framing
    for asked, status in ((None, 200), ("bytes=100-199", 206)):
        answer = storage.get(one[1], headers={"range": asked} if asked else {})
        assert answer.status_code == status
        assert "content-length" not in answer.headers
        assert ("transfer-encoding" in answer.headers) == (framing == "chunked")
        assert answer.content == truth(standin, one[0])[slice(100, 200) if asked else slice(None)]


def test_a_cut_behind_which_no_chunk_ends_is_seen_and_one_at_the_end_of_the_connection_is_not(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    standin.faults.add(Fault(Match("storage"), Close(after=5000)))
    standin.switches.storage_framing = "chunked"
    with pytest.raises(httpx.RemoteProtocolError):
        storage.get(one[1])
    standin.switches.storage_framing = "close"
    assert storage.get(one[1]).content == truth(standin, one[0])[:5000]


def test_what_tells_a_version(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    standin.switches.storage_validators = frozenset()
    assert not {"etag", "last-modified", "x-goog-generation"} & set(storage.get(one[1]).headers)
    standin.switches.storage_validators = frozenset({"weak-etag"})
    assert storage.get(one[1]).headers["etag"].startswith('W/"')


def test_content_that_is_replaced_has_another_version(
    standin: StandIn, storage: httpx.Client, one: tuple[str, str]
) -> None:
    before = storage.get(one[1])
    standin.clock.advance(5)
    standin.organization.replace_content(standin.organization.images[one[0]], "another")
    after = storage.get(one[1])
    assert after.content == truth(standin, one[0]) != before.content
    for name in ("etag", "last-modified", "x-goog-generation", "x-goog-hash"):
        assert after.headers[name] != before.headers[name]
