"""Which signals end a mount, and that none leaves the mount point broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually, inherited

from pictofs.app import mount_table, mounting
from standin import Spec, StandIn
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SPEC = Spec((DatasetSpec("small", images=3, size=2000, directories=1),))


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGTERM", "SIGINT"])
def test_m6_in_the_foreground_it_unmounts(mounted: Mounting, serving: Serving, name: str) -> None:
    mount = mounted(serving(SPEC))
    os.kill(mount.pid, signal.Signals[name])
    eventually(lambda: mount_table.mount_at(mount.root), None)
    assert mount.wait() == 0
    assert "stopping on " + name in mount.log()
    assert "Traceback" not in mount.log()
    assert mount.key not in mount.log()


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGPIPE"])
def test_m6_what_means_nothing_ends_nothing(mounted: Mounting, serving: Serving, name: str) -> None:
    mount = mounted(serving(SPEC))
    os.kill(mount.pid, signal.Signals[name])
    assert os.listdir(mount.datasets) == ["small"]
    mount.unmount()


class Daemon:
    """`pictofs mount` in the background."""

    def __init__(self, server: StandIn, folder: Path) -> None:
        self.root = folder / "mnt"
        self.root.mkdir()
        self.log = folder / "the log"
        self.environ = {
            **inherited(),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": "",
            "PICTOFS_CACHE_DIR": str(folder / "cache"),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys["viewer"],
        }

    def command(self, *arguments: str) -> list[str]:
        options = ["--log-file", str(self.log), "--access-log", f"{self.log}.accesses"]
        return [sys.executable, "-m", "pictofs", "mount", *options, *arguments, str(self.root)]

    def start(self) -> int:
        """Mount. Returns: the process."""
        subprocess.run(self.command(), env=self.environ, check=True, stdout=subprocess.DEVNULL)
        return int(Mount.status_of(self.root)["pid"])


@pytest.fixture
def daemon(serving: Serving, tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(serving(SPEC), tmp_path)
    yield made
    while mount_table.mount_at(made.root):
        mounting.detach(made.root, lazy=True)


def test_m6_in_the_background_the_logs_are_opened_anew(daemon: Daemon) -> None:
    """As log rotation does it: move the file away, and send SIGHUP."""
    process = daemon.start()
    accesses = Path(f"{daemon.log}.accesses")
    os.listdir(daemon.root / "datasets")
    for file in (daemon.log, accesses):
        file.rename(f"{file}.old")
    os.kill(process, signal.SIGHUP)
    eventually(lambda: daemon.log.exists() and "goes on" in daemon.log.read_text(), True)

    assert daemon.log.stat().st_mode & 0o777 == 0o600
    assert os.readlink(f"/proc/{process}/fd/2") == str(daemon.log)

    (daemon.root / "datasets/nothing").exists()

    assert "/datasets/nothing" in accesses.read_text()
    assert "/datasets/nothing" not in Path(f"{accesses}.old").read_text()

    os.kill(process, signal.SIGTERM)
    eventually(lambda: mount_table.mount_at(daemon.root), None)

    assert "unmounted" in daemon.log.read_text()
    assert "unmounted" not in Path(f"{daemon.log}.old").read_text()


def test_m6_a_log_that_can_not_be_opened_anew_stays(daemon: Daemon) -> None:
    process = daemon.start()
    daemon.log.rename(f"{daemon.log}.old")
    daemon.log.mkdir()
    os.kill(process, signal.SIGHUP)
    old = Path(f"{daemon.log}.old")
    eventually(lambda: "can't be opened anew" in old.read_text(), True)
    assert os.listdir(daemon.root / "datasets") == ["small"]


def test_m6_nohup_holds(daemon: Daemon) -> None:
    """Whoever starts it without hangups wants none."""
    process = subprocess.Popen(
        ["nohup", *daemon.command("--foreground")], env=daemon.environ, stdout=subprocess.PIPE
    )

    try:
        assert process.stdout is not None
        assert process.stdout.readline()

        process.send_signal(signal.SIGHUP)

        assert os.listdir(daemon.root / "datasets") == ["small"]

        process.send_signal(signal.SIGTERM)

        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("background", [True, False])
def test_m5_one_mount_point_one_mount(daemon: Daemon, background: bool) -> None:
    """Whoever comes second is told so, however close they come."""
    command = daemon.command(*([] if background else ["--foreground"]))
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, env=daemon.environ, text=True, **pipes) for _ in range(4)]

    try:
        lost = _ended(started, 4 if background else 3)
        said = [each.communicate()[1] for each in lost if each.returncode]

        assert len(said) == 3
        assert {each.returncode for each in lost if each.returncode} == {5}
        assert all("is mounted already" in each for each in said), said
        assert len([mount for mount in mount_table.all_mounts() if mount.path == daemon.root]) == 1
        assert os.listdir(daemon.root / "datasets") == ["small"]
    finally:
        for each in started:
            each.terminate()
            each.wait(30)


def test_m5_who_fails_makes_way(daemon: Daemon) -> None:
    """The lock of one that could not mount is no one's."""
    wrong = {**daemon.environ, "PICTOGRAPH_API_KEY": "pk_live_" + "0" * 64}
    assert subprocess.run(daemon.command(), env=wrong, capture_output=True).returncode == 2
    daemon.start()
    assert os.listdir(daemon.root / "datasets") == ["small"]


def _ended(processes: list[subprocess.Popen[str]], count: int) -> list[subprocess.Popen[str]]:
    ended: Callable[[], list[subprocess.Popen[str]]] = lambda: [  # noqa: E731
        each for each in processes if each.poll() is not None
    ]
    end = time.monotonic() + 90
    while len(ended()) < count and time.monotonic() < end:
        time.sleep(0.05)
    assert len(ended()) == count
    return ended()
