"""Warming: exact requests, everything there afterwards, and a fitting end whatever the server
does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from mounting import Hold
from rig import Mount, Rig, expected

from pictofs.errors import (
    Conflict,
    DiskFull,
    Invalid,
    NoSuchEntry,
    PictofsError,
    ServerFault,
    ServerUnreachable,
    Throttled,
)
from pictofs.library.bulk.scope import Choice, Item, Scope
from pictofs.library.bulk.warm import WarmJob, WarmRequest
from pictofs.model.records import FileKind
from pictofs.model.shard import Shard
from pictofs.store.blobs.ledger import Usage
from pictofs.store.catalog.rows import ImageRow
from standin import Organization, Spec, StandIn
from standin.faults import Corrupt, Fault, Hang, Match, Reset, error, throttled
from standin.records import Image
from standin.spec import DatasetSpec

FILE, BATCH = "GET /annotations/{image_id:uuid}/file", "GET /datasets/{dataset}/download"
EXPORTS = "GET /exports/"
LISTING = ["GET /datasets/", "GET /directories/{dataset}/tree", "GET /datasets/{dataset}"]
ALL: tuple[tuple[str, ...], ...] = (("datasets", "small"),)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Thirty images, in three directories of `small`."""
    with StandIn(Spec((DatasetSpec("small", images=30, size=500, directories=3),))) as running:
        yield running


def images(rig: Rig) -> list[Image]:
    return list(rig.standin.organization["small"].images.values())


def items(mount: Mount, kind: FileKind) -> list[Item]:
    """The files of a kind that the catalog has of `small`."""
    dataset = mount.library.catalog.dataset_by_entry("small")
    assert dataset is not None
    scope = Scope(mount.library.catalog, Choice(frozenset({kind})))
    scope.add_listed(dataset)
    return [item for page in scope.pages(dataset.key) for item in page]


def there(mount: Mount, item: Item) -> bool:
    if item.kind == "images":
        return mount.library.downloads.is_kept(item.image)
    return mount.library.annotations.has(item.image)


async def warm(mount: Mount, *paths: tuple[str, ...], mode: str = "fetch", **wish: Any) -> WarmJob:
    """A run, to its end."""
    choice = Choice(
        **{name: wish.pop(name) for name in ("kinds", "status", "split", "shard") if name in wish}
    )
    run = WarmJob(mount.library, WarmRequest(paths or ALL, choice=choice, **wish))
    await getattr(run, mode)()
    return run


async def landed(mount: Mount, *paths: tuple[str, ...], **wish: Any) -> dict[str, Any]:
    """A run in which everything landed; its result."""
    run = await warm(mount, *paths, **wish)
    result = run.result()
    assert run.error is None
    assert (result["missing"], result["failed"], result["failures"]) == (0, 0, [])
    assert result["files_done"] == result["files"]
    return result


async def all_read(mount: Mount, rig: Rig) -> None:
    """Everything is right and needs no request."""
    mount.forget_log()
    assert await mount.walk() == {**expected(rig.standin), "/datasets/small": None}
    assert mount.asked == []
    assert mount.standin.log.requests("storage") == []


# What it costs.


async def test_q10_shards_of_two_machines_are_the_whole_once(rig: Rig, tmp_path: Path) -> None:
    """Each has a cache of its own, and has listed in another order; neither asks the other."""
    shards = [Shard(index, 2) for index in range(2)]
    fetched: list[set[str]] = []
    for shard in shards:
        machine = Rig(rig.standin, tmp_path / str(shard.index))
        async with machine.mount() as mount:
            if shard.index:
                await mount.walk("/datasets/small/annotations/part-002", read=False)

            mount.forget_log()
            planned = (await warm(mount, mode="look", shard=shard)).result()
            result = await landed(mount, shard=shard)

            assert result["shard"] == {"index": shard.index, "count": 2}
            assert planned["files"] == result["files"] == result["fetched"]
            assert planned["images"]["files"] == planned["annotations"]["files"]
            assert planned["requests_needed"]["annotations"] == mount.asked.count(FILE)

            kept = {item.image.id for item in items(mount, "images") if there(mount, item)}
            labelled = {item.image.id for item in items(mount, "annotations") if there(mount, item)}

            assert kept == labelled == {each.id for each in images(rig) if shard.takes(each.id)}
            fetched.append(kept)

            # What it does not have is for the other one.
            assert (await warm(mount, mode="look")).result()["missing"] == 60 - result["files"]

    assert fetched[0] | fetched[1] == {each.id for each in images(rig)}
    assert not fetched[0] & fetched[1]


