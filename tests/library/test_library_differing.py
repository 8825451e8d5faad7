"""Servers that differ from the contract, and what each costs: the way out is found once, and
remembered."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rig import Mount, Rig, error_of, expected, listed

from pictofs.errors import InvalidResponse, NoSuchEntry, PictofsError
from standin import PRESETS, Spec, StandIn
from standin.faults import Mutate, error, rows_of
from standin.records import Image

LIST, DATASET, TREE, IMAGES, DOWNLOAD, BY_ID, BY_PATH = (
    "GET /datasets/",
    "GET /datasets/{dataset}",
    "GET /directories/{dataset}/tree",
    "GET /images/",
    "GET /datasets/{dataset}/download",
    "GET /images/{image_id:uuid}",
    "GET /images/{dataset}/{path:path}",
)
SMALL = "/datasets/small/images"


def differ(rig: Rig, **switches: Any) -> None:
    """Make the stand-in differ."""
    for name, value in switches.items():
        setattr(rig.standin.organization.switches, name, value)


def big(images: int) -> Spec:
    return Spec.uniform(1, images, 1000, directories=1, annotations=0)


# The listing.


@pytest.mark.parametrize("how", ["absent", "summary"])
async def test_l6_without_a_whole_embedded_listing_images_are_listed_by_pages(
    rig: Rig, how: str
) -> None:
    differ(rig, embedded_listing=how)
    async with rig.mount() as mount:
        assert listed(await mount.walk(read=False)).keys() == listed(expected(rig.standin)).keys()
        assert mount.asked == [LIST, TREE, DATASET, IMAGES]
        assert mount.library.traits.all()["listing"] == "pages"


@pytest.mark.parametrize("how", ["absent", "summary"])
async def test_l6_what_was_found_out_is_remembered_for_a_week(rig: Rig, how: str) -> None:
    differ(rig, embedded_listing=how)
    async with rig.mount() as mount:
        await mount.list(SMALL)
    for days, asked in (6, [LIST, TREE, IMAGES]), (8, [LIST, TREE, DATASET, IMAGES]):
        rig.clock.advance(days * 86_400.0)
        async with rig.mount() as mount:
            mount.forget_log()
            await mount.list(SMALL)
            assert mount.asked == asked

    differ(rig, embedded_listing="full")
    rig.clock.advance(8 * 86_400.0)

    async with rig.mount() as mount:
        mount.forget_log()
        await mount.list(SMALL)
        assert mount.asked == [LIST, TREE, DATASET]


@pytest.mark.usefixtures("small_pages")
async def test_l6_an_embedded_listing_that_heeds_no_offset_is_not_believed(tmp_path: Path) -> None:
    with StandIn(big(1050), embedded_listing="first_page") as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            assert len(await mount.list("/datasets/dataset-0/images")) == 1050
            assert mount.asked.count(DATASET) == 2
            assert mount.asked.count(IMAGES) == 2


@pytest.mark.parametrize("embedded", ["full", "absent"])
async def test_l6_a_lower_cap_of_pages_hides_nothing(tmp_path: Path, embedded: str) -> None:
    with StandIn(big(2050), embedded_listing=embedded, image_page_cap=500) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            assert len(await mount.list("/datasets/dataset-0/images")) == 2050


async def test_l6_rows_that_are_summaries_everywhere_are_shown_in_the_root(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    differ(rig, embedded_listing="summary", listed_rows="summary")
    async with rig.mount() as mount:
        shown = await mount.list(SMALL)
        assert len([name for name in shown if name.startswith("image-")]) == 12
        assert mount.library.traits.all()["rows"] == "summary"
        await mount.read(f"{SMALL}/image-000000.jpg")
    assert len([each for each in caplog.records if "lack directory_path" in each.message]) == 1


@pytest.mark.usefixtures("small_pages")
async def test_a_count_that_is_too_low_hides_nothing(tmp_path: Path) -> None:
    with StandIn(big(1050)) as standin:
        next(iter(standin.organization.datasets.values())).lies = {"image_count": 5}
        async with Rig(standin, tmp_path).mount() as mount:
            assert len(await mount.list("/datasets/dataset-0/images")) == 1050


# Bounds.


async def test_l7_a_dataset_list_whose_pages_repeat_ends(tmp_path: Path) -> None:
    spec = Spec.uniform(1000, 0)
    with StandIn(spec, repeating_pages=True) as standin:
        standin.organization.add_dataset("one more")
        async with Rig(standin, tmp_path).mount() as mount:
            assert len(await mount.list("/datasets")) == 1000
            assert mount.asked == [LIST] * 4


async def test_l7_a_page_of_bad_datasets_is_passed_over(tmp_path: Path) -> None:
    spec = Spec.uniform(1001, 0)
    with StandIn(spec) as standin:
        for dataset in sorted(
            standin.organization.datasets.values(), key=lambda each: -each.created_at
        )[:1000]:
            dataset.lies = {"name": None}
        async with Rig(standin, tmp_path).mount() as mount:
            assert len(await mount.list("/datasets")) == 1
            assert mount.asked == [LIST] * 2


@pytest.mark.parametrize("total", [10**15, -1, None])
async def test_l7_a_listing_whose_pages_repeat_ends(tmp_path: Path, total: int | None) -> None:
    with StandIn(big(1500), embedded_listing="absent", repeating_pages=True) as standin:
        rig = Rig(standin, tmp_path)

        def endless(body: Any) -> Any:
            body["pagination"] |= {"total": total, "has_more": True}
            return body

        rig.fault(Mutate(endless), "api", "/images/")

        async with rig.mount() as mount:
            assert len(await mount.list("/datasets/dataset-0/images")) == 1000
            assert mount.asked.count(IMAGES) <= 8


@pytest.mark.parametrize("embedded", ["full", "absent"])
async def test_l7_an_absurd_total_costs_no_more(tmp_path: Path, embedded: str) -> None:
    with StandIn(big(1500), embedded_listing=embedded) as standin:
        next(iter(standin.organization.datasets.values())).lies = {"image_count": 10**15}
        rig = Rig(standin, tmp_path)

        def absurd(body: Any) -> Any:
            body["pagination"] |= {"total": 10**15}
            return body

        rig.fault(Mutate(absurd), "api", "/images/")

        async with rig.mount() as mount:
            assert len(await mount.list("/datasets/dataset-0/images")) == 1500
            assert mount.asked.count(IMAGES) + mount.asked.count(DATASET) <= 12


async def test_l7_pages_of_bad_rows_alone_end(tmp_path: Path) -> None:
    with StandIn(big(5000), embedded_listing="absent") as standin:
        rig = Rig(standin, tmp_path)

        def bad(body: Any) -> Any:
            for row in rows_of(body):
                row["id"] = None
            body["pagination"] |= {"total": None, "has_more": True}
            return body

        rig.fault(Mutate(bad), "api", "/images/")

        async with rig.mount() as mount:
            assert await mount.list("/datasets/dataset-0/images") == {}
            assert mount.asked.count(IMAGES) <= 6


@pytest.mark.long
async def test_l7_a_listing_that_never_ends_is_an_error(tmp_path: Path) -> None:
    """Every page brings rows that no other has brought, and announces more."""
    with StandIn(big(1000), embedded_listing="absent", repeating_pages=True) as standin:
        rig = Rig(standin, tmp_path)
        numbers = count()

        def more(body: Any) -> Any:
            for row in rows_of(body):
                row["id"] = row["filename"] = f"endless-{next(numbers)}"
            body["pagination"] |= {"total": next(numbers) + 5000, "has_more": True}
            return body

        rig.fault(Mutate(more), "api", "/images/")

        async with rig.mount() as mount:
            await mount.list("/datasets")
            (dataset,) = mount.catalog.datasets_after(0, 9)
            error = await error_of(lambda: mount.library.listing.all_images(dataset.key))
            assert isinstance(error, InvalidResponse)
            assert mount.asked.count(IMAGES) <= 120


# Bytes.


@pytest.mark.parametrize("status", [404, 405])
async def test_l6_without_bytes_by_id_they_come_by_signed_url(rig: Rig, status: int) -> None:
    differ(rig, bytes_by_id=status)
    async with rig.mount() as mount:
        assert listed(await mount.walk()) == listed(expected(rig.standin))
        assert mount.asked.count(BY_ID) == 1
        assert mount.asked.count(DOWNLOAD) == 1
        assert mount.asked.count(BY_PATH) == 0
    async with Rig(rig.standin, rig.cache).mount() as again:
        assert again.library.traits.all()["bytes"] == "path"


async def test_l6_a_failure_of_storage_after_the_missing_route_is_retried(rig: Rig) -> None:
    differ(rig, bytes_by_id=404)
    async with rig.mount() as mount:
        await mount.walk(read=False)
        fault = rig.fault(error(503), "storage", times=1)
        assert await mount.read(f"{SMALL}/part-000/image-000000.jpg")
        assert fault.hits == 1


@pytest.mark.parametrize("status", [404, 405])
async def test_l6_without_signed_urls_too_they_come_by_path(rig: Rig, status: int) -> None:
    differ(rig, bytes_by_id=status)
    org = rig.standin.organization
    for name in ("with space.jpg", "100%.jpg", "hash#?.jpg", "ünï 画像.jpg", "plus+and&amp;.jpg"):
        org.add_image(org["small"], name, "/with space/ünï #%")
    rig.fault(Mutate(lambda body: {"data": {"items": []}}), "api", DOWNLOAD[4:])

    async with rig.mount() as mount:
        assert listed(await mount.walk()) == listed(expected(rig.standin))
        assert mount.asked.count(BY_ID) == 1
        assert mount.asked.count(BY_PATH) == 17

    rig.clock.advance(60)

    async with rig.mount() as mount:
        org.add_image(org["small"], "new.jpg")
        await mount.library.refresh(None)
        mount.forget_log()
        await mount.read(f"{SMALL}/new.jpg")
        assert mount.asked == [DOWNLOAD, IMAGES, BY_PATH]


async def nowhere(rig: Rig, mount: Mount, path: str) -> PictofsError | None:
    rig.fault(Mutate(lambda body: {"data": {"items": []}}), "api", DOWNLOAD[4:])
    return await error_of(lambda: mount.read(path))


async def test_l6_a_path_that_is_not_the_images_alone_is_not_read(rig: Rig) -> None:
    """Not a sub-route's name, not what another image lies at meanwhile, not twins."""
    differ(rig, bytes_by_id=404)
    org = rig.standin.organization
    dataset = org["small"]
    org.add_image(dataset, "metadata", "/part-000")
    org.add_image(dataset, "..", "/part-000")
    for _ in range(2):
        org.add_image(dataset, "twin.jpg", "/part-000")
    async with rig.mount() as mount:
        await mount.walk(read=False)
        for name in ("metadata", "‛..", "twin.jpg"):
            error = await nowhere(rig, mount, f"{SMALL}/part-000/{name}")
            assert isinstance(error, PictofsError), name

        first: Image = dataset.at("/part-000", "image-000000.jpg")
        org.remove_image(first)
        org.add_image(dataset, "image-000000.jpg", "/part-000", size=first.size)
        error = await nowhere(rig, mount, f"{SMALL}/part-000/image-000000.jpg")

        assert isinstance(error, NoSuchEntry)
        assert mount.asked.count(BY_PATH) == 0


