"""The everyday tools, each on a real mount: exact contents, whatever reads them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pictograph
import pytest
from mounting import (
    Mount,
    Mounting,
    Serving,
    Spent,
    annotation_bytes,
    expected,
    files_below,
    image_bytes,
    run,
)
from PIL import Image as Pillow

from standin import Organization, StandIn

EPOCH = 1_772_355_600.0
NAME = "road signs"


def _organization() -> Organization:
    """Directories, equal names in two of them, spaces, unicode, an empty directory, an image of 9
    MB."""
    organization = Organization(seed="tools")
    signs = organization.add_dataset(NAME, created_at=EPOCH)
    places = [
        ("with space.jpg", "/"),
        ("ünï cödé 画像.png", "/cam1"),
        ("deep.jpg", "/cam1/night shift"),
    ]
    places += [
        (f"frame-{number:02d}.jpg", "/cam1" if number % 3 else "/cam2") for number in range(24)
    ]
    places += [("same.jpg", "/cam1"), ("same.jpg", "/cam2"), ("large.jpg", "/cam2")]

    for number, (name, directory) in enumerate(places):
        organization.add_image(
            signs,
            name,
            directory,
            size=9_000_001 if name == "large.jpg" else 14_000 + 997 * number,
            content_type="image/png" if name.endswith("png") else "image/jpeg",
            annotation_count=number % 5,
            created_at=EPOCH + number,
        )

    organization.add_directory(signs, "/empty/below")
    return organization


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(_organization())


@pytest.fixture(scope="module")
def truth(server: StandIn) -> dict[str, bytes]:
    return expected(server, server.organization[NAME])


@pytest.fixture(scope="module")
def lazy(module_mounted: Mounting, server: StandIn) -> Mount:
    """Shared by all that does not mind what was read before."""
    return module_mounted(server)


@pytest.fixture
def signs(lazy: Mount) -> Path:
    return lazy.datasets / NAME


def test_b2_cp_r_equals_the_vendors_download(
    mounted: Mounting,
    server: StandIn,
    truth: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("cp", "-r", mounted(server).datasets / NAME, tmp_path / "copy")
    assert files_below(tmp_path / "copy") == truth
    assert (tmp_path / "copy/images/empty/below").is_dir()

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    with pictograph.Client(server.keys["viewer"], base_url=server.api_url) as client:
        # One at a time: two of one name would also take each other's temporary file away.
        report = client.datasets.download(NAME, tmp_path / "flat", max_workers=1)

    assert report.success

    flat = files_below(tmp_path / "flat")
    by_name: dict[str, list[bytes]] = {}

    for path, data in truth.items():
        if "/" not in path:
            continue  # dataset.json, which the vendor's download does not write
        by_name.setdefault(os.path.basename(path), []).append(data)

    assert flat.keys() == by_name.keys()
    assert sorted(name for name in flat if len(by_name[name]) > 1) == ["same.jpg", "same.jpg.json"]
    # Of equal names the vendor's flat folder keeps one; the mount keeps both.
    assert all(data in by_name[name] for name, data in flat.items())


def test_s5_cp_a_keeps_times(signs: Path, server: StandIn, tmp_path: Path) -> None:
    image = server.organization[NAME].at("/", "with space.jpg")
    run("cp", "-a", signs / "images/with space.jpg", tmp_path / "copy.jpg")
    assert image is not None
    assert (tmp_path / "copy.jpg").stat().st_mtime == image.created_at


def test_rsync_copies_and_then_transfers_nothing(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], tmp_path: Path
) -> None:
    source = f"{mounted(server).datasets / NAME}/"
    run("rsync", "-a", "--exclude", "annotations", source, tmp_path / "copy")
    # Sizes that were not known when rsync listed them are known once it has read the files.
    subprocess.run(["rsync", "-a", source, tmp_path / "copy"], capture_output=True, timeout=60)
    run("rsync", "-a", source, tmp_path / "copy")

    assert files_below(tmp_path / "copy") == truth

    before = Spent(server)
    again = run("rsync", "-a", "--itemize-changes", source, tmp_path / "copy")

    assert again == ""
    assert run("rsync", "-a", "--checksum", "--itemize-changes", source, tmp_path / "copy") == ""
    assert before.all == []


def test_rsync_with_exact_sizes_needs_one_run(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], tmp_path: Path
) -> None:
    source = f"{mounted(server, '--annotation-sizes', 'exact').datasets / NAME}/"
    run("rsync", "-a", source, tmp_path / "copy")
    assert files_below(tmp_path / "copy") == truth
    assert run("rsync", "-a", "--itemize-changes", source, tmp_path / "copy") == ""


def test_q1_ls_l_shows_sizes_without_fetching(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    before = Spent(server)
    listed = run("ls", "-l", mount.datasets / NAME / "images/cam2").splitlines()[1:]
    sizes = {line.split()[-1]: int(line.split()[4]) for line in listed}
    truth = server.organization[NAME].images.values()

    assert sizes == {
        image.filename: image.size for image in truth if image.directory_path == "/cam2"
    }

    noted = run("ls", "-l", mount.datasets / NAME / "annotations/cam2").splitlines()[1:]

    assert len(noted) == len(listed)
    assert all(int(line.split()[4]) > 0 for line in noted)
    assert before.storage == []
    assert not [each for each in before.api if "/file" in each]


def test_find_shows_every_name_once(signs: Path, truth: dict[str, bytes]) -> None:
    found = run("find", ".", "-type", "f", cwd=signs).splitlines()
    assert sorted(found) == sorted(f"./{path}" for path in truth)
    folders = run("find", "images", "-type", "d", cwd=signs).splitlines()
    below = ("/cam1", "/cam1/night shift", "/cam2", "/empty", "/empty/below")
    assert sorted(folders) == ["images", *(f"images{path}" for path in below)]
    assert run("find", ".", "-empty", cwd=signs).split() == [
        "./images/empty/below",
        "./annotations/empty/below",
    ]


def test_gnu_tar_of_images(mounted: Mounting, server: StandIn, truth: dict[str, bytes]) -> None:
    _check_tar(mounted(server).datasets / NAME, "images", truth)


def test_gnu_tar_of_annotations_with_exact_sizes(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes]
) -> None:
    _check_tar(mounted(server, "--annotation-sizes", "exact").datasets / NAME, ".", truth)


def _check_tar(folder: Path, what: str, truth: dict[str, bytes]) -> None:
    packed = subprocess.run(["tar", "-cf", "-", what], cwd=folder, capture_output=True, timeout=60)
    assert (packed.returncode, packed.stderr) == (0, b"")

    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        got = {
            os.path.normpath(member.name): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }

    assert got == {
        path: data for path, data in truth.items() if what == "." or path.startswith(what)
    }


def test_s3_gnu_tar_of_unread_annotations(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes]
) -> None:
    """It asks for the size again once a file is open, and so packs them whole."""
    _check_tar(mounted(server).datasets / NAME, "annotations", truth)


@pytest.mark.parametrize(
    ("options", "part"), [((), "images"), (("--annotation-sizes", "exact"), ".")]
)
def test_pythons_tarfile(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], options: tuple[str, ...], part: str
) -> None:
    folder = mounted(server, *options).datasets / NAME
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder / part, part)
    packed.seek(0)

    with tarfile.open(fileobj=packed) as archive:
        got = {
            os.path.normpath(member.name): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }

    assert got == {
        path: data for path, data in truth.items() if part == "." or path.startswith(part)
    }


def test_pythons_tarfile_refuses_an_unread_annotation(mounted: Mounting, server: StandIn) -> None:
    """It trusts the placeholder size: that must fail, and not cut the file."""
    file = mounted(server).datasets / NAME / "annotations/cam1/frame-01.jpg.json"
    with (
        tarfile.open(fileobj=io.BytesIO(), mode="w") as archive,
        pytest.raises(OSError, match="end of data"),
    ):
        archive.add(file, "one")


def test_zip_of_images(signs: Path, truth: dict[str, bytes], tmp_path: Path) -> None:
    run("zip", "-qr", tmp_path / "all.zip", "images", cwd=signs)
    with zipfile.ZipFile(tmp_path / "all.zip", metadata_encoding="utf-8") as archive:
        got = {
            info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()
        }
    assert got == {path: data for path, data in truth.items() if path.startswith("images")}


def test_s3_zip_of_unread_annotations(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], tmp_path: Path
) -> None:
    run("zip", "-qr", tmp_path / "all.zip", "annotations", cwd=mounted(server).datasets / NAME)
    with zipfile.ZipFile(tmp_path / "all.zip", metadata_encoding="utf-8") as archive:
        got = {
            info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()
        }
    assert got == {path: data for path, data in truth.items() if path.startswith("annotations")}


def test_b1_md5sum(signs: Path, truth: dict[str, bytes]) -> None:
    names = sorted(truth)
    said = run("md5sum", *names, cwd=signs).splitlines()
    assert said == [f"{hashlib.md5(truth[name]).hexdigest()}  {name}" for name in names]


def test_shutil_copytree(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.copytree(mounted(server).datasets / NAME, tmp_path / "copy")
    assert files_below(tmp_path / "copy") == truth


def test_b6_mmap(mounted: Mounting, server: StandIn, truth: dict[str, bytes]) -> None:
    """In another process: a page fault holds the interpreter, and with it the server in this
    one."""
    script = (
        "import hashlib, mmap, sys\n"
        "for name in sys.argv[1:]:\n"
        "    with open(name, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:\n"
        "        print(len(view), hashlib.md5(view).hexdigest())\n"
    )
    names = sorted(truth)
    said = run(
        sys.executable, "-c", script, *names, cwd=mounted(server).datasets / NAME
    ).splitlines()

    assert said == [f"{len(truth[name])} {hashlib.md5(truth[name]).hexdigest()}" for name in names]


def test_pil_decodes(signs: Path, server: StandIn) -> None:
    for image in server.organization[NAME].images.values():
        with Pillow.open(
            signs / "images" / image.directory_path.strip("/") / image.filename
        ) as picture:
            picture.load()
            assert picture.size == (image.width, image.height)


def test_grep_r(mounted: Mounting, server: StandIn, truth: dict[str, bytes]) -> None:
    image = server.organization[NAME].at("/cam1/night shift", "deep.jpg")
    assert image is not None
    said = run("grep", "-rl", image.id, "annotations", cwd=mounted(server).datasets / NAME)
    assert said == "annotations/cam1/night shift/deep.jpg.json\n"


def test_s3_wc_c_of_an_unread_annotation(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes]
) -> None:
    path = "annotations/cam1/frame-01.jpg.json"
    said = run("wc", "-c", path, cwd=mounted(server).datasets / NAME)
    assert said == f"{len(truth[path])} {path}\n"


@pytest.mark.parametrize("path", ["images/cam2/large.jpg", "annotations/cam1/frame-04.jpg.json"])
def test_b6_reads_at_offsets(
    mounted: Mounting, server: StandIn, truth: dict[str, bytes], path: str
) -> None:
    folder, data = mounted(server).datasets / NAME, truth[path]
    raw = {"cwd": folder, "capture_output": True, "timeout": 60, "check": True}
    tail = subprocess.run(["tail", "-c", "100", path], **raw).stdout  # type: ignore[call-overload]

    assert tail == data[-100:]

    middle = len(data) // 2
    dd = [
        "dd",
        f"if={path}",
        f"skip={middle}",
        "count=333",
        "iflag=skip_bytes,count_bytes",
        "bs=64",
    ]

    assert subprocess.run(dd, **raw).stdout == data[middle : middle + 333]  # type: ignore[call-overload]

    beyond = ["dd", f"if={path}", f"skip={len(data) + 5}", "iflag=skip_bytes", "bs=64"]

    assert subprocess.run(beyond, **raw).stdout == b""  # type: ignore[call-overload]


def test_cmp(signs: Path, truth: dict[str, bytes], tmp_path: Path) -> None:
    for path in ("images/cam2/large.jpg", "annotations/cam2/large.jpg.json"):
        (tmp_path / "truth").write_bytes(truth[path])
        run("cmp", signs / path, tmp_path / "truth")


def test_q3_cat_of_a_known_path_lists_nothing(mounted: Mounting, server: StandIn) -> None:
    image = server.organization[NAME].at("/cam1", "same.jpg")
    assert image is not None

    mount = mounted(server)
    before = Spent(server)
    folder = mount.datasets / NAME

    assert subprocess.check_output(["cat", folder / "images/cam1/same.jpg"]) == image_bytes(image)

    routes = [each.partition("?")[0] for each in before.all]

    assert routes == ["/directories/{dataset}/tree", "/images/", "/images/{image_id:uuid}"]

    before = Spent(server)

    assert subprocess.check_output(
        ["cat", folder / "annotations/cam1/same.jpg.json"]
    ) == annotation_bytes(server, image)
    assert [each.partition("?")[0] for each in before.all] == ["/annotations/{image_id:uuid}/file"]

    before = Spent(server)
    run(
        "cat",
        folder / "images/cam1/same.jpg",
        folder / "annotations/cam1/same.jpg.json",
        stdout=None,
    )

    assert before.all == []
