"""Views on a mount: find, diff, cp and a walk over folders see what was chosen; the files are the
originals."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import (
    Mount,
    Mounting,
    Serving,
    Spent,
    active,
    annotation_bytes,
    eventually,
    files_below,
    image_bytes,
    run,
)

from pictofs.model.selection import SELECTIONS
from standin import Organization, Spec, StandIn
from standin.records import Image

STATUSES, SPLITS = ("new", "annotate", "review", "complete"), ("train", "val", "test", None)


def _organization() -> Organization:
    """Classes as directories, as a training of a classifier has them, and some of no class."""
    made = Organization()
    signs = made.add_dataset("signs")

    for place in range(80):
        folder = ("/stop", "/yield", "/speed/30", "/")[place % 4]
        made.add_image(
            signs,
            f"{place:02}.jpg",
            folder,
            size=500 + place,
            annotation_count=place % 3,
            status=STATUSES[place // 4 % 4],
            split=SPLITS[place // 5 % 4],
        )

    made.add_directory(signs, "/none of them")
    return made


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(_organization())


@pytest.fixture(scope="module")
def mount(module_mounted: Mounting, server: StandIn) -> Mount:
    return module_mounted(server)


def split(server: StandIn, name: str | None) -> list[Image]:
    return [image for image in active(server.organization["signs"]) if image.split == name]


def place(image: Image) -> str:
    return f"{image.directory_path.strip('/')}/{image.filename}".lstrip("/")


def write(server: StandIn, images: list[Image], root: Path) -> Path:
    """What a view must show, as a plain folder."""
    for image in images:
        for path, data in (
            (root / "images" / place(image), image_bytes(image)),
            (root / "annotations" / f"{place(image)}.json", annotation_bytes(server, image)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_v4_diff_finds_no_difference(
    mounted: Mounting, server: StandIn, tmp_path: Path, role: str
) -> None:
    signs = mounted(server, key=server.keys[role]).datasets / "signs"
    for name in SPLITS:
        wanted = write(server, split(server, name), tmp_path / f"split-{name}")
        assert run("diff", "-r", signs / "by-split" / (name or "unassigned"), wanted) == ""
    for status in STATUSES:
        images = [image for image in active(server.organization["signs"]) if image.status == status]
        wanted = write(server, images, tmp_path / status)
        assert run("diff", "-r", signs / "by-status" / status, wanted) == ""


def test_v4_find_and_ls_see_what_was_chosen(mount: Mount, server: StandIn) -> None:
    signs = mount.datasets / "signs"
    assert run("ls", signs / "by-split").split() == ["test", "train", "unassigned", "val"]
    assert sorted(os.listdir(signs / "by-status")) == sorted(STATUSES)

    found = run("find", "by-split/train/images", "-type", "f", cwd=signs).splitlines()

    assert sorted(found) == sorted(
        f"by-split/train/images/{place(image)}" for image in split(server, "train")
    )

    folders = run("find", "by-split/train/images", "-type", "d", cwd=signs).splitlines()

    assert sorted(folders)[1:] == [
        f"by-split/train/images/{name}" for name in ("speed", "speed/30", "stop", "yield")
    ]


def test_v4_a_copy_holds_files(mount: Mount, server: StandIn, tmp_path: Path) -> None:
    run("cp", "-r", mount.datasets / "signs/by-split/val", tmp_path / "copy")
    assert files_below(tmp_path / "copy") == files_below(
        write(server, split(server, "val"), tmp_path / "wanted")
    )
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))


def test_v5_programs_that_walk_a_dataset_meet_each_file_once(mount: Mount, server: StandIn) -> None:
    signs = mount.datasets / "signs"
    images = active(server.organization["signs"])
    assert sorted(os.listdir(signs)) == ["annotations", "dataset.json", "images"]
    assert len(list(signs.rglob("*.jpg"))) == len(images)
    assert len(run("find", signs, "-type", "f").splitlines()) == 2 * len(images) + 1
    assert (signs / "by-status").is_dir()


def samples(root: Path) -> Iterator[tuple[str, int]]:
    """Path and class of each sample, as torchvision's ImageFolder finds them: a class for each
    folder of `root`."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    for number, name in enumerate(classes):
        for base, _, files in sorted(os.walk(root / name, followlinks=True)):
            yield from ((os.path.join(base, file), number) for file in sorted(files))


