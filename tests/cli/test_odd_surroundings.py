"""Commands where something that is always there is not: a sentence and an exit code, or it simply
works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import needs_mount_namespace

from pictofs import programs
from pictofs.app import mount_table, mounting
from standin import Organization, StandIn

pytestmark = pytest.mark.skipif(
    not os.path.exists("/dev/fuse") or os.geteuid() != 0, reason="needs root and /dev/fuse"
)

MOUNT = 'pictofs mount "$PLACE" && ls "$PLACE/datasets" && pictofs unmount "$PLACE"'


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    organization = Organization()
    organization.add_dataset("ünï 画像")
    with StandIn(organization) as running:
        yield running


class Shell:
    """Runs scripts, in which `pictofs` is the command of this checkout."""

    def __init__(self, folder: Path, server: StandIn) -> None:
        self.folder = folder
        self.place = folder / "mnt"
        self.place.mkdir()
        self.environ = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PATH": os.environ["PATH"],
            "PLACE": str(self.place),
            "PICTOFS_CACHE_DIR": str(folder / "cache"),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys["admin"],
        }

    def __call__(self, script: str, *around: str) -> subprocess.CompletedProcess[str]:
        """What became of it; never a bug, nor a traceback."""
        done = subprocess.run(
            [
                *around,
                "/bin/bash",
                "-c",
                f'pictofs() {{ "{sys.executable}" -m pictofs "$@"; }}\n{script}',
            ],
            env=self.environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )

        assert "bug" not in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "Exception ignored" not in done.stderr, done.stderr

        return done

    def works(self, script: str, *around: str) -> str:
        """Its output."""
        done = self(script, *around)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path, server: StandIn) -> Iterator[Shell]:
    made = Shell(tmp_path, server)
    yield made
    while mount_table.mount_at(made.place):
        mounting.detach(made.place, lazy=True)


def test_m7_a_runtime_folder_of_somebody_else(shell: Shell, tmp_path: Path) -> None:
    """As sudo leaves it in the environment. Nothing of ours is put in there, or its owner could not
    mount any more."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    os.chown(runtime, 65534, 65534)
    shell.environ["XDG_RUNTIME_DIR"] = str(runtime)
    shell.works(MOUNT)
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("runtime", ["/nowhere", "relative", "/proc", "/dev/null"])
def test_m7_a_runtime_folder_that_is_none(shell: Shell, runtime: str) -> None:
    shell.environ["XDG_RUNTIME_DIR"] = runtime
    shell.works(MOUNT)


def test_m7_no_home(shell: Shell) -> None:
    """A user that the machine does not list, as containers have it."""
    del shell.environ["HOME"], shell.environ["PICTOFS_CACHE_DIR"]
    user = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
    user = (*user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    assert "ünï 画像" in shell.works("pictofs dataset list", *user)
    for command in ("mount /tmp", "download x y", "cache info"):
        done = shell(f"pictofs {command}", *user)
        assert (done.returncode, done.stderr.count("error: ")) == (6, 1), done.stderr
        assert "set HOME, or name one by --cache-dir" in done.stderr


def test_m7_closed_streams(shell: Shell) -> None:
    shell.works("pictofs dataset list >&-")
    shell.works("pictofs --help <&- >&- 2>&-")
    for closed in ("<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"):
        shell.works(
            f'pictofs mount "$PLACE" {closed}; ls "$PLACE/datasets" && pictofs unmount "$PLACE" {closed}'
        )


@pytest.mark.parametrize(
    "command", ["--help", "dataset list", "status", "status --json", "doctor --json"]
)
def test_m7_an_output_that_takes_no_more(shell: Shell, command: str) -> None:
    done = shell(f"pictofs {command} > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "error: the output can't be written: No space left on device\n",
    )


def test_m7_an_output_that_takes_no_more_of_a_command_that_fails(shell: Shell) -> None:
    shell.environ["PICTOGRAPH_API_KEY"] = "pk_live_of_nobody"
    done = shell("pictofs doctor --json > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "error: the output can't be written: No space left on device\n",
    )


def test_m7_a_reader_that_leaves(shell: Shell) -> None:
    assert shell("set -o pipefail; pictofs dataset list | true").stderr == ""


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_m7_a_terminal_without_the_letters(shell: Shell, variables: dict[str, str]) -> None:
    shell.environ |= {**variables, "PYTHONCOERCECLOCALE": "0"}
    assert "n\\xef" in shell.works("pictofs dataset list")
    assert "mnt/\\u" in shell('pictofs unmount "$PLACE/画"').stderr
    shell.works(MOUNT)


@needs_mount_namespace
def test_m7_without_programs_to_unmount(shell: Shell) -> None:
    """As in a container of the least size."""
    shell.environ["PATH"] = str(shell.folder)
    hide = "".join(
        f"mount --bind /dev/null {path}; "
        for name in ("fusermount3", "umount")
        if (path := programs.which(name))
    )
    script = (
        f"PATH={os.environ['PATH']}; {hide} PATH={shell.folder}; {MOUNT.replace('ls', '/bin/ls')}"
    )
    shell.works(script, "/usr/bin/unshare", "--mount")


def test_m7_why_it_can_not_be_mounted(shell: Shell) -> None:
    """The reason is libfuse's, which writes it to a terminal that is not there."""
    done = shell(
        'pictofs mount "$PLACE"', "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"
    )
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "ermission denied" in done.stderr or "not permitted" in done.stderr
