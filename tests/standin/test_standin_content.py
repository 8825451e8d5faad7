from __future__ import annotations

import base64
import io
import random

import google_crc32c
import pytest
from PIL import Image as Pillow

from standin import PRESETS, Spec, content


@pytest.mark.parametrize("png", [False, True])
@pytest.mark.parametrize("size", [1100, 4096, 20_000, 65_000, 102_400, 131_072, 200_003, 3_000_000])
def test_every_size_is_exact_and_decodes(size: int, png: bool) -> None:
    look = content.look_for(size)
    body = content.body_of("seed", size, look, png=png)
    whole = body.read(0, size)
    assert len(whole) == body.size == size
    with Pillow.open(io.BytesIO(whole)) as opened:
        opened.load()
        assert opened.format == ("PNG" if png else "JPEG")
        assert opened.size == (look.width, look.height)


@pytest.mark.parametrize("png", [False, True])
def test_sizes_around_the_block_boundaries_decode(png: bool) -> None:
    frame = content.body_of("seed", 0, content.TINY, png=png)._frame
    base = len(frame.before) + len(frame.after)
    for size in [base + blocks * 65_536 + rest for blocks in (0, 1, 2) for rest in range(16)]:
        whole = content.body_of("seed", size, content.TINY, png=png).read(0, size)
        assert len(whole) == size
        with Pillow.open(io.BytesIO(whole)) as opened:
            opened.load()


def test_ranges_are_slices_of_the_whole() -> None:
    chance = random.Random(1)
    for size in (0, 1, 300, 20_000, 65_540, 131_073, 400_001):
        for png in (False, True):
            body = content.body_of("seed", size, content.PLAIN, png=png)
            whole = body.read(0, size)
            for _ in range(60):
                start = chance.randint(0, size)
                stop = chance.randint(start, size)
                assert body.read(start, stop) == whole[start:stop]


def test_a_part_of_a_large_body_needs_no_whole() -> None:
    body = content.body_of("seed", 50 * 2**30, content.PLAIN, png=False)
    part = body.read(40 * 2**30, 40 * 2**30 + 100)
    assert len(part) == 100
    assert part == body.read(40 * 2**30 - 5, 40 * 2**30 + 100)[5:]


def test_images_differ_everywhere_but_in_their_frame() -> None:
    one, two = (
        content.body_of(seed, 200_000, content.PLAIN, png=False).read(0, 200_000) for seed in "ab"
    )
    blocks = [(start, start + 65_536) for start in range(0, 196_608, 65_536)]
    assert all(one[start:stop] != two[start:stop] for start, stop in blocks)


def test_checksum_is_big_endian_base64() -> None:
    body = content.body_of("seed", 20_000, content.PLAIN, png=False)
    expected = google_crc32c.value(body.read(0, 20_000)).to_bytes(4, "big")
    assert content.checksum("seed", 20_000, content.PLAIN, False) == b"crc32c=" + base64.b64encode(
        expected
    )


def test_the_rotated_picture_keeps_its_tag() -> None:
    body = content.body_of("seed", 30_000, content.ROTATED, png=False)
    with Pillow.open(io.BytesIO(body.read(0, body.size))) as opened:
        assert opened.getexif()[0x0112] == 6
        assert opened.size == (content.ROTATED.height, content.ROTATED.width)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_the_same_in_every_run(preset: str) -> None:
    first, second = PRESETS[preset]().build(), PRESETS[preset]().build()
    assert list(first.images) == list(second.images)
    assert list(first.datasets) == list(second.datasets)
    assert list(first.keys) == list(second.keys)
    for image_id, image in list(first.images.items())[:50]:
        twin = second.images[image_id]
        assert image.place == twin.place
        assert first.annotations(image) == second.annotations(twin)
        assert image.body().read(0, 4000) == twin.body().read(0, 4000)


def test_the_sample_is_modest_and_truthful() -> None:
    organization = PRESETS["sample"]().build()
    assert 15_000_000 < sum(image.size for image in organization.images.values()) < 25_000_000
    for image in list(organization["street-signs"].images.values())[:6]:
        found = organization.annotations(image)
        assert len(found) == image.annotation_count
        assert min(each["confidence"] for each in found) == image.min_confidence
        with Pillow.open(io.BytesIO(image.body().read(0, image.size))) as opened:
            opened.load()
            assert opened.size == (image.width, image.height)


def test_every_nasty_image_of_a_fair_size_decodes() -> None:
    for image in PRESETS["nasty"]().build().images.values():
        whole = image.body().read(0, image.size)
        assert len(whole) == image.size
        if image.size > 1500:
            with Pillow.open(io.BytesIO(whole)) as opened:
                opened.load()


def test_uniform_spec() -> None:
    made = Spec.uniform(
        datasets=2, images=1000, size=5000, directories=4, statuses="complete"
    ).build()
    dataset = made["dataset-1"]
    assert dataset.counts() == (1000, 1000, 0, 5_000_000)
    assert len(dataset.directories) == 4
    assert len(made.images) == 2000
