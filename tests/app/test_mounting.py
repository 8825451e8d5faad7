"""What stands in the way of a mount, and who uses one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pictofs import programs
from pictofs.app import mounting
from pictofs.errors import Conflict, Invalid, MountFailed, NoSuchEntry


def test_an_empty_folder_can_be_mounted_on(tmp_path: Path) -> None:
    assert mounting.prepare(tmp_path) is False


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("missing", NoSuchEntry, "mkdir -p"),
        ("file", Invalid, "not a folder"),
        ("full", Conflict, "not empty"),
    ],
)
def test_what_can_not_be_mounted_on(
    tmp_path: Path, name: str, kind: type[Exception], words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full/x").mkdir(parents=True)
    with pytest.raises(kind, match=words):
        mounting.prepare(tmp_path / name)


def test_a_foreign_mount_is_busy() -> None:
    with pytest.raises(Conflict, match="busy: proc"):
        mounting.prepare(Path("/proc"))
    with pytest.raises(Invalid, match="no pictofs mount but proc"):
        mounting.unmount(Path("/proc"))


def test_nothing_to_unmount(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEntry, match="is not mounted"):
        mounting.unmount(tmp_path)


def test_a_machine_without_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "DEVICE", tmp_path / "fuse")
    with pytest.raises(MountFailed, match=r"modprobe fuse.*--device /dev/fuse"):
        mounting.check_machine(allow_other=False)


def test_a_user_without_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(mounting, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountFailed, match="apt-get install fuse3"):
        mounting.check_machine(allow_other=False)


@pytest.mark.parametrize(
    ("conf", "allowed"), [("user_allow_other\n", True), ("#user_allow_other\n", False)]
)
def test_allow_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str, allowed: bool
) -> None:
    for name in ("fuse", "fusermount3"):
        (tmp_path / name).touch(0o755)
    (tmp_path / "fuse.conf").write_text(conf)
    monkeypatch.setattr(mounting, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(mounting, "FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))

    if allowed:
        mounting.check_machine(allow_other=True)
    else:
        mounting.check_machine(allow_other=False)
        with pytest.raises(MountFailed, match="user_allow_other"):
            mounting.check_machine(allow_other=True)


def test_holders(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w"):
        assert os.getpid() in [pid for pid, _ in mounting.holders(tmp_path)]
    assert os.getpid() not in [pid for pid, _ in mounting.holders(tmp_path)]
