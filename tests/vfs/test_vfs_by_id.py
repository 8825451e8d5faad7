"""`by-id/`: links by id, and what looking one up costs."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import Mount, Rig, annotation_bytes, error_of, image_bytes

from pictofs.errors import Invalid, NoSuchEntry
from pictofs.vfs.node import Attributes
from standin import PRESETS, Organization, StandIn
from standin.faults import Reset, error
from standin.records import Image

META, NAME = "GET /images/{image_id:uuid}/metadata", "GET /images/"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    with StandIn(PRESETS["small"]()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            yield mount


def some(mount: Mount, number: int = 5) -> Image:
    return list(mount.standin.organization["small"].images.values())[number]


async def link(mount: Mount, name: str) -> str:
    """Where `by-id/name` leads, from the mount's root on."""
    attributes: Attributes = await mount.look(f"/by-id/{name}")
    assert stat.S_ISLNK(attributes.mode)
    target = await mount.tree.target(attributes.inode)
    assert attributes.size == len(target.encode())
    return posixpath.normpath(f"/by-id/{target}")


def place(image: Image) -> str:
    return f"{image.directory_path.rstrip('/')}/{image.filename}"


async def asked(mount: Mount, name: str) -> list[str]:
    """What a look at the path costs, whatever it finds."""
    mount.forget_log()
    await error_of(lambda: link(mount, name))
    return mount.asked


async def test_v2_ids_lead_to_datasets_images_and_annotation_files(mount: Mount) -> None:
    dataset = mount.standin.organization["small"]
    assert (
        await link(mount, dataset.id) == await link(mount, dataset.id.upper()) == "/datasets/small"
    )

    for image in dataset.images.values():
        path = await link(mount, image.id.upper())
        assert path == f"/datasets/small/images{place(image)}"
        assert await mount.read(path) == image_bytes(image)

        note = await link(mount, f"{image.id}.json")

        assert note == f"/datasets/small/annotations{place(image)}.json"
        assert await mount.read(note) == annotation_bytes(mount.standin, image)


async def test_v2_the_folder_shows_the_datasets(mount: Mount) -> None:
    other = mount.standin.organization.add_dataset("ö/..")
    mount.forget_log()
    shown = await mount.list("/by-id")
    assert shown.keys() == {mount.standin.organization["small"].id, other.id}
    assert await link(mount, other.id) == "/datasets/ö‛s.."
    for name, each in shown.items():
        assert (await mount.look(f"/by-id/{name}"))[:5] == each[:5]
    assert mount.asked == ["GET /datasets/"]


async def test_v3_an_unknown_image_costs_one_request_more_than_its_path(mount: Mount) -> None:
    image = some(mount)
    await mount.list("/datasets")
    assert await asked(mount, image.id) == [META, "GET /directories/{dataset}/tree", NAME]
    # and then nothing: neither the id again, nor its path, nor its annotation file
    assert await asked(mount, image.id) == await asked(mount, f"{image.id}.json") == []
    await mount.look(f"/datasets/small/images{place(image)}")
    assert mount.asked == []


async def test_v3_a_listed_image_costs_nothing(mount: Mount) -> None:
    await mount.walk(read=False)
    for image in mount.standin.organization["small"].images.values():
        assert await asked(mount, image.id) == []
    assert await asked(mount, NOBODY) == []  # every dataset is listed, and has it not


async def test_v3_many_who_ask_at_once_ask_once(mount: Mount) -> None:
    await mount.look("/datasets/small/images/part-000")
    mount.forget_log()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(link, mount, some(mount).id)
    assert mount.asked.count(META) == mount.asked.count(NAME) == 1


async def test_v3_a_miss_is_remembered_until_the_list_is_renewed(mount: Mount) -> None:
    await mount.list("/datasets")
    assert await asked(mount, NOBODY) == [META]
    for _ in range(10):
        assert await asked(mount, NOBODY) == await asked(mount, NOBODY.upper() + ".JSON") == []
    mount.clock.advance(301)
    assert await asked(mount, NOBODY) == ["GET /datasets/", META]
    await mount.library.refresh(None)
    assert await asked(mount, NOBODY) == [META]


@pytest.mark.parametrize(
    "name",
    [
        "x",
        NOBODY[:-1],
        f"{NOBODY}0",
        f"{NOBODY}.jpg",
        f"{NOBODY}.json.json",
        f" {NOBODY}",
        NOBODY.replace("-", ""),
    ],
)
async def test_v3_what_is_no_id_costs_nothing(mount: Mount, name: str) -> None:
    await mount.list("/datasets")
    mount.forget_log()
    with pytest.raises(NoSuchEntry):
        await mount.look(f"/by-id/{name}")
    assert mount.asked == []


