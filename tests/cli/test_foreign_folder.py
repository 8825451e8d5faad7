"""Commands in a working folder that somebody else has filled: nothing of it is run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import inherited

from pictofs.app import mount_table, mounting
from standin import Spec, StandIn
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

FILES = 60
"""Enough reads for the worker to be started."""
PROGRAMS = ("fusermount3", "umount", "ls", "find", "head", "md5sum", "sort", "python3")
OWN = ("pictofs", "standin")
"""Left alone: `python -m pictofs` runs what is called so in the working folder, before it can do
anything."""


def imported() -> set[str]:
    """The modules that pictofs and what it starts import."""
    code = (
        "import sys\n"
        "import pictofs.cli.commands, pictofs.cli.demo_steps, pictofs.app.mount, pictofs.app.doctor, pictofs.notebook\n"
        "import pictofs.library.content.worker_process, standin.__main__, uvicorn, httpx\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split()) - {*OWN, "__main__"}


class Trap:
    """A folder full of modules and programs that leave a mark where they are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trap"
        self.folder.mkdir()
        self._mark = folder / "mark"
        names = imported()

        assert {"msgspec", "trio", "httpx", "typer"} <= names

        for name in names:
            code = f"open({str(self._mark)!r}, 'a').write(__name__ + ' ')\nraise ImportError('a trap')\n"
            (self.folder / f"{name}.py").write_text(code)

        for name in PROGRAMS:
            program = self.folder / name
            program.write_text(f"#!/bin/sh\necho {name} >> {self._mark}\nexit 1\n")
            program.chmod(0o755)

    def spare_the_library(self) -> None:
        """Take away what Python itself would import before the first line of ours is run."""
        for name in sys.stdlib_module_names:
            (self.folder / f"{name}.py").unlink(missing_ok=True)

    @property
    def sprung(self) -> str:
        """What of it was run."""
        return self._mark.read_text() if self._mark.exists() else ""


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(Spec((DatasetSpec("small", images=FILES, size=2000, directories=1),))) as running:
        yield running


@pytest.fixture
def environ(tmp_path: Path, server: StandIn) -> dict[str, str]:
    """With the working folder first where shells and Python look for programs, by an empty
    entry."""
    return {
        **inherited(),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PATH": f":.:{os.environ['PATH']}",
        "PICTOFS_CACHE_DIR": str(tmp_path / "cache"),
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
    }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    while mount_table.mount_at(path):
        mounting.detach(path, lazy=True)


SCRIPT = (str(Path(sys.executable).with_name("pictofs")),)
MODULE = (sys.executable, "-m", "pictofs")


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["script", "module"])
def test_k7_a_mount_and_its_worker(
    trap: Trap, environ: dict[str, str], place: Path, program: tuple[str, ...]
) -> None:
    if program == MODULE:
        trap.spare_the_library()
    process = subprocess.Popen(
        [*program, "mount", "--foreground", "--prefetch", "all", place],
        cwd=trap.folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    try:
        assert process.stdout is not None
        assert process.stdout.readline(), process.communicate()

        for path in sorted((place / "datasets/small/images").rglob("*.jpg")):
            path.read_bytes()
        tasks = Path(f"/proc/{process.pid}/task").iterdir()

        assert [child for task in tasks for child in (task / "children").read_text().split()]

        done = subprocess.run(
            [*program, "unmount", place], cwd=trap.folder, env=environ, capture_output=True
        )

        assert done.returncode == 0, done.stderr

        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert trap.sprung == ""
    assert "a trap" not in said


def test_k7_commands_and_the_demo(trap: Trap, environ: dict[str, str], place: Path) -> None:
    del environ["PICTOGRAPH_BASE_URL"], environ["PICTOGRAPH_API_KEY"]
    for command in (("demo", str(place)), ("status",), ("doctor",), ("cache", "info"), ("--help",)):
        subprocess.run(
            [*SCRIPT, *command], cwd=trap.folder, env=environ, capture_output=True, timeout=90
        )
        assert trap.sprung == "", command
    assert mount_table.mount_at(place) is None


@pytest.mark.parametrize("path", ["", ":/nowhere", "."])
def test_k7_a_notebook(trap: Trap, environ: dict[str, str], tmp_path: Path, path: str) -> None:
    """Its own interpreter is its user's to start; the commands that it runs are ours."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "import pictofs\n"
        f"os.environ['PYTHONPATH'] = {path!r}\n"
        "with pictofs.mounted() as root:\n"
        "    print(os.listdir(root / 'datasets'))\n"
    )
    done = subprocess.run(
        [sys.executable, program],
        cwd=trap.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.stdout == "['small']\n", done.stderr
    assert trap.sprung == ""
