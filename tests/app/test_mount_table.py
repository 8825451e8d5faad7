"""Reading mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.app import mount_table

INFO = r"""23 28 0:22 / /proc rw,nosuid shared:13 - proc proc rw
91 28 0:50 / /home/u/my\040data\134x\012y rw,nosuid,nodev - fuse.pictofs pictofs ro,user_id=0
92 28 0:51 / /home/u/other ro shared:1 master:2 - fuse.sshfs host: rw
93 91 0:52 / /home/u/my\040data\134x\012y rw - fuse.pictofs pictofs ro
broken line
"""


def test_mountinfo() -> None:
    found = mount_table.parse_mountinfo(INFO)
    assert [str(mount.path) for mount in found] == [
        "/proc",
        "/home/u/my data\\x\ny",
        "/home/u/other",
        "/home/u/my data\\x\ny",
    ]
    assert [mount.ours for mount in found] == [False, True, False, True]
    assert found[2].source == "host:"


@given(st.text())
def test_no_mountinfo_is_too_odd(text: str) -> None:
    mount_table.parse_mountinfo(text)


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mountinfo that says what `INFO` says."""
    file = tmp_path / "mountinfo"
    file.write_text(INFO)
    monkeypatch.setattr(mount_table, "MOUNTINFO", file)
    return file


def test_the_mount_of_a_path(mounted: Path) -> None:
    mounted.write_text(INFO + "1 1 0:1 / / rw - ext4 /dev/sda rw\n")
    assert mount_table.mount_of(Path("/home/u/other/a/b")) == mount_table.mount_at(
        Path("/home/u/other")
    )
    root = mount_table.mount_of(Path("/home/u/othermore"))
    assert root
    assert root.path == Path("/")


def test_this_machines_own_mountinfo() -> None:
    assert mount_table.mount_at(Path("/proc"))


def test_resolving_follows_links_above_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "real/m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "end").symlink_to("real/m")
    assert mount_table.resolve(tmp_path / "link/m") == tmp_path / "real/m"
    assert mount_table.resolve(tmp_path / "end") == tmp_path / "real/m"
    assert mount_table.resolve(tmp_path / "link/missing") == tmp_path / "real/missing"
    assert mount_table.resolve(tmp_path / "link/../real/m/.") == tmp_path / "real/m"
