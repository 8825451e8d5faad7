"""Signed URLs that are refused, or at their end too early: one image's trouble costs one
request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rig import HandClock, Mount, Rig, image_bytes

from pictofs.library.content.signed_urls import FetchMode
from standin import Spec, StandIn
from standin.faults import Mutate, error
from standin.records import Image
from standin.spec import DatasetSpec

KEYED, BATCH = "GET /images/{image_id:uuid}", "GET /datasets/{dataset}/download"
IMAGES = 50


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Fifty images of 500 bytes in one directory."""
    with StandIn(Spec((DatasetSpec("small", images=IMAGES, size=500, directories=1),))) as running:
        yield running


def images(rig: Rig) -> list[Image]:
    found = rig.standin.organization["small"].images.values()
    return sorted(found, key=lambda image: image.filename)


async def read(mount: Mount, image: Image) -> None:
    path = f"/datasets/small/images{image.directory_path.rstrip('/')}/{image.filename}"
    assert await mount.read(path) == image_bytes(image)


async def read_all(mount: Mount, rig: Rig, seconds: float = 0.0) -> None:
    """Every image, `seconds` apart."""
    for image in images(rig):
        await read(mount, image)
        mount.clock.advance(seconds)


def resigned(change: Callable[[str], str], which: Callable[[int], bool]) -> Mutate:
    """Change the signed URLs of some items of a batch."""

    def apply(body: Any) -> Any:
        for number, item in enumerate(body["data"]["items"]):
            if which(number):
                item["image_url"] = change(item["image_url"])
        return body

    return Mutate(apply)


