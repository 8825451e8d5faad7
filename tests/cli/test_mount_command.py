"""`mount`, `unmount`, `status`, `demo` on real mounts of the stand-in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mounting import inherited
from starting import Pictofs

from pictofs.app import mount_table, mounting, probe
from pictofs.model.printable import printable
from standin import PRESETS, StandIn

pytest.importorskip("pictofs.app.mount")
pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(PRESETS["small"]()) as running:
        yield running


def _python(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "pictofs", *map(str, arguments)], **options)


class Prompt:
    """A shell's view: commands with a server, a key and a cache of their own in the environment."""

    def __init__(self, folder: Path, url: str, key: str) -> None:
        self.key = key
        self.environ = {
            **inherited(),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PICTOFS_CACHE_DIR": str(folder / "cache"),
            "PICTOGRAPH_BASE_URL": url,
            "PICTOGRAPH_API_KEY": key,
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        # A mount is found by its command line, which is that of Python itself.
        start = _python if arguments[0] == "mount" else Pictofs
        return start(
            *arguments,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in err
        assert self.key not in out + err
        return process.returncode, out, err

    def good(self, *arguments: str | Path) -> str:
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def fails(self, code: int, *arguments: str | Path) -> str:
        got, _, err = self.run(*arguments)
        assert got == code, err
        assert err.count("error: ") == 1
        return err

    def status(self, mountpoint: Path) -> tuple[int, dict[str, Any]]:
        code, out, _ = self.run("status", mountpoint, "--json")
        (facts,) = json.loads(out)
        return code, facts


@pytest.fixture
def prompt(tmp_path: Path, server: StandIn) -> Prompt:
    return Prompt(tmp_path, server.api_url, server.keys["viewer"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point with everything in its name that mountinfo escapes."""
    path = tmp_path / "a b\\c\tü"
    path.mkdir()
    yield path
    while mount_table.mount_at(path):
        mounting.detach(path, lazy=True)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(path: Path) -> list[int]:
    """The processes of the mount at `path`, by their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if os.fsencode(path) in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def kill(path: Path) -> None:
    (pid,) = processes_of(path)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: probe.state_of(path) == "stale")


def test_m1_m2_mount_use_unmount(
    prompt: Prompt, place: Path, server: StandIn, tmp_path: Path
) -> None:
    said = prompt.good("mount", place)
    assert f"{server.api_url} is mounted at {printable(str(place))}" in said
    assert f"{printable(str(place))}/.pictofs/README.md" in said  # V9
    assert sorted(os.listdir(place / "datasets")) == ["small"]

    code, facts = prompt.status(place)

    assert (code, facts["mountpoint"], facts["state"]) == (0, str(place), "live")
    assert facts["status"]["base_url"] == server.api_url
    assert server.api_url in prompt.good("status", place)

    # Where its log is, also once it can't be asked.
    (log,) = (tmp_path / "cache/log").iterdir()
    assert facts["status"]["log"] == str(log)
    assert f"live; its log is {log}" in prompt.run("doctor", place)[1]

    assert any(
        one["mountpoint"] == str(place) for one in json.loads(prompt.good("status", "--json"))
    )

    assert "is unmounted" in prompt.good("unmount", place)
    assert mount_table.mount_at(place) is None

    wait_for(lambda: not processes_of(place))
    log = "".join(file.read_text() for file in (tmp_path / "cache/log").iterdir())

    assert prompt.key not in log
    assert "is not mounted" in prompt.fails(4, "unmount", place)


def test_o4_m1_a_refused_key(prompt: Prompt, place: Path) -> None:
    prompt.environ["PICTOGRAPH_API_KEY"] = prompt.key = "pk_live_" + "0" * 64
    said = prompt.fails(2, "mount", place)
    assert "key" in said
    assert mount_table.mount_at(place) is None
    wait_for(lambda: not processes_of(place))
    again = prompt.fails(2, "mount", "--foreground", "--log-file", place.parent / "log", place)
    assert again.partition("request id")[0] == said.partition("request id")[0]


def test_m1_a_mount_point_that_is_taken(prompt: Prompt, place: Path) -> None:
    prompt.good("mount", place)
    assert "is mounted already" in prompt.fails(5, "mount", place)
    assert os.listdir(place / "datasets")


def test_the_command_itself_does_not_use_the_mount(prompt: Prompt, place: Path) -> None:
    """It may be typed in there; the shell is another matter."""
    prompt.good("mount", place)
    done = _python(
        *("unmount", "."), env=prompt.environ, cwd=place, stdout=subprocess.PIPE, text=True
    )
    assert done.communicate(timeout=60)[0] == f"{printable(str(place))} is unmounted\n"
    assert mount_table.mount_at(place) is None


def test_a_mount_in_use(prompt: Prompt, place: Path) -> None:
    prompt.good("mount", place)
    user = subprocess.Popen(["sleep", "60"], cwd=place)
    try:
        wait_for(lambda: list(mounting.holders(place)))
        assert f"in use by sleep ({user.pid})" in prompt.fails(5, "unmount", place)
        assert "is unmounted" in prompt.good("unmount", "--lazy", place)
    finally:
        user.kill()
        user.wait()
    wait_for(lambda: not processes_of(place))


def test_m3_after_kill_9(prompt: Prompt, place: Path) -> None:
    prompt.good("mount", place)
    kill(place)
    code, facts = prompt.status(place)

    assert (code, facts["state"], facts["status"]) == (1, "stale", None)
    assert "its process is gone; its log is " in prompt.run("doctor", place)[1]
    assert "stale" in prompt.run("status", place)[1]

    code, _, err = prompt.run("mount", place)

    assert (code, "was left over" in err) == (0, True)
    assert os.listdir(place / "datasets")
    assert len([mount for mount in mount_table.all_mounts() if mount.path == place]) == 1

    kill(place)
    prompt.good("unmount", place)

    assert mount_table.mount_at(place) is None


def test_m2_the_background_ends_by_a_signal(prompt: Prompt, place: Path) -> None:
    prompt.good("mount", place)
    (pid,) = processes_of(place)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: mount_table.mount_at(place) is None)
    wait_for(lambda: not processes_of(place))


def test_the_demo(prompt: Prompt, place: Path, tmp_path: Path) -> None:
    prompt.environ["PICTOGRAPH_API_KEY"] = "pk_live_" + "5ec2e7" * 10
    del prompt.environ["PICTOGRAPH_BASE_URL"]
    code, said, warned = prompt.run("demo", place)
    assert code == 0
    assert "the demo does not use your PICTOGRAPH_API_KEY" in warned
    assert "street-signs" in said
    assert '"bounding_box": {\n        "x": ' in said
    assert "by-split:\ntest\ntrain\n" in said
    assert "cannot" not in said
    assert "(0 requests)\n\nThe demo has ended" in said
    assert mount_table.mount_at(place) is None
    assert not list(tmp_path.glob("pictofs-demo-*"))


def test_the_demo_is_one_to_work_with(prompt: Prompt, place: Path, tmp_path: Path) -> None:
    """What it says to export makes commands and mounts of the user's own work."""
    del prompt.environ["PICTOGRAPH_BASE_URL"], prompt.environ["PICTOGRAPH_API_KEY"]
    process = prompt.start("demo", "--keep", place)
    assert process.stdout is not None
    while "PICTOGRAPH_API_KEY" not in prompt.environ:
        words = process.stdout.readline().split()
        if words[:1] == ["export"]:
            variable, _, value = words[1].partition("=")
            prompt.environ[variable] = value

    second = tmp_path / "second"
    second.mkdir()
    try:
        prompt.good("dataset", "create", "mine")
        prompt.good("mount", second)
        assert "mine" in os.listdir(second / "datasets")
        prompt.good("unmount", second)
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert out.startswith("\nThe demo has ended")


def test_the_demo_ends_by_a_signal(prompt: Prompt, place: Path, tmp_path: Path) -> None:
    del prompt.environ["PICTOGRAPH_BASE_URL"], prompt.environ["PICTOGRAPH_API_KEY"]
    process = prompt.start("demo", "--keep", place)
    wait_for(lambda: mount_table.mount_at(place))
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    assert mount_table.mount_at(place) is None
    assert not list(tmp_path.glob("pictofs-demo-*"))