def test_v4_classes_of_a_split_are_folders(mount: Mount, server: StandIn) -> None:
    root = mount.datasets / "signs/by-split/train/images"
    names = sorted({image.directory_path.split("/")[1] for image in split(server, "train")} - {""})
    wanted = {
        (str(root / place(image)), names.index(place(image).partition("/")[0])): image_bytes(image)
        for image in split(server, "train")
        if "/" in place(image)
    }
    assert {(path, number): Path(path).read_bytes() for path, number in samples(root)} == wanted


def test_v4_a_file_of_a_view_is_the_original(mount: Mount, server: StandIn) -> None:
    signs = mount.datasets / "signs"
    image = split(server, "test")[0]
    view, original = signs / "by-split/test/images" / place(image), signs / "images" / place(image)

    assert os.path.samefile(view, original)
    assert os.getxattr(view, "user.pictograph.split") == b"test"

    original.read_bytes()
    before = Spent(server)
    misses = mount.status()["cache"]["misses"]

    assert view.read_bytes() == image_bytes(image)
    assert (before.all, mount.status()["cache"]["misses"]) == ([], misses)
    assert view.parent.stat().st_ino != original.parent.stat().st_ino


def test_v6_a_view_costs_the_listing_once(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=12_500, size=500, directories=50))
    mount = mounted(server)
    before = Spent(server)

    assert (mount.datasets / "dataset-0/by-status").is_dir()
    assert before.api == []

    count = 0

    for name in STATUSES:
        view = mount.datasets / "dataset-0/by-status" / name
        if view.exists():
            count += len(run("find", view / "images", "-type", "f").splitlines())

    assert count == 12_500
    assert (
        len(run("find", mount.datasets / "dataset-0/images", "-type", "f").splitlines()) == 12_500
    )
    assert sorted(each.partition("?")[0] for each in before.api) == [
        "/datasets/{dataset}",
        "/datasets/{dataset}",
        "/directories/{dataset}/tree",
    ]


def test_v7_a_new_status_moves_the_file(mounted: Mounting, serving: Serving) -> None:
    server = serving(_organization())
    mount = mounted(server)
    signs = mount.datasets / "signs"
    image = next(
        image for image in active(server.organization["signs"]) if image.status == "annotate"
    )
    old, new = (
        signs / f"by-status/{name}/images" / place(image) for name in ("annotate", "review")
    )

    with open(old, "rb") as held:
        number = os.fstat(held.fileno()).st_ino
        server.organization.update_image(image, status="review")
        mount.pictofs("refresh", signs)

        assert not old.exists()
        assert new.stat().st_ino == number
        assert held.read() == new.read_bytes() == image_bytes(image)

    for each in active(server.organization["signs"]):
        server.organization.update_image(each, status="complete")
    mount.pictofs("refresh", signs)

    assert os.listdir(signs / "by-status") == ["complete"]
    assert not (signs / "by-status/review").exists()


def test_v7_a_new_split_is_seen_after_the_ttl(mounted: Mounting, serving: Serving) -> None:
    server = serving(_organization())
    signs = mounted(server, "--metadata-ttl", "1").datasets / "signs"
    image = split(server, "train")[0]
    train, test = (signs / f"by-split/{name}/images" / place(image) for name in ("train", "test"))
    assert (train.exists(), test.exists()) == (True, False)
    server.organization.update_image(image, split="test")
    # Without another figure in the dataset's row only a later listing, or a refresh, would bring
    # it.
    server.organization.add_image(server.organization["signs"], "another.jpg", size=500)
    eventually(lambda: (train.exists(), test.exists()), (False, True))


def test_r1_views_can_not_be_changed(mount: Mount, tmp_path: Path) -> None:
    view = mount.datasets / "signs/by-split"
    done = subprocess.run(["mkdir", view / "holdout"], capture_output=True, text=True)
    assert "Read-only file system" in done.stderr


def test_v9_the_mount_s_readme_names_every_view(mount: Mount) -> None:
    text = (mount.root / ".pictofs/README.md").read_text()
    assert "datasets/NAME/by-status/STATUS" in text
    assert "datasets/NAME/by-split/SPLIT" in text
    for view in SELECTIONS.values():
        assert re.search(rf"\b{view.folder}[,;.]", text)
    assert os.listdir(mount.root / ".pictofs")[0] == "README.md"
