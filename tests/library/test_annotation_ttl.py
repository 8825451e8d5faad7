"""Annotation files that get old: renewed at the next open, for as many requests as promised, or
told to be old."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import trio
from mounting import finished_export
from rig import Mount, Rig, annotation_bytes, error_of

from pictofs.library.bulk.scope import Choice
from pictofs.library.bulk.warm import WarmJob, WarmRequest
from standin import Spec, StandIn
from standin.faults import Fault, Hang, Match, Mutate, error, html, throttled
from standin.records import Image
from standin.spec import DatasetSpec

FILE, LIST = "GET /annotations/{image_id:uuid}/file", "GET /exports/"
URL = "GET /exports/{export:path}/download"
DAY = 86_400.0


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Thirty images, in three directories of `small`; storage sends no checksums, so that zips can
    lie."""
    with StandIn(
        Spec((DatasetSpec("small", images=30, size=500, directories=3),)), hash_header=False
    ) as made:
        yield made


def images(rig: Rig) -> list[Image]:
    return list(rig.standin.organization["small"].images.values())


def path_of(image: Image) -> str:
    return f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"


def edit(rig: Rig, image: Image) -> None:
    """An edit that keeps the count, the status and the confidence."""
    org = rig.standin.organization
    org.set_annotations(
        image, [dict(each, attributes=[{"name": "seen"}]) for each in org.annotations(image)]
    )


async def read_all(mount: Mount, rig: Rig) -> None:
    """Read every annotation file; each is what the server has."""
    for image in images(rig):
        assert await mount.read(path_of(image)) == annotation_bytes(rig.standin, image)


async def read_old(mount: Mount, rig: Rig) -> list[bytes]:
    return [await mount.read(path_of(image)) for image in images(rig)]


def told(mount: Mount) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(mount.library.annotations.ages.status())
    return facts


# Which are due.


async def test_f9_an_edit_that_shows_nowhere_shows_after_the_time_to_live(rig: Rig) -> None:
    image = images(rig)[0]
    async with rig.mount(annotation_ttl=1000.0) as mount:
        before = await mount.read(path_of(image))
        inode = (await mount.look(path_of(image))).inode
        edit(rig, image)
        mount.clock.advance(990)

        assert await mount.read(path_of(image)) == before

        mount.clock.advance(20)

        assert await mount.read(path_of(image)) == annotation_bytes(rig.standin, image) != before
        assert (await mount.look(path_of(image))).inode != inode
        assert mount.asked.count(FILE) == 2


async def test_f9_the_same_bytes_keep_the_inode_and_count_anew(rig: Rig) -> None:
    image = images(rig)[0]
    async with rig.mount(annotation_ttl=1000.0) as mount:
        await mount.read(path_of(image))
        inode = (await mount.look(path_of(image))).inode

        for renewals in range(1, 4):
            mount.clock.advance(1001)
            for _ in range(3):
                await mount.read(path_of(image))
            assert (await mount.look(path_of(image))).inode == inode
            assert mount.asked.count(FILE) == 1 + renewals

        assert told(mount)["renewals"] == {"made": 3, "held_back": 0}


async def test_f9_zero_is_for_ever(rig: Rig) -> None:
    image = images(rig)[0]
    async with rig.mount(annotation_ttl=0.0) as mount:
        before = await mount.read(path_of(image))
        edit(rig, image)
        mount.clock.advance(400 * DAY)
        assert await mount.read(path_of(image)) == before
        assert mount.asked.count(FILE) == 1


@pytest.mark.parametrize("how", ["frozen", "offline"])
async def test_f8_o5_frozen_and_offline_renew_nothing(rig: Rig, how: str) -> None:
    image = images(rig)[0]
    async with rig.mount() as mount:
        before = await mount.read(path_of(image))
    edit(rig, image)
    rig.clock.advance(3 * DAY)
    async with rig.mount(**{how: True}) as mount:
        mount.forget_log()
        assert await mount.read(path_of(image)) == before
        assert FILE not in mount.asked
        assert told(mount)["oldest_age"] == pytest.approx(3 * DAY, abs=1)


