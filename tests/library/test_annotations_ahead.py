"""Annotation files fetched ahead: soon enough to help, and never more requests than twice what is
read, and a few."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from mounting import Hold
from rig import Mount, Rig, annotation_bytes

from pictofs.library.annotations import prefetch
from pictofs.library.annotations.prefetch import SPARE, WORKERS
from pictofs.library.prefetch import access_pattern
from pictofs.store.catalog.rows import ImageRow
from standin import Spec, StandIn
from standin.faults import Delay, Fault, Match, error, throttled

FILE = "/annotations/{image_id:uuid}/file"
COUNT = 300


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(Spec.uniform(images=COUNT, size=500)) as running:
        yield running


class Readers:
    """Who reads the annotation files of `dataset-0`."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    async def images(self) -> list[ImageRow]:
        row = self.mount.catalog.dataset_by_entry("dataset-0")
        assert row is not None
        await self.mount.library.listing.all_images(row.key)
        (folder,) = self.mount.catalog.directory_keys(row.key)
        return self.mount.catalog.images_after(folder, 0, 1 << 30)

    async def read(self, images: list[ImageRow]) -> None:
        for image in images:
            await self.open(image)
            await self.mount.quiet()

    async def open(self, image: ImageRow) -> None:
        row = self.mount.catalog.image(image.key)
        assert row is not None
        content = await self.mount.library.annotations.open(row)
        data = await content.read(0, 1 << 20)
        content.close()
        truth = self.mount.standin.organization["dataset-0"].images[image.id]
        assert data == annotation_bytes(self.mount.standin, truth)

    @property
    def requests(self) -> int:
        return len(self.mount.standin.log.requests("api", route=FILE))

    @property
    def misses(self) -> int:
        return self.mount.library.read_stats.misses


@asynccontextmanager
async def reading(
    rig: Rig, prefetch: str = "auto", **options: Any
) -> AsyncIterator[tuple[Readers, list[ImageRow]]]:
    async with rig.mount(prefetch=prefetch, **options) as mount:  # type: ignore[arg-type]
        await mount.library.listing.datasets()
        readers = Readers(mount)
        yield readers, await readers.images()


async def test_what_follows_is_there_when_it_is_read(rig: Rig) -> None:
    async with reading(rig) as (readers, images):
        for count, image in enumerate(images, 1):
            await readers.read([image])
            assert readers.requests <= 2 * count + SPARE
        assert readers.misses <= 6
        assert readers.requests == COUNT


async def test_a_few_reads_cost_nothing_more(rig: Rig) -> None:
    async with reading(rig) as (readers, images):
        await readers.read(images[:3])
        assert readers.requests == 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [1, 3, 10, None])
async def test_q6_never_more_than_twice_what_was_read(
    rig: Rig, step: int | None, seed: int
) -> None:
    async with reading(rig) as (readers, images):
        chosen = random.Random(seed).sample(images, 60) if step is None else images[seed::step]
        for count, image in enumerate(chosen, 1):
            await readers.read([image])
            assert readers.requests - readers.misses <= 2 * count + SPARE


def arriving(images: list[ImageRow], parts: str, arrival: str) -> list[ImageRow]:
    """The reads of four readers at one pace, in the order in which they come.

    `parts`: each has every fourth image, or a quarter of them. `arrival`: how the four reads of a
    round are ordered: always as `3120`, or anew each time.
    """
    rounds = len(images) // 4
    order = [int(digit) for digit in "3120"]
    chance = random.Random(7)
    reads = []

    for at in range(rounds):
        if arrival == "anew":
            chance.shuffle(order)
        for reader in order:
            place = 4 * at + reader if parts == "interleaved" else reader * rounds + at
            reads.append(images[place])

    return reads


