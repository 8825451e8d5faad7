"""Downloads into a plain folder: exact requests, the tree of a mount, and nothing outside of it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from mounting import finished_export
from rig import Mount, Rig, expected

from pictofs.errors import (
    Conflict,
    DiskFull,
    NoSuchEntry,
    PictofsError,
    ServerFault,
    ServerUnreachable,
    Throttled,
)
from pictofs.library.bulk.download import DownloadJob, DownloadRequest
from pictofs.library.bulk.scope import KINDS, Choice
from pictofs.store.folder import Folder
from standin import PRESETS, Organization, Spec, StandIn
from standin.faults import Close, Corrupt, Fault, Match, Reset, error, throttled
from standin.records import Image
from standin.spec import DatasetSpec

FILE, BATCH = "GET /annotations/{image_id:uuid}/file", "GET /datasets/{dataset}/download"
EXPORTS = "GET /exports/"
LISTING = ["GET /datasets/", "GET /directories/{dataset}/tree", "GET /datasets/{dataset}"]
KEYED = "GET /images/{image_id:uuid}"


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Thirty images, in three directories of `small`, and an empty directory."""
    with StandIn(Spec((DatasetSpec("small", images=30, size=500, directories=3),))) as running:
        running.organization.add_directory(running.organization["small"], "/empty/below")
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "place" / "out"


def images(rig: Rig) -> list[Image]:
    return list(rig.standin.organization["small"].images.values())


async def download(mount: Mount, out: Path, dataset: str = "small", **wish: Any) -> DownloadJob:
    """A run, to its end."""
    chosen = {name: wish.pop(name) for name in ("kinds", "status", "split") if name in wish}
    with Folder(out) as folder:
        run = DownloadJob(
            mount.library, folder, DownloadRequest(dataset, choice=Choice(**chosen), **wish)
        )
        await run.run()
    assert not (out / ".pictofs-download").exists()
    return run


async def landed(mount: Mount, out: Path, dataset: str = "small", **wish: Any) -> dict[str, Any]:
    """A run in which everything landed; its result."""
    run = await download(mount, out, dataset, **wish)
    result = run.result()
    assert run.error is None
    assert (result["success"], result["missing"], result["failures"]) == (True, 0, [])
    assert result["files_done"] == result["files"]
    return result


def tree(out: Path) -> dict[str, bytes | None]:
    """Path -> content of everything below a folder; None for folders."""
    found: dict[str, bytes | None] = {}
    for path in out.rglob("*"):
        found[str(path.relative_to(out))] = None if path.is_dir() else path.read_bytes()
    return found


def whole(rig: Rig, dataset: str = "small") -> dict[str, bytes | None]:
    """What the folder must hold."""
    return shown(expected(rig.standin), dataset)


def shown(mounted: dict[str, bytes | None], dataset: str) -> dict[str, bytes | None]:
    """What a mount shows of a dataset's images and annotations."""
    prefix = f"/datasets/{dataset}/"
    below = {
        path.removeprefix(prefix): data for path, data in mounted.items() if path.startswith(prefix)
    }
    return {path: data for path, data in below.items() if path.partition("/")[0] in KINDS}


# What it costs, and what is there afterwards.


async def test_d1_d5_a_dataset_costs_its_listing_one_batch_and_its_annotations(
    rig: Rig, out: Path
) -> None:
    async with rig.mount() as mount:
        result = await landed(mount, out)
        assert sorted(mount.asked) == sorted([*LISTING, EXPORTS, BATCH, *[FILE] * 30])
        assert result["requests"] == 35
        assert (result["files"], result["bytes"], result["bytes_done"]) == (60, 15_000, 15_000)
        assert (result["images_downloaded"], result["annotations_downloaded"]) == (30, 30)
        assert (result["dataset"], result["truncated"]) == ("small", False)
        assert result["dataset_id"] == rig.standin.organization["small"].id
        assert tree(out) == {**whole(rig), "images/empty": None, "annotations/empty": None}

        rig.standin.log.clear()
        again = await landed(mount, out)

        assert mount.asked == LISTING[:1]
        assert (again["requests"], again["images_downloaded"]) == (1, 0)

    async with rig.mount() as mount:
        mount.forget_log()
        assert (await landed(mount, out))["requests"] == 1
        assert rig.standin.log.count("storage") == 0