def a_day_old(url: str) -> str:
    """The URL as if it had been signed a day ago."""
    moment = re.search(r"X-Goog-Date=(\d{8}T\d{6}Z)", url)
    assert moment is not None
    then = datetime.strptime(moment[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp() - 86_400
    return url.replace(moment[1], f"{datetime.fromtimestamp(then, UTC):%Y%m%dT%H%M%SZ}")


def costs(mount: Mount) -> tuple[int, int, int, int]:
    """Batches, images by the keyed route, by storage, and refusals of storage."""
    log = mount.standin.log
    refused = log.count("storage", status=403)
    return (
        mount.asked.count(BATCH),
        mount.asked.count(KEYED),
        log.count("storage") - refused,
        refused,
    )


async def test_b8_a_url_that_has_expired_when_it_comes_costs_its_image_one_request(
    rig: Rig,
) -> None:
    rig.standin.switches.date_header = True
    rig.fault(resigned(a_day_old, lambda number: number == 30), "api", BATCH[4:])
    async with rig.mount() as mount:
        await read_all(mount, rig)
        assert costs(mount) == (1, 2, IMAGES - 2, 0)


async def test_b8_a_url_that_storage_refuses_costs_its_image_one_request(rig: Rig) -> None:
    rig.fault(error(403), "storage", images(rig)[30].id)
    async with rig.mount() as mount:
        await read_all(mount, rig)
        assert costs(mount) == (1, 2, IMAGES - 2, 1)

        mount.blob_cache.clear()
        mount.forget_log()
        await read_all(mount, rig)

        assert costs(mount) == (0, 1, IMAGES - 1, 0)  # it is not tried again while the batch lives

        mount.clock.advance(1000)
        mount.blob_cache.clear()
        mount.forget_log()
        await read_all(mount, rig)

        assert costs(mount) == (1, 2, IMAGES - 2, 1)


async def test_b8_urls_that_all_have_expired_when_they_come_are_asked_for_once_a_minute(
    rig: Rig,
) -> None:
    rig.standin.switches.date_header = True
    rig.fault(resigned(a_day_old, lambda _: True), "api", BATCH[4:])
    async with rig.mount(ttl=1e6) as mount:
        await read_all(mount, rig, 10.0)
        batches, keyed, *storage = costs(mount)
        assert (keyed, storage) == (IMAGES, [0, 0])
        assert batches <= 1 + IMAGES * 10 / 60


async def test_b8_a_storage_that_refuses_everything_is_left_alone_for_a_minute(rig: Rig) -> None:
    rig.fault(error(403), "storage")
    async with rig.mount(ttl=1e6) as mount:
        await read_all(mount, rig)
        assert costs(mount) == (
            2,
            IMAGES,
            0,
            3 + 1 + 3,
        )  # the third image is tried with its fresh URL, too

        mount.blob_cache.clear()
        mount.forget_log()
        await read_all(mount, rig, 10.0)
        batches, keyed, _, refused = costs(mount)

        assert keyed == IMAGES
        assert batches <= 1 + IMAGES * 10 / 60
        assert refused <= 4 * (batches + 1)


async def test_q4_signatures_that_are_revoked_are_replaced_by_one_batch(rig: Rig) -> None:
    rig.fault(error(403), "storage", times=3)
    async with rig.mount() as mount:
        await read_all(mount, rig)
        assert costs(mount) == (2, 3, IMAGES - 3, 3)


async def test_b8_images_refused_in_threes_do_not_renew_the_batch_each_time(rig: Rig) -> None:
    for number, image in enumerate(images(rig)):
        if number % 5 > 1:
            rig.fault(error(403), "storage", image.id)
    async with rig.mount() as mount:
        await read_all(mount, rig)
        batches, keyed, _, refused = costs(mount)
        assert batches == 2
        assert keyed <= IMAGES
        assert refused == 7


@pytest.mark.parametrize("apart", [0.2, 1.0, 5.0])
async def test_b8_urls_that_live_for_ten_seconds_cost_no_more_than_they_save(
    rig: Rig, apart: float
) -> None:
    rig.standin.switches.url_lifetime = 10
    async with rig.mount(ttl=1e6) as mount:
        await read_all(mount, rig, apart)
        batches, keyed, _, refused = costs(mount)

        assert refused == 0
        assert batches <= 1 + IMAGES / 10 + IMAGES * apart / 60
        assert batches + keyed <= IMAGES + 1

        if apart == 0.2:
            assert (batches, keyed) == (2, 1)  # 10 s at 37 images for each batch


async def test_b8_without_the_server_s_time_urls_that_look_expired_are_tried(rig: Rig) -> None:
    rig.standin.switches.date_header = False
    rig.fault(resigned(a_day_old, lambda _: True), "api", BATCH[4:])
    async with rig.mount(ttl=1e6) as mount:
        await read_all(mount, rig)
        assert costs(mount) == (2, IMAGES, 0, 7)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("skew", [-7200.0, -100.0, 100.0, 7200.0])
async def test_q4_a_clock_that_is_off_costs_nothing(rig: Rig, skew: float, told: bool) -> None:
    rig.standin.switches.date_header = told

    class Off(HandClock):
        def wall(self) -> float:
            return super().wall() + skew

    rig.clock = Off(rig.standin)
    async with rig.mount() as mount:
        await read_all(mount, rig)
        assert costs(mount) == (1, 1, IMAGES - 1, 0)


async def test_b8_what_is_fetched_ahead_does_not_renew_a_batch_for_one_bad_url(rig: Rig) -> None:
    rig.fault(error(403), "storage", images(rig)[30].id)
    async with rig.mount(prefetch="auto") as mount:
        await read_all(mount, rig)
        batches, keyed, _, refused = costs(mount)
        assert (batches, refused) == (1, 1)
        assert keyed <= 3


async def test_b8_a_refusal_that_comes_late_says_nothing_of_the_next_batch(rig: Rig) -> None:
    """Of the images under way when storage refuses a batch, some are refused only later."""
    async with rig.mount() as mount:
        await mount.library.listing.datasets()
        dataset = mount.catalog.dataset_by_entry("small")

        assert dataset is not None

        await mount.library.listing.all_images(dataset.key)
        (*_, folder) = mount.catalog.directory_keys(dataset.key)
        rows = mount.catalog.images_after(folder, 0, 6)
        urls = mount.library.urls
        signed = [await urls.find(dataset, row, FetchMode.STREAM) for row in rows]

        for number, (row, old) in enumerate(zip(rows, signed, strict=True)):
            assert old is not None
            urls.reject(dataset, row, old)
            if number == 2:
                assert await urls.find(dataset, row, FetchMode.STREAM) is not None

        for row in rows:
            assert await urls.find(dataset, row, FetchMode.STREAM) is not None

        assert mount.asked.count(BATCH) == 2
