"""A connection that the kernel breaks off is no unmount."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving

from pictofs.app import mount_table, mounting
from standin import PRESETS

WORDS = "the kernel has aborted the connection"


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Path]:
    """The folder of the kernel's FUSE connections."""
    if os.getuid() != 0:
        pytest.skip("only root may abort every connection")
    folder = tmp_path / "connections"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "fusectl", "none", folder], capture_output=True).returncode:
        pytest.skip("fusectl can't be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def abort(connections: Path, mountpoint: Path) -> None:
    """Break the connection of a mount off."""
    found = mount_table.mount_at(mountpoint)
    assert found is not None
    (connections / found.device.partition(":")[2] / "abort").write_text("1")


def test_m3_an_aborted_connection_is_an_error(
    mounted: Mounting, serving: Serving, connections: Path
) -> None:
    mount = mounted(serving(PRESETS["small"]()))
    abort(connections, mount.root)

    assert mount.ended() == 1
    assert [WORDS in line for line in mount.surprises()][:1] == [True]
    assert "unmounted" not in mount.log()
    assert "Traceback" not in mount.log()

    with pytest.raises(OSError, match="not connected") as broken:
        os.listdir(mount.root)

    assert broken.value.errno == errno.ENOTCONN

    subprocess.run(
        [sys.executable, "-m", "pictofs", "unmount", mount.root],
        env=mount.environ,
        check=True,
        timeout=60,
    )

    assert mount_table.mount_at(mount.root) is None


def test_m3_an_aborted_connection_in_the_background_is_in_its_log(
    mounted: Mounting, serving: Serving, connections: Path, tmp_path: Path
) -> None:
    other = mounted(serving(PRESETS["small"]()))
    folder = tmp_path / "background"
    folder.mkdir()
    log = tmp_path / "its.log"
    command = [sys.executable, "-m", "pictofs", "mount", "--log-file", str(log), str(folder)]
    subprocess.run(command, env=other.environ, check=True, timeout=60)
    pid = json.loads((folder / ".pictofs/status.json").read_bytes())["pid"]
    abort(connections, folder)
    pidfd = os.pidfd_open(pid)

    assert select.select([pidfd], [], [], 30)[0]

    os.close(pidfd)

    assert log.read_text().count(WORDS) == 1
    assert "ERROR" in next(line for line in log.read_text().splitlines() if WORDS in line)

    mounting.detach(folder, lazy=True)


@pytest.mark.parametrize("flags", [[], ["-f"], ["-l"]], ids=["plain", "forced", "lazy"])
def test_m2_an_unmount_by_root_is_no_error(
    mounted: Mounting, serving: Serving, flags: list[str]
) -> None:
    mount = mounted(serving(PRESETS["small"]()))
    subprocess.run(["umount", *flags, mount.root], check=True, timeout=30)
    assert mount.ended() == 0
    assert "unmounted" in mount.log()
    assert mount.surprises() == []


def test_m3_a_forced_unmount_of_a_mount_in_use_breaks_it(
    mounted: Mounting, serving: Serving
) -> None:
    mount: Mount = mounted(serving(PRESETS["small"]()))
    held = os.open(mount.root, os.O_RDONLY)

    try:
        assert subprocess.run(
            ["umount", "-f", mount.root], capture_output=True, timeout=30
        ).returncode
        assert mount.ended() == 1
        assert WORDS in mount.log()
    finally:
        os.close(held)