async def test_d2_times_are_those_of_the_mount(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out)
        for path, data in tree(out).items():
            if data is not None:
                shown, found = await mount.look(f"/datasets/small/{path}"), os.stat(out / path)
                assert (found.st_mtime_ns, found.st_size) == (shown.mtime_ns, shown.size)


async def test_d5_what_is_cached_is_copied_without_a_request(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await mount.walk()
        mount.forget_log()
        await landed(mount, out)
        assert mount.asked == LISTING[:1]
        assert rig.standin.log.count("storage") == 0
        assert tree(out).items() >= whole(rig).items()


async def test_d5_the_cache_is_not_filled(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out)
        assert mount.blob_cache.usage().files == 0


async def test_a_mount_s_reads_and_a_download_agree_on_versions(rig: Rig, out: Path) -> None:
    """Annotations learned by a download are not new to a mount, and the other way round."""
    async with rig.mount() as mount:
        await landed(mount, out)
        assert await mount.walk() == {**expected(rig.standin), "/datasets/small": None}
        rig.standin.log.clear()
        await landed(mount, out)
        assert mount.asked == LISTING[:1]


async def test_d5_12_500_images_of_mixed_status_cost_8_requests(rig: Rig, out: Path) -> None:
    with StandIn(Spec.uniform(images=12_500, size=100, directories=3)) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            result = await landed(mount, out, "dataset-0", kinds={"images"})
            assert (len(mount.asked), result["images_downloaded"]) == (8, 12_500)
            wanted = {
                path: data for path, data in whole(rig, "dataset-0").items() if path[:6] == "images"
            }
            assert tree(out) == wanted


@pytest.mark.usefixtures("small_pages")
async def test_d5_what_no_batch_names_comes_by_a_request_of_its_own(rig: Rig, out: Path) -> None:
    with StandIn(Spec.uniform(images=1007, size=100, statuses="new")) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            await landed(mount, out, "dataset-0", kinds={"images"})
            assert (mount.asked.count(BATCH), mount.asked.count(KEYED)) == (1, 7)
            assert len(os.listdir(out / "images")) == 1007


async def test_annotations_in_bulk(rig: Rig, out: Path) -> None:
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        result = await landed(mount, out, kinds={"annotations"}, bulk=True)
        assert result["requests"] == len(mount.asked) == 10
        assert rig.standin.organization.exports == {}
        wanted = {path: data for path, data in whole(rig).items() if path.startswith("annotations")}
        assert tree(out).items() >= wanted.items()
        assert not (out / "images").exists()


async def test_a_viewer_s_annotations_come_one_by_one(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        result = await landed(mount, out, bulk=True)
        assert "export failed" in result["notice"]
        assert mount.asked.count(FILE) == 30


# Which files.


@pytest.mark.parametrize("kind", ["images", "annotations"])
async def test_one_kind(rig: Rig, out: Path, kind: str) -> None:
    async with rig.mount() as mount:
        await landed(mount, out, kinds={kind})
        assert os.listdir(out) == [kind]
        assert {path for path, data in tree(out).items() if data is None} == {
            kind,
            *(
                f"{kind}/{name}"
                for name in ("part-000", "part-001", "part-002", "empty", "empty/below")
            ),
        }


@pytest.mark.parametrize(("status", "split"), [("review", None), (None, "val"), ("new", "train")])
async def test_d1_a_choice_makes_no_folder_for_nothing(
    rig: Rig, out: Path, status: str | None, split: str | None
) -> None:
    chosen = [
        image
        for image in images(rig)
        if status in (None, image.status) and split in (None, image.split)
    ]
    async with rig.mount() as mount:
        result = await landed(mount, out, status=status, split=split)
        assert result["files"] == 2 * len(chosen) > 0

        files = {
            path for path, data in tree(out).items() if data is not None and path[:6] == "images"
        }

        assert files == {f"images{image.directory_path}/{image.filename}" for image in chosen}
        assert not (out / "images/empty").exists()


async def test_images_without_a_split(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        count = sum(image.split is None for image in images(rig))
        assert 0 < count < len(images(rig))
        assert (await landed(mount, out, split="unassigned"))["files"] == 2 * count


async def test_a_status_that_nobody_has_is_told(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        result = await landed(mount, out, status="in_progress")
        assert (result["files"], result["notice"]) == (0, "no image is of that status and split")


async def test_a_dataset_by_name_entry_and_id(rig: Rig, out: Path) -> None:
    organization = Organization()
    dataset = organization.add_dataset("a/b")
    organization.add_image(dataset, "x.jpg", size=500)

    with StandIn(organization) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            for name in ("a/b", "a‛sb", dataset.id):
                assert (await landed(mount, out, name))["files"] == 2
            run = await download(mount, out, "a/c")
            assert isinstance(run.error, NoSuchEntry)
            assert run.error.exit_code == 4


# What is there and right.


async def test_d2_what_is_not_right_is_fetched_again(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out)
        folder = out / "images/part-000"
        (folder / "image-000000.jpg").write_bytes(b"short")
        os.utime(folder / "image-000003.jpg", ns=(1, 1))
        (folder / "image-000006.jpg").unlink()
        note = out / "annotations/part-001/image-000001.jpg.json"
        time = note.stat().st_mtime_ns
        note.write_bytes(note.read_bytes().replace(b"car", b"cat"))
        os.utime(note, ns=(time, time))
        rig.standin.log.clear()
        result = await landed(mount, out)

        assert (result["images_downloaded"], result["annotations_downloaded"]) == (3, 1)
        assert sorted(mount.asked) == sorted([LISTING[0], FILE])
        assert tree(out).items() >= whole(rig).items()


async def test_d2_f9_old_annotations_and_those_of_a_moved_dataset_are_fetched_again(
    rig: Rig, out: Path
) -> None:
    async with rig.mount(annotation_ttl=1000.0) as mount:
        await landed(mount, out, kinds={"annotations"})
        for moves in (False, True):
            org, image = rig.standin.organization, images(rig)[3]
            org.set_annotations(
                image, [{**each, "name": str(moves)} for each in org.annotations(image)]
            )
            if moves:
                org.update_image(images(rig)[5], tags=("moved",))
            rig.clock.advance(400 if moves else 1001)
            mount.forget_log()
            await landed(mount, out, kinds={"annotations"})

            assert mount.asked.count(FILE) == 30
            assert (
                tree(out).items()
                >= {
                    path: data
                    for path, data in whole(rig).items()
                    if path.startswith("annotations")
                }.items()
            )


async def test_d5_an_export_that_is_there_is_taken(rig: Rig, out: Path) -> None:
    rig.clock.advance(60)
    finished_export(rig.standin, "small", "nightly")

    async with rig.mount() as mount:
        await landed(mount, out, kinds={"annotations"})
        assert sorted(mount.asked) == sorted(
            [*LISTING, EXPORTS, "GET /exports/{export:path}/download", FILE]
        )

        wanted = {path: data for path, data in whole(rig).items() if path.startswith("annotations")}

        assert tree(out).items() >= wanted.items()

        mount.forget_log()
        await landed(mount, out, kinds={"annotations"}, refresh=True)

        assert mount.asked.count(FILE) == 30


async def test_d2_annotations_whose_row_has_changed_are_fetched_again(rig: Rig, out: Path) -> None:
    rig.standin.switches.updated_at_bumps = (
        frozenset()
    )  # a move of the dataset makes all of them due
    async with rig.mount() as mount:
        await landed(mount, out)
        rig.standin.organization.set_annotations(
            images(rig)[3], []
        )  # which moves no figure of the dataset
        rig.standin.organization.update_image(images(rig)[5], status="review")
        rig.clock.advance(301)
        mount.forget_log()
        await landed(mount, out)

        assert sorted(mount.asked) == sorted([*LISTING, FILE, FILE])
        assert tree(out).items() >= whole(rig).items()


async def test_d2_edits_that_no_listing_shows_need_a_refresh(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out)
        image = images(rig)[3]
        saved = [
            {**each, "name": "renamed"} for each in rig.standin.organization.annotations(image)
        ]
        rig.standin.organization.set_annotations(image, saved)
        rig.clock.advance(301)
        await landed(mount, out)
        file = out / f"annotations{image.directory_path}/{image.filename}.json"

        assert b"renamed" not in file.read_bytes()

        await landed(mount, out, refresh=True)

        assert b"renamed" in file.read_bytes()
        assert tree(out).items() >= whole(rig).items()


async def test_d4_what_is_foreign_stays(rig: Rig, out: Path) -> None:
    (out / "images/part-000").mkdir(parents=True)
    foreign = {"notes.txt": b"mine", "images/part-000/other.jpg": b"other", ".pictofs": b"x"}
    for path, data in foreign.items():
        (out / path).write_bytes(data)
    async with rig.mount() as mount:
        await landed(mount, out)
        rig.standin.organization.remove_image(images(rig)[0])
        await landed(mount, out)
        assert tree(out).items() >= {**whole(rig), **foreign}.items()
        assert (out / "images/part-000/image-000000.jpg").exists()


async def test_d4_what_is_no_file_is_not_replaced(rig: Rig, out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "file").write_bytes(b"precious")
    folder = out / "images/part-000"
    (folder / "image-000000.jpg/below").mkdir(parents=True)
    (folder / "image-000003.jpg").symlink_to(elsewhere / "file")
    os.mkfifo(folder / "image-000006.jpg")
    (out / "images/part-001").symlink_to(elsewhere / "folder")
    (out / "images/part-002").write_bytes(b"a file where a folder should be")

    async with rig.mount() as mount:
        run = await download(mount, out)
        result = run.result()

        assert run.error is None
        assert (result["success"], result["missing"], result["failed"]) == (False, 23, 25)
        assert Counter(each["kind"] for each in result["failures"]) == {"image": 23, "folder": 2}
        assert all("in the way" in each["error"] for each in result["failures"])

    assert (elsewhere / "file").read_bytes() == b"precious"
    assert os.listdir(elsewhere / "folder") == []
    assert (folder / "image-000000.jpg/below").is_dir()


async def test_d4_nothing_is_written_elsewhere_whatever_the_names(rig: Rig, out: Path) -> None:
    """Every dataset of the nasty organization: `..`, absolute paths, NUL, names of 300 bytes,
    twins."""
    with StandIn(PRESETS["nasty"](), cold_reads=True) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            mounted = await mount.walk()
            shutil.rmtree(rig.cache / "blobs")
            for name in await mount.list("/datasets"):
                await download(mount, out / name, name)
                assert tree(out / name) == shown(mounted, name), name

        assert sorted(os.listdir(out)) == sorted(os.listdir(out.parent / "out"))
        assert os.listdir(out.parent) == ["out"]


async def test_twins_that_change_places(rig: Rig, out: Path) -> None:
    """The older of two of one name goes: the other one takes its name, and its file that name's
    place."""
    organization = rig.standin.organization
    dataset = organization["small"]
    old = organization.add_image(dataset, "twin.jpg", size=700, created_at=1_700_000_000.0)
    organization.add_image(dataset, "twin.jpg", size=700, created_at=1_700_000_001.0)

    async with rig.mount() as mount:
        await landed(mount, out)
        first = (out / "images/twin.jpg").read_bytes()
        organization.remove_image(old)
        await landed(mount, out)

        assert (out / "images/twin.jpg").read_bytes() != first
        assert tree(out).items() >= whole(rig).items()


# Sizes.


async def test_d1_d2_large_and_lying_sizes(rig: Rig, out: Path) -> None:
    organization = Organization()
    dataset = organization.add_dataset("small")
    organization.add_image(dataset, "large.bin", size=20_000_000)
    organization.add_image(dataset, "lied.bin", size=9_000_000, file_size=10)
    organization.add_image(dataset, "unknown.jpg", size=20_000, file_size=0)
    organization.add_image(dataset, "empty.jpg", size=0)

    with StandIn(organization) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            await landed(mount, out)
            assert tree(out) == whole(rig)
            standin.log.clear()
            assert (await landed(mount, out))["images_downloaded"] == 0


async def test_d3_a_large_image_goes_on_where_it_broke(rig: Rig, out: Path) -> None:
    organization = Organization()
    organization.add_image(organization.add_dataset("small"), "large.bin", size=20_000_000)

    with StandIn(organization) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            rig.fault(Close(after=12_000_000), "storage", times=1)
            await landed(mount, out, kinds={"images"})
            first, second = standin.log.requests("storage")

            assert first.range is None
            assert second.range == "bytes=12000000-"
            assert tree(out).items() <= whole(rig).items()


@pytest.mark.parametrize("size", [30_000, 3_000_000])
async def test_d3_wrong_bytes_never_get_a_name(rig: Rig, out: Path, size: int) -> None:
    organization = Organization()
    organization.add_image(organization.add_dataset("small"), "one.jpg", size=size)

    with StandIn(organization) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount(max_retries=1) as mount:
            fault = rig.fault(Corrupt(at=size // 2), "storage")
            result = (await download(mount, out, kinds={"images"})).result()

            assert (result["success"], result["failed"], fault.hits) == (False, 1, 2)
            assert "another checksum" in result["failures"][0]["error"]
            assert os.listdir(out / "images") == []

            standin.faults.clear()
            await landed(mount, out)


# Servers that fail.


async def test_d6_one_bad_image_is_told_and_the_rest_lands(rig: Rig, out: Path) -> None:
    lost = images(rig)[4]
    async with rig.mount() as mount:
        rig.fault(error(404, "not_found"), path=lost.id)
        run = await download(mount, out)
        result = run.result()

        assert run.error is None
        assert (result["success"], result["failed"], result["missing"]) == (False, 2, 2)

        where = f"{lost.directory_path}/{lost.filename}"

        assert sorted((each["kind"], each["path"]) for each in result["failures"]) == [
            ("annotation", f"annotations{where}.json"),
            ("image", f"images{where}"),
        ]

        rig.standin.faults.clear()

        assert (await landed(mount, out))["images_downloaded"] == 1


@pytest.mark.parametrize(
    "fault", [error(503), Reset(), Reset(after=100), Corrupt(), throttled(2)], ids=str
)
async def test_faults_now_and_then_are_not_noticed(rig: Rig, out: Path, fault: Any) -> None:
    async with rig.mount() as mount:
        rig.standin.faults.add(Fault(Match("storage"), fault, probability=0.2, seed=3))
        await landed(mount, out)
        assert tree(out).items() >= whole(rig).items()


@pytest.mark.parametrize("fault", [error(503), Reset()], ids=str)
async def test_a_server_that_is_gone_ends_the_run(rig: Rig, out: Path, fault: Any) -> None:
    async with rig.mount(max_retries=0) as mount:
        rig.fault(fault, "api")
        assert isinstance((await download(mount, out)).error, (ServerFault, ServerUnreachable))
        rig.standin.faults.clear()
        rig.fault(fault, "api", "/annotations/{image_id:uuid}/file")
        run = await download(mount, out)
        assert isinstance(run.error, (ServerFault, ServerUnreachable))
        rig.standin.faults.clear()
        await landed(mount, out)


async def test_d2_a_listing_that_can_t_be_renewed_is_no_download(rig: Rig, out: Path) -> None:
    async with rig.mount(max_retries=0) as mount:
        await landed(mount, out)
        rig.clock.advance(301)
        rig.fault(error(503), path="/datasets/{dataset}")
        assert isinstance((await download(mount, out)).error, ServerFault)
        rig.standin.faults.clear()
        await landed(mount, out)


@pytest.mark.parametrize("path", [None, "/datasets/{dataset}/download"])
async def test_storage_that_is_gone_ends_the_run(rig: Rig, out: Path, path: str | None) -> None:
    async with rig.mount(max_retries=0) as mount:
        rig.fault(error(500), "api" if path else "storage", path)
        assert isinstance((await download(mount, out)).error, PictofsError)
        rig.standin.faults.clear()
        rig.clock.advance(61)
        await landed(mount, out)


async def test_a_dataset_in_cold_storage_is_refused(rig: Rig, out: Path) -> None:
    rig.standin.organization["small"].storage_class = "coldline"
    async with rig.mount() as mount:
        run = await download(mount, out, kinds={"images"})
        assert isinstance(run.error, Conflict)
        assert (run.error.exit_code, mount.asked.count(BATCH), mount.asked.count(KEYED)) == (
            5,
            1,
            0,
        )
        await landed(mount, out, kinds={"annotations"})


async def test_urls_that_expire_meanwhile(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        rig.fault(error(403), "storage", times=5)
        await landed(mount, out)
        assert mount.asked.count(BATCH) + mount.asked.count(KEYED) <= 9


# The budget.


async def test_d5_it_ends_before_the_reserve_where_it_may_not_wait(rig: Rig, out: Path) -> None:
    rig.standin.organization.switches.hourly_limit = 70
    async with rig.mount() as mount:
        run = await download(mount, out, wait=False)
        assert isinstance(run.error, Throttled)
        assert run.error.exit_code == 8
        # Answers that overtake each other say for a moment that one or two more are left, and what
        # was under way when the run ended was counted, and has no answer.
        assert mount.request_stats.reserve == 50
        assert 47 <= (mount.request_stats.remaining or 0) <= 50 + 4

        rig.standin.organization.switches.hourly_limit = None
        done = len(mount.asked)
        rig.clock.advance(4000)
        await landed(mount, out)

        # Those that had come are not asked for again; the listing is.
        assert mount.asked.count(FILE) == 30
        assert len(mount.asked) - done <= 30 - (done - 5) + 5


@pytest.mark.parametrize(("bulk", "limit"), [(False, 70), (True, 55)])
async def test_d5_it_waits_for_the_budget_and_images_don_t(
    rig: Rig, out: Path, bulk: bool, limit: int
) -> None:
    """Neither the files one by one nor their export holds up an image."""
    rig.standin.organization.switches.hourly_limit = limit

    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        seen: list[dict[str, Any]] = []
        sleep = rig.clock.sleep

        with Folder(out) as folder:
            run = DownloadJob(mount.library, folder, DownloadRequest("small", bulk=bulk))

            async def noting(seconds: float) -> None:
                while run.progress()["bytes_done"] < 15_000:  # noqa: ASYNC110 - images come meanwhile
                    await trio.sleep(0.001)
                seen.append(run.progress())
                await sleep(seconds)

            rig.clock.sleep = noting  # type: ignore[method-assign]
            await run.run()

        assert run.result()["success"]

        waiting = [each for each in seen if each["state"] == "waiting"]

        assert waiting
        assert all(each["until"] > 0 for each in waiting)
        assert not [each for each in rig.standin.log.requests("api") if each.status == 429]
        assert sum(rig.clock.sleeps) > 1800


@pytest.mark.parametrize("host", ["api", "storage"])
async def test_a_throttle_is_waited_for(rig: Rig, out: Path, host: str) -> None:
    async with rig.mount() as mount:
        path = "/annotations/{image_id:uuid}/file" if host == "api" else None
        rig.fault(throttled(300), host, path, times=3)
        await landed(mount, out)
        assert sum(rig.clock.sleeps) >= 300


# Ends.


async def test_d3_a_run_that_is_cancelled_keeps_what_has_come(rig: Rig, out: Path) -> None:
    rig.standin.organization.switches.storage_latency = 0.02
    async with rig.mount() as mount:
        with Folder(out) as folder:
            run = DownloadJob(
                mount.library,
                folder,
                DownloadRequest("small", choice=Choice(frozenset({"images"})), workers=2),
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.run)
                while run.progress()["files_done"] < 5:  # noqa: ASYNC110 - nothing tells it
                    await trio.sleep(0.005)
                run.cancel()

        assert run.finished.is_set()
        assert 5 <= 30 - run.missing < 30
        assert not run.result()["success"]

        rig.standin.organization.switches.storage_latency = 0
        await landed(mount, out)

        assert len(rig.standin.log.requests("storage")) <= 30 + 2
        assert tree(out).items() >= whole(rig).items()


async def test_d3_a_disk_that_fills_ends_the_run(rig: Rig, out: Path, small_disk: Path) -> None:
    with StandIn(Spec.uniform(images=60, size=100_000)) as standin:
        rig = Rig(standin, rig.cache)
        async with rig.mount() as mount:
            run = await download(mount, small_disk / "out", "dataset-0", kinds={"images"})
            assert isinstance(run.error, DiskFull)
            assert "No space left" in str(run.error)

            result = run.result()

            assert result["notice"].startswith("6 MB are missing, and the disk of ")
            assert result["notice"].endswith(" has 3.15 MB left")
            assert 20 <= result["files_done"] < 60

            files = tree(small_disk / "out/images")

            assert len(files) == result["files_done"]

            wanted = whole(rig, "dataset-0")

            assert all(data == wanted[f"images/{name}"] for name, data in files.items())


# Lengths and versions that the server does not tell.


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("listed", [0, 5000, 2_000_000, 3_000_000, 9_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_b7_d3_a_file_has_the_length_that_came_whatever_was_listed(
    rig: Rig, out: Path, framing: str, listed: int, hashed: bool
) -> None:
    org = rig.standin.organization
    org.add_image(org["small"], "odd.jpg", size=3_000_000, file_size=listed)
    rig.standin.switches.storage_framing = framing
    rig.standin.switches.hash_header = hashed

    async with rig.mount(max_retries=0) as mount:
        await landed(mount, out, kinds={"images"})
        assert (
            tree(out).items()
            >= {k: v for k, v in whole(rig).items() if k.startswith("images/")}.items()
        )
        assert rig.standin.log.count("storage") <= 30 + 3

        mount.forget_log()
        await landed(mount, out, kinds={"images"})

        assert rig.standin.log.count("storage") == 0


@pytest.mark.parametrize("size", [500, 3_000_000])
@pytest.mark.parametrize("listed", [0, 7])
async def test_b3_d3_a_cut_that_looks_like_the_end_never_lands(
    rig: Rig, out: Path, size: int, listed: int
) -> None:
    org = rig.standin.organization
    image = org.add_image(org["small"], "odd.jpg", size=size, file_size=listed)
    rig.standin.switches.storage_framing = "close"
    rig.standin.switches.hash_header = False
    rig.fault(Close(after=400), "storage", image.id, times=1)
    async with rig.mount() as mount:
        await landed(mount, out, kinds={"images"})
        assert tree(out)["images/odd.jpg"] == image.body().read(0, size)


@pytest.mark.parametrize(
    "validators",
    [frozenset(), frozenset({"weak-etag"}), frozenset({"modified"}), frozenset({"etag"})],
)
async def test_b5_d3_an_image_that_is_replaced_while_it_comes_is_never_mixed(
    rig: Rig, out: Path, validators: frozenset[str]
) -> None:
    org = rig.standin.organization
    image = org.add_image(org["small"], "odd.jpg", size=3_000_000)
    image.stored_at = 1_700_000_000.0
    rig.standin.switches.storage_validators = validators
    rig.standin.switches.hash_header = False

    async def replaced(exchange: Any) -> None:
        """Half of the old bytes; whoever asks for the rest finds new ones."""
        answer = await exchange.collect()
        org.replace_content(image, "another")
        await exchange.write_raw(answer, answer.body[:1_500_000])
        await exchange.close()

    rig.fault(replaced, "storage", image.id, times=1)

    async with rig.mount() as mount:
        await landed(mount, out, kinds={"images"})
        assert tree(out)["images/odd.jpg"] == image.body().read(0, 3_000_000)


async def test_b8_a_server_that_never_gives_a_whole_image_is_asked_a_few_times(
    rig: Rig, out: Path
) -> None:
    org = rig.standin.organization
    image = org.add_image(org["small"], "odd.jpg", size=3_000_000)
    rig.fault(Close(after=500_000), "storage", image.id)
    async with rig.mount() as mount:
        run = await download(mount, out, kinds={"images"})
        assert (run.missing, run.failed) == (1, 1)
        asked = [each for each in rig.standin.log.requests("storage") if image.id in each.path]
        assert len(asked) == 4
