"""`formats/` of a dataset that changes while its files are open, read by usual tools."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, run

from standin import Organization, StandIn
from standin.records import Image

CLASSES = [{"name": "car", "type": "box"}, {"name": "van", "type": "box"}]
LABEL = "yolo/labels/train/0.txt"
COCO = "coco/annotations/instances_train.json"


def box(x: int) -> dict[str, Any]:
    return {
        "id": f"box-{x}",
        "name": "car",
        "type": "bbox",
        "bounding_box": {"x": x % 100, "y": 20, "w": 30, "h": 40},
    }


@pytest.fixture
def server(serving: Serving) -> StandIn:
    """Twelve images with a label each."""
    made = Organization()
    signs = made.add_dataset("signs", classes=CLASSES)
    for place in range(12):
        made.add_image(
            signs,
            f"{place}.jpg",
            size=500 + place,
            width=200,
            height=100,
            annotations=[box(10 + place)],
            annotation_count=1,
            split="train",
        )
    return serving(made)


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    return mounted(server)


@pytest.fixture
def top(mount: Mount) -> Path:
    return mount.datasets / "signs/formats"


def first(server: StandIn) -> Image:
    return next(iter(server.organization["signs"].images.values()))


def longer(server: StandIn, mount: Mount, boxes: int = 400) -> None:
    server.organization.set_annotations(first(server), [box(x) for x in range(boxes)])
    mount.pictofs("refresh", mount.datasets / "signs")


def by_cp(path: Path, folder: Path) -> bytes:
    run("cp", path, folder / "cp")
    return (folder / "cp").read_bytes()


def by_rsync(path: Path, folder: Path) -> bytes:
    run("rsync", "-a", path, folder / "rsync")
    return (folder / "rsync").read_bytes()


def by_tar(path: Path, folder: Path) -> bytes:
    run("tar", "-cf", folder / "made.tar", "-C", path.parent, path.name)
    done = subprocess.run(["tar", "-xOf", folder / "made.tar"], capture_output=True, check=True)
    return done.stdout


def by_shutil(path: Path, folder: Path) -> bytes:
    shutil.copyfile(path, folder / "shutil")
    return (folder / "shutil").read_bytes()


def by_mmap(path: Path, folder: Path) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return mapped[:]


def by_fstat(path: Path, folder: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


READERS = [by_cp, by_rsync, by_tar, by_shutil, by_mmap, by_fstat]


@pytest.mark.parametrize("name", [LABEL, COCO])
def test_g5_g6_a_new_content_is_read_whole_while_the_old_one_is_open(
    mount: Mount, server: StandIn, top: Path, tmp_path: Path, name: str
) -> None:
    path = top / name
    with path.open("rb", buffering=0) as held:
        before = path.read_bytes()
        longer(server, mount)
        after = path.read_bytes()
        assert len(after) > 2 * len(before)

        for read in READERS:
            assert read(path, tmp_path) == after, read.__name__
        assert os.fstat(held.fileno()).st_size == len(before)
        assert held.read() == before


@pytest.mark.parametrize("name", [LABEL, COCO, "yolo/data.yaml"])
@pytest.mark.parametrize("read", READERS)
def test_g5_the_first_reader_and_the_first_after_a_change_get_all(
    mount: Mount,
    server: StandIn,
    top: Path,
    tmp_path: Path,
    name: str,
    read: Callable[[Path, Path], bytes],
) -> None:
    path = top / name
    if read is not by_tar or name == LABEL:
        assert read(path, tmp_path) == path.read_bytes()
    longer(server, mount)
    if read is by_tar:
        # tar goes by what stat says: a placeholder is padded. Whoever has read it knows better.
        path.read_bytes()
    assert read(path, tmp_path) == path.read_bytes()


@pytest.mark.parametrize("is_read", [True, False])
def test_g6_rsync_brings_what_new_classes_change(
    mount: Mount, server: StandIn, top: Path, tmp_path: Path, is_read: bool
) -> None:
    """Two names of one length: no size changes."""
    source = f"{top}/yolo/"
    names = ["data.yaml", "labels/train/0.txt"]
    # Once more, because a size that was not known at first is not the copy's.
    for _ in range(2):
        run("rsync", "-a", source, tmp_path / "copy")
    before = [(tmp_path / "copy" / name).read_bytes() for name in names]

    signs = server.organization["signs"]
    signs.set_classes(list(reversed(CLASSES)))
    server.organization.changed(signs, "dataset")
    mount.pictofs("refresh", mount.datasets / "signs")
    if is_read:
        for name in names:
            (top / "yolo" / name).read_bytes()

    run("rsync", "-a", source, tmp_path / "copy")
    after = [(tmp_path / "copy" / name).read_bytes() for name in names]
    assert after == [(top / "yolo" / name).read_bytes() for name in names]
    for old, new in zip(before, after, strict=True):
        assert len(old) == len(new)
        assert old != new


def test_g5_fifty_readers_at_once_find_one_content(
    mount: Mount, server: StandIn, top: Path
) -> None:
    def read(_: int) -> bytes:
        return (top / COCO).read_bytes()

    with ThreadPoolExecutor(50) as pool:
        for _ in range(2):
            found = set(pool.map(read, range(50)))
            assert len(found) == 1
            assert len(json.loads(found.pop())["images"]) == 12
            longer(server, mount)


def test_g5_readers_of_a_dataset_that_changes_all_the_time_fail_never(
    mount: Mount, server: StandIn, top: Path, tmp_path: Path
) -> None:
    def read(_: int) -> list[int]:
        found = []
        for _ in range(4):
            found.append(len(json.loads((top / COCO).read_bytes())["annotations"]))
            found.append(len((top / LABEL).read_bytes().splitlines()))
        return found

    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read, at) for at in range(4)]
        boxes = 1
        while not all(each.done() for each in reads):
            boxes += 1
            time.sleep(1)
            longer(server, mount, boxes)
        for each in reads:
            counts = each.result()
            assert counts[::2] == sorted(counts[::2])
            assert counts[1::2] == sorted(counts[1::2])
