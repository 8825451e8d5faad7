"""Mounts that don't answer, and what commands say of them."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually
from starting import run_pictofs

from pictofs.app import mount_table, probe, running
from standin import Spec
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SMALL = Spec((DatasetSpec("small", images=3, size=500),))


@pytest.fixture
def mount(mounted: Mounting, serving: Serving, tmp_path: Path) -> Mount:
    return mounted(serving(SMALL))


@contextmanager
def stopped(mount: Mount) -> Iterator[None]:
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    eventually(lambda: probe.state_of(mount.root), "live")


def said(mount: Mount, *arguments: str | Path) -> tuple[int, str]:
    done = run_pictofs(*arguments, env=mount.environ, text=True)
    return done.returncode, done.stdout + done.stderr


def process(mount: Mount) -> str:
    """The process as messages name it; only some kernels tell whose a connection is."""
    if running.process_of(mount.root) is None:
        pytest.skip("this kernel does not tell which process a mount has")
    return f"its process {mount.pid} is stopped"


def test_a_stopped_process_is_named(mount: Mount) -> None:
    found = running.process_of(mount.root)
    assert found in (None, running.Process(mount.pid, stopped=False))

    with stopped(mount):
        words = process(mount)
        code, out = said(mount, "status", "--json", mount.root)
        assert code == 1
        assert json.loads(out)[0]["process"] == {"id": mount.pid, "stopped": True}
        assert words in " ".join(said(mount, "status", mount.root)[1].split())


def test_m2_a_silent_mount_is_no_mount_in_use(mount: Mount) -> None:
    with stopped(mount):
        code, out = said(mount, "unmount", mount.root)
        assert code == 5
        assert out.startswith(f"error: {mount.root} can't be unmounted: its process ")
        assert f"pictofs unmount --lazy {mount.root}\n" in out
        assert mount_table.mount_at(mount.root) is not None


@pytest.mark.parametrize("command", ["refresh", "warm"])
def test_a_mount_whose_process_is_gone_is_told_from_one_that_hangs(
    mount: Mount, command: str
) -> None:
    mount.kill()
    code, out = said(mount, command, mount.root)
    assert code == 1
    assert out.startswith(
        f"error: the mount at {mount.root} takes no commands: its process is gone\n"
        f"  Fix: pictofs unmount {mount.root}, or mount it again\n"
    )
    mount.discard()


def test_commands_that_are_proposed_can_be_pasted() -> None:
    path = Path("/mnt/two words; it's")
    for state in ("stale", "silent"):
        _, advice = running.trouble(path, state)
        assert shlex.split(advice.replace(", or mount it again", ""))[-1] == str(path)