async def test_a_shard_of_one_status_and_its_eviction(rig: Rig) -> None:
    async with rig.mount() as mount:
        await landed(mount)
        result = (await warm(mount, mode="evict", shard=Shard(0, 3))).result()
        mine = [each for each in images(rig) if Shard(0, 3).takes(each.id)]

        assert 0 < len(mine) < 30
        assert result["evicted"] == 2 * len(mine)

        statuses = {each.status for each in mine}
        for status in statuses:
            found = (await warm(mount, mode="look", shard=Shard(0, 3), status=status)).result()
            assert found["images"]["missing"] == len([e for e in mine if e.status == status])


async def test_q7_a_dataset_costs_its_listing_one_batch_and_its_annotations(rig: Rig) -> None:
    async with rig.mount() as mount:
        result = await landed(mount)
        assert sorted(mount.asked) == sorted([*LISTING, EXPORTS, BATCH, *[FILE] * 30])
        assert result["requests"] == 35
        assert (result["files"], result["bytes"], result["bytes_done"]) == (60, 15_000, 15_000)

        await all_read(mount, rig)
        again = await landed(mount)

        assert (again["requests"], again["files_done"]) == (0, 60)

    async with rig.mount() as mount:
        await landed(mount)
        assert mount.asked == []
        await all_read(mount, rig)


@pytest.mark.usefixtures("small_pages")
async def test_more_images_than_a_page_of_mixed_status_cost_8_requests(rig: Rig) -> None:
    with StandIn(Spec.uniform(images=1250, size=100, directories=3)) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            planned = await warm(mount, ("datasets",), mode="look", kinds={"images"})
            assert planned.result()["requests_needed"] == {
                "urls": 4,
                "images": 0,
                "annotations": 0,
                "total": 4,
            }
            assert sorted(mount.asked) == sorted([*LISTING, LISTING[2]])

            await landed(mount, ("datasets",), kinds={"images"})

            assert len(mount.asked) == 8


@pytest.mark.parametrize("role", ["member", "admin"])
async def test_annotations_in_bulk_cost_10_requests(rig: Rig, role: str) -> None:
    with StandIn(Spec.uniform(images=500, size=100, directories=7)) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount(key=standin.keys[role]) as mount:
            result = await landed(mount, ("datasets",), kinds={"annotations"}, bulk=True)
            assert result["requests"] == len(mount.asked) == 10
            assert len(standin.organization.exports) == (role == "member")
            mount.forget_log()
            await landed(mount, ("datasets",), kinds={"annotations"})
            assert mount.asked == []


async def test_a_viewer_s_annotations_come_one_by_one(rig: Rig) -> None:
    async with rig.mount() as mount:
        result = await landed(mount, bulk=True)
        assert "export failed" in result["notice"]
        assert mount.asked.count(FILE) == 30


@pytest.mark.parametrize("bulk", [False, True])
async def test_q7_the_price_is_what_it_then_costs(rig: Rig, bulk: bool) -> None:
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        await mount.read("/datasets/small/images/part-000/image-000000.jpg")
        await mount.read("/datasets/small/annotations/part-000/image-000003.jpg.json")
        price = (await warm(mount, mode="look", bulk=bulk)).result()

        assert price["images"] == {
            "files": 30,
            "missing": 29,
            "bytes": 15_000,
            "bytes_missing": 14_500,
            "unsized": 0,
        }

        mount.forget_log()
        result = await landed(mount, bulk=bulk)

        assert (
            result["requests"]
            == len(mount.asked)
            == price["requests_needed"]["total"]
            == (7 if bulk else 30)
        )


