"""Exports on a real mount: ls, cp, unzip and PIL see the archives that the platform has made."""

from __future__ import annotations

import errno
import io
import mmap
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, files_below, finished_export, refused, run
from PIL import Image as Pillow

from standin import Organization, StandIn
from standin.archives import HOSTILE, pack
from standin.records import Export

BIG = 20 << 20


def _organization() -> Organization:
    made = Organization()
    signs = made.add_dataset("signs")
    for place in range(30):
        folder = ("/stop", "/yield/deep", "/")[place % 3]
        split = ("train", "val", None)[place % 3]
        made.add_image(
            signs, f"{place:02}.jpg", folder, size=9_000, annotation_count=2, split=split
        )
    return made


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    """Exports of three formats with images, as somebody with the role member has made them."""
    server = module_serving(_organization())
    for format in ("pictograph", "coco", "yolo"):
        finished_export(server, "signs", f"{format} 1", format=format, include_images=True)
    return server


def archive_of(server: StandIn, name: str) -> bytes:
    export = next(each for each in server.organization.exports.values() if each.name == name)
    return server.organization.blobs[export.object_name].data


def unpacked(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.parametrize("format", ["pictograph", "coco", "yolo"])
def test_y2_a_viewer_reads_what_unzip_gives(
    mounted: Mounting, server: StandIn, tmp_path: Path, format: str
) -> None:
    mount = mounted(server, key=server.keys["viewer"])
    export = mount.datasets / "signs/exports" / f"{format} 1"
    wanted = unpacked(archive_of(server, f"{format} 1"))

    names = run("ls", "-R", export)
    assert all(os.path.basename(name) in names for name in wanted)
    sizes = {str(path.relative_to(export)): path.stat().st_size for path in export.rglob("*.*")}
    assert sizes == {name: len(body) for name, body in wanted.items()}
    assert files_below(export) == wanted

    run("cp", "-r", export, tmp_path / "copy")
    assert files_below(tmp_path / "copy") == wanted
    assert files_below(export) == wanted


def test_y1_a_walk_of_the_dataset_does_not_meet_them(mounted: Mounting, server: StandIn) -> None:
    signs = mounted(server).datasets / "signs"
    assert sorted(os.listdir(signs)) == ["annotations", "dataset.json", "images"]
    assert (signs / "exports").is_dir()
    assert sorted(os.listdir(signs / "exports")) == ["coco 1", "pictograph 1", "yolo 1"]
    assert "exports" not in run("find", ".", cwd=signs)


def test_y5_pictures_open(mounted: Mounting, server: StandIn) -> None:
    images = mounted(server).datasets / "signs/exports/coco 1/images"
    for path in images.rglob("*.jpg"):
        with Pillow.open(path) as picture:
            picture.load()
            assert picture.format == "JPEG"


def test_y3_after_a_remount_without_the_server(mounted: Mounting, serving: Serving) -> None:
    server = serving(_organization())
    finished_export(server, "signs", "v1", format="yolo", include_images=True)
    wanted = unpacked(archive_of(server, "v1"))
    first = mounted(server, home="one")
    assert files_below(first.datasets / "signs/exports/v1") == wanted
    before = Spent(server)
    assert files_below(first.datasets / "signs/exports/v1") == wanted
    assert before.all == []
    first.unmount()

    before = Spent(server)
    again = mounted(server, "--offline", home="one")
    assert files_below(again.datasets / "signs/exports/v1") == wanted
    assert before.all == []


def test_y6_a_bad_archive_is_eio_and_the_log_says_why(mounted: Mounting, serving: Serving) -> None:
    server = serving(_organization(), export_archive="encrypted")
    finished_export(server, "signs", "locked")
    server.switches.export_archive = "no archive"
    finished_export(server, "signs", "page")
    mount = mounted(server)
    exports = mount.datasets / "signs/exports"
    mount.expected += ["is encrypted", "not a zip archive"]

    with refused(errno.EIO):
        (exports / "locked/bad.txt").read_bytes()
    assert (exports / "locked/good.txt").read_bytes() == b"good\n"
    with refused(errno.EIO):
        os.listdir(exports / "page")

    log = mount.log()
    assert "'bad.txt' in the archive of the export 'locked' is not read: it is encrypted" in log
    assert "the archive of the export 'page' can't be shown" in log


def test_y7_hostile_names_stay_inside(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    organization = _organization()
    signs = organization["signs"]
    for what in ("escaping", "odd names", "long names", "duplicates", "symbolic link"):
        organization.add_export(signs, what, HOSTILE[what]())
    exports = mounted(serving(organization)).datasets / "signs/exports"

    run("cp", "-r", exports, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy")) == sorted(os.listdir(exports))
    assert not (tmp_path / "up.txt").exists()
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert files_below(tmp_path / "copy") == files_below(exports)


def test_y4_a_large_member_is_read_by_mmap_and_tail(mounted: Mounting, serving: Serving) -> None:
    organization = _organization()
    body = bytes(range(256)) * (BIG // 256)
    organization.add_export(organization["signs"], "big", pack([("a/big.jpg", body)]))
    big = mounted(serving(organization)).datasets / "signs/exports/big/a/big.jpg"
    assert big.stat().st_size == BIG
    assert run("tail", "-c", "3", big).encode("utf-8", "surrogateescape") == body[-3:]
    with open(big, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == body


def test_y8_another_archive_of_the_name_is_read_whole(mounted: Mounting, serving: Serving) -> None:
    organization = _organization()
    signs = organization["signs"]
    old: Export = organization.add_export(signs, "v1", pack([("a.txt", b"old"), ("o.txt", b"o")]))
    server = serving(organization)
    mount = mounted(server)
    export = mount.datasets / "signs/exports/v1"
    assert (export / "a.txt").read_bytes() == b"old"

    with open(export / "a.txt", "rb") as held:
        del organization.exports[old.id]
        organization.add_export(signs, "v1", pack([("a.txt", b"new, and longer")]))
        mount.pictofs("refresh", mount.datasets / "signs")
        assert files_below(export) == {"a.txt": b"new, and longer"}
        assert held.read() == b"old"


def test_r1_exports_can_not_be_changed(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, "--writable", key=server.keys["admin"])
    exports = mount.datasets / "signs/exports"
    os.listdir(exports / "coco 1")
    mount.expected += ["can be made"]
    for command in (
        ("mkdir", exports / "new"),
        ("touch", exports / "coco 1/new.txt"),
        ("rm", "-r", exports / "coco 1/images"),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert "Read-only file system" in done.stderr
