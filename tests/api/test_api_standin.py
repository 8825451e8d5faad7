"""Every method of `Api`, and `Storage`, against the stand-in, side by side with the vendor's
client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pictograph
import pytest
from api_server import read_all

from pictofs.api.address import Locality
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.clock import SystemClock
from pictofs.errors import AlreadyExists, Forbidden, Invalid, NoSuchEntry, Unauthorized, UrlExpired
from pictofs.model.records import Page
from standin import Spec, StandIn


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    with StandIn(Spec.uniform(2, 12, 5000, directories=3)) as running:
        yield running
        assert not running.log.key_leaks
        assert not [each for each in running.log.requests() if 300 <= each.status < 400]


def connected(standin: StandIn, secret: str) -> Api:
    return Api(
        standin.api_url,
        ApiKey(secret),
        clock=SystemClock(),
        request_stats=RequestStats(),
        max_retries=0,
    )


@pytest.fixture
async def api(standin: StandIn) -> AsyncIterator[Api]:
    async with connected(standin, standin.keys["admin"]) as api:
        yield api


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    request_stats = RequestStats()
    request_stats.api_locality = Locality.LOOPBACK
    async with Storage(clock=SystemClock(), request_stats=request_stats) as storage:
        yield storage


async def test_listings_agree(api: Api, standin: StandIn) -> None:
    page = await api.datasets()
    assert (page.received, page.total, page.has_more) == (2, 2, False)

    dataset = page.rows[0]

    assert await api.dataset(dataset.id) == await api.dataset(dataset.name)

    answer = await api.dataset_images_answer(dataset.id, limit=8)
    embedded, first = await api.dataset_images(dataset.id, answer)
    answer = await api.dataset_images_answer(dataset.id, offset=8, limit=8)
    _, second = await api.dataset_images(dataset.id, answer)

    assert embedded.id == dataset.id
    assert (first.received, second.received, first.total) == (8, 4, 12)

    listed = await api.images(dataset.id)

    assert isinstance(listed, Page)

    by_id = {image.id: image for image in listed.rows}

    assert by_id == {image.id: image for image in first.rows + second.rows}

    one = first.rows[0]

    assert await api.image(one.id) == one
    assert (one.dataset_id, one.size > 0, one.created_ns > 0) == (dataset.id, True, True)
    assert (
        await api.images(dataset.name, directory=one.directory, filename=one.filename)
    ).rows == [one]

    mine = (await api.images(dataset.id, status=one.status, include_archived=True)).rows

    assert one in mine
    assert {image.status for image in mine} == {one.status}

    tree = await api.directory_tree(dataset.id)

    assert {directory.path for directory in tree} >= {image.directory for image in listed.rows} - {
        "/"
    }
    assert sum(directory.image_count for directory in tree) <= 12


async def test_bytes_and_annotations_are_the_sdks(
    api: Api, storage: Storage, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    dataset = (await api.datasets()).rows[0]

    with pictograph.Client(
        standin.keys["admin"], base_url=standin.api_url, max_retries=0
    ) as client:
        report = client.datasets.download(dataset.name, tmp_path, mode="full")

    assert report.success

    names = {image.id: image for image in (await api.images(dataset.id)).rows}
    items = await api.download_items(dataset.id)

    assert {item.image_id for item in items} == set(names)

    now = SystemClock().wall()

    for item in items:
        assert now + 800 < item.expires_at < now + 900

        name = names[item.image_id].filename
        expected = (tmp_path / name).read_bytes()

        async with storage.get(item.url) as body:
            assert (body.length, body.crc32c is None) == (len(expected), False)
            etag = body.etag
            assert await read_all(body) == expected

        async with storage.get(item.url, start=10, end=20, if_range=etag) as body:
            assert body.ranged
            assert await read_all(body) == expected[10:20]

        async with api.image_stream(item.image_id) as body:
            assert await read_all(body) == expected

        assert await api.annotation_file(item.image_id) == (tmp_path / f"{name}.json").read_bytes()

    status = names[items[0].image_id].status
    some = await api.download_items(dataset.id, status=status, limit=2)

    assert {names[item.image_id].status for item in some} == {status}


async def test_an_expired_url(api: Api, storage: Storage, standin: StandIn) -> None:
    dataset = (await api.datasets()).rows[0]
    item = (await api.download_items(dataset.id, limit=1))[0]
    with pytest.raises(UrlExpired):
        async with storage.get(item.url[:-4] + "0000"):
            pass


async def test_changes(api: Api) -> None:
    made = await api.create_dataset("made here", "words")
    with pytest.raises(AlreadyExists):
        await api.create_dataset("made here")
    assert (await api.update_dataset(made.id, new_name="renamed é")).id == made.id
    assert (await api.dataset("renamed é")).description == "words"
    await api.delete_dataset(made.id)
    with pytest.raises(NoSuchEntry):
        await api.dataset(made.id)


async def test_exports(api: Api, storage: Storage) -> None:
    name = (await api.datasets()).rows[0].name
    assert (await api.create_export(name, "all of it")).name == "all of it"
    while (await api.export(name, "all of it")).status != "completed":
        pass
    async with storage.get(await api.export_download_url(name, "all of it")) as body:
        assert (await read_all(body)).startswith(b"PK")
    await api.delete_export(name, "all of it")
    with pytest.raises(NoSuchEntry):
        await api.export(name, "all of it")


async def test_refusals(api: Api, standin: StandIn) -> None:
    with pytest.raises(Invalid):
        await api.datasets(limit=5000)
    with pytest.raises(NoSuchEntry):
        await api.dataset("no such")
    async with connected(standin, "pk_live_wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.datasets()
    async with connected(standin, standin.keys["viewer"]) as viewer:
        with pytest.raises(Forbidden):
            await viewer.create_dataset("x")


async def test_the_rate_limit_is_seen(standin: StandIn) -> None:
    request_stats = RequestStats()
    key = ApiKey(standin.keys["admin"])
    async with Api(standin.api_url, key, clock=SystemClock(), request_stats=request_stats) as api:
        await api.datasets()
    assert request_stats.requests == {("api", "GET /datasets/", "foreground"): 1}
    assert request_stats.bytes_in["api"] > 0