async def test_each_run_counts_its_own_requests_and_no_reader_s(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.read("/datasets/small/annotations/part-000/image-000003.jpg.json")
        assert (await landed(mount, ("datasets", "small", "annotations"))).get("requests") == 31


# Which files.


@pytest.mark.parametrize(
    ("path", "wish", "files"),
    [
        ((), {}, 60),
        (("datasets",), {}, 60),
        (("datasets", "small"), {"kinds": {"images"}}, 30),
        (("datasets", "small", "images"), {}, 30),
        (("datasets", "small", "annotations"), {}, 30),
        (("datasets", "small", "images", "part-001"), {}, 10),
        (("datasets", "small", "annotations", "part-001"), {}, 10),
        (("datasets", "small", "images", "part-001"), {"kinds": {"annotations", "images"}}, 20),
        (("datasets", "small", "images", "part-001", "image-000001.jpg"), {}, 1),
        (("datasets", "small", "annotations", "part-001", "image-000001.jpg.json"), {}, 1),
        (
            ("datasets", "small", "images", "part-001", "image-000001.jpg"),
            {"kinds": {"annotations"}},
            1,
        ),
    ],
)
async def test_paths(rig: Rig, path: tuple[str, ...], wish: dict[str, Any], files: int) -> None:
    async with rig.mount() as mount:
        assert (await landed(mount, path, **wish))["files"] == files
        assert (await landed(mount, path, path, ("datasets", "small"), kinds=set()))["files"] == 0


async def test_what_is_named_twice_counts_once(rig: Rig) -> None:
    top = ("datasets", "small")
    paths = [
        top,
        (*top, "images"),
        (*top, "images", "part-001"),
        (*top, "images", "part-001", "image-000001.jpg"),
    ]
    async with rig.mount() as mount:
        assert (await landed(mount, *paths))["files"] == 60


@pytest.mark.parametrize("status", ["new", "complete", "nothing-like-that"])
async def test_a_status(rig: Rig, status: str) -> None:
    async with rig.mount() as mount:
        count = sum(image.status == status for image in images(rig))
        assert (await landed(mount, status=status))["files"] == 2 * count


async def test_a_split(rig: Rig) -> None:
    async with rig.mount() as mount:
        count = sum(image.split == "train" for image in images(rig))
        assert 0 < count < 30
        assert (await landed(mount, split="train", kinds={"images"}))["files"] == count


async def test_images_without_a_split(rig: Rig) -> None:
    async with rig.mount() as mount:
        count = sum(image.split is None for image in images(rig))
        assert 0 < count < 30
        assert (await landed(mount, split="unassigned"))["files"] == 2 * count


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("datasets", "no"), NoSuchEntry),
        (("datasets", "small", "images", "no"), NoSuchEntry),
        (("datasets", "small", "images", "no", "no.jpg"), NoSuchEntry),
        (("datasets", "small", "other"), Invalid),
        (("datasets", "small", "by-split", "train"), Invalid),
        ((".pictofs", "status.json"), Invalid),
    ],
)
async def test_paths_that_hold_nothing(
    rig: Rig, path: tuple[str, ...], kind: type[PictofsError]
) -> None:
    async with rig.mount() as mount:
        assert isinstance((await warm(mount, path)).error, kind)


async def test_a_large_image_comes_whole(rig: Rig) -> None:
    organization = Organization()
    dataset = organization.add_dataset("small")
    organization.add_image(dataset, "large.bin", size=20_000_000)
    organization.add_image(dataset, "lied.bin", size=9_000_000, file_size=10)
    with StandIn(organization) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            await landed(mount)
            await all_read(mount, rig)


# What is there.


