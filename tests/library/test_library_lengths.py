"""The length of a file comes from its answer alone, whatever the listing says, and no answer is
asked for in vain."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest
import trio
from rig import Mount, Rig, blobs, error_of, image_bytes

from pictofs.errors import PictofsError
from standin import Fault
from standin.faults import Close, Corrupt, Mutate, Truncate
from standin.records import Image

MIB = 1 << 20
PATH = "/datasets/small/images/odd.jpg"
KEYED, BATCH = "GET /images/{image_id:uuid}", "GET /datasets/{dataset}/download"
FRAMINGS = ["length", "chunked", "close"]
LISTED = [0, 9 * MIB, 12 * MIB, 20 * MIB]
"""Bytes that the listing says: none, too few, the right number, too many."""


def add(rig: Rig, size: int, listed: int) -> Image:
    org = rig.standin.organization
    return org.add_image(org["small"], "odd.jpg", size=size, file_size=listed)


async def warm(mount: Mount) -> None:
    """Read two small files, so that signed URLs are at hand."""
    for number in (0, 1):
        await mount.read(f"/datasets/small/images/part-{number:03d}/image-{number:06d}.jpg")
    await mount.look(PATH)
    mount.forget_log()


def without_urls(rig: Rig) -> Fault:
    """No batch names an image: every byte comes by the keyed route."""
    return rig.fault(Mutate(lambda body: body["data"].update(items=[]) or body), "api", BATCH[4:])


def asked(rig: Rig) -> int:
    """Requests for bytes."""
    return rig.standin.log.count("storage") + rig.standin.log.count("api", KEYED[4:])


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("listed", LISTED)
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b7_the_answer_tells_the_length(
    rig: Rig, framing: str, listed: int, hashed: bool
) -> None:
    image = add(rig, 12 * MIB, listed)
    rig.standin.switches.storage_framing = framing
    rig.standin.switches.hash_header = hashed

    async with rig.mount() as mount:
        await warm(mount)
        opened = await mount.open(PATH)

        assert opened.attributes.size == 12 * MIB
        assert await mount.rest(opened) == image_bytes(image)

        mount.tree.close(opened.handle)

        # One; one more where the listing had it for a small file; and one that proves what no hash
        # does.
        assert asked(rig) <= 1 + (listed <= 8 * MIB) + (not hashed)

        mount.forget_log()

        assert await mount.read(PATH) == image_bytes(image)
        assert rig.standin.log.count() == 0
        assert (await mount.look(PATH)).size == 12 * MIB

    async with rig.mount() as mount:
        assert await mount.read(PATH) == image_bytes(image)


@pytest.mark.parametrize("listed", LISTED)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("ranges", [True, False])
async def test_b7_the_answer_tells_the_length_by_the_keyed_route(
    rig: Rig, framing: str, listed: int, ranges: bool
) -> None:
    image = add(rig, 12 * MIB, listed)
    rig.standin.switches.api_framing = framing
    rig.standin.switches.api_range = ranges
    without_urls(rig)

    async with rig.mount() as mount:
        await warm(mount)
        assert await mount.read(PATH) == image_bytes(image)
        assert asked(rig) <= 3

        mount.forget_log()

        assert await mount.read(PATH) == image_bytes(image)
        assert rig.standin.log.count() == 0


@pytest.mark.parametrize("listed", LISTED)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("ranges", [True, False])
async def test_b7_the_answer_tells_the_length_past_the_cache(
    rig: Rig, framing: str, listed: int, ranges: bool
) -> None:
    image = add(rig, 12 * MIB, listed)
    rig.standin.switches.storage_framing = framing
    rig.standin.switches.storage_range = ranges

    async with rig.mount(cache_size=2 * MIB) as mount:
        await warm(mount)
        opened = await mount.open(PATH)

        assert opened.attributes.size == 12 * MIB
        assert await mount.rest(opened) == image_bytes(image)

        mount.tree.close(opened.handle)

        assert asked(rig) <= 5


@pytest.mark.parametrize("size", [0, 20_000, 8 * MIB])
@pytest.mark.parametrize("listed", [0, 19_999, 9 * MIB])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("hashed", [True, False])
async def test_b7_small_files_have_the_length_that_came(
    rig: Rig, framing: str, listed: int, size: int, hashed: bool
) -> None:
    image = add(rig, size, listed)
    rig.standin.switches.storage_framing = framing
    rig.standin.switches.hash_header = hashed

    async with rig.mount() as mount:
        await warm(mount)
        opened = await mount.open(PATH)

        assert opened.attributes.size == size
        assert await mount.rest(opened) == image_bytes(image)

        mount.tree.close(opened.handle)

        assert asked(rig) <= 2 + (listed > 8 * MIB)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("listed", [0, 9 * MIB, 20 * MIB])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b3_a_cut_that_looks_like_the_end_is_found_out(
    rig: Rig, framing: str, listed: int, hashed: bool
) -> None:
    image = add(rig, 12 * MIB, listed)
    rig.standin.switches.storage_framing = framing
    rig.standin.switches.hash_header = hashed
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Close(after=10 * MIB), "storage", times=1)
        assert await mount.read(PATH) == image_bytes(image)
    assert [path for path in blobs(rig) if "~" in path.name] == []


@pytest.mark.parametrize("size", [20_000, 12 * MIB])
@pytest.mark.parametrize("listed", [0, 7])
async def test_b3_a_cut_small_answer_without_a_length_is_found_out(
    rig: Rig, size: int, listed: int
) -> None:
    image = add(rig, size, listed)
    rig.standin.switches.storage_framing = "close"
    rig.standin.switches.hash_header = False
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Close(after=5000), "storage", times=1)
        assert await mount.read(PATH) == image_bytes(image)


async def test_b3_large_answers_of_other_lengths_without_a_checksum_are_no_file(rig: Rig) -> None:
    image = add(rig, 12 * MIB, 12 * MIB)
    rig.standin.switches.hash_header = False
    async with rig.mount(max_retries=0) as mount:
        await warm(mount)
        rig.fault(Truncate(10 * MIB), "storage", times=1)
        failure = await error_of(lambda: mount.read(PATH))
        assert failure is not None
        assert failure.errno == errno.EIO
        assert await mount.read(PATH) == image_bytes(image)


@pytest.mark.parametrize("size", [20_000, 8 * MIB])
async def test_b3_a_small_file_that_is_listed_large_comes_twice_without_a_checksum(
    rig: Rig, size: int
) -> None:
    image = add(rig, size, 20 * MIB)
    rig.standin.switches.hash_header = False
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Corrupt(7), "storage", times=1)
        assert await mount.read(PATH) == image_bytes(image)


async def test_c1_more_than_was_listed_is_room_that_is_claimed(rig: Rig) -> None:
    image = add(rig, 12 * MIB, 9 * MIB)
    rig.standin.switches.storage_framing = "chunked"
    async with rig.mount(cache_size=16 * MIB) as mount:
        await warm(mount)
        assert await mount.read(PATH) == image_bytes(image)
        assert 12 * MIB < mount.blob_cache.usage().bytes <= 16 * MIB
        mount.forget_log()
        assert await mount.read(PATH) == image_bytes(image)
        assert rig.standin.log.count() == 0


async def test_c1_a_listing_that_says_far_too_much_evicts_nothing(rig: Rig) -> None:
    add(rig, 12 * MIB, 60 * MIB)
    async with rig.mount(cache_size=64 * MIB) as mount:
        org = rig.standin.organization
        others = [org.add_image(org["small"], f"other-{n}.jpg", size=4 * MIB) for n in range(8)]
        await warm(mount)
        for image in others:
            await mount.read(f"/datasets/small/images/{image.filename}")
        await mount.read(PATH)
        mount.forget_log()

        for image in others:
            assert await mount.read(f"/datasets/small/images/{image.filename}") == image_bytes(
                image
            )

        assert rig.standin.log.count("storage") == 0


async def test_c4_a_file_without_a_length_that_outgrows_the_cache_is_read_past_it(rig: Rig) -> None:
    image = add(rig, 12 * MIB, 9 * MIB)
    rig.standin.switches.storage_framing = "chunked"
    async with rig.mount(cache_size=10 * MIB) as mount:
        await warm(mount)
        assert await mount.read(PATH) == image_bytes(image)
        assert mount.blob_cache.usage().bytes <= 10 * MIB
    assert [path for path in blobs(rig) if "~" in path.name] == []


# Bounded work.


async def quiet(mount: Mount) -> int:
    """The requests for bytes, once none has come for a while."""
    rig_log = mount.standin.log
    count = -1
    with trio.fail_after(20):
        while count != rig_log.count():
            count = rig_log.count()
            await trio.sleep(0.3)
    return count


@pytest.mark.parametrize("route", ["storage", "api"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b8_a_file_that_is_listed_too_large_is_fetched_once(
    rig: Rig, framing: str, ranges: bool, route: str
) -> None:
    image = add(rig, 9 * MIB, 20 * MIB)
    switches = rig.standin.switches
    switches.storage_framing = switches.api_framing = framing
    switches.storage_range = switches.api_range = ranges
    if route == "api":
        without_urls(rig)
    async with rig.mount() as mount:
        await warm(mount)
        before = sum(mount.request_stats.bytes_in.values())
        opened = await mount.open(PATH)

        assert await mount.tree.read(opened.handle, 0, 100) == image_bytes(image)[:100]

        mount.tree.close(opened.handle)

        assert await quiet(mount) <= 2
        assert sum(mount.request_stats.bytes_in.values()) - before <= 19 * MIB


@pytest.mark.parametrize("keep", ["cached", "past the cache"])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_b8_answers_that_bring_nothing_new_come_to_an_end(
    rig: Rig, framing: str, keep: str
) -> None:
    add(rig, 12 * MIB, 12 * MIB)
    rig.standin.switches.storage_framing = framing

    async with rig.mount(
        max_retries=3, cache_size=64 * MIB if keep == "cached" else 2 * MIB
    ) as mount:
        await warm(mount)
        rig.fault(Close(after=1 * MIB), "storage")
        before = sum(mount.request_stats.bytes_in.values())
        failure = await error_of(lambda: mount.read(PATH))

        assert failure is not None
        assert failure.errno == errno.EIO
        assert await quiet(mount) <= 9
        assert sum(mount.request_stats.bytes_in.values()) - before <= 48 * MIB


async def test_b8_a_server_that_gives_a_byte_at_a_time_is_given_up(rig: Rig) -> None:
    add(rig, 12 * MIB, 12 * MIB)

    async def stingy(exchange) -> None:
        """A part of one byte, whatever was asked."""
        answer = await exchange.collect()

        if answer.status == 206:
            first = answer.header(b"content-range").split(b"-")[0].removeprefix(b"bytes ")
            answer.set_header(b"content-range", b"bytes %s-%s/%d" % (first, first, 12 * MIB))
            answer.body = answer.body[:1]
        else:
            await exchange.write_raw(answer, answer.body[:1000])
            await exchange.close()
            return

        await exchange.answer(answer)

    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(stingy, "storage")
        assert await error_of(lambda: mount.read(PATH))
        assert await quiet(mount) <= 40


async def test_b8_nothing_is_asked_for_once_the_last_reader_has_left(rig: Rig) -> None:
    image = add(rig, 12 * MIB, 12 * MIB)
    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Close(after=8 * MIB), "storage")
        opened = await mount.open(PATH)

        assert (
            await mount.tree.read(opened.handle, 7 * MIB, 100)
            == image_bytes(image)[7 * MIB :][:100]
        )

        mount.tree.close(opened.handle)
        count = rig.standin.log.count()

        assert await quiet(mount) <= count


@pytest.mark.parametrize("validators", [frozenset(), frozenset({"etag", "generation", "modified"})])
async def test_b8_without_ranges_a_file_past_the_cache_is_one_transfer(
    rig: Rig, validators: frozenset
) -> None:
    image = add(rig, 40 * MIB, 40 * MIB)
    rig.standin.switches.storage_range = False
    rig.standin.switches.storage_validators = validators

    async with rig.mount(cache_size=2 * MIB) as mount:
        await warm(mount)
        before = sum(mount.request_stats.bytes_in.values())
        assert await mount.read(PATH) == image_bytes(image)
        assert asked(rig) <= 2
        assert sum(mount.request_stats.bytes_in.values()) - before <= 48 * MIB


# One version.

TELLING = {
    "nothing": frozenset(),
    "weak": frozenset({"weak-etag"}),
    "modified": frozenset({"modified"}),
    "generation": frozenset({"generation"}),
    "etag": frozenset({"etag"}),
}


@pytest.mark.parametrize("where", ["cached", "past the cache"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("after", [6 * MIB, None])
@pytest.mark.parametrize("telling", TELLING)
async def test_b5_a_file_that_is_replaced_while_it_is_read_is_never_mixed(
    rig: Rig, telling: str, ranges: bool, after: int | None, where: str
) -> None:
    image = add(rig, 24 * MIB, 24 * MIB)
    rig.standin.switches.storage_validators = TELLING[telling]
    rig.standin.switches.storage_range = ranges
    rig.standin.switches.hash_header = False
    image.stored_at = 1_700_000_000.0
    old = image_bytes(image)

    async with rig.mount(
        cache_size=64 * MIB if where == "cached" else 2 * MIB, max_retries=1
    ) as mount:
        await warm(mount)
        if after is not None:
            rig.fault(Close(after=after), "storage", times=1)
        opened = await mount.open(PATH)
        failures = []
        seen = {0: await mount.tree.read(opened.handle, 0, 100_000)}
        rig.standin.clock.advance(3)
        rig.standin.organization.replace_content(image, "another")
        new = image_bytes(image)

        with trio.fail_after(20):
            for offset in (1 * MIB, 20 * MIB, 9 * MIB, 0, 4 * MIB, 23 * MIB):
                try:
                    seen[offset] = await mount.tree.read(opened.handle, offset, 100_000)
                except PictofsError as error:
                    failures.append(error.errno)

        assert set(failures) <= {errno.EIO}

        pieces = seen.items()

        assert all(data == old[at : at + 100_000] for at, data in pieces) or all(
            data == new[at : at + 100_000] for at, data in pieces
        )

        mount.tree.close(opened.handle)
        rig.standin.faults.clear()
        with suppress(PictofsError):
            assert await mount.read(PATH) in (old, new)

        assert await mount.read(PATH) in (old, new)


@pytest.mark.parametrize("telling", TELLING)
async def test_b5_a_transfer_that_breaks_goes_on_where_the_bytes_are_the_same(
    rig: Rig, telling: str
) -> None:
    image = add(rig, 24 * MIB, 24 * MIB)
    image.stored_at = (
        1_700_000_000.0  # long ago: a time of change tells a version only if nothing changed lately
    )
    rig.standin.switches.storage_validators = TELLING[telling]

    async with rig.mount() as mount:
        await warm(mount)
        rig.fault(Close(after=16 * MIB), "storage", times=1)
        before = mount.request_stats.bytes_in["storage"]

        assert await mount.read(PATH) == image_bytes(image)

        moved = mount.request_stats.bytes_in["storage"] - before

        assert asked(rig) == 2
        assert moved <= (25 if telling in ("etag", "generation", "modified") else 41) * MIB


async def test_b6_seeks_past_the_cache_without_ranges_or_a_version_are_right(rig: Rig) -> None:
    image = add(rig, 40 * MIB, 40 * MIB)
    rig.standin.switches.storage_range = False
    rig.standin.switches.storage_validators = frozenset()
    right = image_bytes(image)

    async with rig.mount(cache_size=2 * MIB) as mount:
        await warm(mount)
        opened = await mount.open(PATH)

        for offset in (0, 39 * MIB, 17 * MIB, 3 * MIB, 38 * MIB, 40 * MIB - 5):
            assert (
                await mount.tree.read(opened.handle, offset, 70_000)
                == right[offset : offset + 70_000]
            )

        mount.tree.close(opened.handle)

        assert asked(rig) <= 5


@pytest.mark.parametrize("telling", ["nothing", "etag"])
async def test_b5_the_kernel_keeps_no_page_of_a_version_that_is_gone(
    rig: Rig, telling: str
) -> None:
    image = add(rig, 24 * MIB, 24 * MIB)
    rig.standin.switches.storage_validators = TELLING[telling]

    async with rig.mount(cache_size=2 * MIB, max_retries=0) as mount:
        await warm(mount)
        opened = await mount.open(PATH)
        await mount.tree.read(opened.handle, 0, 1000)
        rig.standin.clock.advance(3)
        rig.standin.organization.replace_content(image, "another")

        for offset in (20 * MIB, 0, 23 * MIB):
            with suppress(PictofsError):
                await mount.tree.read(opened.handle, offset, 1000)

        mount.tree.close(opened.handle)
        opened = await mount.open(PATH)

        assert not opened.keep
        assert await mount.rest(opened) == image_bytes(image)
