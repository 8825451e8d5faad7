"""What stat shows, and that nothing can be changed."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import (
    Mount,
    Mounting,
    Serving,
    Spent,
    annotation_bytes,
    eventually,
    image_bytes,
    run,
    walk,
)

from standin import PRESETS, Organization, Spec, StandIn

EPOCH = 1_772_355_600.0
ACTUAL = 20_000


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(PRESETS["small"]())


@pytest.fixture(scope="module")
def mount(module_mounted: Mounting, server: StandIn) -> Mount:
    return module_mounted(server)


def inodes(mount: Mount) -> dict[str, int]:
    """The inode number of everything but the mount point, by path."""
    return {
        str(Path(base, name).relative_to(mount.root)): Path(base, name).lstat().st_ino
        for base, folders, files in os.walk(mount.root)
        for name in folders + files
    }


def test_i1_inode_numbers_are_distinct_and_the_same_after_a_remount(
    mounted: Mounting, server: StandIn
) -> None:
    first = mounted(server, home="one")
    numbers = inodes(first)
    assert len(set(numbers.values())) == len(numbers)
    first.unmount()
    assert inodes(mounted(server, home="one")) == numbers
    assert inodes(mounted(server, home="another cache")) == numbers


def test_i1_inode_numbers_survive_a_rename_of_the_dataset(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(PRESETS["small"]())
    mount = mounted(server, "--metadata-ttl", "1")
    before = inodes(mount)
    server.organization.rename_dataset(server.organization["small"], "renamed")
    eventually(lambda: os.listdir(mount.datasets), ["renamed"])
    after = {
        path.replace("datasets/renamed", "datasets/small"): number
        for path, number in inodes(mount).items()
    }

    # Another name is another content of dataset.json, and so another number.
    assert after.pop("datasets/small/dataset.json") != before.pop("datasets/small/dataset.json")
    assert after == before


def test_i1_directory_entries_carry_the_inode_numbers_of_stat(mount: Mount) -> None:
    for base, _, _ in os.walk(mount.datasets):
        with os.scandir(base) as entries:
            for entry in entries:
                assert entry.inode() == os.stat(entry.path).st_ino


def test_s6_modes_owner_links_and_blocks(mount: Mount, server: StandIn) -> None:
    image = server.organization["small"].images[next(iter(server.organization["small"].images))]
    path = mount.datasets / "small/images" / image.directory_path.strip("/") / image.filename
    found = path.stat()

    assert stat.filemode(found.st_mode) == "-rw-r--r--"
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    assert (found.st_size, found.st_blocks) == (image.size, -(-image.size // 512))
    assert found.st_mtime == found.st_ctime == image.created_at
    assert found.st_blksize >= 4096

    for folder in (mount.root, mount.datasets, mount.datasets / "small", path.parent):
        assert stat.filemode(folder.stat().st_mode) == "drwxr-xr-x"

    assert (mount.datasets / "small").stat().st_mtime == server.organization["small"].created_at


def test_s3_an_unread_annotation_shows_a_size_that_can_not_cut_it(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server, "--prefetch", "off")  # what is fetched ahead shows its own size
    for path in walk(mount.datasets / "small/annotations"):
        shown = path.stat()
        data = path.read_bytes()
        assert shown.st_size > len(data)
        assert shown.st_blocks == 0
        assert (path.stat().st_size, path.stat().st_blocks) == (len(data), -(-len(data) // 512))


@pytest.mark.skipif(
    os.geteuid() != 0, reason="who gives the files to another user, who then alone may read them"
)
def test_s6_the_owner_and_umask_that_were_asked_for(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, "--uid", "1234", "--gid", "2345", "--umask", "077")
    folder = (mount.datasets / "small").stat()
    file = next(walk(mount.datasets / "small/images")).stat()
    assert (folder.st_uid, folder.st_gid, file.st_uid, file.st_gid) == (1234, 2345, 1234, 2345)
    assert stat.filemode(folder.st_mode) == "drwx------"
    assert stat.filemode(file.st_mode) == "-rw-------"


def test_s7_statfs_is_plausible_and_asks_nobody(mount: Mount, server: StandIn) -> None:
    before = Spent(server)
    figures = os.statvfs(mount.root)
    dataset = server.organization["small"].counts()
    used = figures.f_blocks - figures.f_bfree
    assert figures.f_frsize * used >= dataset.size
    assert figures.f_frsize * (used - 1) <= dataset.size
    assert figures.f_frsize * figures.f_bavail == 2**50
    assert figures.f_files - figures.f_ffree >= dataset.images
    assert figures.f_namemax == 255

    # What a monitor of disks reads.
    for kind in ("pcent", "ipcent"):
        assert run("df", f"--output={kind}", mount.root).split()[-1] in ("0%", "1%")

    assert before.all == []


def _liar(*said: int, actual: int = ACTUAL) -> Organization:
    """Images of a size that the listing has wrong, called by what it says."""
    organization = Organization()
    dataset = organization.add_dataset("lies", created_at=EPOCH)
    for size in said:
        organization.add_image(dataset, f"{size}.jpg", size=actual, file_size=size)
    return organization


def test_s1_s4_a_wrong_size_is_exact_from_open_on(mounted: Mounting, serving: Serving) -> None:
    server = serving(_liar(0, 1, 9_000, 31_000, 9_000_000))
    mount = mounted(server, home="one")
    folder = mount.datasets / "lies/images"

    for image in server.organization.images.values():
        path = folder / image.filename
        assert path.stat().st_size == (image.file_size or 1 << 30)

        with open(path, "rb") as file:
            assert os.fstat(file.fileno()).st_size == ACTUAL
            assert file.read() == image_bytes(image)
            assert file.seek(-10, os.SEEK_END) == ACTUAL - 10

        assert path.stat().st_size == ACTUAL
        assert subprocess.check_output(["cat", path]) == image_bytes(image)

    mount.unmount()
    again = mounted(server, home="one").datasets / "lies/images"

    assert {path.stat().st_size for path in again.iterdir()} == {ACTUAL}


def test_s1_a_copy_of_files_of_wrong_size_is_exact(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    """The first thing that ever happens to them: cp takes the size from a listing before it opens
    them."""
    server = serving(_liar(0, 1, 9_000, 31_000))
    run("cp", "-r", mounted(server).datasets / "lies/images", tmp_path / "copy")
    for image in server.organization.images.values():
        assert (tmp_path / "copy" / image.filename).read_bytes() == image_bytes(image)


def test_s1_a_large_file_of_wrong_size(mounted: Mounting, serving: Serving) -> None:
    server = serving(_liar(0, 500, 9_000_000, 30_000_000, actual=12_000_001))
    folder = mounted(server).datasets / "lies/images"
    for image in server.organization.images.values():
        path = folder / image.filename
        assert subprocess.check_output(["cat", path]) == image_bytes(image)
        assert path.stat().st_size == image.size


def test_an_empty_image(mounted: Mounting, serving: Serving) -> None:
    organization = Organization()
    organization.add_image(organization.add_dataset("one"), "empty.jpg", size=0, annotation_count=1)
    path = mounted(serving(organization)).datasets / "one/images/empty.jpg"
    assert path.read_bytes() == b""
    assert path.stat().st_size == 0


def _open(path: Path, mode: str) -> None:
    with open(path, mode):
        pass


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "open for write": lambda file, folder: _open(file, "r+b"),
    "append": lambda file, folder: _open(file, "ab"),
    "open and truncate": lambda file, folder: _open(file, "wb"),
    "create": lambda file, folder: _open(folder / "new.jpg", "xb"),
    "mkdir": lambda file, folder: (folder / "new").mkdir(),
    "mkdir of a dataset": lambda file, folder: (folder.parents[1] / "new").mkdir(),
    "rmdir": lambda file, folder: folder.rmdir(),
    "unlink": lambda file, folder: file.unlink(),
    "rename": lambda file, folder: file.rename(folder / "new.jpg"),
    "rename of a dataset": lambda file, folder: folder.parents[0].rename(folder.parents[1] / "new"),
    "chmod": lambda file, folder: file.chmod(0o644),
    "chown": lambda file, folder: os.chown(file, 1, 1),
    "truncate": lambda file, folder: os.truncate(file, 0),
    "utime": lambda file, folder: os.utime(file),
    "symlink": lambda file, folder: (folder / "new").symlink_to("x"),
    "link": lambda file, folder: (folder / "new").hardlink_to(file),
    "mknod": lambda file, folder: os.mknod(folder / "new"),
    "mkfifo": lambda file, folder: os.mkfifo(folder / "new"),
    "setxattr": lambda file, folder: os.setxattr(file, "user.x", b"1"),
    "removexattr": lambda file, folder: os.removexattr(file, "user.x"),
    "of status.json": lambda file, folder: _open(folder.parents[2] / ".pictofs/status.json", "wb"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_r1_every_change_is_erofs(mount: Mount, change: Callable[[Path, Path], object]) -> None:
    folder = mount.datasets / "small/images"
    with pytest.raises(OSError, match="Read-only") as refused:
        change(next(walk(folder)), folder)
    assert refused.value.errno == errno.EROFS


def test_access_says_read_only(mount: Mount) -> None:
    file = next(walk(mount.datasets / "small/images"))
    assert os.access(file, os.R_OK)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.access(os.fsencode(file), os.W_OK) == -1
    assert ctypes.get_errno() == errno.EROFS


def test_s3_exact_sizes_on_request(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=5, size=500))
    folder = mounted(server, "--annotation-sizes", "exact").datasets / "dataset-0/annotations"
    for image in server.organization["dataset-0"].images.values():
        assert (folder / f"{image.filename}.json").stat().st_size == len(
            annotation_bytes(server, image)
        )
    before = Spent(server)
    for path in walk(folder):
        assert path.stat().st_size == len(path.read_bytes())
    assert [each for each in before.api if "/file" in each] == []
