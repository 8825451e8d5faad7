"""Mounts of a user who is not root: some of the other tests once more, as that user.

Root may read and write whatever the modes say, needs no fusermount3, and owns every folder that it
finds. A suite that runs as root, as in most containers, proves nothing of what people see who are
not; one that runs as a user anyhow has nothing to add here. What is covered is chosen by what a
user can change the outcome of, and for time: mounting, unmounting and signals, modes and owners,
copies by the programs of others, the folders of cache, log and socket.
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
"""Seconds for one part: 15 on an idle machine."""
PARTS = {
    "what only users see": {"tests/user/as_a_user.py": []},
    "mounting and unmounting": {
        "tests/cli/test_mount_command.py": [
            "test_m1_m2_mount_use_unmount",
            "test_m1_a_mount_point_that_is_taken",
            "test_a_mount_in_use",
            "test_m3_after_kill_9",
            "test_m2_the_background_ends_by_a_signal",
        ],
        "tests/mount/test_mount_signals.py": ["test_m6_in_the_foreground_it_unmounts"],
        "tests/cli/test_mounted.py": [
            "test_m4_a_block",
            "test_m4_a_place_of_ones_own",
            "test_m4_what_is_in_use_is_unmounted_lazily",
            "test_a_block_that_is_left_open_ends_with_its_process",
        ],
    },
    "modes and owners": {
        "tests/mount/test_mount_attributes.py": [
            "test_s6_modes_owner_links_and_blocks",
            "test_s7_statfs_is_plausible_and_asks_nobody",
            "test_r1_every_change_is_erofs",
            "test_access_says_read_only",
            "test_s1_a_large_file_of_wrong_size",
        ],
        "tests/mount/test_mount_tools.py": [
            "test_s5_cp_a_keeps_times",
            "test_find_shows_every_name_once",
            "test_gnu_tar_of_images",
            "test_cmp",
        ],
    },
    "the socket and downloads": {
        "tests/control/test_control.py": [
            "test_an_answer",
            "test_only_the_owner_can_open_the_socket",
            "test_a_dead_processs_socket_is_replaced",
            "test_nobody_listens",
            "test_places",
            "test_a_folder_that_is_not_ours_alone_is_refused",
        ],
        "tests/cli/test_download_command.py": ["test_d1_everything_lands_once"],
    },
}
"""By what they are about: test files, and which of their tests; none named stands for all."""


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
    environ |= {
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": "",
        "NO_PROXY": "127.0.0.1",
    }
    change = [
        sys.executable,
        str(ROOT / "tests/user/as_user.py"),
        str(NOBODY),
        str(NOBODY),
        str(home),
    ]
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
    chosen = [
        f"{ROOT / file}::{name}" if name else f"{ROOT / file}"
        for file, names in PARTS[part].items()
        for name in names or [""]
    ]
    options = [
        "-q",
        "--maxfail=6",
        "-m",
        "not long",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        ROOT,
    ]
    options += ["-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", home / "tests"]
    done = as_user(home, sys.executable, "-m", "pytest", *options, *chosen)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

    passed = re.search(r"(\d+) passed", done.stdout)

    assert passed is not None, done.stdout

    print(done.stdout.splitlines()[-1])
