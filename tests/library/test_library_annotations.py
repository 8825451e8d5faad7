"""Annotation files: the bytes that the SDK writes, in versions that are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from rig import Rig, annotation_bytes, blobs, descriptors, error_of

from pictofs.api.stats import PROBE_LIMIT_S
from pictofs.errors import DiskFull, PictofsError, ServerUnreachable, Stale
from pictofs.store.catalog.images import Learned
from standin import StandIn
from standin.faults import Close, MalformedJson, Reset, error, html, throttled
from standin.records import Image

NOTE = "/datasets/small/annotations/part-000/image-000000.jpg.json"
FILE = "GET /annotations/{image_id:uuid}/file"


def image_of(rig: Rig, number: int = 0) -> Image:
    name = f"image-{number:06d}.jpg"
    return next(
        each for each in rig.standin.organization["small"].images.values() if each.filename == name
    )


def edit(rig: Rig, number: int = 0, keep_count: bool = True) -> None:
    image, org = image_of(rig, number), rig.standin.organization
    found = [dict(each, attributes=[{"name": "seen"}]) for each in org.annotations(image)]
    org.set_annotations(image, found if keep_count else found[1:])


async def test_s3_a_stat_costs_nothing_and_says_too_much(rig: Rig) -> None:
    async with rig.mount() as mount:
        size = (await mount.look(NOTE)).size
        assert size > len(annotation_bytes(rig.standin, image_of(rig)))
        assert FILE not in mount.asked


async def test_s3_after_one_read_the_size_is_exact_for_good(rig: Rig) -> None:
    async with rig.mount() as mount:
        data = await mount.read(NOTE)
        assert data == annotation_bytes(rig.standin, image_of(rig))
        assert (await mount.look(NOTE)).size == len(data)
    async with rig.mount() as mount:
        assert (await mount.look(NOTE)).size == len(data)


async def test_s3_exact_sizes_are_asked_for_at_stat(rig: Rig) -> None:
    async with rig.mount(exact=True) as mount:
        assert (await mount.look(NOTE)).size == len(annotation_bytes(rig.standin, image_of(rig)))
        mount.forget_log()
        await mount.look(NOTE)
        await mount.read(NOTE)
        assert mount.asked == []


async def test_q5_a_second_read_costs_nothing(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list("/datasets/small/annotations/part-000")
        first = await mount.read(NOTE)
        mount.forget_log()
        assert await mount.read(NOTE) == first
    async with rig.mount() as mount:
        assert await mount.read(NOTE) == first
        assert mount.asked == []


async def test_q5_readers_of_one_file_share_one_request(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.look(NOTE)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(mount.read, NOTE)
        assert mount.asked.count(FILE) == 1


async def test_f4_an_edit_that_changes_the_count_shows_after_the_ttl(rig: Rig) -> None:
    rig.standin.switches.updated_at_bumps |= {"annotations"}
    async with rig.mount(ttl=50) as mount:
        before = await mount.look(NOTE)
        await mount.read(NOTE)
        edit(rig, keep_count=False)
        mount.clock.advance(51)
        assert await mount.read(NOTE) == annotation_bytes(rig.standin, image_of(rig))
        assert (await mount.look(NOTE)).inode != before.inode


async def test_f4_an_edit_that_keeps_the_count_shows_after_a_refresh(rig: Rig) -> None:
    async with rig.mount(ttl=50) as mount:
        before = await mount.read(NOTE)
        edit(rig)
        mount.clock.advance(51)
        assert await mount.read(NOTE) == before
        await mount.library.refresh("small")
        assert await mount.read(NOTE) == annotation_bytes(rig.standin, image_of(rig)) != before


async def test_b5_i2_an_old_inode_is_stale_and_never_gives_new_bytes(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(NOTE)
        old = (await mount.look(NOTE)).inode
        edit(rig)
        await mount.library.refresh(None)
        for _ in range(2):
            with pytest.raises(Stale):
                await mount.tree.open(old)
        with pytest.raises(Stale):
            await mount.tree.attributes(old)


async def test_b5_an_open_file_keeps_its_version(rig: Rig) -> None:
    async with rig.mount() as mount:
        opened = await mount.open(NOTE)
        before = annotation_bytes(rig.standin, image_of(rig))
        half = await mount.tree.read(opened.handle, 0, 50)
        edit(rig, keep_count=False)
        await mount.library.refresh(None)
        assert await mount.read(NOTE) == annotation_bytes(rig.standin, image_of(rig)) != before
        assert half + await mount.tree.read(opened.handle, 50, 1 << 20) == before
        assert (await mount.tree.attributes(opened.attributes.inode)).size == len(before)


async def test_i2_the_same_bytes_after_a_refresh_keep_the_inode(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(NOTE)
        before = (await mount.look(NOTE)).inode
        await mount.library.refresh(None)
        await mount.read(NOTE)
        assert (await mount.look(NOTE)).inode == before


async def test_i2_two_mounts_of_one_catalog_never_give_one_inode_two_contents(rig: Rig) -> None:
    async with rig.mount() as one, rig.mount() as two:
        shown: dict[int, bytes] = {}
        for turn in range(6):
            mount = (one, two)[turn % 2]
            await one.library.refresh(None)
            edit(rig, keep_count=turn % 3 != 0)
            for each in (mount, one, two):
                data, inode = await each.read(NOTE), (await each.look(NOTE)).inode
                assert shown.setdefault(inode, data) == data


async def test_f4_a_renamed_dataset_is_named_in_its_files(rig: Rig) -> None:
    async with rig.mount(ttl=50) as mount:
        await mount.read(NOTE)
        rig.standin.organization.rename_dataset(rig.standin.organization["small"], "other")
        mount.clock.advance(51)
        found = await mount.read(NOTE.replace("small", "other"))
        assert found == annotation_bytes(rig.standin, image_of_id(rig))


def image_of_id(rig: Rig) -> Image:
    return next(
        i for i in rig.standin.organization.images.values() if i.filename == "image-000000.jpg"
    )


@pytest.mark.parametrize(
    "do", [error(503), error(401), throttled(900), Reset(), html(), MalformedJson()]
)
async def test_o1_in_doubt_and_without_a_server_the_old_version_serves(
    rig: Rig, do: object
) -> None:
    async with rig.mount(max_retries=0) as mount:
        before = await mount.read(NOTE)
        edit(rig)
        await mount.library.refresh(None)
        fault = rig.fault(do)

        assert await mount.read(NOTE) == before

        rig.standin.faults.remove(fault)
        mount.clock.advance(PROBE_LIMIT_S + 1)  # a refusal is believed for a while (O6)

        assert await mount.read(NOTE) == annotation_bytes(rig.standin, image_of(rig))


@pytest.mark.parametrize(
    "do", [error(503), throttled(1), Reset(), Reset(after=50), Close(after=50)]
)
async def test_a_passing_fault_is_not_seen(rig: Rig, do: object) -> None:
    rig.fault(do, "api", FILE[4:], times=1)
    async with rig.mount() as mount:
        assert await mount.read(NOTE) == annotation_bytes(rig.standin, image_of(rig))


async def test_e2_one_bad_file_does_not_hide_its_neighbours(rig: Rig) -> None:
    rig.fault(html(), "api", image_of(rig).id)
    async with rig.mount() as mount:
        with pytest.raises(PictofsError):
            await mount.read(NOTE)
        for number in range(1, 12):
            path = f"/datasets/small/annotations/part-{number % 3:03d}/image-{number:06d}.jpg.json"
            assert await mount.read(path) == annotation_bytes(rig.standin, image_of(rig, number))


def damage(rig: Rig) -> None:
    """Flip a bit in every file of the cache."""
    for path in blobs(rig):
        data = bytearray(path.read_bytes())
        data[10] ^= 4
        path.write_bytes(data)


async def test_b4_a_damaged_file_in_the_cache_is_fetched_again(rig: Rig) -> None:
    async with rig.mount() as mount:
        first = await mount.read(NOTE)
    damage(rig)
    async with rig.mount() as mount:
        assert await mount.read(NOTE) == first


async def test_b4_a_renewal_takes_the_place_of_a_damaged_file(rig: Rig) -> None:
    """It brings the bytes that the damaged one should have."""
    async with rig.mount() as mount:
        first = await mount.read(NOTE)
        damage(rig)
        await mount.library.refresh("small")
        assert await mount.read(NOTE) == first
    async with rig.mount() as mount:
        mount.forget_log()
        assert await mount.read(NOTE) == first
        assert mount.asked.count("GET /annotations/{image_id:uuid}/file") == 0


@pytest.mark.parametrize("variant", ["bare", "enveloped"])
async def test_b2_the_body_is_written_as_it_comes(rig: Rig, variant: str) -> None:
    rig.standin.switches.annotation_file = variant  # type: ignore[assignment]
    async with rig.mount() as mount:
        assert image_of(rig).id.encode() in await mount.read(NOTE)


# Offline.


async def test_o1_everything_that_was_read_is_read_again_without_a_server(rig: Rig) -> None:
    async with rig.mount() as mount:
        first = await mount.walk()
    ports = [int(url.rpartition(":")[2]) for url in (rig.standin.api_url, rig.standin.storage_url)]
    rig.standin.stop()
    mount = None

    async with rig.mount(ttl=50, max_retries=1) as mount:
        mount.clock.advance(60)
        assert await mount.walk() == first
        assert isinstance(mount.library.connectivity.error, ServerUnreachable)
        assert isinstance(
            await error_of(lambda: mount.read("/datasets/small/images/nothing.jpg")), PictofsError
        )

        with StandIn(rig.standin.organization, api_port=ports[0], storage_port=ports[1]) as again:
            again.organization.add_dataset("meanwhile")
            mount.clock.advance(16)
            assert set(await mount.walk()) > set(first)
            assert mount.library.connectivity.offline_since is None


async def test_o2_what_was_never_read_has_an_errno_without_a_server(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk(read=False)
    rig.standin.stop()

    async with rig.mount(max_retries=1) as mount:
        counts = []
        for _ in range(3):
            for path in (NOTE, "/datasets/small/images/part-000/image-000000.jpg"):
                assert await error_of(lambda path=path: mount.read(path))
            counts.append(descriptors(rig))

        assert counts == counts[:1] * 3
        assert mount.tree.open_files == 0


async def test_q5_files_that_come_together_are_kept_together(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reader gets its own, and the catalog is written a few times, not once for each."""
    async with rig.mount() as mount:
        found = await mount.walk("/datasets/small/annotations", read=False)
        paths = [path for path, data in found.items() if data is not None]
        learn = mount.library.images.learn_annotations
        written: list[int] = []

        def counting(learned: Sequence[Learned], *args: Any, **more: Any) -> list[int | None]:
            written.append(len(learned))
            return learn(learned, *args, **more)

        monkeypatch.setattr(mount.library.images, "learn_annotations", counting)
        rig.standin.switches.api_latency = 0.05
        got: dict[str, bytes] = {}

        async def read(path: str) -> None:
            got[path] = await mount.read(path)

        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(read, path)

        assert sum(written) == len(paths) == 12
        assert len(written) < len(paths)

        for number in range(12):
            expected = annotation_bytes(rig.standin, image_of(rig, number))
            (path,) = (each for each in paths if f"image-{number:06d}." in each)
            assert got[path] == expected


async def test_c4_files_that_come_together_are_read_though_none_can_be_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.mount() as mount:
        found = await mount.walk("/datasets/small/annotations", read=False)
        paths = [path for path, data in found.items() if data is not None]

        def full(*_: Any, **__: Any) -> None:
            raise DiskFull("the disk takes nothing")

        monkeypatch.setattr(mount.library.images, "learn_annotations", full)
        monkeypatch.setattr(mount.blob_cache, "put", full)

        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(mount.read, path)
