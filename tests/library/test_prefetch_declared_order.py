"""What is fetched ahead in an order that was told: exact images, exact counts, no timing."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from prefetching import SIZE, reading

from pictofs.library.prefetch.declared_order import OVERTAKEN, DeclaredOrder
from pictofs.store.catalog.rows import ImageRow
from standin import Fault, Match, Spec
from standin.faults import dropped, error
from standin.spec import DatasetSpec

THREE_HUNDRED = Spec.uniform(images=300, size=SIZE)


def shuffled(images: list[ImageRow], seed: int = 7) -> list[ImageRow]:
    return random.Random(seed).sample(images, len(images))


@pytest.mark.parametrize("mode", ["auto", "off", "all"])
async def test_every_image_is_there_before_it_is_read(tmp_path: Path, mode: str) -> None:
    """The cache holds a third: each image is downloaded once, and no reader waits."""
    async with reading(tmp_path, THREE_HUNDRED, holds=100, mode=mode) as readers:
        order = shuffled(await readers.images())
        readers.tell(order, ahead=20)
        await readers.mount.quiet()

        assert set(readers.there(order)) == set(order[:20])

        for at, image in enumerate(order):
            await readers.read([image])
            assert len(readers.there(order[at + 1 : at + 21])) == len(order[at + 1 : at + 21])

        assert readers.misses == 0
        assert readers.downloads == 300
        assert readers.prefetch.used == 300
        assert readers.prefetch.status().orders == []


async def test_so_many_are_kept_ahead(tmp_path: Path) -> None:
    """A quarter of what the cache holds; on demand half of it; never more; at least one."""
    async with reading(tmp_path, THREE_HUNDRED, holds=400) as readers:
        order = await readers.images()
        for asked, kept in ((None, 100), (1, 1), (150, 150), (100_000, 200)):
            assert readers.prefetch.kept_ahead(readers.tell(order, asked)) == kept
            readers.tell([])


async def test_a_small_cache_still_keeps_some_ahead(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=20) as readers:
        order = shuffled(await readers.images())
        assert readers.prefetch.kept_ahead(readers.tell(order)) == 10
        await readers.mount.quiet()
        await readers.read(order)
        assert readers.misses == 0
        assert readers.downloads == 300


async def test_what_the_cache_has_is_kept_for_its_turn(tmp_path: Path) -> None:
    """What was read longest ago would be evicted first; it is next in the order."""
    async with reading(tmp_path, THREE_HUNDRED, holds=60, mode="off") as readers:
        images = await readers.images()
        await readers.read(images[:40])
        before = readers.downloads
        order = images[:20] + images[100:280]
        readers.tell(order, ahead=30)
        await readers.mount.quiet()
        await readers.read(order)

        assert readers.misses == 40
        assert readers.downloads == before + 180


async def test_no_more_is_used_than_was_fetched(tmp_path: Path) -> None:
    """An image that the cache had, and kept for its turn, was not fetched ahead."""
    async with reading(tmp_path, THREE_HUNDRED, holds=400, mode="off") as readers:
        images = await readers.images()
        await readers.read(images[:40])
        readers.tell(images[:60], ahead=10)
        await readers.mount.quiet()
        await readers.read(images[:60])

        assert readers.prefetch.fetched == 20
        assert readers.prefetch.used == 20


async def test_two_epochs_each_told(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=120) as readers:
        images = await readers.images()
        for epoch in range(2):
            order = shuffled(images, epoch)
            readers.tell(order)
            await readers.mount.quiet()
            await readers.read(order)
            assert readers.misses == 0
            assert readers.prefetch.status().orders == []
        assert readers.downloads < 600


@pytest.mark.parametrize("workers", [2, 4, 8])
async def test_several_workers_do_not_lose_the_place(tmp_path: Path, workers: int) -> None:
    """Each reads a batch of its own; the fastest is a batch ahead of the others."""
    batch = 10

    async with reading(tmp_path, Spec.uniform(images=640, size=SIZE), holds=400) as readers:
        order = shuffled(await readers.images())
        readers.tell(order)
        await readers.mount.quiet()
        batches = [order[at : at + batch] for at in range(0, len(order), batch)]

        for at in range(0, len(batches), workers):
            await readers.read(
                image for row in zip(*batches[at : at + workers], strict=True) for image in row
            )

        assert readers.misses == 0
        assert readers.downloads == 640


async def test_more_workers_than_are_kept_ahead(tmp_path: Path) -> None:
    """Each image is downloaded once all the same, by whoever comes first, and the order ends with
    its end."""
    async with reading(tmp_path, THREE_HUNDRED, holds=200, mode="off") as readers:
        order = shuffled(await readers.images())
        readers.tell(order, ahead=10)
        await readers.mount.quiet()
        batches = [order[at : at + 25] for at in range(0, 300, 25)]

        for at in range(0, len(batches), 4):
            await readers.read(
                image for row in zip(*batches[at : at + 4], strict=True) for image in row
            )

        assert readers.downloads == 300
        assert readers.misses < 225
        assert readers.prefetch.status().orders == []


async def test_images_may_come_twice(tmp_path: Path) -> None:
    """Sampling with replacement."""
    async with reading(tmp_path, THREE_HUNDRED, holds=200) as readers:
        order = random.Random(7).choices(await readers.images(), k=600)
        readers.tell(order)
        await readers.mount.quiet()
        await readers.read(order)
        assert readers.misses == 0
        assert readers.prefetch.status().orders == []


async def test_a_new_order_takes_the_place_of_the_old_one_at_once(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=200) as readers:
        images = await readers.images()
        readers.tell(images[:100], ahead=10)
        await readers.mount.quiet()
        await readers.read(images[:10])
        readers.tell(images[100:200], ahead=10)
        await readers.mount.quiet()
        assert readers.there(images) == images[:20] + images[100:110]
        await readers.read(images[100:110])
        assert readers.there(images) == images[:20] + images[100:120]


async def test_an_empty_order_ends_the_last(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=200) as readers:
        images = await readers.images()
        readers.tell(images, ahead=10)
        await readers.mount.quiet()
        readers.tell([])
        await readers.read(images[:3])
        assert readers.there(images) == images[:10]


async def test_an_order_spans_datasets(tmp_path: Path) -> None:
    async with reading(
        tmp_path, Spec.uniform(datasets=3, images=60, size=SIZE), holds=100
    ) as readers:
        images = [image for n in range(3) for image in await readers.images(f"dataset-{n}")]
        order = shuffled(images)
        readers.tell(order)
        await readers.mount.quiet()
        await readers.read(order)
        assert (readers.misses, readers.downloads) == (0, 180)


async def test_orders_of_several_processes_share_the_cache(tmp_path: Path) -> None:
    """Four processes train on a quarter of a dataset each, and each tells its own."""
    async with reading(tmp_path, Spec.uniform(images=400, size=SIZE), holds=160) as readers:
        images = shuffled(await readers.images())
        parts = [images[at::4] for at in range(4)]
        told = [readers.tell(part, name=str(at)) for at, part in enumerate(parts)]
        assert [readers.prefetch.kept_ahead(each) for each in told] == [20, 20, 20, 20]
        await readers.mount.quiet()
        for row in zip(*parts, strict=True):
            await readers.read(row)
        assert (readers.misses, readers.downloads) == (0, 400)


async def test_others_who_read_the_same_images_do_not_lead_it_astray(tmp_path: Path) -> None:
    """Someone copies the folder meanwhile, twice as fast. What is fetched ahead is bounded all the
    same."""
    async with reading(
        tmp_path, Spec.uniform(images=400, size=SIZE), holds=250, mode="off"
    ) as readers:
        images = await readers.images()
        order = shuffled(images)
        readers.tell(order, ahead=40)
        await readers.mount.quiet()
        missed = 0

        for at in range(200):
            before = readers.misses
            await readers.read([order[at]])
            missed += readers.misses - before
            await readers.read(images[2 * at : 2 * at + 2])

        assert missed == 0


async def test_a_reader_who_has_overtaken_is_found_again(tmp_path: Path) -> None:
    """Nothing was fetched for a while: the budget was spent, the disk was full. Then it goes on
    where he is."""
    async with reading(tmp_path, THREE_HUNDRED, holds=200, mode="off") as readers:
        order = shuffled(await readers.images())
        told = readers.tell(order, ahead=10)
        await readers.mount.quiet()
        told.rest_until = readers.mount.clock.monotonic() + 30
        await readers.read(order[:110])

        assert readers.misses >= 90

        readers.mount.clock.advance(31)
        await readers.read(order[110:111])

        assert len(readers.there(order[111:121])) == 10

        misses = readers.misses
        await readers.read(order[111:])

        assert readers.misses == misses


async def test_images_that_are_left_out_do_not_hold_it_up(tmp_path: Path) -> None:
    """Every tenth is never read."""
    async with reading(tmp_path, Spec.uniform(images=1000, size=2_000), holds=60) as readers:
        order = shuffled(await readers.images())
        readers.tell(order, ahead=100)
        await readers.mount.quiet()
        await readers.read(image for at, image in enumerate(order) if at % 10)
        assert readers.misses == 0


async def test_guessing_goes_on_when_the_order_has_ended(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=200) as readers:
        images = await readers.images()
        readers.tell(images[:30])
        await readers.mount.quiet()
        await readers.read(images[:29])
        assert len(readers.prefetch.status().orders) == 1
        await readers.read(images[29:40])
        assert readers.prefetch.status().orders == []
        assert len(readers.there(images[40:])) == 50


async def test_nothing_is_guessed_while_an_order_is_followed(tmp_path: Path) -> None:
    """But for other datasets it is."""
    async with reading(tmp_path, Spec.uniform(datasets=2, images=100, size=SIZE)) as readers:
        told, other = await readers.images("dataset-0"), await readers.images("dataset-1")
        readers.tell(told[:50], ahead=5)
        await readers.mount.quiet()
        await readers.read(told[60:70])
        assert readers.there(told) == told[:5] + told[60:70]
        await readers.read(shuffled(other)[:20])
        assert readers.there(other) == other


async def test_an_order_that_nobody_follows_stands_aside(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED) as readers:
        images = await readers.images()
        readers.tell(images[:50], ahead=5)
        await readers.mount.quiet()
        readers.mount.clock.advance(301)
        await readers.read(shuffled(images)[:60])
        assert readers.there(images) == images


async def test_large_and_deleted_images_are_passed_over(tmp_path: Path) -> None:
    spec = Spec(
        (
            DatasetSpec("dataset-0", images=50, size=SIZE),
            DatasetSpec("large", images=4, size=9 << 20),
        )
    )
    async with reading(tmp_path, spec, holds=4000) as readers:
        small, large = await readers.images(), await readers.images("large")
        gone = small[5]._replace(key=1)
        order = [small[0], *large, gone, *small[1:5]]
        readers.tell(order)
        await readers.mount.quiet()

        assert readers.there(order) == small[:5]


async def test_q6_an_image_without_a_url_is_fetched_by_the_request_that_it_would_cost_anyway(
    tmp_path: Path,
) -> None:
    async with reading(tmp_path, Spec.uniform(images=10, size=SIZE)) as readers:
        order = await readers.images()
        readers.standin.faults.add(
            Fault(Match("api", None, "/datasets/{dataset}/download"), dropped())
        )
        readers.tell(order)
        await readers.mount.quiet()

        assert readers.there(order) == order
        assert readers.standin.log.count("storage") == 9
        assert readers.standin.log.count("api", route="/images/{image_id:uuid}") == 1


async def test_q6_it_waits_when_only_the_reserve_of_the_budget_is_left(tmp_path: Path) -> None:
    """No request, and no wait for readers, whose requests pass."""
    async with reading(tmp_path, THREE_HUNDRED, hourly_limit=52) as readers:
        order = shuffled(await readers.images())
        asked = readers.standin.log.count("api")
        readers.tell(order)
        await readers.mount.quiet()

        assert readers.standin.log.count("api") == asked
        assert readers.downloads == 0

        await readers.read(order[:5])

        assert readers.misses == 5
        assert readers.standin.log.count("api", status=429) == 0


async def test_a_full_disk_is_no_reason_to_run_through_the_order(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED) as readers:
        order = await readers.images()
        readers.mount.library.downloads._cache._again = readers.mount.clock.monotonic() + 30
        told = readers.tell(order)
        await readers.mount.quiet()
        assert readers.downloads == 0
        assert told.left > 200
        readers.mount.clock.advance(31)
        await readers.read(order[:1])
        assert len(readers.there(order)) > 200


async def test_one_bad_image_is_passed_over(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED) as readers:
        order = await readers.images()
        readers.standin.faults.add(Fault(Match("storage", None, order[50].id), error(404)))
        readers.tell(order)
        await readers.mount.quiet()
        assert readers.there(order) == order[:50] + order[51:]


async def test_an_order_of_what_is_there_is_looked_through_in_small_steps(tmp_path: Path) -> None:
    async with reading(tmp_path, THREE_HUNDRED, holds=1 << 20) as readers:
        images = await readers.images()
        readers.tell(images)
        await readers.mount.quiet()
        told = readers.tell(random.Random(7).choices(images, k=5000))
        left = [told.left]
        while left[-1]:
            await trio.lowlevel.checkpoint()
            left.append(told.left)
        assert max(before - after for before, after in pairwise(left)) <= 2 * 64


class TestTold:
    """The bookkeeping alone."""

    def test_memory_of_what_was_taken_is_given_back(self) -> None:
        told = DeclaredOrder("", 1)
        told.extend(range(200_000))
        taken = [told.take() for _ in range(150_000)]
        assert taken == list(range(150_000))
        assert told.left == 50_000
        assert len(told._keys) < 70_000

    def test_strays_do_not_move_it(self) -> None:
        told = DeclaredOrder("", 1)
        told.extend(range(8000))
        for key in (100, 4000) * OVERTAKEN:
            told.read(key)
        for key in range(1000, 1000 + OVERTAKEN - 1):
            told.read(key)

        assert told.take() == 0

        told.expect(0)

        assert told.read(0)

        told.read(2000)

        assert told.take() == 1

    def test_a_reader_far_ahead_does(self) -> None:
        told = DeclaredOrder("", 1)
        told.extend(range(8000))
        for key in range(1000, 1000 + OVERTAKEN):
            told.read(key)
        assert told.take() == 1000 + OVERTAKEN
        told.read(1100)
        assert told.take() == 1101

    def test_what_is_read_early_is_not_waited_for(self) -> None:
        told = DeclaredOrder("", 1)
        told.extend([1, 2, 3, 2])
        told.read(2)
        assert [(told.take(), told.was_read(key)) for key in (1, 2, 3, 2)] == [
            (1, False),
            (2, True),
            (3, False),
            (2, False),
        ]
