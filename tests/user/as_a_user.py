"""What only a user sees who is not root. `test_another_user` runs this; as root most of it would be
true anyhow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, files_below, images_and_notes, run, walk

from pictofs.app import mount_table
from standin import Spec, StandIn

pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(Spec.uniform(images=6, size=5000, directories=2))


@pytest.fixture(scope="module")
def mount(module_mounted: Mounting, server: StandIn) -> Mount:
    return module_mounted(server)


def dataset(mount: Mount) -> Path:
    return next(mount.datasets.iterdir())


def test_s6_everything_is_the_users_own(mount: Mount) -> None:
    for path in (mount.datasets, dataset(mount), *walk(dataset(mount))):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        assert os.access(path, os.R_OK)


def test_r1_nothing_can_be_changed(mount: Mount) -> None:
    path = next(walk(dataset(mount) / "images"))
    for change in (path.unlink, lambda: path.write_bytes(b""), (path.parent / "new").mkdir):
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            change()


@pytest.mark.parametrize("command", [["cp", "-r"], ["cp", "-a"], ["rsync", "-r"], ["rsync", "-a"]])
def test_s6_a_copy_can_be_changed_and_removed(
    mount: Mount, server: StandIn, tmp_path: Path, command: list[str]
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    copy = tmp_path / "copy"
    run(*command, f"{dataset(mount)}/", copy)
    there = next(iter(server.organization.datasets.values()))
    found = {path: data for path, data in files_below(copy).items() if path != "dataset.json"}

    assert found == images_and_notes(server, there)

    next(walk(copy / "images")).write_bytes(b"mine")
    (copy / "images" / "new").mkdir()
    run("rm", "-r", copy)

    assert not copy.exists()


def test_s6_pythons_copytree_can_be_changed_and_removed(mount: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset(mount), copy)
    next(walk(copy / "images")).write_bytes(b"mine")
    shutil.rmtree(copy)


def test_k4_what_is_kept_is_open_to_nobody_else(mount: Mount) -> None:
    files_below(dataset(mount))
    for base, folders, names in os.walk(mount.cache):
        for path in (Path(base, name) for name in (*folders, *names)):
            found = path.lstat()
            assert found.st_uid == os.getuid(), path
            assert found.st_mode & 0o077 == 0, path


def test_m1_a_folder_of_roots_gets_one_line(mount: Mount, tmp_path: Path) -> None:
    """No traceback, and what to do."""
    for option, folder in (
        ("--cache-dir", Path("/usr/pictofs-cache")),
        ("--log-file", Path("/usr/pictofs.log")),
    ):
        place = tmp_path / f"mnt{option}"
        place.mkdir()
        command = [sys.executable, "-m", "pictofs", "mount", option, folder, place]
        done = subprocess.run(
            list(map(str, command)), env=mount.environ, capture_output=True, text=True, timeout=60
        )

        assert done.returncode != 0
        assert done.stderr.count("error: ") == 1, done.stderr
        assert str(folder) in done.stderr
        assert mount_table.mount_at(place) is None


def test_m1_a_mount_point_of_roots_gets_one_line(mount: Mount) -> None:
    command = [sys.executable, "-m", "pictofs", "mount", "/usr"]
    done = subprocess.run(command, env=mount.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1, done.stderr


def test_m3_a_killed_mount_is_cleaned_up(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    mount.kill()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.root)
    assert "unmounted" in mount.pictofs("unmount", mount.root)
    assert mount_table.mount_at(mount.root) is None