async def test_check_and_evict(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert (await warm(mount, mode="look")).missing == 60

        await landed(mount)
        mount.forget_log()

        assert (await warm(mount, mode="look")).missing == 0

        gone = await warm(mount, ("datasets", "small", "images", "part-001"), mode="evict")

        assert gone.result()["evicted"] == 10

        run = await warm(mount, mode="look")

        assert (run.missing, run.result()["images"]["missing"]) == (10, 10)
        assert mount.asked == []
        assert (await warm(mount, mode="evict")).result()["evicted"] == 50

        await landed(mount)
        await all_read(mount, rig)


async def test_annotations_in_doubt_are_fetched_again(rig: Rig) -> None:
    async with rig.mount() as mount:
        await landed(mount)
        rig.standin.organization.set_annotations(images(rig)[3], [])
        await mount.library.refresh("small")
        mount.forget_log()
        await landed(mount)
        assert mount.asked.count(FILE) == 30
        await all_read(mount, rig)


async def test_c14_a_cache_that_is_too_small_is_told_before_anything_is_fetched(rig: Rig) -> None:
    async with rig.mount(cache_size=200_000) as mount:
        await landed(mount, (*ALL[0], "images", "part-001"))
        planned = (await warm(mount, mode="look")).result()

        assert not planned["fits"]
        assert planned["obstacle"] == (
            "all of it takes 246 kB (41 kB cached, 205 kB missing), and the cache holds "
            "200 kB at most; name less, or mount with a larger --cache-size"
        )

        mount.forget_log()
        run = await warm(mount)

        assert isinstance(run.error, DiskFull)
        assert str(run.error) == planned["obstacle"]
        assert mount.asked == []


async def test_c14_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    rig: Rig, small_disk: Path
) -> None:
    with StandIn(Spec.uniform(images=60, size=100_000)) as standin:
        rig = Rig(standin, small_disk / "cache")
        async with rig.mount() as mount:
            planned = (await warm(mount, ("datasets",), mode="look", kinds={"images"})).result()

            assert not planned["fits"]
            assert planned["obstacle"].startswith("all of it takes 6.14 MB (0 B cached, ")
            assert (
                f"the disk of {small_disk}/cache/blobs lets the cache hold 2"
                in (planned["obstacle"])
            )

            mount.forget_log()
            run = await warm(mount, ("datasets",), kinds={"images"})

            assert isinstance(run.error, DiskFull)
            assert "a smaller --min-free" in run.error.hint
            assert mount.asked == []
            assert mount.standin.log.requests("storage") == []


async def test_c14_what_must_stay_free_counts_and_what_is_cached_is_not_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig.mount() as mount:
        usage = mount.blob_cache.usage

        def full() -> Usage:
            return replace(usage(), free=300_000, kept=200_000)

        monkeypatch.setattr(mount.blob_cache, "usage", full)
        refused = await warm(mount)

        assert "it takes 0 B now, and of 300 kB free 200 kB must stay free" in str(refused.error)

        monkeypatch.undo()
        await landed(mount)
        monkeypatch.setattr(mount.blob_cache, "usage", lambda: replace(usage(), free=0, kept=9))

        assert (await landed(mount))["fits"]


async def test_a_disk_that_takes_nothing_names_what_helps(rig: Rig) -> None:
    async with rig.mount() as mount:
        mount.library.cache.failed(DiskFull("full"))
        run = await warm(mount, kinds={"images"})

        assert isinstance(run.error, DiskFull)
        assert run.error.message == "the disk takes nothing now"
        assert str(mount.blob_cache.path) in run.error.hint
        assert "--min-free" in run.error.hint


async def test_a_cache_that_fills_ends_the_run(rig: Rig) -> None:
    for image in images(rig):
        image.lies = {"file_size": 1}
    async with rig.mount(cache_size=30 * 4096 + 20_000) as mount:
        run = await warm(mount, kinds={"images"})
        assert run.error is None or isinstance(run.error, DiskFull)


# Servers that fail.


async def test_one_bad_image_is_told_and_the_rest_lands(rig: Rig) -> None:
    lost = images(rig)[4]
    async with rig.mount() as mount:
        rig.fault(error(404, "not_found"), path=lost.id)
        run = await warm(mount)
        result = run.result()

        assert run.error is None
        assert (result["failed"], result["missing"]) == (2, 2)

        where = f"{lost.directory_path}/{lost.filename}"

        assert sorted(each["path"] for each in result["failures"]) == [
            f"datasets/small/annotations{where}.json",
            f"datasets/small/images{where}",
        ]

        rig.standin.faults.clear()
        await landed(mount)
        await all_read(mount, rig)


async def test_an_image_that_goes_meanwhile_is_no_failure(rig: Rig) -> None:
    lost = images(rig)[4]
    async with rig.mount() as mount:
        fetch = mount.library.downloads.fetch

        async def removed(image: ImageRow) -> None:
            if image.id == lost.id:
                rig.standin.organization.remove_image(lost)
                await mount.library.refresh("small")
                await mount.library.listing.datasets()
                await mount.library.listing.all_images(image.dataset)

            await fetch(image)

        mount.library.downloads.fetch = removed  # type: ignore[method-assign]
        rig.fault(error(404, "not_found"), path=lost.id)
        result = (await warm(mount, kinds={"images"})).result()

        assert (result["files"], result["missing"], result["failures"]) == (29, 0, [])


