"""`formats/` of a dataset that changes, or of a server that fails, at the worst moment."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from format_world import CLASSES, FILE, LAKE, TOP, VIEWS, box
from rig import Mount, Rig, error_of

from pictofs.errors import DiskFull, Forbidden, NoSuchEntry, PictofsError, ServerFault, Stale
from pictofs.library.beside import CannotStart
from pictofs.library.formats import build, builder
from pictofs.library.formats import formats as wing
from pictofs.model.inode import key_of
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable, Learned
from pictofs.vfs.tree import OpenFile
from standin import Fault, Match, Organization, StandIn
from standin.faults import error, html
from standin.records import Image

TRAIN = f"{VIEWS}/coco/annotations/instances_train.json"


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Four images of two statuses, all in train."""
    made = Organization()
    signs = made.add_dataset("signs", classes=CLASSES)
    for place in range(4):
        made.add_image(
            signs,
            f"{place}.jpg",
            size=500 + place,
            width=200,
            height=100,
            annotations=[box("car", 10 + place)],
            annotation_count=1,
            status=("new", "complete")[place % 2],
            split="train",
        )
    with StandIn(made) as running:
        yield running


@pytest.fixture
async def mount(standin: StandIn, tmp_path: Path) -> AsyncIterator[Mount]:
    async with Rig(standin, tmp_path).mount() as mount:
        yield mount


def first(standin: StandIn) -> Image:
    return next(iter(standin.organization["signs"].images.values()))


async def listed_images(mount: Mount) -> list[str]:
    """The images in `instances_train.json`."""
    return [each["file_name"] for each in json.loads(await mount.read(TRAIN))["images"]]


