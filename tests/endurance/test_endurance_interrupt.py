"""Ctrl-C on who waits for a server that accepts and never answers.

The deadline of these mounts is far away: who ends before the test gives up was let go, and did not
wait for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mounting import Hold, Mount, Mounting, Serving, eventually, walk

from standin import Spec, StandIn
from standin.faults import Drip, Fault, Match

FAR = 600.0
"""Seconds of the mount's deadline: longer than any test may take."""
SOON = 60.0
"""Seconds that a test waits for an end: generous, a busy machine is slow."""

READ = "import sys; open(sys.argv[1], 'rb').read()"
PIECES = "import sys; file = open(sys.argv[1], 'rb')\nwhile file.read(4096): pass"
MAPPED = "import sys, mmap; file = open(sys.argv[1], 'rb'); mmap.mmap(file.fileno(), 0, prot=1)[:]"
THREADED = """
import sys, threading
thread = threading.Thread(target=lambda: open(sys.argv[1], 'rb').read(), daemon=True)
thread.start()
thread.join()
"""
GOES_ON = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print('noticed', flush=True))
print(len(open(sys.argv[1], 'rb').read()))
"""
TICKS = """
import signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
print(len(open(sys.argv[1], 'rb').read()))
"""

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def server(serving: Serving) -> StandIn:
    made = serving(Spec.uniform(images=6, size=500, directories=1))
    dataset = next(iter(made.organization.datasets.values()))
    made.organization.add_image(dataset, "large.jpg", "/", size=20 << 20)
    return made


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    """A mount that has listed everything and read two images."""
    made = mounted(server, "--timeout", str(FAR), "--prefetch", "off")
    for path in images(made)[:2]:
        path.read_bytes()
    return made


@pytest.fixture
def stall(mount: Mount, server: StandIn) -> Iterator[Hold]:
    """Storage holds each answer until this is opened."""
    held = Hold()
    server.faults.add(Fault(on=Match(host="storage"), do=held))
    yield held
    held.open()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs, each the leader of a group, as a shell does."""
    with ExitStack() as stack:

        def begin(*command: str | Path) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
                )
            )
            stack.callback(process.kill)
            return process

        yield begin


def images(mount: Mount) -> list[Path]:
    return sorted(
        path for path in walk(mount.datasets / "dataset-0/images") if path.name != "large.jpg"
    )


def large(mount: Mount) -> Path:
    return next(
        path for path in walk(mount.datasets / "dataset-0/images") if path.name == "large.jpg"
    )


def given_up(mount: Mount) -> bool:
    return "given up" in mount.log()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_t3_a_signal_ends_a_stalled_reader(
    mount: Mount, stall: Hold, start: Start, name: str
) -> None:
    reader = start("cat", images(mount)[-1])
    assert stall.waiting.wait(SOON)
    reader.send_signal(signal.Signals[name])
    assert reader.wait(SOON) == -signal.Signals[name]
    assert given_up(mount)
    stall.open()
    assert len(images(mount)[-1].read_bytes()) == 500


@pytest.mark.parametrize("script", [READ, PIECES, MAPPED, THREADED])
@pytest.mark.parametrize("choose", [lambda mount: images(mount)[-1], large])
def test_t3_ctrl_c_reaches_a_python_program(
    mount: Mount, stall: Hold, start: Start, script: str, choose: Callable[[Mount], Path]
) -> None:
    reader = start(sys.executable, "-c", script, choose(mount))
    assert stall.waiting.wait(SOON)
    reader.send_signal(signal.SIGINT)
    _, said = reader.communicate(timeout=SOON)
    assert b"KeyboardInterrupt" in said
    assert reader.returncode == -signal.SIGINT


def test_t3_ctrl_c_ends_a_pipeline(mount: Mount, stall: Hold, start: Start) -> None:
    shell = start("sh", "-c", f"cp '{images(mount)[-1]}' /dev/stdout | wc -c; echo not reached")
    assert stall.waiting.wait(SOON)
    os.killpg(shell.pid, signal.SIGINT)
    said, _ = shell.communicate(timeout=SOON)
    assert b"not reached" not in said


def test_t3_timeout_ends_a_stalled_reader(mount: Mount, stall: Hold, start: Start) -> None:
    assert start("timeout", "1", "cat", images(mount)[-1]).wait(SOON) == 124
    assert start("timeout", "-s", "KILL", "1", "cat", large(mount)).wait(SOON) == -signal.SIGKILL


@pytest.mark.parametrize(
    "command", [["ls", "-l"], [sys.executable, "-c", "import os, sys; os.listdir(sys.argv[1])"]]
)
def test_t3_ctrl_c_ends_who_waits_for_a_listing(
    mounted: Mounting, server: StandIn, start: Start, command: list[str]
) -> None:
    mount, held = mounted(server, "--timeout", str(FAR)), Hold()
    server.faults.add(Fault(on=Match(path="/directories/{dataset}/tree"), do=held))
    reader = start(*command, mount.datasets / "dataset-0/images")
    assert held.waiting.wait(SOON)
    reader.send_signal(signal.SIGINT)
    assert reader.wait(SOON) == -signal.SIGINT
    held.open()
    assert len(list(walk(mount.datasets / "dataset-0/images"))) == 7


@pytest.mark.parametrize("choose", [lambda mount: images(mount)[-1], large])
def test_t3_who_shares_the_download_goes_on(
    mount: Mount, stall: Hold, start: Start, choose: Callable[[Mount], Path]
) -> None:
    path = choose(mount)
    first, second = start("cat", path), start("cat", path)
    assert stall.waiting.wait(SOON)
    first.send_signal(signal.SIGINT)
    assert first.wait(SOON) == -signal.SIGINT
    assert second.poll() is None
    stall.open()
    assert len(second.communicate(timeout=SOON)[0]) == path.stat().st_size


def test_t3_a_program_that_handles_the_signal_goes_on(
    mount: Mount, stall: Hold, start: Start
) -> None:
    reader = start(sys.executable, "-c", GOES_ON, images(mount)[-1])
    assert stall.waiting.wait(SOON)
    reader.send_signal(signal.SIGINT)
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"noticed\n"
    assert reader.poll() is None
    stall.open()
    assert reader.communicate(timeout=SOON)[0] == b"500\n"


def test_t3_other_signals_leave_a_reader_alone(mount: Mount, stall: Hold, start: Start) -> None:
    reader = start(sys.executable, "-c", TICKS, images(mount)[-1])
    assert stall.waiting.wait(SOON)
    shared = "ShdPnd:\t0000000000002000"  # SIGALRM
    eventually(lambda: shared in Path(f"/proc/{reader.pid}/status").read_text(), True)
    quick = start("timeout", "1", "cat", images(mount)[-2])  # some looks go by
    assert quick.wait(SOON) == 124
    stall.open()
    assert reader.communicate(timeout=SOON)[0] == b"500\n"
    assert mount.log().count("given up") == 1


def test_t3_ctrl_c_ends_who_reads_what_arrives_slowly(
    mount: Mount, server: StandIn, start: Start
) -> None:
    drip = server.faults.add(Fault(on=Match(host="storage"), do=Drip(1 << 20)))
    for command in (["cat"], [sys.executable, "-c", PIECES]):
        reader = start(*command, large(mount))
        eventually(lambda: drip.hits > 0, True)
        reader.send_signal(signal.SIGINT)
        assert reader.wait(SOON) == -signal.SIGINT
