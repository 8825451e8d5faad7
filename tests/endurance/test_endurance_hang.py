"""Storage that accepts and never answers: who waits is freed, everybody else goes on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually, run, walk

from pictofs.app import mount_table
from standin import Spec, StandIn
from standin.faults import Fault, Hang, Match

TIMEOUT = 3.0
ENOUGH = 4 * TIMEOUT
"""Generous: what must come within the deadline has come by then, on a busy machine too."""


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(Spec.uniform(images=12, size=500, directories=2))


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    """A mount that has listed everything and read the first image."""
    made = mounted(server, "--timeout", str(TIMEOUT), "--prefetch", "off")
    made.expected += ["timed out", "no answer", "in time", "took longer", "within"]
    images(made)[0].read_bytes()
    return made


def images(mount: Mount) -> list[Path]:
    return sorted(walk(mount.datasets / "dataset-0/images"))


@contextmanager
def stalled(mount: Mount, server: StandIn) -> Iterator[subprocess.Popen[bytes]]:
    """A `cat` of an image that waits for storage."""
    path = images(mount)[-1]
    fault = server.faults.add(Fault(on=Match(host="storage"), do=Hang()))
    reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    try:
        eventually(lambda: fault.hits > 0, True)
        yield reader
    finally:
        server.faults.clear()
        reader.kill()
        reader.communicate()


def test_t1_a_stalled_read_fails_and_all_else_goes_on(mount: Mount, server: StandIn) -> None:
    known = images(mount)
    start = time.monotonic()

    with stalled(mount, server) as reader:
        assert len(known[0].read_bytes()) == 500
        assert images(mount) == known
        assert "pictofs" in run("df", mount.root)
        assert mount.status()["bugs"] == 0
        assert reader.poll() is None  # all that was while it waited

        _, said = reader.communicate(timeout=ENOUGH)

    assert b"timed out" in said
    assert time.monotonic() - start < ENOUGH
    # The same file, once storage answers: nobody was left waiting for the one that failed.
    assert len(known[-1].read_bytes()) == 500


def test_t3_several_stalled_readers_end_together(mount: Mount, server: StandIn) -> None:
    paths = images(mount)[2:10]
    server.faults.add(Fault(on=Match(host="storage"), do=Hang()))
    start = time.monotonic()
    readers = [subprocess.Popen(["cat", path], stderr=subprocess.PIPE) for path in paths]
    assert all(b"timed out" in reader.communicate(timeout=ENOUGH)[1] for reader in readers)
    assert time.monotonic() - start < ENOUGH


def test_m2_a_stalled_reader_keeps_no_mount(mount: Mount, server: StandIn) -> None:
    with stalled(mount, server) as reader:
        with pytest.raises(AssertionError, match=r"in use by cat|is in use"):
            mount.pictofs("unmount", mount.root)
        mount.pictofs("unmount", "--lazy", mount.root)
        assert mount_table.mount_at(mount.root) is None
        reader.communicate(timeout=ENOUGH)
        assert reader.returncode == 1
    # Its last user has left, and the process ends by itself.
    assert os.waitid(os.P_PID, mount.pid, os.WEXITED | os.WNOWAIT).si_status == 0
    mount.kill()


def test_m2_sigterm_ends_a_mount_that_waits_for_storage(mount: Mount, server: StandIn) -> None:
    with stalled(mount, server) as reader:
        mount.unmount()
        assert b"timed out" not in reader.communicate(timeout=ENOUGH)[1]  # it was dropped before
        assert reader.returncode == 1
