"""`pictofs download --format`: the tree of a mount's `formats/`, in a plain folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from format_world import FILE, LISTED, VIEWS, organization
from rig import Mount, Rig

from pictofs.errors import Invalid
from pictofs.library.bulk.download import DownloadJob, DownloadRequest
from pictofs.library.bulk.format_download import FormatDownloadJob
from pictofs.library.bulk.scope import Choice
from pictofs.model.formats import FORMATS, Format
from pictofs.store.folder import Folder
from standin import StandIn

BATCH = "GET /datasets/{dataset}/download"


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(organization()) as running:
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


async def download(
    mount: Mount, out: Path, name: Format | None, choice: Choice | None = None
) -> DownloadJob:
    """A run, to its end."""
    request = DownloadRequest("signs", choice=choice or Choice())
    with Folder(out) as folder:
        job = DownloadJob(mount.library, folder, request)
        if name is not None:
            job = FormatDownloadJob(mount.library, folder, request, name)
        await job.run()
    return job


async def landed(
    mount: Mount, out: Path, name: Format | None, choice: Choice | None = None
) -> DownloadJob:
    """A run in which everything landed."""
    job = await download(mount, out, name, choice)
    assert (job.error, job.missing, job.failed) == (None, 0, 0)
    return job


def tree(out: Path) -> dict[str, bytes]:
    """Path -> content of every file below a folder."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


async def mounted(mount: Mount, top: str) -> dict[str, bytes]:
    """The same of a folder in the mount."""
    found = await mount.walk(top)
    return {path.removeprefix(f"{top}/"): data for path, data in found.items() if data is not None}


@pytest.mark.parametrize("name", FORMATS)
async def test_g10_a_download_is_what_the_mount_shows(rig: Rig, out: Path, name: Format) -> None:
    async with rig.mount() as mount:
        await landed(mount, out, name)
        assert tree(out) == await mounted(mount, f"{VIEWS}/{name}")
        assert {path.name for path in out.iterdir() if path.is_dir()} == {
            name
            for name, each in (await mount.list(f"{VIEWS}/{name}")).items()
            if each.mode & 0o170000 == 0o040000
        }

        # Of a status, into a folder of its own.
        await landed(mount, out / "complete", name, Choice(status="complete"))
        top = f"/datasets/signs/by-status/complete/formats/{name}"
        assert tree(out / "complete") == await mounted(mount, top)


async def test_g10_a_second_run_fetches_nothing_and_a_third_what_changed(
    rig: Rig, out: Path
) -> None:
    async with rig.mount() as mount:
        await landed(mount, out, "yolo")
        assert sorted(mount.asked) == sorted([*LISTED, "GET /exports/", BATCH, *[FILE] * 30])
        before = tree(out)
        stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
        mount.forget_log()
        await landed(mount, out, "yolo")
        assert mount.asked == LISTED[:1]
        assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

        image = next(iter(rig.standin.organization["signs"].images.values()))
        rig.standin.organization.set_annotations(image, [{**each} for each in ONE])
        rig.clock.advance(301)
        await landed(mount, out, "yolo")
        changed = {path for path, data in tree(out).items() if data != before[path]}
        assert changed == {"labels/train/a.txt", "report.json"}


ONE = [
    {
        "id": "one",
        "name": "car",
        "type": "bbox",
        "bounding_box": {"x": 0, "y": 0, "w": 100, "h": 50},
        "confidence": 1.0,
        "attributes": [],
    }
]


async def test_g10_an_image_that_is_there_becomes_a_hard_link(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out, None)
        rig.standin.log.clear()
        await landed(mount, out, "imagefolder")
        assert not rig.standin.log.requests("storage")

    for path in out.glob("t*/*/*"):
        assert path.stat().st_nlink > 1
    assert (out / "images" / "a.jpg").stat().st_nlink == 2


async def test_g10_an_image_that_left_its_split_is_told(rig: Rig, out: Path) -> None:
    async with rig.mount() as mount:
        await landed(mount, out, "coco")
        image = next(iter(rig.standin.organization["signs"].images.values()))
        image.split = "test"
        await mount.library.refresh("signs")
        job = await landed(mount, out, "coco")
        assert (out / "images/test/a.jpg").exists()
        notice = job.progress()["notice"]
        assert "1 image of an earlier run" in notice
        assert "images/train/a.jpg" in notice


@pytest.mark.parametrize(
    "choice", [Choice(split="val"), Choice(kinds=frozenset({"images"}))], ids=["split", "mode"]
)
async def test_g10_what_a_format_can_not_choose_is_refused(
    rig: Rig, out: Path, choice: Choice
) -> None:
    async with rig.mount() as mount:
        with pytest.raises(Invalid), Folder(out) as folder:
            FormatDownloadJob(
                mount.library, folder, DownloadRequest("signs", choice=choice), "coco"
            )


async def test_g10_poses_need_a_skeleton(rig: Rig, out: Path) -> None:
    rig.standin.organization["signs"].classes = []
    async with rig.mount() as mount:
        job = await download(mount, out, "yolo-pose")
        assert isinstance(job.error, Invalid)
        assert "yolo-segment" in str(job.error.hint)
