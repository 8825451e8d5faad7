"""What listings cost, and what they show while the server moves, lies or is away."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from mounting import Hold
from rig import Mount, Rig, error_of, expected, image_bytes, listed

from pictofs.errors import NoSuchEntry, PictofsError, TimedOut, Unauthorized
from standin import Fault, Match, Spec, StandIn
from standin.exchange import Exchange
from standin.faults import (
    MalformedJson,
    Reset,
    dropped,
    duplicated,
    error,
    html,
    throttled,
    with_fields,
    without,
)

IMAGES = "/datasets/small/images"
LIST, DATASET, TREE, NAME = (
    "GET /datasets/",
    "GET /datasets/{dataset}",
    "GET /directories/{dataset}/tree",
    "GET /images/",
)


def big(images: int, directories: int = 1) -> Spec:
    """One dataset so large that a listing takes several requests."""
    return Spec.uniform(1, images, 1000, directories=directories, annotations=0)


# What it costs.


async def test_q2_a_first_listing_costs_three_requests(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list(f"{IMAGES}/part-000")
        assert mount.asked == [LIST, TREE, DATASET]


async def test_q2_all_folders_of_a_dataset_come_with_one_listing(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk(read=False)
        assert sorted(mount.asked) == sorted([LIST, TREE, DATASET])


async def test_q3_one_known_path_lists_no_folder(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(f"{IMAGES}/part-000/image-000000.jpg")
        assert mount.asked == [LIST, TREE, NAME, "GET /images/{image_id:uuid}"]


async def test_the_third_single_name_is_dearer_than_the_listing(rig: Rig) -> None:
    async with rig.mount() as mount:
        for number in (0, 3, 6, 9):
            await mount.look(f"{IMAGES}/part-000/image-{number:06d}.jpg")
        assert mount.asked == [LIST, TREE, NAME, NAME, DATASET]


async def test_q3_a_missing_name_is_asked_for_once(rig: Rig) -> None:
    async with rig.mount() as mount:
        for _ in range(5):
            with pytest.raises(NoSuchEntry):
                await mount.look(f"{IMAGES}/part-000/nothing.jpg")
        assert mount.asked == [LIST, TREE, NAME]


async def test_missing_names_of_a_listed_dataset_cost_nothing(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list(f"{IMAGES}/part-000")
        mount.forget_log()
        for name in ("__init__.py", ".git", "image-000000.jpg.bak"):
            with pytest.raises(NoSuchEntry):
                await mount.look(f"{IMAGES}/part-001/{name}")
        assert mount.asked == []


async def test_q2_many_who_want_one_listing_share_it(rig: Rig) -> None:
    async with rig.mount() as mount, trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(mount.list, f"{IMAGES}/part-{number % 3:03d}")
    assert mount.asked == [LIST, TREE, DATASET]


async def test_q2_a_large_dataset_is_listed_by_folders_until_that_is_dearer(tmp_path: Path) -> None:
    with StandIn(big(20_100, 30)) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            for number in range(5):
                assert len(await mount.list(f"/datasets/dataset-0/images/part-{number:03d}")) == 670
            assert mount.asked == [LIST, TREE, NAME, NAME, NAME, DATASET, DATASET, DATASET]


async def test_f7_the_first_names_appear_after_the_first_page(tmp_path: Path) -> None:
    with StandIn(big(30_050)) as standin:
        rig = Rig(standin, tmp_path)
        rig.fault(Reset(), "api", "images_offset=20000", times=0)
        async with rig.mount() as mount:
            folder = mount.tree.open_folder((await mount.look("/datasets/dataset-0/images")).inode)
            assert await mount.tree.read_folder(folder, 0)
            mount.tree.close_folder(folder)
            assert len(await mount.list("/datasets/dataset-0/images")) == 30_050


# Freshness.


async def test_f1_within_the_ttl_nothing_is_asked_and_past_it_one_request(rig: Rig) -> None:
    async with rig.mount(ttl=100) as mount:
        await mount.walk(read=False)
        mount.forget_log()
        mount.clock.advance(90)
        await mount.walk(read=False)
        assert mount.asked == []
        mount.clock.advance(20)
        await mount.walk(read=False)
        assert mount.asked == [LIST]


async def test_f2_what_changed_shows_after_the_ttl(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount(ttl=100) as mount:
        await mount.walk(read=False)
        org.add_image(org["small"], "new.jpg", "/fresh")
        before = set(await mount.walk(read=False))
        mount.clock.advance(101)
        assert set(await mount.walk(read=False)) == set(expected(rig.standin)) > before


async def test_f2_a_pass_that_began_before_a_change_is_not_taken_for_news(rig: Rig) -> None:
    """Two images change places, which no count shows, while a listing of before is on its way."""
    org = rig.standin.organization
    one = org.add_image(org["small"], "one.jpg", "/a", size=700)
    two = org.add_image(org["small"], "two.jpg", "/b", size=700)
    path = f"{IMAGES}/a/one.jpg"

    async with rig.mount(ttl=100) as mount:
        await mount.walk(read=False)
        org.add_image(org["small"], "three.jpg", "/a")
        mount.clock.advance(101)

        held = Hold("include_images=true", made=True)
        rig.fault(held, "api")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.list, f"{IMAGES}/a")
            await trio.to_thread.run_sync(held.waiting.wait)
            org.move_image(one, "/b", "swapped.jpg")
            org.move_image(two, "/a", "one.jpg")
            org.move_image(one, "/b", "two.jpg")
            mount.clock.advance(101)

            async def release() -> None:
                await trio.sleep(0.1)
                held.open()

            nursery.start_soon(release)

            assert await mount.read(path) == image_bytes(two)


async def test_f5_a_refresh_shows_at_once_what_changed(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount() as mount:
        await mount.walk()
        image = next(iter(org["small"].images.values()))
        org.move_image(image, "/elsewhere", "renamed.jpg")
        org.set_annotations(image, [])
        org.rename_dataset(org["small"], "large")
        assert await mount.library.refresh(None) == 1
        assert await mount.walk() == expected(rig.standin)


async def test_f5_a_refresh_of_an_unknown_name_costs_the_others_nothing(rig: Rig) -> None:
    async with rig.mount() as mount:
        first = await mount.walk()
        mount.forget_log()
        with pytest.raises(NoSuchEntry):
            await mount.library.refresh("no such dataset")
        assert await mount.walk() == first
        assert mount.asked == [LIST]


async def test_a_refresh_says_that_the_server_is_away(rig: Rig) -> None:
    async with rig.mount(max_retries=0) as mount:
        first = await mount.walk()
        rig.fault(Reset())
        assert await error_of(lambda: mount.library.refresh(None))
        assert await mount.walk() == first


async def test_a_new_dataset_shows_after_a_refresh_by_its_name(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount() as mount:
        await mount.walk(read=False)
        org.add_image(org.add_dataset("added"), "a.jpg")
        await mount.library.refresh("added")
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


async def test_f1_names_that_the_kernel_may_hold_are_told_when_they_are_gone(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount(ttl=10) as mount:
        folder = (await mount.look(f"{IMAGES}/part-000")).inode
        await mount.list(f"{IMAGES}/part-000")
        org.remove_image(
            next(i for i in org["small"].images.values() if i.filename == "image-000000.jpg")
        )
        mount.clock.advance(11)
        await mount.list(f"{IMAGES}/part-000")
        told = {(gone.parent, gone.entry) for gone in drain(mount)}

        assert (folder, "image-000000.jpg") in told


def drain(mount: Mount) -> list[object]:
    found = []
    try:
        while True:
            found.append(mount.library.invalidations.incoming.receive_nowait())
    except trio.WouldBlock:
        return found


# A server that moves while it is read.


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("change", ["insert", "delete", "move"])
async def test_f6_rows_that_shift_between_pages_are_neither_lost_nor_doubled(
    tmp_path: Path, change: str
) -> None:
    with StandIn(big(2010)) as standin:
        rig, org = Rig(standin, tmp_path), standin.organization
        dataset = org["dataset-0"]

        class Between:
            """Someone changes the dataset before a page is answered."""

            async def __call__(self, exchange: Exchange) -> None:
                newest = list(dataset.images.values())[-1]
                if change == "insert":
                    org.add_image(dataset, f"{newest.filename}.new.jpg", size=1000)
                elif change == "delete":
                    org.remove_image(newest)
                else:
                    org.move_image(newest, "/moved")

                await exchange.proceed()

        rig.fault(Between(), "api", "images_offset|/datasets/[0-9a-f-]{36}$", times=2)

        async with rig.mount(ttl=10) as mount:
            await mount.list("/datasets/dataset-0/images")
            mount.clock.advance(11)
            shown = await mount.list("/datasets/dataset-0/images")
            there = [each for each in dataset.images.values() if each.directory_path == "/"]

            assert sorted(shown) == sorted(each.filename for each in there) + ["moved"] * (
                change == "move"
            )


@pytest.mark.parametrize("do", [duplicated(3), dropped(3)], ids=["duplicated", "dropped"])
async def test_f6_a_row_too_many_or_too_few_is_noticed(rig: Rig, do: object) -> None:
    rig.fault(do, "api", DATASET[4:], times=1)
    async with rig.mount() as mount:
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


async def test_a_key_that_sees_a_part_sees_that_part(rig: Rig) -> None:
    org = rig.standin.organization
    key = org.add_key("viewer", {org["small"].id: ("/part-001",)})
    org.add_dataset("not granted")

    async with rig.mount(key=key.secret) as mount:
        seen = listed(await mount.walk())
        assert seen == {
            path: data
            for path, data in listed(expected(rig.standin)).items()
            if "part-001" in path
            or path in ("/datasets/small", IMAGES, "/datasets/small/annotations")
        }
        assert mount.asked.count(DATASET) <= 2


async def test_l1_empty_directories_and_datasets_are_there(rig: Rig) -> None:
    org = rig.standin.organization
    org.add_directory(org["small"], "/hollow/deep")
    org.add_dataset("nothing")
    async with rig.mount() as mount:
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


async def test_l1_a_directory_that_only_images_name_is_there(rig: Rig) -> None:
    rig.fault(dropped(1), "api", TREE[4:])
    async with rig.mount() as mount:
        await mount.walk(read=False)
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


# A server that fails.


@pytest.mark.parametrize("route", [LIST, TREE, DATASET])
@pytest.mark.parametrize(
    "do",
    [
        error(503),
        error(500),
        error(408),
        throttled(1),
        throttled(0),
        throttled(),
        Reset(),
        MalformedJson(),
        html(),
    ],
    ids=["503", "500", "408", "429-short", "429-zero", "429", "reset", "cut-json", "html"],
)
async def test_a_passing_fault_is_not_seen(rig: Rig, route: str, do: object) -> None:
    rig.fault(do, "api", route[4:], times=1)
    async with rig.mount() as mount:
        if isinstance(do, MalformedJson) or do == html():
            await error_of(lambda: mount.walk(read=False))  # not retried: the next look asks again
            mount.clock.advance(16)
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


@pytest.mark.parametrize("route", [LIST, TREE, DATASET])
@pytest.mark.parametrize(
    "do",
    [error(503), error(401, "unauthorized"), throttled(3000), Reset(), MalformedJson(), html()],
    ids=["503", "401", "429-long", "reset", "cut-json", "html"],
)
async def test_o1_a_lasting_fault_leaves_what_was_listed(rig: Rig, route: str, do: object) -> None:
    async with rig.mount(ttl=50, max_retries=1) as mount:
        first = listed(await mount.walk())
        fault = rig.fault(do, "api", route[4:])
        rig.standin.organization.add_image(rig.standin.organization["small"], "new.jpg")

        for _ in range(3):
            mount.clock.advance(60)
            assert listed(await mount.walk()) == first

        rig.standin.faults.remove(fault)
        mount.clock.advance(60)

        assert await mount.walk() == expected(rig.standin)
        assert mount.library.connectivity.offline_since is None


@pytest.mark.parametrize("route", [LIST, TREE, DATASET])
async def test_o2_a_lasting_fault_at_first_sight_has_a_name_and_passes(
    rig: Rig, route: str
) -> None:
    fault = rig.fault(error(503), "api", route[4:])
    async with rig.mount(max_retries=1) as mount:
        with pytest.raises(PictofsError):
            await mount.walk(read=False)
        rig.standin.faults.remove(fault)
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


async def test_l4_one_bad_row_does_not_hide_its_neighbours(rig: Rig) -> None:
    org = rig.standin.organization
    bad = org.add_image(org["small"], "bad.jpg")
    good = set(expected(rig.standin)) - {
        f"{IMAGES}/bad.jpg",
        "/datasets/small/annotations/bad.jpg.json",
    }

    for lies in ({"filename": None}, {"id": None}, {"id": 7}, {"filename": ["x"]}):
        bad.lies = lies
        async with rig.mount(ttl=10) as mount:
            mount.clock.advance(11)
            assert set(await mount.walk(read=False)) == good


@pytest.mark.parametrize(
    "do",
    [
        without("directory_path"),
        with_fields(directory_path=None),
        without("created_at", "file_size", "status"),
    ],
    ids=["no-directory", "null-directory", "no-time-size-status"],
)
async def test_l4_missing_fields_hide_no_file(rig: Rig, do: object) -> None:
    rig.fault(do, "api", DATASET[4:])
    async with rig.mount() as mount:
        names = {path.rpartition("/")[2] for path in await mount.walk(read=False)}
        assert {f"image-{n:06d}.jpg" for n in range(12)} <= names


async def test_o1_a_revoked_key_serves_the_cache_and_its_return_needs_no_remount(rig: Rig) -> None:
    async with rig.mount(ttl=50) as mount:
        first = await mount.walk()
        for key in rig.standin.organization.keys.values():
            key.revoked = True
        mount.clock.advance(60)

        assert await mount.walk() == first
        assert isinstance(mount.library.connectivity.error, Unauthorized)

        for key in rig.standin.organization.keys.values():
            key.revoked = False
        mount.clock.advance(16)
        rig.standin.organization.add_dataset("meanwhile")

        assert await mount.walk() == expected(rig.standin)


async def test_o3_while_the_server_is_away_it_is_asked_seldom(rig: Rig) -> None:
    async with rig.mount(ttl=50, max_retries=0) as mount:
        await mount.walk()
        rig.fault(Reset())
        mount.clock.advance(60)
        mount.forget_log()
        for _ in range(5):
            await mount.walk()
        assert len(mount.asked) == 1


async def test_l3_an_archived_dataset_goes_and_comes_back(rig: Rig) -> None:
    org = rig.standin.organization
    async with rig.mount(ttl=10) as mount:
        first = listed(await mount.walk())
        org.archive_dataset(org["small"])
        mount.clock.advance(11)
        assert await mount.walk() == {}
        org.archive_dataset(org["small"], archived=False)
        mount.clock.advance(11)
        assert listed(await mount.walk()) == first


@pytest.mark.usefixtures("small_pages")
async def test_f1_a_dataset_that_is_deleted_while_it_is_listed_is_gone(tmp_path: Path) -> None:
    with StandIn(big(2010)) as standin:
        rig, org = Rig(standin, tmp_path), standin.organization

        class Delete:
            async def __call__(self, exchange: Exchange) -> None:
                if org.dataset("dataset-0"):
                    org.remove_dataset(org["dataset-0"])
                await exchange.proceed()

        standin.faults.add(
            Fault(Match("api", None, "images_offset|/datasets/[0-9a-f-]{36}"), Delete(), times=1)
        )

        async with rig.mount(ttl=10) as mount:
            await error_of(lambda: mount.walk(read=False))
            mount.clock.advance(11)
            assert await mount.walk(read=False) == {}


# What no figure tells, and what is not to be asked.


async def test_f3_what_no_figure_tells_shows_after_twelve_ttls(rig: Rig) -> None:
    dataset = rig.standin.organization["small"]
    image = next(iter(dataset.images.values()))
    async with rig.mount(ttl=100) as mount:
        before = set(await mount.list(f"{IMAGES}/part-000"))
        image.filename = "called otherwise.jpg"  # without a word in the dataset's row
        rig.clock.advance(11 * 100.0)
        assert set(await mount.list(f"{IMAGES}/part-000")) == before
        rig.clock.advance(100.0)
        assert "called otherwise.jpg" in await mount.list(f"{IMAGES}/part-000")


async def test_f8_a_frozen_mount_asks_for_nothing_that_it_knows(rig: Rig) -> None:
    org = rig.standin.organization
    dataset = org["small"]

    async with rig.mount(frozen=True) as mount:
        first = await mount.walk()
        org.add_image(dataset, "new.jpg", "/part-000", size=300)
        org.remove_image(next(iter(dataset.images.values())))
        image = next(iter(dataset.images.values()))
        org.set_annotations(image, [])
        org.changed(dataset, "images")
        rig.clock.advance(1e6)
        mount.forget_log()

        assert await mount.walk() == first
        assert rig.standin.log.requests() == []

        await mount.library.refresh(None)

        assert await mount.walk() == expected(rig.standin)


# A server that is slow.


@pytest.mark.parametrize("route", [LIST, TREE, DATASET])
async def test_f7_what_is_known_is_shown_within_a_second_and_renewed_behind(
    rig: Rig, route: str
) -> None:
    async with rig.mount(ttl=50, timeout=60) as mount:
        first = await mount.walk(read=False)
        organization = rig.standin.organization
        organization.add_image(organization["small"], "new.jpg")
        hold = Hold()
        rig.fault(hold, "api", route[4:], times=1)
        mount.clock.advance(60)
        with trio.fail_after(4):
            assert await mount.walk(read=False) == first

        assert hold.waiting.is_set()
        assert mount.library.connectivity.offline_since is None

        hold.open()
        await mount.settle()

        # What came behind is there without another wait.
        assert set(await mount.walk(read=False)) == set(expected(rig.standin))


async def test_o3_a_server_that_has_not_answered_for_long_counts_as_away(rig: Rig) -> None:
    async with rig.mount(ttl=50, timeout=60) as mount:
        await mount.walk(read=False)
        hold = Hold()
        rig.fault(hold, "api", LIST[4:], times=1)
        mount.clock.advance(60)
        began = mount.clock.wall()
        await mount.walk(read=False)

        assert mount.library.connectivity.offline_since is None

        mount.clock.advance(6)

        assert mount.library.connectivity.offline_since == pytest.approx(began, abs=1)
        assert isinstance(mount.library.connectivity.error, TimedOut)

        hold.open()
        await mount.settle()

        assert mount.library.connectivity.offline_since is None


async def test_o3_a_person_waits_for_the_answer(rig: Rig) -> None:
    async with rig.mount(ttl=50, timeout=60, max_retries=0) as mount:
        await mount.walk(read=False)
        fault = rig.fault(error(503), "api")
        mount.clock.advance(60)
        await mount.walk(read=False)
        rig.standin.faults.remove(fault)
        rig.standin.organization.add_dataset("new")
        await mount.library.refresh(None)
        assert "new" in await mount.list("/datasets")
