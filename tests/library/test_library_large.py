"""Large files: readable from the first bytes on, whole or not at all, whatever happens to the
transfer."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from rig import Mount, Rig, blobs, descriptors, error_of, image_bytes

from pictofs.errors import PictofsError
from pictofs.vfs.tree import OpenFile
from standin.faults import (
    Close,
    Corrupt,
    Delay,
    Drip,
    Hang,
    Overrun,
    Reset,
    Truncate,
    error,
    redirect,
    throttled,
)
from standin.records import Image

SIZE = 12_000_001
PATH = "/datasets/small/images/large.jpg"
KEYED = "/images/{image_id:uuid}"


@pytest.fixture
def large(rig: Rig) -> Image:
    """An image of 12 MB beside the small ones."""
    org = rig.standin.organization
    return org.add_image(org["small"], "large.jpg", size=SIZE)


async def warm(mount: Mount) -> None:
    """Read two small files, so that signed URLs are at hand."""
    for number in (0, 1):
        await mount.read(f"/datasets/small/images/part-{number:03d}/image-{number:06d}.jpg")
    await mount.look(PATH)
    mount.forget_log()


def no_partial_blobs(rig: Rig) -> None:
    assert [path for path in blobs(rig) if "~" in path.name] == []


FAULTS = {
    "503": error(503),
    "429": throttled(3),
    "reset": Reset(),
    "reset-mid": Reset(after=7_000_000),
    "close-mid": Close(after=5_000_000),
    "overrun-hidden": Overrun(announced=False),
    "expired": error(403),
    "redirect": redirect("http://127.0.0.1:9/"),
}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("route", ["storage", "api"])
@pytest.mark.parametrize("name", FAULTS)
async def test_b3_a_passing_fault_is_not_seen(
    rig: Rig, large: Image, name: str, route: str, ranges: bool
) -> None:
    if route == "api" and name in ("expired", "redirect"):
        pytest.skip("the API's own refusals are final")
    rig.standin.switches.storage_range = rig.standin.switches.api_range = ranges

    async with rig.mount() as mount:
        if route == "storage":
            await warm(mount)
        rig.fault(FAULTS[name], route, None if route == "storage" else KEYED, times=1)
        assert await mount.read(PATH) == image_bytes(large)
        assert rig.standin.log.key_leaks == []

    no_partial_blobs(rig)


@pytest.mark.parametrize("do", [Corrupt(6_000_000), Truncate(9_000_000), Overrun()])
async def test_b3_a_damaged_transfer_never_gives_its_last_byte(
    rig: Rig, large: Image, do: object
) -> None:
    async with rig.mount(max_retries=0) as mount:
        await warm(mount)
        fault = rig.fault(do, "storage")
        with pytest.raises(PictofsError):
            await mount.read(PATH)
        rig.standin.faults.remove(fault)
        assert await mount.read(PATH) == image_bytes(large)
    no_partial_blobs(rig)


async def test_the_first_bytes_come_long_before_the_last(rig: Rig, large: Image) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Drip(4_000_000), "storage")
        opened = await mount.open(PATH)
        with trio.fail_after(2):
            assert await mount.tree.read(opened.handle, 0, 100_000) == image_bytes(large)[:100_000]
        assert opened.attributes.size == SIZE


async def test_a_far_seek_does_not_wait_for_what_is_before(rig: Rig, large: Image) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Drip(1_000_000), "storage")
        opened = await mount.open(PATH)
        with trio.fail_after(3):
            found = await mount.tree.read(opened.handle, 11_000_000, 50_000)
        assert found == image_bytes(large)[11_000_000:11_050_000]


async def test_a_far_seek_without_ranges_waits_and_is_right(rig: Rig, large: Image) -> None:
    rig.standin.switches.storage_range = False
    async with rig.mount() as mount:
        await warm(mount)
        opened = await mount.open(PATH)
        assert (
            await mount.tree.read(opened.handle, 11_000_000, 50_000)
            == image_bytes(large)[11_000_000:11_050_000]
        )
        assert await mount.rest(opened) == image_bytes(large)
        assert rig.standin.log.count("storage") <= 2


async def test_b6_readers_all_over_a_file_are_right_and_cost_few_transfers(
    rig: Rig, large: Image
) -> None:
    rig.standin.switches.storage_latency = 0.005
    right = image_bytes(large)

    async with rig.mount() as mount:
        await warm(mount)
        opened = await mount.open(PATH)

        async def read(start: int) -> None:
            for offset in range(start, min(start + 1_500_000, SIZE), 100_000):
                assert (
                    await mount.tree.read(opened.handle, offset, 100_000)
                    == right[offset : offset + 100_000]
                )

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(read, (number * 7 % 10) * 1_200_000)

        assert rig.standin.log.count("storage") <= 40

    no_partial_blobs(rig)


async def test_many_who_open_a_large_file_at_once_share_one_transfer(
    rig: Rig, large: Image
) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Drip(8_000_000), "storage")
        got: list[OpenFile] = []

        async def first_bytes() -> None:
            opened = await mount.open(PATH)
            assert await mount.tree.read(opened.handle, 0, 10) == image_bytes(large)[:10]
            got.append(opened)

        with trio.fail_after(1.2):  # the whole takes longer
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(first_bytes)

        assert rig.standin.log.count("storage") == 1

        for opened in got:
            assert await mount.rest(opened) == image_bytes(large)


async def test_a_file_that_is_closed_and_opened_at_once_is_read(rig: Rig, large: Image) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        for _ in range(5):
            opened = await mount.open(PATH)
            await mount.tree.read(opened.handle, 0, 1000)
            mount.tree.close(opened.handle)
        assert await mount.read(PATH) == image_bytes(large)


@pytest.mark.parametrize("share", [0.1, 0.7])
async def test_readers_that_leave_leave_no_descriptor(rig: Rig, large: Image, share: float) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        before = descriptors(rig)
        opened = await mount.open(PATH)
        await mount.tree.read(opened.handle, int(SIZE * share) - 100, 100)
        mount.tree.close(opened.handle)

        with trio.fail_after(5):
            while descriptors(rig) > before:  # noqa: ASYNC110 - the transfer ends by itself
                await trio.sleep(0.001)

        assert await mount.read(PATH) == image_bytes(large)

    no_partial_blobs(rig)


async def test_a_second_read_asks_nothing(rig: Rig, large: Image) -> None:
    async with rig.mount() as mount:
        assert await mount.read(PATH) == image_bytes(large)
        mount.forget_log()
        assert await mount.read(PATH) == image_bytes(large)
        assert rig.standin.log.count() == 0


async def test_b5_bytes_that_change_half_way_are_not_mixed(rig: Rig, large: Image) -> None:
    before = image_bytes(large)
    async with rig.mount(max_retries=1) as mount:
        await warm(mount)
        rig.fault(Close(after=6_000_000), "storage", times=1)
        rig.fault(Delay(0.05), "storage")
        opened = await mount.open(PATH)
        large.seed = "another"  # the server breaks its word: other bytes under one id
        with suppress(PictofsError):
            assert await mount.rest(opened) == before
        mount.tree.close(opened.handle)
        large.seed = large.id

        assert await mount.read(PATH) == before


async def test_t2_a_stalled_transfer_ends_its_readers_and_no_others(
    rig: Rig, large: Image, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 30
    async with rig.mount(timeout=5, max_retries=1) as mount:
        await warm(mount)
        rig.fault(Hang(), "storage", large.id)
        with trio.fail_after(60):
            assert await error_of(lambda: mount.read(PATH))
            assert await mount.read("/datasets/small/images/part-002/image-000002.jpg")


@pytest.mark.parametrize("turns", range(0, 80, 8))
async def test_unmounting_half_way_leaves_nothing(rig: Rig, large: Image, turns: int) -> None:
    before = descriptors(rig)
    with trio.fail_after(10):
        async with rig.mount() as mount:
            await warm(mount)
            rig.fault(Drip(20_000_000), "storage")
            mount.nursery.start_soon(read_on, mount)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
    assert descriptors(rig) == before
    no_partial_blobs(rig)


async def read_on(mount: Mount) -> None:
    """Read the file until the unmounting takes the handle away."""
    with suppress(KeyError):
        await mount.rest(await mount.open(PATH))


@pytest.mark.parametrize("steps", range(0, 60, 6))
async def test_a_reader_that_gives_up_leaves_nothing(rig: Rig, large: Image, steps: int) -> None:
    async with rig.mount() as mount:
        await warm(mount)
        before = descriptors(rig)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.read, PATH)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        with trio.move_on_after(5):
            while descriptors(rig) > before:  # noqa: ASYNC110 - the transfer ends by itself
                await trio.sleep(0.001)

        assert descriptors(rig) == before
        assert await mount.read(PATH) == image_bytes(large)


# A cache that can't take it.


@pytest.mark.parametrize("name", ["none", *FAULTS])
@pytest.mark.parametrize("ranges", [True, False])
async def test_c4_a_file_larger_than_the_cache_is_read_past_it(
    rig: Rig, large: Image, name: str, ranges: bool
) -> None:
    rig.standin.switches.storage_range = ranges
    async with rig.mount(cache_size=2_000_000) as mount:
        await warm(mount)
        if name != "none":
            rig.fault(FAULTS[name], "storage", times=1)
        assert await mount.read(PATH) == image_bytes(large)
        assert mount.blob_cache.usage().bytes <= 2_000_000
    no_partial_blobs(rig)


async def test_a_url_that_is_revoked_half_way_does_not_end_the_read(rig: Rig, large: Image) -> None:
    right = image_bytes(large)
    async with rig.mount(cache_size=2_000_000) as mount:
        await warm(mount)
        opened = await mount.open(PATH)
        assert await mount.tree.read(opened.handle, 0, 1000) == right[:1000]
        rig.fault(error(403), "storage")
        assert await mount.tree.read(opened.handle, 9_000_000, 1000) == right[9_000_000:9_001_000]


async def test_past_the_cache_a_far_seek_costs_one_block(rig: Rig, large: Image) -> None:
    async with rig.mount(cache_size=2_000_000) as mount:
        await warm(mount)
        opened = await mount.open(PATH)
        await mount.tree.read(opened.handle, SIZE - 1000, 1000)
        assert rig.standin.log.count("storage") <= 2


@pytest.mark.parametrize("actual", [0, 500, 20_000])
async def test_a_listing_that_says_far_too_much_is_harmless_without_a_cache(
    rig: Rig, actual: int
) -> None:
    org = rig.standin.organization
    image = org.add_image(org["small"], "large.jpg", size=actual, file_size=20 << 20)
    async with rig.mount(cache_size=2_000_000) as mount:
        assert await mount.read(PATH) == image_bytes(image)
