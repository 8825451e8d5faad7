"""`pictofs top` on real mounts, on a terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, files_below
from starting import run_pictofs

from pictofs.app import mount_table
from pictofs.cli.top import choose
from pictofs.errors import NoSuchEntry
from standin import Spec
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))


class Terminal:
    """`pictofs top` on a pseudo terminal."""

    def __init__(self, mount: Mount, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pictofs",
                "top",
                str(mount.root),
                "--interval",
                "0.2",
                *arguments,
            ],
            env={**mount.environ, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        self.seen = ""

    def wait_for(self, pattern: str, seconds: float = 90.0) -> None:
        """Read what is drawn until it holds `pattern`."""
        end = time.monotonic() + seconds
        start = len(self.seen)
        while not re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen[start:])):
            assert time.monotonic() < end, self.seen[-4000:]
            if select.select([self._ours], [], [], 0.2)[0]:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """The exit code, once it has ended; the terminal is as it was."""
        while self.process.poll() is None:
            if select.select([self._ours], [], [], 0.05)[0]:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")

        self.seen += (
            os.read(self._ours, 65536).decode()
            if select.select([self._ours], [], [], 0.2)[0]
            else ""
        )

        assert termios.tcgetattr(self.theirs) == self.before
        assert "\x1b[?1049l" in self.seen  # the screen of before is back
        assert "Traceback" not in self.seen

        return self.process.returncode


def top(mount: Mount, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_pictofs("top", *arguments, env=mount.environ, text=True)


def test_one_frame(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    files_below(mount.datasets)
    spent = Spent(server)
    done = top(mount, str(mount.datasets / "small"), "--once", "--interval", "0.2")

    assert (done.returncode, done.stderr) == (0, "")

    lines = done.stdout.splitlines()

    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert str(mount.root)[-20:] in lines[0]
    assert "in from storage 0 B/s" in done.stdout
    assert "quits" not in done.stdout
    assert spent.all == []
    assert mount.key not in done.stdout


def test_it_counts_nothing_itself(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    terminal = Terminal(mount)
    terminal.wait_for(r"operations .*\b0/s")

    def counted() -> int:
        return sum(each["ended"] for each in mount.status()["operations"].values())

    # The looks of this test at the status: each an open and a read, and the getattr between them.
    # Whoever asks for the status of all mounts meanwhile looks at this one, too: not every time.
    for _ in range(5):
        before = counted()
        for _ in range(5):
            terminal.wait_for(r"operations .*/s")
        if counted() - before <= 6:
            break
    else:
        pytest.fail("each look is counted")

    terminal.press("q")

    assert terminal.end() == 0


@pytest.mark.parametrize(
    "stop",
    [
        lambda terminal: terminal.press("q"),
        lambda terminal: terminal.process.send_signal(signal.SIGINT),
        lambda terminal: terminal.process.send_signal(signal.SIGTERM),
    ],
    ids=["q", "Ctrl-C", "SIGTERM"],
)
def test_it_ends(mounted: Mounting, serving: Serving, stop: Callable[[Terminal], None]) -> None:
    terminal = Terminal(mounted(serving(SMALL)))
    terminal.wait_for("q quits")
    stop(terminal)
    assert terminal.end() == 0


def test_reads_show_and_a_new_size_is_used(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    terminal = Terminal(mount)
    terminal.wait_for("q quits")
    files_below(mount.datasets)
    terminal.wait_for(r"open [1-9]\d*, ")
    termios.tcsetwinsize(terminal.theirs, (40, 120))
    terminal.wait_for("─{100}")
    terminal.press("x")
    terminal.wait_for("q quits")
    terminal.press("q")

    assert terminal.end() == 0


def test_it_survives_a_mount_that_ends_and_shows_the_next_one(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(SMALL)
    mount = mounted(server, home="one")
    terminal = Terminal(mount)
    terminal.wait_for("online")
    mount.unmount()
    terminal.wait_for("the mount has ended")
    again = mounted(server, home="one")
    terminal.wait_for("online")
    again.kill()
    terminal.wait_for("its process is gone")
    terminal.press("q")

    assert terminal.end() == 0


def test_without_a_terminal(mounted: Mounting, serving: Serving) -> None:
    done = top(mounted(serving(SMALL)))
    assert done.returncode == 6
    assert done.stderr == (
        "error: top needs a terminal; --once prints one frame, and pictofs status --json is for programs\n"
    )


def test_a_place_that_is_no_mount(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    mount = mounted(serving(SMALL))
    done = top(mount, str(tmp_path), "--once")
    assert (done.returncode, done.stderr) == (4, f"error: {tmp_path} lies in no pictofs mount\n")
    mount.kill()
    done = top(mount, str(mount.root), "--once")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: its process is gone: pictofs unmount {mount.root}, or mount it again\n"
    )


def test_all_mounts_are_meant_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def there_are(*paths: str) -> None:
        found = [
            mount_table.Mount(Path(path), mount_table.FSTYPE, "pictofs", "0:99", 0)
            for path in paths
        ]
        monkeypatch.setattr(
            mount_table,
            "all_mounts",
            lambda: [mount_table.Mount(Path("/"), "ext4", "/dev/x", "8:1", 0), *found],
        )

    there_are("/a")

    assert choose(None) == [Path("/a")]

    there_are("/b", "/a", "/b")

    assert choose(None) == [Path("/a"), Path("/b")]
    assert choose(Path("/b/datasets/x")) == [Path("/b")]

    there_are()
    with pytest.raises(NoSuchEntry, match="nothing is mounted"):
        choose(None)


def test_a_mount_whose_socket_is_not_here(mounted: Mounting, serving: Serving) -> None:
    """As that of a mount that lives in a container."""
    mount = mounted(serving(Spec((DatasetSpec("d", images=1),))))
    Path(mount.status()["control_socket"]).unlink()
    done = top(mount, str(mount.root), "--once")
    assert done.returncode == 1
    assert "its process is gone" not in done.stderr
    assert "if it lives in a container, run the command there" in done.stderr
