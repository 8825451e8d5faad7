"""`by-status/` and `by-split/`: what was chosen and nothing else, the same files, for one
listing."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import Mount, Rig, annotation_bytes, error_of, image_bytes

from pictofs.errors import NoSuchEntry
from pictofs.model.inode import NodeKind, number
from pictofs.model.selection import AXES, SELECTIONS, selections_of
from pictofs.store.catalog.catalog import SCAN
from pictofs.store.catalog.rows import RemovedDentry
from standin import PRESETS, Organization, Spec, StandIn
from standin.faults import Reset, with_fields
from standin.records import Image

TOP = "/datasets/signs"
SPLIT_BYTES = (b"train", b"val", b"test")
STATUSES, SPLITS = ("new", "annotate", "review", "complete"), ("train", "val", "test", None)


def organization() -> Organization:
    """Each status and split in some directory and not in others; an empty directory, and two
    levels."""
    made = Organization()
    dataset = made.add_dataset("signs")
    made.add_directory(dataset, "/empty/below")

    for place in range(60):
        folder = ("/", "/a", "/a/b", "/c/d/e")[place % 4]
        made.add_image(
            dataset,
            f"{place}.jpg",
            folder,
            size=400 + place,
            annotation_count=place % 3,
            status=STATUSES[place % 3 if folder == "/a" else 3],
            split=SPLITS[place // 4 % 4],
        )

    return made


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    with StandIn(organization()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            yield mount


def chosen(mount: Mount, takes: Callable[[Image], bool]) -> dict[str, bytes | None]:
    """Path below the view -> content of everything that it must show; None for folders."""
    found: dict[str, bytes | None] = {}

    for image in mount.standin.organization["signs"].images.values():
        if image.is_archived or not takes(image):
            continue
        folders = [part for part in image.directory_path.split("/") if part]

        for part in ("images", "annotations"):
            found |= {
                "/".join(["", part, *folders[:depth]]): None for depth in range(len(folders) + 1)
            }

        place = "/".join(["", *folders, image.filename])
        found[f"/images{place}"] = image_bytes(image)
        found[f"/annotations{place}.json"] = annotation_bytes(mount.standin, image)

    return found


async def shown(mount: Mount, view: str) -> dict[str, bytes | None]:
    """What a view shows, by path below it."""
    top = f"{TOP}/{view}"
    return {path.removeprefix(top): data for path, data in (await mount.walk(top)).items()}


def of_status(status: str) -> Callable[[Image], bool]:
    return lambda image: image.status == status


def of_split(split: str | None) -> Callable[[Image], bool]:
    return lambda image: image.split == split


async def test_v4_views_show_what_was_chosen(mount: Mount) -> None:
    for status in STATUSES:
        assert await shown(mount, f"by-status/{status}") == chosen(mount, of_status(status))
    for split in SPLITS:
        assert await shown(mount, f"by-split/{split or 'unassigned'}") == chosen(
            mount, of_split(split)
        )
    assert list(await mount.list(f"{TOP}/by-status")) == list(STATUSES)
    assert list(await mount.list(f"{TOP}/by-split")) == ["train", "val", "test", "unassigned"]


async def test_v4_files_are_the_same_and_folders_are_not(mount: Mount) -> None:
    numbers: dict[int, str] = {}
    for view, part in (("by-status/complete", "images"), ("by-split/train", "annotations")):
        for path in await mount.walk(f"{TOP}/{view}", read=False):
            found = await mount.look(path)
            if stat.S_ISREG(found.mode):
                assert found[:6] == (await mount.look(path.replace(f"/{view}", "")))[:6]
            else:
                assert numbers.setdefault(found.inode, path) == path
                assert found == (await mount.tree.attributes(found.inode))._replace(
                    keep=found.keep, keep_entry=found.keep_entry
                )

        assert part in await mount.list(f"{TOP}/{view}")

    for path in await mount.walk(TOP, read=False):
        assert (await mount.look(path)).inode not in numbers


async def test_v5_a_walk_of_the_dataset_meets_each_file_once(mount: Mount) -> None:
    assert set(await mount.list(TOP)) == {"images", "annotations", "dataset.json"}
    assert not [path for path in await mount.walk(read=False) if "/by-" in path]
    for name in ("by-status", "by-split"):
        assert stat.S_ISDIR((await mount.look(f"{TOP}/{name}")).mode)


@pytest.mark.parametrize(
    "path",
    [
        "by-status/weird",
        "by-split/holdout",
        "by-status/train",
        "by-class",
        "by-status/new/images/empty",  # nothing below
        "by-status/new/images/c",  # nothing of that status below
        "by-status/new/images/0.jpg",  # of another status
        "by-status/new/annotations/0.jpg.json",
        "by-status/new/images/no.jpg",
        "by-status/new/notes",
    ],
)
async def test_v4_what_was_not_chosen_is_not_found(mount: Mount, path: str) -> None:
    with pytest.raises(NoSuchEntry):
        await mount.look(f"{TOP}/{path}")


async def test_v6_views_cost_the_listing_of_the_dataset_once(mount: Mount) -> None:
    await mount.list("/datasets")
    mount.forget_log()
    await mount.look(f"{TOP}/by-status")
    assert mount.asked == []
    for view in ("by-status", "by-split"):
        await mount.walk(f"{TOP}/{view}", read=False)
    await mount.walk(TOP, read=False)
    assert mount.asked == ["GET /directories/{dataset}/tree", "GET /datasets/{dataset}"]


async def test_v6_many_who_look_at_once_cost_the_same(mount: Mount) -> None:
    await mount.list("/datasets")
    mount.forget_log()

    async with trio.open_nursery() as nursery:
        for view in (
            "by-status/complete/images/a",
            "by-split/val/annotations",
            "by-split/train/images/0.jpg",
        ):
            for _ in range(5):
                nursery.start_soon(error_of, partial(mount.look, f"{TOP}/{view}"))

    assert sorted(mount.asked) == ["GET /datasets/{dataset}", "GET /directories/{dataset}/tree"]


async def test_v4_a_status_or_split_that_no_view_has(tmp_path: Path) -> None:
    with StandIn(organization()) as standin:
        rig = Rig(standin, tmp_path)
        rig.fault(with_fields(status="approved", split="holdout"), "api", "/datasets/{dataset}")
        async with rig.mount() as mount:
            assert len(await mount.walk(f"{TOP}/images", read=False)) > 60
            for view in ("by-status", "by-split"):
                assert await mount.list(f"{TOP}/{view}") == {}


async def test_v7_an_image_moves_at_the_next_listing(mount: Mount) -> None:
    org = mount.standin.organization
    (image,) = [each for each in org.images.values() if each.filename == "1.jpg"]
    old, new = f"{TOP}/by-status/annotate/images/a/1.jpg", f"{TOP}/by-status/review/images/a/1.jpg"
    before = await mount.look(old)
    org.update_image(image, status="review")
    await mount.library.refresh("signs")

    assert isinstance(await error_of(partial(mount.look, old)), NoSuchEntry)
    assert (await mount.look(new)).inode == before.inode

    for status in STATUSES:
        assert await shown(mount, f"by-status/{status}") == chosen(mount, of_status(status))
    for each in list(org.images.values()):
        if each.status == "review":
            org.update_image(each, status="new")

    await mount.library.refresh("signs")

    assert list(await mount.list(f"{TOP}/by-status")) == ["new", "annotate", "complete"]
    assert await shown(mount, "by-status/new") == chosen(mount, of_status("new"))


async def test_v7_the_kernel_is_told(mount: Mount) -> None:
    """Of what it has looked into, and of nothing else."""
    org = mount.standin.organization
    (image,) = [each for each in org.images.values() if each.filename == "3.jpg"]
    folder = (await mount.look(f"{TOP}/by-split/train/images/c/d/e")).inode
    await mount.tree.lookup(folder, "3.jpg")
    above = (await mount.look(f"{TOP}/by-split/train/images")).inode

    for each in list(org.images.values()):
        if each.directory_path == "/c/d/e" and each.split == "train" and each is not image:
            org.update_image(each, split="val")

    org.update_image(image, split="test")
    org.add_image(org["signs"], "another.jpg", "/a")  # shows in the figures of the list
    mount.clock.advance(301)
    incoming = mount.library.invalidations.incoming
    while incoming.statistics().current_buffer_used:
        incoming.receive_nowait()
    await mount.list(f"{TOP}/by-split/train/images")
    told = {incoming.receive_nowait() for _ in range(incoming.statistics().current_buffer_used)}

    assert RemovedDentry(folder, "3.jpg") in told
    assert RemovedDentry(above, "c") in told

    kinds = {NodeKind.VIEW, NodeKind.VIEW_IMAGES, NodeKind.VIEW_ANNOTATIONS}
    looked = {(await mount.look(f"{TOP}/by-split/train{path}")).inode for path in ("", "/images")}
    looked |= {folder, (await mount.look(f"{TOP}/by-split")).inode}
    others = {each.parent for each in told if each.parent & 15 in kinds} - looked

    assert {number & 0xFF0 for number in others} <= {folder & 0xFF0}  # on the way to it


async def test_v7_directories_that_come_and_go(mount: Mount) -> None:
    org = mount.standin.organization
    await shown(mount, "by-status/complete")
    org.add_image(org["signs"], "new.jpg", "/empty/below/deep", size=500, status="complete")
    org.rename_directory(org["signs"], "/c", "renamed")
    await mount.library.refresh("signs")

    assert await shown(mount, "by-status/complete") == chosen(mount, of_status("complete"))

    for each in list(org.images.values()):
        if each.directory_path.startswith("/renamed"):
            org.remove_image(each)

    await mount.library.refresh("signs")

    assert await shown(mount, "by-status/complete") == chosen(mount, of_status("complete"))


async def test_v7_an_image_that_was_found_by_its_id_shows(mount: Mount) -> None:
    org = mount.standin.organization
    other = org.add_dataset("never listed")
    org.add_image(other, "x.jpg", size=500)
    await shown(mount, "by-status/new")
    image = org.add_image(org["signs"], "late.jpg", "/late", size=500, status="new")
    await mount.look(f"/by-id/{image.id}")
    assert await shown(mount, "by-status/new") == chosen(mount, of_status("new"))


async def test_v6_few_among_many_are_found_in_turns(tmp_path: Path) -> None:
    """The scan of a large directory lets others have their turn, and misses none."""
    images = 2 * SCAN + 10

    with StandIn(Spec.uniform(images=images, size=100, statuses="new")) as standin:
        org = standin.organization
        dataset = org["dataset-0"]
        few = list(dataset.images.values())[:: SCAN // 2 + 3]
        for image in few:
            org.update_image(image, status="review")
        async with Rig(standin, tmp_path).mount() as mount:
            top = "/datasets/dataset-0/by-status"
            assert set(await mount.list(f"{top}/review/images")) == {
                image.filename for image in few
            }
            assert len(await mount.list(f"{top}/new/annotations")) == images - len(few)


async def test_o1_views_work_without_the_server(tmp_path: Path) -> None:
    with StandIn(organization()) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            seen = await shown(mount, "by-split/val")
        rig.fault(Reset())
        async with rig.mount(max_retries=0) as mount:
            mount.clock.advance(301)
            assert await shown(mount, "by-split/val") == seen


async def test_v4_nasty_names_are_the_same_in_views(tmp_path: Path) -> None:
    with StandIn(PRESETS["nasty"](), cold_reads=True) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            for dataset in await mount.list("/datasets"):
                top = f"/datasets/{dataset}"
                wanted = set()

                for part in ("images", "annotations"):
                    for path in await mount.walk(f"{top}/{part}", read=False):
                        fields = await mount.tree.xattrs((await mount.look(path)).inode)
                        if fields and fields.get("user.pictograph.split", b"train") in SPLIT_BYTES:
                            wanted.add(path.removeprefix(top))

                found: list[str] = []

                for split in await mount.list(f"{top}/by-split"):
                    view = f"{top}/by-split/{split}"
                    found += [
                        path.removeprefix(view)
                        for path in await mount.walk(view, read=False)
                        if stat.S_ISREG((await mount.look(path)).mode)
                    ]

                assert len(found) == len(set(found))
                assert set(found) == wanted


@pytest.mark.parametrize("kind", [NodeKind.VIEW, NodeKind.VIEW_IMAGES, NodeKind.VIEW_ANNOTATIONS])
@pytest.mark.parametrize("version", [0, 9, 15, 16, 17, 18, 255])
async def test_a_view_that_nothing_has_is_not_found(
    mount: Mount, kind: NodeKind, version: int
) -> None:
    await mount.list("/datasets")
    dataset = mount.catalog.dataset_by_entry("signs")
    assert dataset is not None
    key = dataset.key if kind is not NodeKind.VIEW else 12345
    some = number(kind, key, version)
    for work in (mount.tree.attributes, partial(mount.tree.lookup, name="x"), mount.entries):
        assert isinstance(await error_of(partial(work, some)), NoSuchEntry)


def test_numbers_of_selections_do_not_change() -> None:
    assert [(version, each.folder) for version, each in SELECTIONS.items()] == [
        (1, "new"),
        (2, "annotate"),
        (3, "review"),
        (4, "complete"),
        (5, "train"),
        (6, "val"),
        (7, "test"),
        (8, "unassigned"),
    ]
    assert AXES == {16: "status", 17: "split"}
    assert selections_of("review", None) == {3, 8}
    assert selections_of("approved", "holdout") == selections_of("train", "new") == set()