async def test_f9_a_moved_dataset_makes_its_files_due_once(rig: Rig) -> None:
    rig.standin.switches.updated_at_bumps |= {"annotations"}
    first, second = images(rig)[:2]

    async with rig.mount(ttl=50) as mount:
        for image in (first, second):
            await mount.read(path_of(image))
        mount.clock.advance(10)
        edit(rig, first)
        mount.clock.advance(51)
        mount.forget_log()

        for _ in range(3):
            for image in (first, second):
                assert await mount.read(path_of(image)) == annotation_bytes(rig.standin, image)

        assert mount.asked.count(FILE) == 2


async def test_f9_what_was_fetched_after_the_move_is_not_due(rig: Rig) -> None:
    """The list is read 300 s later and tells of a move before the fetch: the server's times say
    so."""
    image = images(rig)[0]

    async with rig.mount(ttl=300) as mount:
        await mount.look(path_of(image))
        mount.clock.advance(10)
        rig.standin.organization.update_image(images(rig)[5], tags=("moved",))
        mount.clock.advance(10)
        await mount.read(path_of(image))
        mount.clock.advance(301)
        await mount.read(path_of(image))

        assert mount.asked.count(FILE) == 1


@pytest.mark.parametrize("ahead", [-5000.0, 5000.0])
async def test_f9_another_clock_of_the_server_makes_no_storm(rig: Rig, ahead: float) -> None:
    """A dataset whose time lies far off, in the past or the future, makes files due once for each
    move."""
    dataset, image = rig.standin.organization["small"], images(rig)[0]

    async with rig.mount(ttl=50) as mount:
        await mount.read(path_of(image))
        mount.clock.advance(10)
        dataset.touch(rig.clock.wall() + ahead)
        mount.clock.advance(51)
        mount.forget_log()

        for _ in range(5):
            await mount.read(path_of(image))
            mount.clock.advance(51)

        assert mount.asked.count(FILE) == 1


async def test_f9_an_epoch_over_fresh_files_writes_nothing(rig: Rig) -> None:
    async with rig.mount() as mount:
        await read_all(mount, rig)
        writer = mount.catalog.database._writer
        before = writer.total_changes
        await read_all(mount, rig)
        assert writer.total_changes == before


async def test_b5_an_open_file_keeps_its_version_over_a_renewal(rig: Rig) -> None:
    image = images(rig)[0]
    async with rig.mount(annotation_ttl=100.0) as mount:
        opened = await mount.open(path_of(image))
        before = annotation_bytes(rig.standin, image)
        half = await mount.tree.read(opened.handle, 0, 50)
        edit(rig, image)
        mount.clock.advance(101)
        assert await mount.read(path_of(image)) == annotation_bytes(rig.standin, image) != before
        assert half + await mount.tree.read(opened.handle, 50, 1 << 20) == before


# What can't be renewed.


@pytest.mark.parametrize(
    "do", [error(503), error(401), error(403), error(404), throttled(900), html()]
)
async def test_f9_o1_the_old_version_serves_where_it_can_t_be_renewed(rig: Rig, do: Any) -> None:
    async with rig.mount(max_retries=0, annotation_ttl=1000.0) as mount:
        await read_all(mount, rig)
        edit(rig, images(rig)[0])
        mount.clock.advance(1001)
        fault = rig.fault(do, "api", FILE[4:])
        mount.forget_log()

        assert len(await read_old(mount, rig)) == 30
        assert mount.asked.count(FILE) <= (1 if do != error(404) else 30)
        assert told(mount)["renewals"]["held_back"] == 30

        rig.standin.faults.remove(fault)
        mount.clock.advance(901)
        await read_all(mount, rig)

        assert told(mount)["renewals"]["held_back"] == 0


