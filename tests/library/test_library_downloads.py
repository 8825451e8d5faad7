"""Bytes are right or there are none: downloads under every fault, and what they cost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import trio
from rig import Mount, Rig, blobs, descriptors, error_of, image_bytes

from pictofs.config import FreeSpace
from pictofs.errors import NoSuchEntry, PictofsError, Throttled
from pictofs.model.inode import Inode
from pictofs.store.blobs.cache import BlobCache
from standin import StandIn
from standin.faults import (
    Close,
    Corrupt,
    Drip,
    Hang,
    Mutate,
    Overrun,
    Reset,
    Truncate,
    error,
    html,
    redirect,
    throttled,
    with_fields,
    without,
)
from standin.records import Image

FIRST, SECOND = (f"/datasets/small/images/part-00{n}/image-00000{n}.jpg" for n in (0, 1))
LYING = [f"/datasets/small/images/part-00{n % 3}/image-00000{n}.jpg" for n in (2, 3)]
KEYED, BATCH = "GET /images/{image_id:uuid}", "GET /datasets/{dataset}/download"

FAULTS = {
    "503": error(503),
    "500": error(500),
    "408": error(408),
    "503-retry-after": error(503, retry_after=2),
    "429-zero": throttled(0),
    "429-short": throttled(5),
    "429-none": throttled(),
    "reset": Reset(),
    "reset-mid": Reset(after=5000),
    "close": Close(),
    "close-mid": Close(after=5000),
    "overrun-hidden": Overrun(announced=False),
    "drip": Drip(400_000),
    "html": html(),
}
"""What another attempt outlives, on either route."""
LIES = {
    "truncated": Truncate(5000),
    "overrun": Overrun(),
    "wrong-bytes": Corrupt(5),
    "redirect": redirect("http://127.0.0.1:9/elsewhere"),
    "expired": error(403),
    "bad-request": error(400),
    "unauthorized": error(401),
}
"""What storage alone can be caught at: it sends checksums."""


def image_at(rig: Rig, path: str) -> Image:
    name = path.rpartition("/")[2]
    return next(
        each for each in rig.standin.organization["small"].images.values() if each.filename == name
    )


def right(rig: Rig, path: str) -> bytes:
    return image_bytes(image_at(rig, path))


# Faults that pass.


@pytest.mark.parametrize("name", FAULTS)
async def test_b3_a_passing_fault_of_the_keyed_route_is_not_seen(rig: Rig, name: str) -> None:
    async with rig.mount() as mount:
        await mount.list("/datasets/small/images/part-000")
        rig.fault(FAULTS[name], "api", KEYED[4:], times=1)
        assert await mount.read(FIRST) == right(rig, FIRST)


@pytest.mark.parametrize("name", [*FAULTS, *LIES])
async def test_b3_a_passing_fault_of_storage_is_not_seen(rig: Rig, name: str) -> None:
    async with rig.mount() as mount:
        await mount.read(FIRST)
        rig.fault((FAULTS | LIES)[name], "storage", times=1)
        assert await mount.read(SECOND) == right(rig, SECOND)


@pytest.mark.parametrize("name", FAULTS)
async def test_b3_a_passing_fault_of_the_batch_is_not_seen(rig: Rig, name: str) -> None:
    async with rig.mount() as mount:
        await mount.read(FIRST)
        rig.fault(FAULTS[name], "api", BATCH[4:], times=1)
        assert await mount.read(SECOND) == right(rig, SECOND)


# Faults that last.


@pytest.mark.parametrize("name", [*FAULTS, *LIES])
async def test_e2_storage_that_fails_for_one_image_fails_it_alone(rig: Rig, name: str) -> None:
    if name == "drip":
        pytest.skip("slow is not broken")
    async with rig.mount(max_retries=1) as mount:
        await mount.read(FIRST)
        bad = image_at(rig, SECOND)
        fault = rig.fault((FAULTS | LIES)[name], "storage", bad.id)
        failed = await error_of(lambda: mount.read(SECOND))
        if failed is None:  # the keyed route had it
            assert await mount.read(SECOND) == right(rig, SECOND)
        for number in range(2, 12):
            path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
            assert await mount.read(path) == right(rig, path)

        rig.standin.faults.remove(fault)

        assert await mount.read(SECOND) == right(rig, SECOND)


async def test_e1_a_long_retry_after_is_passed_on_at_once(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.look(FIRST)
        rig.fault(throttled(900), "api", KEYED[4:])
        before = len(mount.clock.sleeps)
        assert isinstance(await error_of(lambda: mount.read(FIRST)), Throttled)
        assert mount.clock.sleeps[before:] == []


async def test_a_short_retry_after_is_waited_for(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.look(FIRST)
        rig.fault(throttled(7), "api", KEYED[4:], times=1)
        assert await mount.read(FIRST) == right(rig, FIRST)
        assert 7.0 in mount.clock.sleeps


async def test_a_lasting_503_costs_few_requests(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.look(FIRST)
        rig.fault(error(503), "api", KEYED[4:])
        mount.forget_log()
        assert await error_of(lambda: mount.read(FIRST))
        assert mount.asked.count(KEYED) <= 4


async def test_many_readers_of_a_broken_image_share_its_failure(rig: Rig) -> None:
    async with rig.mount(max_retries=0) as mount:
        await mount.read(SECOND)
        await mount.walk(read=False)
        inode = (await mount.look(FIRST)).inode
        rig.fault(error(503), "api", KEYED[4:])
        rig.fault(error(503), "storage")
        mount.forget_log()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(error_of, lambda: mount.tree.open(inode))

        assert rig.standin.log.count() <= 3


async def test_a_batch_that_is_refused_is_not_asked_for_again_and_again(rig: Rig) -> None:
    rig.fault(error(403, "forbidden"), "api", BATCH[4:])
    async with rig.mount() as mount:
        for number in range(12):
            path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
            assert await mount.read(path) == right(rig, path)
        assert mount.asked.count(BATCH) == 1


async def test_an_image_that_is_gone_from_storage_is_still_had_by_its_key(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(FIRST)
        rig.fault(error(404), "storage", image_at(rig, SECOND).id)
        assert isinstance(await error_of(lambda: mount.read(SECOND)), NoSuchEntry | None)


# Hanging.


async def test_t1_a_server_that_never_answers_ends_in_time(
    rig: Rig, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 60
    async with rig.mount(timeout=5, max_retries=1) as mount:
        await mount.read(FIRST)
        await mount.list("/datasets/small/images/part-001")
        rig.fault(Hang())
        with trio.fail_after(120):
            assert await error_of(lambda: mount.read(SECOND))
            assert await mount.read(FIRST) == right(rig, FIRST)


async def test_t2_while_the_server_hangs_what_is_cached_is_shown_soon(
    rig: Rig, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 60
    async with rig.mount(timeout=5, max_retries=3, ttl=50) as mount:
        first = await mount.walk()
        rig.fault(Hang())
        mount.clock.advance(60)
        with trio.fail_after(12):
            assert await mount.walk() == first


async def test_m2_unmounting_does_not_wait_for_a_server_that_hangs(rig: Rig) -> None:
    with trio.fail_after(10):
        async with rig.mount() as mount:
            await mount.read(FIRST)
            await mount.look(SECOND)
            rig.fault(Hang())
            inode = (await mount.look(SECOND)).inode
            mount.nursery.start_soon(mount.tree.open, inode)
            rig.standin.log.clear()
            while not rig.standin.log.count():  # noqa: ASYNC110 - the server is in another thread
                await trio.sleep(0.001)

    assert [path for path in blobs(rig) if "~" in path.name] == []


# Sizes.


@pytest.mark.parametrize("listed", [0, 1, 19_999, 25_000, 9 << 20])
async def test_s1_s4_the_size_is_exact_whatever_the_listing_says(rig: Rig, listed: int) -> None:
    image_at(rig, SECOND).file_size = listed
    rig.standin.organization["small"].touch()

    async with rig.mount() as mount:
        await mount.read(FIRST)
        opened = await mount.open(SECOND)

        assert opened.attributes.size == 20_000

        mount.tree.close(opened.handle)

        assert await mount.read(SECOND) == right(rig, SECOND)
        assert (await mount.look(SECOND)).size == 20_000

    async with rig.mount() as mount:
        assert (await mount.look(SECOND)).size == 20_000


async def test_b3_a_cut_answer_of_the_keyed_route_is_not_believed(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list("/datasets/small/images/part-000")
        rig.fault(Truncate(5000), "api", KEYED[4:], times=1)
        assert await mount.read(FIRST) == right(rig, FIRST)
        assert (mount.asked.count(KEYED), mount.asked.count(BATCH)) == (1, 1)


async def test_b3_without_signed_urls_a_cut_answer_fails_rather_than_be_wrong(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list("/datasets/small/images/part-000")
        cut = rig.fault(Truncate(5000), "api", KEYED[4:])
        down = rig.fault(error(503), "api", BATCH[4:])

        for path in (FIRST, SECOND):
            failure = await error_of(lambda path=path: mount.read(path))
            assert failure is not None
            assert failure.errno == errno.EIO

        assert list(blobs(rig)) == []

        for each in (cut, down):
            rig.standin.faults.remove(each)

        assert await mount.read(FIRST) == right(rig, FIRST)


@pytest.mark.parametrize("do", [error(503), error(409, "cold_storage")])
async def test_b3_signed_urls_that_could_not_be_had_are_asked_for_once_more(
    rig: Rig, do: Any
) -> None:
    for path in LYING:
        image_at(rig, path).file_size = 7
    rig.standin.organization["small"].touch()

    async with rig.mount(max_retries=0) as mount:
        await mount.list("/datasets/small/images/part-000")
        down = rig.fault(do, "api", BATCH[4:])
        await mount.read(FIRST)
        await mount.read(SECOND)  # by the API's route: the batch fails

        assert mount.asked.count(BATCH) == 1

        for _ in range(3):
            failure = await error_of(lambda: mount.read(LYING[0]))
            assert failure is not None
            assert failure.errno == errno.EIO

        assert mount.asked.count(BATCH) == 2  # and not for each answer that is not believed

        rig.clock.advance(11)
        rig.standin.faults.remove(down)
        for path in LYING:
            assert await mount.read(path) == right(rig, path)

        assert mount.asked.count(BATCH) == 3


async def test_b3_signed_urls_are_there_again_as_soon_as_the_server_is(rig: Rig) -> None:
    image_at(rig, LYING[0]).file_size = 7
    rig.standin.organization["small"].touch()
    async with rig.mount(max_retries=0) as mount:
        await mount.list("/datasets/small/images/part-000")
        rig.fault(error(503), "api", BATCH[4:], times=1)
        await mount.read(FIRST)
        await mount.read(SECOND)
        assert await mount.read(LYING[0]) == right(rig, LYING[0])
        assert mount.asked.count(BATCH) == 2


async def test_b3_an_image_that_no_batch_names_is_believed_when_two_answers_agree(rig: Rig) -> None:
    image = image_at(rig, FIRST)
    image.file_size = 7
    rig.standin.organization["small"].touch()
    rig.fault(Mutate(lambda body: body["data"].update(items=[]) or body), "api", BATCH[4:])
    async with rig.mount() as mount:
        assert await mount.read(FIRST) == image_bytes(image)
        assert mount.asked.count(KEYED) == 2
        mount.blob_cache.clear()
        assert await mount.read(FIRST) == image_bytes(image)
        assert mount.asked.count(KEYED) == 3  # the size is known


async def test_b3_answers_without_a_checksum_that_differ_are_no_file(rig: Rig) -> None:
    image_at(rig, FIRST).file_size = 7
    rig.standin.organization["small"].touch()
    rig.fault(Mutate(lambda body: body["data"].update(items=[]) or body), "api", BATCH[4:])
    rig.fault(Truncate(5000), "api", KEYED[4:], times=1)
    async with rig.mount(max_retries=0) as mount:
        failure = await error_of(lambda: mount.read(FIRST))
        assert failure is not None
        assert failure.errno == errno.EIO
        assert await mount.read(FIRST) == right(rig, FIRST)


@pytest.mark.parametrize("size", [0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1])
@pytest.mark.parametrize("listed", [None, 0])
async def test_s2_sizes_around_every_edge(rig: Rig, size: int, listed: int | None) -> None:
    org = rig.standin.organization
    image = org.add_image(
        org["small"], "edge.jpg", size=size, file_size=size if listed is None else listed
    )
    async with rig.mount() as mount:
        assert await mount.read("/datasets/small/images/edge.jpg") == image_bytes(image)
        rig.standin.log.clear()
        assert await mount.read("/datasets/small/images/edge.jpg") == image_bytes(image)
        assert rig.standin.log.count() == 0


# The book of URLs.


async def test_q4_the_first_read_is_keyed_and_the_second_brings_urls_for_all(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk("/datasets/small/images")
        assert mount.asked.count(KEYED) == 1
        assert mount.asked.count(BATCH) == 1
        assert rig.standin.log.count("storage") == 11


async def test_q4_expired_urls_are_renewed_together(rig: Rig) -> None:
    async with rig.mount(ttl=1e6) as mount:
        await mount.list("/datasets/small/images/part-000")
        for number in range(6):
            await mount.read(f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg")
        mount.clock.advance(890)
        mount.forget_log()
        for number in range(6, 12):
            await mount.read(f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg")
        assert rig.standin.log.count("storage", status=403) == 0
        assert mount.asked.count(BATCH) == 1


async def test_revoked_urls_are_given_up_after_a_few(rig: Rig) -> None:
    async with rig.mount(ttl=1e6) as mount:
        await mount.read(FIRST)
        await mount.read(SECOND)
        rig.standin.clock.advance(2000)  # storage's clock alone runs ahead
        mount.forget_log()
        for number in range(2, 12):
            path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
            assert await mount.read(path) == right(rig, path)
        assert rig.standin.log.count("storage", status=403) <= 3
        assert len(mount.asked) <= 6


@pytest.mark.parametrize(
    "do", [without("image_url"), with_fields(image_url=None), with_fields(image_url="x:y")]
)
async def test_items_without_a_usable_url_are_read_by_the_key(rig: Rig, do: object) -> None:
    rig.fault(do, "api", BATCH[4:])
    async with rig.mount() as mount:
        for path in (FIRST, SECOND):
            assert await mount.read(path) == right(rig, path)


async def test_q4_images_past_the_batch_are_read_by_their_status(tmp_path: Path) -> None:
    from standin import Spec

    with StandIn(Spec.uniform(1, 10_400, 300, directories=200, annotations=0)) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            folder = "/datasets/dataset-0/images/part-000"
            images = {
                each.filename: each for each in standin.organization["dataset-0"].images.values()
            }
            for name in await mount.list(folder):
                assert await mount.read(f"{folder}/{name}") == image_bytes(images[name])

            assert mount.asked.count(BATCH) <= 4
            assert mount.asked.count(KEYED) == 1


@pytest.mark.usefixtures("small_pages")
async def test_a_status_that_no_filter_knows_is_read_by_the_key(tmp_path: Path) -> None:
    from standin import Spec

    with StandIn(
        Spec.uniform(1, 1010, 300, directories=200, annotations=0, statuses="odd")
    ) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            folder = "/datasets/dataset-0/images/part-000"
            for name in await mount.list(folder):
                assert await mount.read(f"{folder}/{name}")
            assert mount.asked.count(BATCH) == 0


async def test_c5_readers_of_one_image_share_one_download(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(FIRST)
        await mount.look(SECOND)
        mount.forget_log()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await mount.read(SECOND))

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(read)

        assert got == [right(rig, SECOND)] * 16
        assert rig.standin.log.count("storage") == 1


# Cold storage.


async def test_e2_an_image_in_cold_storage_has_an_errno_and_its_neighbours_are_read(
    rig: Rig,
) -> None:
    org = rig.standin.organization
    frozen = org.add_dataset("frozen", storage_class="coldline")
    org.add_image(frozen, "cold.jpg")
    async with rig.mount() as mount:
        with pytest.raises(PictofsError):
            await mount.read("/datasets/frozen/images/cold.jpg")
        assert await mount.read(FIRST) == right(rig, FIRST)


# The blob cache.


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "swap", "remove"])
@pytest.mark.parametrize("size", [20_000, 2 << 20, 9 << 20])
async def test_b4_a_damaged_blob_is_fetched_again_and_never_served(
    rig: Rig, damage: str, size: int
) -> None:
    org = rig.standin.organization
    for name in ("a.jpg", "b.jpg"):
        org.add_image(org["small"], name, size=size)
    images = {each.filename: each for each in org["small"].images.values()}

    async with rig.mount() as mount:
        for name in ("a.jpg", "b.jpg"):
            await mount.read(f"/datasets/small/images/{name}")

    first, second = (next(blobs_of(rig, images[name])) for name in ("a.jpg", "b.jpg"))

    if damage == "flip":
        flip(first)
    elif damage == "truncate":
        first.write_bytes(first.read_bytes()[:-100])
    elif damage == "empty":
        first.write_bytes(b"")
    elif damage == "swap":
        first.write_bytes(second.read_bytes())
    else:
        first.unlink()

    async with rig.mount() as mount:
        for name in ("a.jpg", "b.jpg"):
            assert await mount.read(f"/datasets/small/images/{name}") == image_bytes(images[name])


def blobs_of(rig: Rig, image: Image):
    return (path for path in blobs(rig) if path.name.endswith(image.id))


async def test_c1_a_cache_that_is_too_small_evicts_and_stays_right(rig: Rig) -> None:
    async with rig.mount(cache_size=100_000) as mount:
        for _ in range(2):
            for number in range(12):
                path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
                assert await mount.read(path) == right(rig, path)
            assert mount.blob_cache.usage().bytes <= 100_000


async def test_c4_a_cache_that_takes_nothing_is_read_past(rig: Rig) -> None:
    async with rig.mount(cache_size=100) as mount:
        for path in (FIRST, SECOND, FIRST):
            assert await mount.read(path) == right(rig, path)
        note = "/datasets/small/annotations/part-000/image-000000.jpg.json"
        assert await mount.read(note) == await mount.read(note)


async def test_c4_a_catalog_that_takes_no_more_does_not_keep_bytes_from_readers(rig: Rig) -> None:
    image_at(rig, SECOND).file_size = 7
    rig.standin.organization["small"].touch()

    async with rig.mount() as mount:
        await mount.list("/datasets/small/images/part-001")
        with mount.catalog.database.write() as db:
            db.execute("PRAGMA query_only = 1")

        assert await mount.read(SECOND) == right(rig, SECOND)
        assert await mount.read("/datasets/small/annotations/part-001/image-000001.jpg.json")

        opened = descriptors(rig)
        await mount.read(SECOND)

        assert descriptors(rig) == opened


# Cancelling.


async def test_t3_a_reader_that_gives_up_at_any_moment_leaves_nothing_behind(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk(read=False)
        await mount.read(FIRST)
        await mount.read(SECOND)
        before = descriptors(rig)

        for number in range(2, 12):
            path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
            for steps in range(0, 40, 3):
                await cancelled_after(mount, path, steps)

        await mount.settle()

        for number in range(12):
            path = f"/datasets/small/images/part-{number % 3:03d}/image-{number:06d}.jpg"
            assert await mount.read(path) == right(rig, path)

        assert mount.tree.open_files == 0
        assert descriptors(rig) == before
        assert [path for path in blobs(rig) if "~" in path.name] == []


async def test_a_reader_that_gives_up_while_a_blob_is_checked_leaves_no_descriptor(
    rig: Rig,
) -> None:
    org = rig.standin.organization
    org.add_image(org["small"], "large.jpg", size=6 << 20)
    path = "/datasets/small/images/large.jpg"
    async with rig.mount() as mount:
        await mount.read(path)
    for steps in range(12):
        async with rig.mount() as mount:
            await mount.look(path)
            before = descriptors(rig)
            await cancelled_after(mount, path, steps)
            await mount.settle()
            assert descriptors(rig) == before


async def cancelled_after(mount: Mount, path: str, steps: int) -> None:
    """Read `path`, and give up after so many turns of the loop."""
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            await mount.read(path)
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_m2_unmounting_at_any_moment_ends_and_leaves_no_descriptor(
    rig: Rig, turns: int
) -> None:
    before = descriptors(rig)
    with trio.fail_after(10):
        async with rig.mount() as mount:
            await mount.read(FIRST)
            inodes = [
                (
                    await mount.look(f"/datasets/small/images/part-{n % 3:03d}/image-{n:06d}.jpg")
                ).inode
                for n in range(2, 8)
            ]
            for inode in inodes:
                mount.nursery.start_soon(mount.tree.open, inode)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()

    assert descriptors(rig) == before


async def test_c5_t2_another_process_that_stands_still_in_a_download_keeps_nobody_from_the_file(
    rig: Rig,
) -> None:
    async with rig.mount() as mount:
        await mount.read(FIRST)
        image = mount.catalog.image(Inode.of((await mount.look(SECOND)).inode).key)
        name = mount.library.cache.image_blob_name(image)
        other = BlobCache(rig.cache / "blobs", limit=1 << 30, reserve=FreeSpace(), clock=rig.clock)

        with other.open_partial(name, 20_000):
            assert await mount.read(SECOND) == right(rig, SECOND)
            assert mount.library.downloads.is_kept(image)

        other.close()

        assert await mount.read(SECOND) == right(rig, SECOND)