@pytest.mark.parametrize("arrival", ["3120", "anew"])
@pytest.mark.parametrize("parts", ["interleaved", "contiguous"])
@pytest.mark.parametrize("order", ["seq", "entry", "key"])
async def test_q6_four_readers_out_of_step_have_their_order_found(
    rig: Rig, order: str, parts: str, arrival: str
) -> None:
    """Before it is, files come from the beginning of the listing, which may be read last."""
    async with reading(rig) as (readers, images):
        images.sort(key=lambda image: getattr(image, order))
        for count, image in enumerate(arriving(images, parts, arrival), 1):
            await readers.read([image])
            assert readers.requests - readers.misses <= 2 * count + SPARE

        assert readers.requests == COUNT
        # One reader is followed at a time: those with other quarters read on by themselves.
        assert readers.misses <= (20 if parts == "interleaved" else 90)


async def test_q6_an_order_that_begins_late_is_found(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that is full of what nobody reads is no obstacle."""
    monkeypatch.setattr(access_pattern, "LOOKED_AT", 64)
    monkeypatch.setattr(access_pattern, "LOOKED_AT_AGAIN", 16)
    monkeypatch.setattr(prefetch, "MOST", 32)
    async with reading(rig) as (readers, images):
        by_name = sorted(images, key=lambda image: image.entry)
        await readers.read(random.Random(7).sample(by_name[:150], 70))
        before = readers.misses
        await readers.read(by_name[150:])
        assert readers.misses - before <= 12


async def test_q6_so_many_at_once(rig: Rig) -> None:
    async with reading(rig) as (readers, images):
        await readers.read(images[:3])
        rig.standin.faults.add(Fault(Match("api", None, FILE), Delay(0.3)))
        async with trio.open_nursery() as nursery:
            for image in images[3:20]:
                nursery.start_soon(readers.open, image)
            with trio.move_on_after(0.15):
                while True:
                    assert readers.mount.request_stats.in_flight <= 17 + WORKERS
                    await trio.sleep(0.005)


async def test_off(rig: Rig) -> None:
    async with reading(rig, "off") as (readers, images):
        await readers.read(images[:40])
        assert readers.requests == 40


async def test_all_is_for_images(rig: Rig) -> None:
    async with reading(rig, "all") as (readers, images):
        await readers.read(images[:1])
        assert readers.requests == 1


async def test_what_is_cached_is_not_fetched(rig: Rig) -> None:
    async with reading(rig, "off") as (readers, images):
        await readers.read(images[:100])
    async with reading(rig) as (readers, images):
        await readers.read(images[:100])
        assert readers.requests == 100


async def test_q6_it_rests_before_the_reserve_and_readers_go_on(rig: Rig) -> None:
    rig.standin.organization.switches.hourly_limit = 100
    async with reading(rig) as (readers, images):
        await readers.read(images[:60])
        assert not [each for each in rig.standin.log.requests("api") if each.status == 429]
        assert readers.requests <= 60 + SPARE
        assert readers.mount.request_stats.remaining < 50


async def test_a_throttle_is_no_reader_s(rig: Rig) -> None:
    async with reading(rig) as (readers, images):
        await readers.read(images[:4])
        rig.standin.faults.add(Fault(Match("api", None, FILE), throttled(1), times=3))
        await readers.read(images[4:40])


async def test_one_bad_file_holds_up_no_other(rig: Rig) -> None:
    async with reading(rig) as (readers, images):
        rig.fault(error(404, "not_found"), path=images[20].id)
        await readers.read(images[:20] + images[21:60])
        assert readers.misses < 20


async def test_an_export_that_is_under_way_brings_them(rig: Rig) -> None:
    async with reading(rig, bulk_annotations=True, key=rig.standin.keys["member"]) as (
        readers,
        images,
    ):
        held = Hold()
        rig.fault(held, "api", "/exports/{export:path}")
        for image in images[:3]:
            await readers.open(image)
        with trio.fail_after(20):  # the exports that are there are looked through first
            while not readers.mount.library.exports.is_running(images[0].dataset):  # noqa: ASYNC110
                await trio.sleep(0.005)

        held.open()
        await readers.open(images[3])
        await readers.mount.quiet()
        await readers.read(images[4:])

        assert readers.requests <= 5 + SPARE