async def test_f9_a_silent_server_holds_up_one_reader_for_five_seconds(rig: Rig) -> None:
    async with rig.mount(annotation_ttl=1000.0, timeout=60.0) as mount:
        before = await mount.read(path_of(images(rig)[0]))
        await mount.read(path_of(images(rig)[1]))
        mount.clock.advance(1001)
        rig.fault(Hang(), "api", FILE[4:])
        began = trio.current_time()

        assert await mount.read(path_of(images(rig)[0])) == before

        waited = trio.current_time() - began
        await mount.read(path_of(images(rig)[1]))

        assert 4.5 < waited < 15
        assert mount.asked.count(FILE) <= 3


async def test_f9_q6_renewals_leave_the_reserve(rig: Rig) -> None:
    async with rig.mount(annotation_ttl=1000.0) as mount:
        await read_all(mount, rig)
        rig.standin.switches.hourly_limit = 100
        mount.clock.advance(4000)
        await mount.library.listing.datasets()
        mount.forget_log()
        await read_old(mount, rig)
        spent = len(mount.asked)

        assert mount.request_stats.remaining is not None
        assert mount.request_stats.remaining >= mount.request_stats.reserve - 1
        assert spent <= 50

        for _ in range(3):
            await read_old(mount, rig)

        assert mount.request_stats.remaining >= mount.request_stats.reserve - 1


async def test_f9_what_can_t_be_renewed_is_told_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig.mount(max_retries=0, annotation_ttl=1000.0) as mount:
        await read_all(mount, rig)
        mount.clock.advance(7200)
        rig.fault(error(503), "api", FILE[4:])
        for _ in range(2):
            await read_old(mount, rig)
        warned = [each for each in caplog.records if "longer than --annotation-ttl" in each.message]

        assert len(warned) == 1
        assert warned[0].levelno == logging.WARNING
        assert told(mount)["oldest_age"] == pytest.approx(7200, abs=30)


async def test_j6_status_tells_where_the_labels_came_from(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read(path_of(images(rig)[0]))
        facts = told(mount)
        assert facts["from"] == {"requests": 1, "exports": 0, "shared": 0}
        assert facts["oldest_age"] == pytest.approx(0, abs=1)
        mount.clock.advance(500)
        await mount.read(path_of(images(rig)[0]))
        assert told(mount)["oldest_age"] == pytest.approx(500, abs=1)


# Exports that are there.


def made(rig: Rig, name: str = "nightly", **fields: Any) -> None:
    """A finished export of `small`, a minute after its last change, and an hour ago."""
    rig.clock.advance(60)
    finished_export(rig.standin, "small", name, **fields)
    rig.clock.advance(3600)


async def test_q5_an_export_that_is_there_serves_a_viewer_for_three_requests(rig: Rig) -> None:
    made(rig)
    async with rig.mount() as mount:
        await mount.library.listing.datasets()
        paths = list(await mount.list("/datasets/small/annotations/part-000"))
        mount.forget_log()
        for name in paths[:3]:
            await mount.read(f"/datasets/small/annotations/part-000/{name}")
        await mount.settle()

        assert sorted(mount.asked) == sorted([FILE] * 3 + [LIST, URL, FILE])

        await read_all(mount, rig)

        assert len(mount.asked) == 6

        facts = told(mount)

        assert facts["from"] == {"requests": 4, "exports": 26, "shared": 0}
        assert [each["name"] for each in facts["exports"]] == ["nightly"]
        assert facts["oldest_age"] == pytest.approx(3600, abs=5)


async def test_f9_what_an_export_brought_is_as_old_as_the_export(rig: Rig) -> None:
    made(rig)
    async with rig.mount(annotation_ttl=7200.0) as mount:
        for image in images(rig)[:3]:
            await mount.read(path_of(image))
        await mount.settle()
        await read_all(mount, rig)
        for image in images(rig):
            edit(rig, image)
        mount.clock.advance(3700)  # 7,300 s after the export, 3,700 after the reads
        mount.forget_log()
        await read_old(mount, rig)
        await mount.settle()

        assert mount.asked.count(FILE) == 26


async def test_f9_a_newer_export_renews_what_is_due(rig: Rig) -> None:
    async with rig.mount(annotation_ttl=7200.0) as mount:
        await read_all(mount, rig)
        for image in images(rig):
            edit(rig, image)
        mount.clock.advance(3700)
        made(rig)
        mount.forget_log()
        await read_all(mount, rig)

        assert (
            mount.asked.count(FILE) == 3
        )  # two alone, and the one to compare: the third waits for the archive
        assert mount.asked.count(LIST) == mount.asked.count(URL) == 1


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("old", {}),
        ("changed since", {}),
        ("of a class", {"class_filter": ["car"]}),
        ("of a status", {"status_filter": "complete"}),
        ("with images", {"include_images": True}),
        ("in the future", {}),
        ("other format", {}),
        ("no date", {}),
    ],
    ids=str,
)
async def test_q5_an_export_that_does_not_serve_is_left_alone(
    rig: Rig, why: str, fields: dict[str, Any]
) -> None:
    made(rig, **fields)
    export = next(iter(rig.standin.organization.exports.values()))

    if why == "old":
        rig.clock.advance(DAY)
    elif why == "changed since":
        rig.standin.organization.update_image(images(rig)[0], tags=("moved",))
    elif why == "in the future":
        export.created_at = rig.clock.wall() + 60
    elif why == "other format":
        export.format = "coco"
    elif why == "no date":
        export.created_at = 0

    async with rig.mount() as mount:
        await read_all(mount, rig)
        await mount.settle()
        await read_all(mount, rig)

        assert (mount.asked.count(FILE), mount.asked.count(LIST), mount.asked.count(URL)) == (
            30,
            1,
            0,
        )