@pytest.mark.parametrize(
    "fault", [error(503), Reset(), Reset(after=100), Corrupt(), throttled(2)], ids=str
)
async def test_faults_now_and_then_are_not_noticed(rig: Rig, fault: Any) -> None:
    async with rig.mount() as mount:
        rig.standin.faults.add(Fault(Match("storage"), fault, probability=0.2, seed=3))
        await landed(mount)
        await all_read(mount, rig)


@pytest.mark.parametrize("fault", [error(503), Reset()], ids=str)
async def test_a_server_that_is_gone_ends_the_run(rig: Rig, fault: Any) -> None:
    async with rig.mount(max_retries=0) as mount:
        await warm(mount, mode="look")
        rig.fault(fault, "api")
        run = await warm(mount, kinds={"annotations"})
        assert isinstance(run.error, (ServerFault, ServerUnreachable))
        assert run.result()["missing"] == 30
        rig.standin.faults.clear()
        rig.clock.advance(60)
        await landed(mount)


async def test_storage_that_is_gone_ends_the_run(rig: Rig) -> None:
    async with rig.mount(max_retries=0) as mount:
        rig.fault(error(500), "storage")
        run = await warm(mount, kinds={"images"})
        assert isinstance(run.error, ServerFault)


async def test_a_dataset_in_cold_storage_is_refused(rig: Rig) -> None:
    rig.standin.organization["small"].storage_class = "coldline"
    async with rig.mount() as mount:
        run = await warm(mount, kinds={"images"})
        assert isinstance(run.error, Conflict)
        assert (run.error.exit_code, mount.asked.count(BATCH)) == (5, 1)


async def test_q9_urls_that_can_t_be_had_are_waited_for_by_their_name(rig: Rig) -> None:
    async with rig.mount(max_retries=0) as mount:
        rig.fault(error(500), "api", "/datasets/{dataset}/download")
        run, seen = await watched(rig, mount)
        waiting = [each for each in seen if each["state"] == "waiting"]

        assert waiting
        assert all("HTTP 500" in each["reason"] for each in waiting)
        assert isinstance(run.error, ServerFault)


# The budget.


async def test_q7_q6_it_ends_before_the_reserve_where_it_may_not_wait(rig: Rig) -> None:
    rig.standin.organization.switches.hourly_limit = 70
    async with rig.mount() as mount:
        planned = (await warm(mount, mode="look")).result()
        assert planned["budget"]["seconds"] > 3000

        run = await warm(mount, wait=False)

        assert isinstance(run.error, Throttled)
        assert run.error.exit_code == 8
        assert re.fullmatch(
            r"stopped: 50 of 70 requests left, which are kept for interactive use; "
            r"full at \d\d:\d\d",
            str(run.error),
        )
        assert run.result()["until"] is None

        sent = sum(
            count for (host, *_), count in mount.request_stats.requests.items() if host == "api"
        )

        assert sent == 70 - mount.request_stats.reserve == 20  # all that may be, and not one more
        assert not [each for each in rig.standin.log.requests("api") if each.status == 429]


@pytest.mark.parametrize("mode", ["look", "evict"])
async def test_q9_who_only_looks_waits_for_no_budget(rig: Rig, mode: str) -> None:
    """Of a limit below the reserve, and of one that is spent."""
    rig.standin.organization.switches.hourly_limit = 40
    async with rig.mount() as mount:
        run = await warm(mount, mode=mode)

        assert (run.error, run.result()["files"]) == (None, 60)
        assert sorted(mount.asked) == sorted(LISTING)

        rig.standin.organization.switches.hourly_limit = 3
        rig.clock.advance(400)
        again = await warm(mount, mode=mode)

        assert (again.error, again.result()["files"]) == (None, 60)

    assert rig.clock.sleeps == []


@pytest.mark.parametrize("mode", ["look", "evict"])
async def test_q9_a_look_at_what_was_never_listed_ends_where_the_limit_is_spent(
    rig: Rig, mode: str
) -> None:
    rig.standin.organization.switches.hourly_limit = 1
    async with rig.mount() as mount:
        run = await warm(mount, mode=mode)

        assert isinstance(run.error, Throttled)
        assert run.error.exit_code == 8
        assert run.missing == 0

    assert rig.clock.sleeps == []


