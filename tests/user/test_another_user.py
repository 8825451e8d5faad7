"""Mounts of a user who is not root: some of the other tests once more, as that user.

Root may read and write whatever the modes say, needs no fusermount3, and owns every folder that it finds. A suite that
runs as root, as in most containers, proves nothing of what people see who are not; one that runs as a user anyhow has
nothing to add here. What is covered is chosen for time: mount and unmount in all forms, reading and copying by the
programs of others, modes, the folders of cache and log, and the commands that talk to a mount.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import no_mount_namespace

ROOT = Path(__file__).parents[2]
NOBODY = 65534
"""A user that every system has, and that owns nothing."""
TIME = 400.0
"""Seconds for one part: 30 on an idle machine."""
PARTS = {
    "what only users see": ["tests/user/as_a_user.py"],
    "mounting and unmounting": ["tests/cli/test_mount_command.py"],
    "other programs": ["tests/mount/test_mount_tools.py"],
    "modes and owners": ["tests/mount/test_mount_attributes.py"],
    "commands": ["tests/cli/test_mounted.py"],
    "the control socket": ["tests/control"],
    "download": ["tests/cli/test_download_command.py"],
}


def hindrance() -> str | None:
    """Why no other user can mount here."""
    if os.geteuid() != 0:
        return "the whole suite runs as a user"
    program = shutil.which("fusermount3")
    if program is None or not os.path.exists("/dev/fuse"):
        return "needs fusermount3 and /dev/fuse"
    if not os.stat(program).st_mode & stat.S_ISUID:
        return "fusermount3 is not setuid: users can't mount here"
    if re.search(r"^NoNewPrivs:\t1", Path("/proc/self/status").read_text(), re.MULTILINE):
        return "no_new_privs is set: fusermount3 gets no rights"
    return no_mount_namespace()


pytestmark = pytest.mark.skipif(hindrance() is not None, reason=str(hindrance()))


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's, where its own way leads to it."""
    folder = Path(tempfile.mkdtemp(prefix="pictofs-user-"))
    try:
        os.chown(folder, NOBODY, NOBODY)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_user(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as the user, in a mount namespace that ends with it."""
    kept = ("PATH", "LANG", "LC_ALL", "TERM")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    environ |= {"HOME": str(home), "TMPDIR": str(home), "XDG_RUNTIME_DIR": "", "NO_PROXY": "127.0.0.1"}
    change = [sys.executable, str(ROOT / "tests/user/as_user.py"), str(NOBODY), str(NOBODY), str(home)]
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *change, *map(str, command)],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIME,
    )


def test_the_user_has_no_rights(home: Path) -> None:
    code = (
        "import os, pathlib, pictofs, standin, pyfuse3\n"
        f"assert os.getresuid() == os.getresgid() == ({NOBODY},) * 3 and os.getgroups() in ([], [{NOBODY}])\n"
        "assert 'CapEff:\\t0000000000000000' in pathlib.Path('/proc/self/status').read_text()\n"
        f"assert pathlib.Path.cwd() == pathlib.Path({str(home)!r})\n"
        f"assert pathlib.Path(pictofs.__file__).is_relative_to({str(ROOT)!r})\n"
    )
    done = as_user(home, sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(TIME + 20)
@pytest.mark.parametrize("part", PARTS)
def test_m1_as_another_user(home: Path, part: str) -> None:
    files = [ROOT / each for each in PARTS[part]]
    options = ["-q", "--maxfail=6", "-m", "not long", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", home / "tests"]
    done = as_user(home, sys.executable, "-m", "pytest", *options, *files)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    print(done.stdout.splitlines()[-1])