async def test_g5_files_are_made_of_one_state_and_kept_under_its_name(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> Any:
        raise CannotStart("so that this process builds")

    def move(split: str) -> None:
        with mount.catalog.database.write() as db:
            db.execute("UPDATE image SET split = ? WHERE id = ?", (split, first(standin).id))
            db.execute("UPDATE dataset SET input_changes = input_changes + 1")

    survey = build._Build._survey

    def surveyed(self: build._Build, found: build.Built) -> str:
        digest = survey(self, found)
        if not found.missing:
            monkeypatch.setattr(build._Build, "_survey", survey)
            move("val")
        return digest

    monkeypatch.setattr(builder, "start", cannot)
    monkeypatch.setattr(build._Build, "_survey", surveyed)
    assert len(await listed_images(mount)) == 4
    assert len(await listed_images(mount)) == 3
    move("train")
    assert len(await listed_images(mount)) == 4


async def test_g9_an_open_does_not_join_a_build_that_is_older_than_a_refresh(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mount.read(f"{VIEWS}/yolo/data.yaml")
    made = builder._built
    is_made = trio.Event()
    passes = trio.Event()

    async def held(job: build.BuildJob) -> build.Built:
        found = await made(job)
        is_made.set()
        await passes.wait()
        return found

    monkeypatch.setattr(builder, "_built", held)
    later: list[str] = []

    async def read_later() -> None:
        later.extend(await listed_images(mount))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listed_images, mount)
            await is_made.wait()
            standin.organization.update_image(first(standin), split="val")
            await mount.library.refresh("signs")
            nursery.start_soon(read_later)
            await trio.testing.wait_all_tasks_blocked(0.05)
            passes.set()

    assert later == ["1.jpg", "2.jpg", "3.jpg"]


LABEL = f"{VIEWS}/yolo/labels/train/0.txt"


async def as_kernel(mount: Mount, path: str) -> OpenFile:
    """Open a path: of two Stale the second reaches the program."""
    try:
        return await mount.tree.open((await mount.look(path)).inode)
    except Stale:
        return await mount.tree.open((await mount.look(path)).inode)


@pytest.mark.parametrize("path", [LABEL, TRAIN])
async def test_i2_g5_another_content_has_another_number(
    mount: Mount, standin: StandIn, path: str
) -> None:
    shown = await mount.look(path)
    held = await as_kernel(mount, path)
    assert held.attributes.inode == shown.inode

    standin.organization.set_annotations(first(standin), [box("car", x) for x in range(50)])
    await mount.library.refresh("signs")
    shown = await mount.look(path)
    assert shown.blocks == 0 or path == LABEL
    opened = await as_kernel(mount, path)
    # `cp` wants the number that it was shown.
    assert opened.attributes.inode == shown.inode != held.attributes.inode
    assert not opened.direct
    for each in (held, opened):
        there = await mount.tree.attributes(each.attributes.inode)
        assert there.size == each.content.size == len(await mount.rest(each))
    assert held.content.size < opened.content.size
    mount.tree.close(held.handle)
    mount.tree.close(opened.handle)

    # Once nothing changes, the number stays.
    assert (await mount.look(path)).inode == (await as_kernel(mount, path)).attributes.inode


async def test_i2_a_number_that_was_left_is_stale(mount: Mount, standin: StandIn) -> None:
    before = []
    for path in (LABEL, TRAIN, f"{VIEWS}/yolo/data.yaml"):
        await mount.read(path)
        before.append((await mount.look(path)).inode)

    classes = list(reversed(standin.organization["signs"].classes))
    standin.organization["signs"].set_classes(classes)
    standin.organization.changed(standin.organization["signs"], "dataset")
    await mount.library.refresh("signs")
    for path, inode in zip((LABEL, TRAIN, f"{VIEWS}/yolo/data.yaml"), before, strict=True):
        await mount.read(path)
        assert (await mount.look(path)).inode != inode
        assert isinstance(await error_of(partial(mount.tree.attributes, inode)), Stale)
        assert isinstance(await error_of(partial(mount.tree.open, inode)), Stale)


async def test_i2_a_label_that_was_confirmed_is_not_another_one(
    mount: Mount, standin: StandIn
) -> None:
    """Until its annotation file has come, the next version is expected."""
    before = await mount.read(LABEL)
    inode = (await mount.look(LABEL)).inode
    await mount.library.refresh("signs")
    expected = await mount.look(LABEL)
    opened = await as_kernel(mount, LABEL)
    assert opened.attributes.inode == expected.inode != inode
    assert await mount.rest(opened) == before
    mount.tree.close(opened.handle)
    assert (await mount.look(LABEL)).inode == inode


async def test_g5_an_open_is_stale_once_although_everything_changes_again(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mount.read(TRAIN)
    made = builder._built
    sides = ["val", "train"]

    async def changed(job: build.BuildJob) -> build.Built:
        found = await made(job)
        sides.reverse()
        standin.organization.update_image(first(standin), split=sides[0])
        with mount.catalog.database.write() as db:
            db.execute("UPDATE image SET split = ? WHERE id = ?", (sides[0], first(standin).id))
            db.execute("UPDATE dataset SET input_changes = input_changes + 1")
        return found

    monkeypatch.setattr(builder, "_built", changed)
    for _ in range(4):
        inode = (await mount.look(TRAIN)).inode
        # Between a program's lookup and its open.
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(open_as_kernel_from, mount, inode)


async def open_as_kernel_from(mount: Mount, inode: int) -> None:
    try:
        opened = await mount.tree.open(inode)
    except Stale:
        opened = await mount.tree.open((await mount.look(TRAIN)).inode)
    assert len(json.loads(await mount.rest(opened))["images"]) in (3, 4)
    mount.tree.close(opened.handle)


async def test_g5_a_dataset_that_changes_all_the_time_is_made(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = builder._built

    async def changed(job: build.BuildJob) -> build.Built:
        found = await made(job)
        mount.clock.advance(1)
        await mount.library.refresh("signs")
        return found

    monkeypatch.setattr(builder, "_built", changed)
    assert len(await listed_images(mount)) == 4


@pytest.mark.parametrize("stopped", [1, 2])
async def test_g5_a_process_that_stands_still_is_killed(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    begin = builder.start
    started: list[subprocess.Popen[bytes]] = []

    def start(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
        process = begin(module, theirs)
        started.append(process)
        if len(started) <= stopped:
            process.send_signal(signal.SIGSTOP)
        pulses = 2 if len(started) <= stopped else 120
        monkeypatch.setattr(builder, "SILENT_PULSES", pulses)
        return process

    monkeypatch.setattr(builder, "start", start)
    with trio.fail_after(60):
        if stopped < builder.STARTS:
            assert len(await listed_images(mount)) == 4
        else:
            failed = await error_of(partial(mount.read, TRAIN))
            assert type(failed) is PictofsError
            assert "stands still" in str(failed)

    assert [each.returncode for each in started[:stopped]] == [-signal.SIGKILL] * stopped


async def test_g5_a_label_with_other_names_is_numbered_anew_if_its_dataset_changes(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at all inputs takes 20 s for 100,000 images."""
    images = list(standin.organization["signs"].images.values())
    for place, image in enumerate(images):
        standin.organization.set_annotations(image, [box(f"zebra{place}")])
    made = builder._built
    looks: list[build.BuildJob] = []

    async def counted(job: build.BuildJob) -> build.Built:
        looks.append(job)
        return await made(job)

    async def numbers() -> list[str]:
        labels = [f"{VIEWS}/yolo/labels/train/{place}.txt" for place in range(4)]
        return [(await mount.read(path)).decode().split()[0] for path in labels]

    monkeypatch.setattr(builder, "_built", counted)
    assert await numbers() == ["3", "4", "5", "6"]
    before = len(looks)
    other = standin.organization.add_dataset("other")
    standin.organization.add_image(other, "a.jpg", size=500)
    mount.clock.advance(400)
    await mount.list("/datasets/other/images")
    await mount.read("/datasets/other/annotations/a.jpg.json")
    mount.catalog.set_meta("anything", 1)
    assert await numbers() == ["3", "4", "5", "6"]
    assert len(looks) == before

    # Another process has fetched an annotation file that this one has not seen.
    another = Catalog(mount.catalog.database.path)
    try:
        row = another.image(key_of(images[3].id.lower()))
        assert row is not None
        learned = [Learned(row.key, 5, 7, mount.clock.wall())]
        ImageTable(another.database).learn_annotations(learned, 1)
    finally:
        another.close()
    standin.organization.set_annotations(images[3], [box("ant")])
    assert await numbers() == ["4", "5", "6", "3"]
    assert len(looks) > before


@pytest.mark.parametrize("is_away", [True, False])
async def test_g9_files_that_come_due_are_confirmed(
    standin: StandIn, tmp_path: Path, is_away: bool
) -> None:
    rig = Rig(standin, tmp_path)
    async with rig.mount(annotation_ttl=600) as mount:
        await mount.read(TRAIN)
        mount.forget_log()
        mount.clock.advance(500)
        await mount.read(TRAIN)
        assert FILE not in mount.asked

        standin.organization.update_image(first(standin), annotations=[box("car"), box("lake")])
        mount.clock.advance(200)
        fault = rig.fault(error(404), path=first(standin).id) if is_away else None
        text = json.loads(await mount.read(TRAIN))
        assert mount.asked.count(FILE) == 4
        assert len(text["annotations"]) == (4 if is_away else 5)

        # What could not be confirmed is asked for again, but not by each reader.
        await mount.read(TRAIN)
        assert mount.asked.count(FILE) == 4
        if fault is not None:
            standin.faults.remove(fault)
        mount.clock.advance(400)
        assert len(json.loads(await mount.read(TRAIN))["annotations"]) == 5


async def test_g5_two_formats_are_made_at_once_in_the_order_they_were_asked_for(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mount.read(TRAIN)
    made = builder._built
    begun: list[str] = []
    running: list[str] = []
    most = 0

    async def counted(job: build.BuildJob) -> build.Built:
        nonlocal most
        begun.append(job.format)
        running.append(job.format)
        most = max(most, len(running))
        try:
            return await made(job)
        finally:
            running.remove(job.format)

    monkeypatch.setattr(builder, "_built", counted)
    wanted = ["yolo", "yolo-segment", "yolo-obb", "voc", "imagefolder", "huggingface"]
    async with trio.open_nursery() as nursery:
        for name in wanted:
            nursery.start_soon(mount.read, f"{VIEWS}/{name}/report.json")
            await trio.testing.wait_all_tasks_blocked(0.01)

    assert begun == wanted
    assert most == builder.BUILDS == 2


@pytest.mark.parametrize("how", ["forbidden", "broken", "html"])
async def test_g7_an_annotation_file_that_the_server_does_not_give_is_counted(
    standin: StandIn, tmp_path: Path, how: str
) -> None:
    answer = {"forbidden": error(403), "broken": error(500), "html": html()}[how]
    rig = Rig(standin, tmp_path)
    async with rig.mount(max_retries=1) as mount:
        await mount.list(f"{VIEWS}/yolo/labels/train")
        rig.fault(answer, path=f"annotations/{first(standin).id}")
        assert await listed_images(mount) == ["1.jpg", "2.jpg", "3.jpg"]
        report = json.loads(await mount.read(f"{VIEWS}/coco/report.json"))
        (found,) = report["left_out"]
        assert (found["reason"], found["count"]) == ("unreadable", 1)
        assert "0.jpg" in json.dumps(found)

        mount.forget_log()
        await mount.read(f"{VIEWS}/yolo/data.yaml")
        assert FILE not in mount.asked
        standin.faults.clear()
        mount.clock.advance(301)
        assert len(await listed_images(mount)) == 4


async def test_g7_an_annotation_file_that_fails_once_is_asked_for_again(
    standin: StandIn, tmp_path: Path
) -> None:
    rig = Rig(standin, tmp_path)
    async with rig.mount() as mount:
        rig.fault(html(), path=f"annotations/{first(standin).id}", times=1)
        assert len(await listed_images(mount)) == 4


@pytest.mark.parametrize("count", [2, 4])
async def test_g7_files_that_the_server_does_not_give_are_an_error_if_they_are_many(
    standin: StandIn, tmp_path: Path, count: int
) -> None:
    rig = Rig(standin, tmp_path)
    async with rig.mount() as mount:
        await mount.list(f"{VIEWS}/yolo/labels/train")
        for image in list(standin.organization["signs"].images.values())[:count]:
            rig.fault(error(403), path=f"annotations/{image.id}")
        failed = await error_of(partial(mount.read, TRAIN))
        assert isinstance(failed, Forbidden)
        assert ".jpg" in str(failed)


async def test_g7_a_server_that_is_broken_is_no_annotation_file_that_is(
    mount: Mount, standin: StandIn
) -> None:
    for place in (1, 2, 3):
        await mount.read(f"{VIEWS}/yolo/labels/train/{place}.txt")
    standin.faults.add(Fault(Match(path="annotations/"), error(500)))
    failed = await error_of(partial(mount.read, TRAIN))
    assert isinstance(failed, ServerFault)
    assert "0.jpg" in str(failed)


async def test_g11_a_label_is_gone_from_a_status_that_the_image_has_left(
    mount: Mount, standin: StandIn
) -> None:
    """Among the classes of that status its names have no number: they would be left out."""
    image = first(standin)
    standin.organization.set_annotations(image, [box("zebra"), box("car")])
    path = f"{TOP}/by-status/new/formats/yolo/labels/train/0.txt"
    whole = await mount.read(path)
    assert [line.split()[0] for line in whole.decode().splitlines()] == ["3", "0"]

    inode = (await mount.look(path)).inode
    standin.organization.update_image(image, status="complete")
    await mount.library.refresh("signs")
    assert isinstance(await error_of(partial(mount.tree.open, inode)), NoSuchEntry)
    path = path.replace("/new/", "/complete/")
    assert await mount.read(path) == whole


async def test_t2_a_label_of_many_annotations_is_not_made_on_the_loop(
    mount: Mount, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 MB of them take ten seconds."""
    image = first(standin)
    standin.organization.set_annotations(image, [box("car", place) for place in range(2000)])
    decode = wing.decode
    text = wing._text
    at: list[threading.Thread] = []

    def decoded(data: bytes) -> Any:
        at.append(threading.current_thread())
        return decode(data)

    def written(*parts: Any) -> bytes:
        at.append(threading.current_thread())
        return text(*parts)

    monkeypatch.setattr(wing, "decode", decoded)
    monkeypatch.setattr(wing, "_text", written)
    path = f"{VIEWS}/yolo/labels/train/0.txt"
    data = await mount.read(path)
    assert (await mount.look(path)).size == len(data)
    assert len(at) >= 4
    assert threading.current_thread() not in at


async def test_g3_vocs_lists_have_a_line_for_each_image(tmp_path: Path) -> None:
    made = Organization()
    signs = made.add_dataset("signs", classes=CLASSES)
    names = [
        "a\nb.jpg",
        "b.jpg",
        "cr\rx.jpg",
        " lead.jpg",
        "trail .jpg",
        "two words.jpg",
        "\u2028.jpg",
    ]
    for place, name in enumerate(names):
        made.add_image(signs, name, size=500 + place, width=200, height=100, split="train")

    with StandIn(made) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            there = set(await mount.walk(f"{VIEWS}/voc/JPEGImages", read=False))
            text = (await mount.read(f"{VIEWS}/voc/ImageSets/Main/train.txt")).decode()
            lines = [line.strip() for line in io.StringIO(text, newline=None)]
            assert {f"{VIEWS}/voc/JPEGImages/{line}.jpg" for line in lines} == there
            assert len(lines) == len(text.splitlines()) == len(names)
            assert {"b", "two words"} < set(lines)
            for line in lines:
                await mount.read(f"{VIEWS}/voc/Annotations/{line}.xml")


async def test_g5_an_image_that_was_deleted_meanwhile_is_left_out(
    mount: Mount, standin: StandIn
) -> None:
    await mount.list(f"{VIEWS}/yolo/labels/train")
    mount.clock.advance(60)
    standin.organization.remove_image(first(standin))
    mount.forget_log()
    assert await listed_images(mount) == ["1.jpg", "2.jpg", "3.jpg"]
    assert mount.asked.count("GET /datasets/{dataset}") == 1


async def test_g5_a_file_that_the_server_denies_is_no_file_that_is_not_there(
    mount: Mount, standin: StandIn
) -> None:
    """A trainer would look for data.yaml elsewhere."""
    await mount.list(f"{VIEWS}/yolo/labels/train")
    mount.clock.advance(60)
    standin.faults.add(Fault(Match(path=first(standin).id), error(404)))
    failed = await error_of(partial(mount.read, TRAIN))
    assert failed is not None
    assert type(failed) is PictofsError
    assert first(standin).id in str(failed)


async def test_f9_a_due_file_that_the_server_denies_stays_as_it_was(
    standin: StandIn, tmp_path: Path
) -> None:
    rig = Rig(standin, tmp_path)
    async with rig.mount(annotation_ttl=600) as mount:
        assert len(await listed_images(mount)) == 4
        mount.clock.advance(700)
        fault = rig.fault(error(404), path=first(standin).id)
        mount.forget_log()
        assert len(await listed_images(mount)) == 4
        assert fault.hits == 1
        assert mount.asked.count(FILE) == 4


async def test_g8_a_cache_that_is_too_small_costs_each_annotation_file_once(
    standin: StandIn, tmp_path: Path
) -> None:
    for image in standin.organization["signs"].images.values():
        standin.organization.set_annotations(image, [box("car", place) for place in range(30)])

    async with Rig(standin, tmp_path).mount(cache_size=5 * 4096) as mount:
        await mount.list(f"{VIEWS}/yolo/labels/train")
        mount.forget_log()
        for _ in range(3):
            assert isinstance(await error_of(partial(mount.read, TRAIN)), DiskFull)
        assert mount.asked.count(FILE) == 4


async def test_g8_a_cache_that_can_not_be_written_costs_few_annotation_files(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of an hour would be spent on what can't be kept."""
    await mount.list(f"{VIEWS}/yolo/labels/train")

    def full(*_: Any) -> Any:
        raise DiskFull("no room")

    monkeypatch.setattr(builder, "WORKERS", 1)
    monkeypatch.setattr(mount.blob_cache, "put", full)
    mount.forget_log()
    for _ in range(3):
        assert isinstance(await error_of(partial(mount.read, TRAIN)), DiskFull)
    assert mount.asked.count(FILE) == 1


async def test_g6_no_label_is_larger_than_what_stat_shows_before(
    mount: Mount, standin: StandIn
) -> None:
    """A program that trusts it would cut the file."""
    lakes = []
    for lake in range(100):
        ring = [{"x": (place + lake) % 190, "y": place * 7 % 90} for place in range(800)]
        lakes.append({**LAKE, "id": f"{lake}", "polygon": {"paths": [ring]}})
    standin.organization.set_annotations(first(standin), lakes)
    path = f"{VIEWS}/yolo-segment/labels/train/0.txt"
    shown = (await mount.look(path)).size
    assert 1 << 20 < len(await mount.read(path)) <= shown