async def watched(rig: Rig, mount: Any) -> tuple[WarmJob, list[dict[str, Any]]]:
    """A run, and what it told before each of its rests."""
    run = WarmJob(mount.library, WarmRequest(ALL))
    seen = []
    sleep = rig.clock.sleep

    async def noting(seconds: float) -> None:
        seen.append(run.progress())
        await sleep(seconds)

    rig.clock.sleep = noting  # type: ignore[method-assign]
    await run.fetch()
    return run, seen


async def test_it_waits_for_the_budget_and_says_until_when(rig: Rig) -> None:
    rig.standin.organization.switches.hourly_limit = 70
    async with rig.mount() as mount:
        run, seen = await watched(rig, mount)

        assert run.error is None
        assert run.missing == 0

        waiting = [each for each in seen if each["state"] == "waiting"]

        assert waiting
        assert all(each["until"] > 0 and each["reason"] is None for each in waiting)
        assert not [each for each in rig.standin.log.requests("api") if each.status == 429]
        assert sum(rig.clock.sleeps) > 1800


async def test_a_throttle_is_waited_for(rig: Rig) -> None:
    async with rig.mount() as mount:
        rig.fault(throttled(300), "api", "/annotations/{image_id:uuid}/file", times=3)
        await landed(mount)
        assert sum(rig.clock.sleeps) >= 300


async def test_a_throttle_of_storage_is_waited_for(rig: Rig) -> None:
    async with rig.mount() as mount:
        rig.fault(throttled(50), "storage", times=3)
        await landed(mount)


def test_seconds_of_budget() -> None:
    from pictofs.api.stats import RequestStats
    from pictofs.library.bulk.inventory import seconds_of_budget

    request_stats = RequestStats()

    assert seconds_of_budget(request_stats, 5, 0.0) is None

    request_stats.limits(
        {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "400", "x-ratelimit-reset": "600"},
        0.0,
    )

    assert seconds_of_budget(request_stats, 300, 0.0) == 0
    assert seconds_of_budget(request_stats, 301, 0.0) == 600
    assert seconds_of_budget(request_stats, 300 + 900, 0.0) == 600
    assert seconds_of_budget(request_stats, 300 + 901, 0.0) == 600 + 3600
    assert seconds_of_budget(request_stats, 900, 601.0) == 0
    assert not math.isnan(seconds_of_budget(request_stats, 10**9, 0.0) or 0)


# Others.


async def test_a_run_that_is_cancelled_keeps_what_has_come(rig: Rig) -> None:
    rig.standin.organization.switches.storage_latency = 0.02
    async with rig.mount() as mount:
        run = WarmJob(
            mount.library, WarmRequest(ALL, choice=Choice(frozenset({"images"})), workers=2)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.fetch)
            while run.progress()["files_done"] < 5:  # noqa: ASYNC110 - nothing tells it
                await trio.sleep(0.005)
            run.cancel()

        assert run.finished.is_set()
        assert 5 <= 30 - run.missing < 30

        await mount.settle()
        mount.forget_log()
        rig.standin.organization.switches.storage_latency = 0
        await landed(mount)

        assert len(rig.standin.log.requests("storage")) < 26


async def test_readers_go_first(rig: Rig) -> None:
    async with rig.mount() as mount:
        await warm(mount, mode="look")
        rig.fault(Hang(), "storage", times=4)
        with mount.library.read_stats.wait(), trio.move_on_after(0.5):
            # The four steadfast ones hang; the others stand aside for the reader that waits.
            await warm(mount, kinds={"images"}, workers=16)
        assert len(rig.standin.log.requests("storage")) == 4


async def test_a_reader_shares_a_download_under_way(rig: Rig) -> None:
    async with rig.mount() as mount:
        image, hold = images(rig)[0], Hold()
        rig.fault(hold, "storage", image.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(landed, mount)
            await trio.to_thread.run_sync(hold.waiting.wait, 20)
            nursery.start_soon(
                mount.read, f"/datasets/small/images{image.directory_path}/{image.filename}"
            )
            await trio.testing.wait_all_tasks_blocked()
            hold.open()

        fetched = [each.path for each in rig.standin.log.requests("storage")]

        assert len(fetched) == len(set(fetched)) == 30
