"""What is fetched ahead, guessed from the reads: exact images, exact counts, no timing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from prefetching import SIZE, reading
from trio.testing import wait_all_tasks_blocked

from standin import Fault, Match, Spec
from standin.faults import Hang, error
from standin.spec import DatasetSpec

HUNDRED = Spec.uniform(images=100, size=SIZE)


async def test_a_few_reads_fetch_nothing_more(tmp_path: Path) -> None:
    """A `cat`, or a person who looks at three images."""
    async with reading(tmp_path, HUNDRED) as readers:
        images = await readers.images()
        await readers.read(images[:3])
        assert readers.downloads == 3
        assert readers.there(images) == images[:3]


@pytest.mark.parametrize("order", ["seq", "entry", "key"])
async def test_an_order_is_followed(tmp_path: Path, order: str) -> None:
    """The cache holds 60 of 100: only what comes next is fetched, a quarter of the cache at
    most."""
    async with reading(tmp_path, HUNDRED, holds=60) as readers:
        images = await readers.images(by=order)
        await readers.read(images[:5])

        assert readers.downloads == 5  # not sure yet

        await readers.read(images[5:6])

        assert readers.there(images) == images[: 6 + 15]
        assert readers.downloads == 21

        await readers.read(images[6:15])

        assert readers.there(images) == images[: 15 + 15]
        assert (readers.downloads, readers.misses) == (30, 6)


async def test_the_window_grows_with_use(tmp_path: Path) -> None:
    """Eight images for each one read, until a quarter of the cache lies unused."""
    async with reading(tmp_path, Spec.uniform(images=400, size=SIZE), holds=300) as readers:
        images = await readers.images()
        ahead = []
        for at in range(12):
            await readers.read(images[at : at + 1])
            ahead.append(len(readers.there(images)) - at - 1)
        assert ahead == [0, 0, 0, 0, 0, 48, 56, 64, 72, 75, 75, 75]


async def test_an_order_goes_on_in_the_next_folder(tmp_path: Path) -> None:
    spec = Spec.uniform(images=100, size=SIZE, directories=2)
    async with reading(tmp_path, spec, holds=60) as readers:
        images = await readers.images(by="entry")
        await readers.read(images[:50])
        misses = readers.misses
        await readers.read(images[50:])
        assert readers.misses == misses + 1  # the first one of the second folder
        assert readers.downloads == 100


async def test_several_readers_in_one_order_are_followed(tmp_path: Path) -> None:
    """A DataLoader that does not shuffle: four workers, each in a batch of its own."""
    async with reading(tmp_path, Spec.uniform(images=400, size=SIZE), holds=300) as readers:
        images = await readers.images(by="entry")
        batches = [images[at : at + 16] for at in range(0, 256, 16)]
        for at in range(0, len(batches), 4):
            await readers.read(
                image for row in zip(*batches[at : at + 4], strict=True) for image in row
            )
        assert readers.misses < 64  # the first batches, at most
        assert len(readers.there(images[256:])) == 75


async def test_images_that_are_left_out_do_not_block_the_window(tmp_path: Path) -> None:
    """Every fourth image of a folder, in order: what lies unused for good is given up, and the
    window shrinks."""
    async with reading(tmp_path, Spec.uniform(images=2000, size=2_000), holds=300) as readers:
        images = await readers.images()
        await readers.read(images[:10])
        await readers.read(images[10:1900:4])
        assert readers.misses < 60
        assert len(readers.there(images[1900:])) > 0


async def test_q6_shuffled_reads_fetch_all_of_what_fits(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED, holds=130) as readers:
        images = await readers.images()
        shuffled = random.Random(7).sample(images, 100)
        await readers.read(shuffled[:3])

        assert readers.downloads == 3

        await readers.read(shuffled[3:40])

        assert readers.there(images) == images

        await readers.read(shuffled[40:])

        assert readers.downloads == 100
        assert [each.route for each in readers.standin.log.requests("api")].count(
            "/datasets/{dataset}/download"
        ) == 1


async def test_shuffled_reads_of_what_does_not_fit_fetch_nothing(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED, holds=100) as readers:
        images = await readers.images()
        shuffled = random.Random(7).sample(images, 50)
        await readers.read(shuffled)
        assert readers.downloads == readers.misses == 50


async def test_two_datasets_that_fit_one_by_one_and_not_together(tmp_path: Path) -> None:
    """Neither is fetched whole: each would put the other one out."""
    async with reading(
        tmp_path, Spec.uniform(datasets=2, images=100, size=SIZE), holds=150
    ) as readers:
        first, second = await readers.images("dataset-0"), await readers.images("dataset-1")
        chance = random.Random(7)
        mixed = chance.sample(first, 3) + chance.sample(second, 40)
        await readers.read(mixed)
        assert readers.downloads == 43


async def test_only_the_folders_that_are_read(tmp_path: Path) -> None:
    spec = Spec.uniform(images=200, size=SIZE, directories=2)
    async with reading(tmp_path, spec) as readers:
        images = await readers.images()
        one = [image for image in images if image.directory == images[0].directory]
        await readers.read(random.Random(7).sample(one, 30))
        assert readers.there(images) == one


async def test_q6_off_fetches_nothing(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED, mode="off") as readers:
        images = await readers.images()
        await readers.read(images[:50])
        assert readers.downloads == 50


async def test_all_fetches_a_dataset_once_one_image_is_read(tmp_path: Path) -> None:
    """Also one that was never listed: the image was opened by its path."""
    spec = Spec.uniform(datasets=2, images=100, size=SIZE, directories=3)
    async with reading(tmp_path, spec, mode="all") as readers:
        opened = await readers.mount.open("/datasets/dataset-0/images/part-000/image-000000.jpg")
        readers.mount.tree.close(opened.handle)
        await readers.mount.quiet()
        images = await readers.images()
        assert readers.there(images) == images
        assert readers.downloads == 100
        assert readers.there(await readers.images("dataset-1")) == []


async def test_large_images_are_left_to_their_readers(tmp_path: Path) -> None:
    large = DatasetSpec("large", images=30, size=(8 << 20) + 1)
    async with reading(tmp_path, Spec((large,)), holds=1 << 20) as readers:
        images = await readers.images("large")
        for image in images[:6]:
            content = await readers.mount.library.downloads.image(image)
            await content.read(0, 1000)
            content.close()
        await readers.mount.quiet()
        assert readers.there(images[6:]) == []


async def test_a_reader_does_not_wait_behind_what_is_fetched_ahead(tmp_path: Path) -> None:
    """Every download ahead hangs, as many as are made at once; a reader has an image all the
    same."""
    async with reading(tmp_path, HUNDRED, mode="all") as readers:
        images = await readers.images()
        wanted = images[-1]
        fault = readers.standin.faults.add(
            Fault(Match("storage", None, f"^(?!.*{wanted.id})"), Hang())
        )
        await readers.open(images[0])  # sets it off
        await wait_all_tasks_blocked(0.1)

        assert fault.hits >= 3

        hung = readers.downloads
        with trio.fail_after(5):
            await readers.open(wanted)

        assert readers.downloads == hung + 1


async def test_one_bad_image_is_no_reason_to_rest(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED) as readers:
        images = await readers.images()
        bad = images[60]
        readers.standin.faults.add(Fault(Match("storage", None, bad.id), error(404)))
        await readers.read(images[:40])
        assert readers.there(images) == [image for image in images if image is not bad]


async def test_q6_it_rests_when_storage_fails_and_goes_on_later(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED, mode="all") as readers:
        images = await readers.images()
        await readers.open(images[0])  # by the keyed route
        fault = readers.standin.faults.add(Fault(Match("storage"), error(404)))
        await readers.mount.quiet()

        assert len(readers.there(images)) < 10
        assert fault.hits < 40

        readers.standin.faults.clear()
        await readers.read(images[:5])

        assert len(readers.there(images)) < 15

        readers.mount.clock.advance(31)
        await readers.read(images[5:6])

        assert len(readers.there(images)) > 60


async def test_q6_heads_alone_fetch_nothing_ahead(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED) as readers:
        images = await readers.images()
        for image in images[:60]:
            await readers.read([image])
            readers.prefetch.skimmed(image)
        assert readers.there(images) == images[:60]


async def test_q6_a_few_heads_among_whole_files_do_not_matter(tmp_path: Path) -> None:
    async with reading(tmp_path, HUNDRED, holds=60) as readers:
        images = await readers.images()
        for at, image in enumerate(images[:30]):
            await readers.read([image])
            if at % 4 == 0:
                readers.prefetch.skimmed(image)
        assert len(readers.there(images[30:])) == 15  # a quarter of the cache, as without them
