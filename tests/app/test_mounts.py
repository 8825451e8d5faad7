"""Reading mountinfo, and what stands in the way of a mount."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs import programs
from pictofs.app import mounts
from pictofs.errors import Conflict, Invalid, MountFailed, NoSuchEntry, TimedOut

INFO = r"""23 28 0:22 / /proc rw,nosuid shared:13 - proc proc rw
91 28 0:50 / /home/u/my\040data\134x\012y rw,nosuid,nodev - fuse.pictofs pictofs ro,user_id=0
92 28 0:51 / /home/u/other ro shared:1 master:2 - fuse.sshfs host: rw
93 91 0:52 / /home/u/my\040data\134x\012y rw - fuse.pictofs pictofs ro
broken line
"""


def test_mountinfo() -> None:
    found = mounts.parse_mountinfo(INFO)
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
    mounts.parse_mountinfo(text)


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mountinfo that says what `INFO` says."""
    file = tmp_path / "mountinfo"
    file.write_text(INFO)
    monkeypatch.setattr(mounts, "MOUNTINFO", file)
    return file


def test_the_mount_of_a_path(mounted: Path) -> None:
    mounted.write_text(INFO + "1 1 0:1 / / rw - ext4 /dev/sda rw\n")
    assert mounts.mount_of(Path("/home/u/other/a/b")) == mounts.mount_at(Path("/home/u/other"))
    root = mounts.mount_of(Path("/home/u/othermore"))
    assert root
    assert root.path == Path("/")


def test_this_machines_own_mountinfo() -> None:
    assert mounts.mount_at(Path("/proc"))


def test_resolving_follows_links_above_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "real/m").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "end").symlink_to("real/m")
    assert mounts.resolve(tmp_path / "link/m") == tmp_path / "real/m"
    assert mounts.resolve(tmp_path / "end") == tmp_path / "real/m"
    assert mounts.resolve(tmp_path / "link/missing") == tmp_path / "real/missing"
    assert mounts.resolve(tmp_path / "link/../real/m/.") == tmp_path / "real/m"


def test_an_empty_folder_can_be_mounted_on(tmp_path: Path) -> None:
    assert mounts.prepare(tmp_path) is False


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
        mounts.prepare(tmp_path / name)


def test_a_foreign_mount_is_busy() -> None:
    with pytest.raises(Conflict, match="busy: proc"):
        mounts.prepare(Path("/proc"))
    with pytest.raises(Invalid, match="no pictofs mount but proc"):
        mounts.unmount(Path("/proc"))


def test_nothing_to_unmount(tmp_path: Path) -> None:
    with pytest.raises(NoSuchEntry, match="is not mounted"):
        mounts.unmount(tmp_path)


def test_a_machine_without_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "DEVICE", tmp_path / "fuse")
    with pytest.raises(MountFailed, match=r"modprobe fuse.*--device /dev/fuse"):
        mounts.check_machine(allow_other=False)


def test_a_user_without_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(mounts, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MountFailed, match="apt-get install fuse3"):
        mounts.check_machine(allow_other=False)


@pytest.mark.parametrize(
    ("conf", "allowed"), [("user_allow_other\n", True), ("#user_allow_other\n", False)]
)
def test_allow_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str, allowed: bool
) -> None:
    for name in ("fuse", "fusermount3"):
        (tmp_path / name).touch(0o755)
    (tmp_path / "fuse.conf").write_text(conf)
    monkeypatch.setattr(mounts, "DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(mounts, "FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    if allowed:
        mounts.check_machine(allow_other=True)
    else:
        mounts.check_machine(allow_other=False)
        with pytest.raises(MountFailed, match="user_allow_other"):
            mounts.check_machine(allow_other=True)


def test_an_answer_comes_back_whole() -> None:
    assert mounts.run_in_subprocess(10, lambda: b"x" * 300_000) == b"x" * 300_000
    assert mounts.run_in_subprocess(10, lambda: b"") == b""


def test_an_error_comes_back() -> None:
    def fail() -> bytes:
        raise OSError(errno.ENOTCONN, "gone")

    with pytest.raises(OSError, match="not connected") as caught:
        mounts.run_in_subprocess(10, fail)
    assert caught.value.errno == errno.ENOTCONN


def test_a_death_without_an_answer_is_an_error() -> None:
    with pytest.raises(OSError, match="Input/output"):
        mounts.run_in_subprocess(10, lambda: os._exit(1))


def test_who_does_not_answer_is_left_behind() -> None:
    began = time.monotonic()

    def hang() -> bytes:
        time.sleep(30)
        return b""

    with pytest.raises(TimedOut):
        mounts.run_in_subprocess(0.2, hang)
    assert time.monotonic() - began < 10


def test_holders(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w"):
        assert os.getpid() in [pid for pid, _ in mounts.holders(tmp_path)]
    assert os.getpid() not in [pid for pid, _ in mounts.holders(tmp_path)]


FORKING = """
import os, signal
from pictofs.app import mounts

def end(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, end)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    mounts.run_in_subprocess(10, lambda: b"")
except KeyboardInterrupt:
    print("ended")
"""


def test_m6_a_signal_that_comes_while_a_command_forks_is_not_lost() -> None:
    """Python drops what a handler raises within a hook of fork."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")