async def test_v2_images_that_no_path_shows_have_no_link(mount: Mount) -> None:
    organization = mount.standin.organization
    hidden = organization.add_dataset("hidden")
    in_hidden = organization.add_image(hidden, "a.jpg", size=500)
    organization.archive_dataset(hidden)
    organization.archive_image(some(mount))
    await mount.list("/datasets")
    for identity in (in_hidden.id, some(mount).id, hidden.id):
        assert isinstance(await error_of(partial(mount.look, f"/by-id/{identity}")), NoSuchEntry)
        assert await asked(mount, identity) == []


async def test_v2_a_link_follows_what_it_leads_to(mount: Mount) -> None:
    organization, image = mount.standin.organization, some(mount)
    number = (await mount.look(f"/by-id/{image.id}")).inode
    organization.move_image(image, "/else where", "moved.jpg")
    organization.rename_dataset(organization["small"], "renamed")
    await mount.library.refresh(None)

    assert await link(mount, image.id) == "/datasets/renamed/images/else where/moved.jpg"
    assert (await mount.look(f"/by-id/{image.id}")).inode == number

    organization.remove_image(image)
    await mount.library.refresh(None)
    with pytest.raises(NoSuchEntry):
        await mount.look(f"/by-id/{image.id}")
    with pytest.raises(NoSuchEntry):
        await mount.tree.target(number)


async def test_v2_an_image_that_moved_in_a_dataset_that_was_never_listed(mount: Mount) -> None:
    organization, image = mount.standin.organization, some(mount)
    await link(mount, image.id)
    organization.move_image(image, "/part-001", "moved.jpg")
    mount.clock.advance(301)
    assert await link(mount, image.id) == "/datasets/small/images/part-001/moved.jpg"


async def test_v2_of_two_images_of_one_name_each_has_its_own(tmp_path: Path) -> None:
    organization = Organization()
    dataset = organization.add_dataset("twins")
    twins = [
        organization.add_image(dataset, "a.jpg", size=500 + n, created_at=1e9 + n) for n in range(3)
    ]

    with StandIn(organization) as standin:
        for number, image in enumerate(twins):
            async with Rig(standin, tmp_path / str(number)).mount() as mount:
                path = await link(mount, image.id)
                assert await mount.read(path) == image_bytes(image)
                assert (path == "/datasets/twins/images/a.jpg") == (number == 0)


async def test_v2_every_image_of_nasty_names_has_a_link(tmp_path: Path) -> None:
    with StandIn(PRESETS["nasty"](), cold_reads=True) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            await mount.walk(read=False)
            for path in await mount.walk("/datasets/names/images", read=False):
                attributes = await mount.look(path)
                if not stat.S_ISREG(attributes.mode):
                    continue
                xattrs = await mount.tree.xattrs(attributes.inode)
                assert await link(mount, xattrs["user.pictograph.id"].decode()) == path


async def test_v3_a_key_that_may_not_see_an_image_finds_none(tmp_path: Path) -> None:
    with StandIn(PRESETS["small"]()) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            await mount.list("/datasets")
            rig.fault(error(403, "forbidden"), "api", "/metadata")
            assert await asked(mount, some(mount).id) == [META]
            assert await asked(mount, some(mount).id) == []
            assert mount.library.connectivity.error is None


async def test_o1_links_that_were_used_work_without_the_server(tmp_path: Path) -> None:
    with StandIn(PRESETS["small"]()) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            path = await link(mount, some(mount).id)
        rig.fault(Reset())
        async with rig.mount(max_retries=0) as mount:
            mount.clock.advance(301)
            assert await link(mount, some(mount).id) == path
            assert await error_of(lambda: link(mount, NOBODY)) is not None


async def test_a_link_is_no_folder_and_other_nodes_are_no_links(mount: Mount) -> None:
    number = (await mount.look(f"/by-id/{mount.standin.organization['small'].id}")).inode
    assert isinstance(await error_of(lambda: mount.tree.open(number)), Invalid)
    for path in ("/by-id", "/datasets", "/datasets/small", "/datasets/small/dataset.json"):
        inode = (await mount.look(path)).inode
        assert isinstance(await error_of(lambda inode=inode: mount.tree.target(inode)), Invalid)
