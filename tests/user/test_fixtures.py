"""What the fixtures for odd places and other users do themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from as_user import expose
from mounting import DECOYS, ForeignFolder, needs_mount_namespace

AS_USER = Path(__file__).with_name("as_user.py")


@pytest.mark.parametrize("name", DECOYS)
def test_a_module_of_a_foreign_folder_leaves_a_mark(tmp_path: Path, name: str) -> None:
    folder = ForeignFolder(tmp_path / "foreign")
    assert folder.imported == []
    code = f"import sys; sys.modules.pop({name!r}, None); import {name}"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=folder.path, capture_output=True)
    assert folder.imported == [name]


def test_a_hostile_folder_is_there(hostile_folder: Path) -> None:
    assert hostile_folder.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@needs_mount_namespace
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_what_lies_in_closed_folders_is_shown_to_a_user_alone(tmp_path: Path, closed: int) -> None:
    """As a checkout below /root is, or one that is closed itself: `closed` says which folder is."""
    wanted = tmp_path / "outer" / "inner"
    wanted.mkdir(parents=True)
    (wanted / "file").write_text("needed")
    (wanted / "folder").mkdir()
    (wanted / "link").symlink_to("file")
    (tmp_path / "outer" / "secret").write_text("not needed")
    (tmp_path, tmp_path / "outer", wanted)[closed].chmod(0o700)
    code = (
        "import os, sys; from pathlib import Path; from as_user import expose; wanted = Path(sys.argv[1])\n"
        "expose(wanted)\n"
        "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3)\n"
        "assert (wanted / 'link').read_text() == 'needed' and (wanted / 'folder').is_dir()\n"
        f"assert {closed} == 2 or not (wanted.parent / 'secret').exists() or {closed} == 0\n"
    )
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        sys.executable,
        "-c",
        code,
        str(wanted),
    ]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(AS_USER.parent)})

    assert (wanted.parent / "secret").read_text() == "not needed"
    assert callable(expose)