async def test_q5_no_export_is_remembered(rig: Rig) -> None:
    async with rig.mount(annotation_ttl=600.0) as mount:
        for _ in range(4):
            await read_all(mount, rig)
            mount.clock.advance(601)
        assert mount.asked.count(LIST) == 1
        mount.clock.advance(3600)
        await read_all(mount, rig)
        assert mount.asked.count(LIST) == 2


@pytest.mark.parametrize(
    ("where", "do"),
    [
        (Match("api", None, "/exports/"), error(403)),
        (Match("api", None, "/exports/"), error(404, "not_found")),
        (Match("api", None, "/exports/"), html()),
        (Match("api", None, "/exports/{export:path}/download"), error(404, "not_found")),
        (Match("storage", None, r"^/.*exports/"), error(404)),
    ],
    ids=str,
)
async def test_q5_an_export_that_fails_half_way_costs_nobody_a_file(
    rig: Rig, where: Match, do: Any
) -> None:
    made(rig)
    async with rig.mount(max_retries=0) as mount:
        rig.standin.faults.add(Fault(where, do))
        for _ in range(2):
            await read_all(mount, rig)
            await mount.settle()
        assert mount.asked.count(FILE) == 30
        assert mount.asked.count(LIST) == 1


async def test_f5_after_a_refresh_no_older_export_serves(rig: Rig) -> None:
    made(rig)
    for image in images(rig):
        edit(rig, image)
    async with rig.mount() as mount:
        await mount.list("/datasets/small/annotations/part-000")
        await mount.library.refresh("small")
        await read_all(mount, rig)
        assert mount.asked.count(FILE) == 30


async def test_f4_a_file_whose_count_is_another_by_now_comes_from_the_api(rig: Rig) -> None:
    made(rig)
    image = next(each for each in images(rig)[4:] if each.annotation_count > 1)
    org = rig.standin.organization
    org.set_annotations(image, org.annotations(image)[1:])

    async with rig.mount() as mount:
        for each in images(rig)[:3]:
            await mount.read(path_of(each))
        await mount.settle()
        mount.forget_log()
        await read_all(mount, rig)

        assert mount.asked == [FILE]


# Sizes.


async def stat(mount: Mount, image: Image) -> int:
    """The size, as the kernel asks for it where an entry has none that lasts."""
    return (await mount.tree.attributes((await mount.look(path_of(image))).inode)).size