async def test_l6_a_deleted_image_is_gone_and_not_the_route(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount() as mount:
        await mount.walk(read=False)
        org.remove_image(org["small"].at("/part-000", "image-000000.jpg"))
        path = f"{SMALL}/part-000/image-000000.jpg"
        assert isinstance(await error_of(lambda: mount.read(path)), NoSuchEntry)
        assert mount.library.traits.get("bytes") != "path"
        await mount.read(f"{SMALL}/part-001/image-000001.jpg")
        assert mount.library.traits.get("bytes") in (None, "id")


# An image by its id.


@pytest.mark.parametrize("status", [404, 405])
async def test_l6_without_metadata_by_id_links_find_what_is_listed(rig: Rig, status: int) -> None:
    differ(rig, metadata_by_id=status)
    images = list(rig.standin.organization["small"].images.values())

    async with rig.mount() as mount:
        await mount.look(f"{SMALL}/part-000/{images[0].filename}")
        mount.forget_log()

        for _ in range(3):
            error = await error_of(lambda: mount.look(f"/by-id/{images[1].id}"))
            assert isinstance(error, NoSuchEntry)

        assert mount.asked.count("GET /images/{image_id:uuid}/metadata") <= 2
        assert mount.library.traits.all()["metadata"] == "absent"

        await mount.list(f"{SMALL}/part-000")
        await mount.look(f"/by-id/{images[1].id}")


async def test_every_absurd_row_is_shown_and_read(tmp_path: Path) -> None:
    with StandIn(PRESETS["absurd"]()) as standin:
        dataset = standin.organization["absurd"]
        async with Rig(standin, tmp_path).mount(max_retries=0) as mount:
            found = await mount.walk("/datasets/absurd")
            files = [path for path, data in found.items() if data is not None]
            assert len([path for path in files if "/images/" in path]) == len(dataset.images)
            assert len([path for path in files if "/annotations/" in path]) == len(dataset.images)


# The readme.


async def described(mount: Mount, text: str) -> tuple[Any, Any]:
    """What the server has as a dataset's readme and description once that was set here."""
    folder = (await mount.look("/datasets/small")).inode
    await mount.tree.set_xattr(folder, "user.pictograph.description", text.encode())
    dataset = mount.standin.organization["small"]
    return dataset.readme, dataset.description


async def test_w8_a_description_is_written_as_readme(rig: Rig) -> None:
    async with rig.mount(key=rig.standin.keys["member"], writable=True) as mount:
        assert await described(mount, "# Signs") == ("# Signs", "# Signs")
        assert await mount.read("/datasets/small/README.md") == b"# Signs"
        folder = (await mount.look("/datasets/small")).inode
        await mount.tree.set_xattr(folder, "user.pictograph.readme", b"other")
        assert await mount.read("/datasets/small/README.md") == b"other"


async def test_l6_a_server_that_takes_no_readme_gets_a_description(rig: Rig) -> None:
    differ(rig, readme_written=False, readme_read=False)
    for cost in (3, 1):  # the second mount knows
        async with rig.mount(key=rig.standin.keys["member"], writable=True) as mount:
            mount.forget_log()
            assert await described(mount, f"Signs {cost}") == (None, f"Signs {cost}")
            assert mount.asked.count("PATCH /datasets/{dataset}") == cost
            assert "README.md" not in await mount.list("/datasets/small")


async def test_v8_a_readme_is_a_file(rig: Rig) -> None:
    dataset = rig.standin.organization["small"]
    async with rig.mount(ttl=10) as mount:
        assert "README.md" not in await mount.list("/datasets/small")
        assert isinstance(
            await error_of(lambda: mount.look("/datasets/small/README.md")), NoSuchEntry
        )

        for text in ("# Ünï\n", "# Other\n"):
            dataset.readme = text
            mount.clock.advance(11)
            assert "README.md" in await mount.list("/datasets/small")
            assert await mount.read("/datasets/small/README.md") == text.encode()

        dataset.readme = None
        mount.clock.advance(11)

        assert "README.md" not in await mount.list("/datasets/small")