async def test_s3_a_stat_learns_every_size_from_an_export_that_is_there(rig: Rig) -> None:
    made(rig)
    async with rig.mount() as mount:
        await mount.list("/datasets/small/annotations/part-000")
        mount.forget_log()
        for image in images(rig):
            assert await stat(mount, image) == len(annotation_bytes(rig.standin, image))
        assert mount.asked == [LIST, URL, FILE]


async def test_s3_without_an_export_stats_cost_one_request_an_hour(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list("/datasets/small/annotations/part-000")
        mount.forget_log()
        for image in images(rig):
            assert await stat(mount, image) > len(annotation_bytes(rig.standin, image))
        assert mount.asked == [LIST]


async def test_q3_a_stat_in_a_dataset_that_was_not_listed_looks_for_none(rig: Rig) -> None:
    async with rig.mount() as mount:
        await stat(mount, images(rig)[0])
        assert LIST not in mount.asked
        assert len(mount.asked) <= 3


@pytest.mark.parametrize("there", [False, True])
async def test_s3_exact_sizes_come_in_bulk(rig: Rig, there: bool) -> None:
    if there:
        made(rig)
    rig.standin.switches.export_polls = 0
    key = rig.standin.keys["viewer" if there else "admin"]

    async with rig.mount(exact=True, bulk_annotations=not there, key=key) as mount:
        await mount.list("/datasets/small/annotations/part-000")
        mount.forget_log()
        for image in images(rig):
            assert await stat(mount, image) == len(annotation_bytes(rig.standin, image))

        assert mount.asked.count(FILE) == 1
        assert len(mount.asked) == (3 if there else 6)


# Runs.


async def warm(mount: Mount, mode: str = "fetch", **wish: Any) -> dict[str, Any]:
    run = WarmJob(
        mount.library,
        WarmRequest((("datasets", "small"),), choice=Choice(frozenset({"annotations"})), **wish),
    )
    await getattr(run, mode)()
    assert run.error is None
    return run.result()


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("edited", [0, 3, 10])
@pytest.mark.parametrize("there", [False, True])
async def test_q7_the_price_counts_an_export_that_is_there(
    rig: Rig, bulk: bool, edited: int, there: bool
) -> None:
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        await mount.list("/datasets/small/annotations/part-000")
    for image in images(rig)[:edited]:  # the catalog knows of it once it lists again
        rig.standin.organization.set_annotations(image, [])
    rig.clock.advance(4000)
    if there:
        made(rig)
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        planned = await warm(mount, "look", bulk=bulk)
        mount.forget_log()
        done = await warm(mount, bulk=bulk)

        assert done["missing"] == 0
        assert len(mount.asked) == planned["requests_needed"]["total"], mount.asked

        await read_all(mount, rig)


async def test_f9_q7_a_run_renews_what_is_due(rig: Rig) -> None:
    async with rig.mount(annotation_ttl=1000.0) as mount:
        await warm(mount)
        mount.clock.advance(1001)
        assert (await warm(mount, "look"))["requests_needed"]["annotations"] == 30
        edit(rig, images(rig)[0])
        await warm(mount)
        mount.forget_log()
        await read_all(mount, rig)
        assert mount.asked == []
        assert (await warm(mount, "look"))["missing"] == 0


async def test_e1_a_row_of_an_export_that_makes_no_sense_is_left_out(rig: Rig) -> None:
    made(rig)

    def spoil(body: Any) -> Any:
        good = body["data"][0]
        bad = [
            None,
            5,
            {},
            {"name": 3},
            good | {"created_at": 10**400},
            good | {"dataset_id": ["x"]},
        ]
        body["data"] = bad * 20_000 + [good]
        return body

    rig.standin.faults.add(Fault(Match("api", None, "/exports/"), Mutate(spoil)))

    async with rig.mount() as mount:
        await read_all(mount, rig)
        assert await error_of(lambda: mount.read("/datasets/small/images/nothing.jpg"))
        assert mount.asked.count(LIST) == 1
