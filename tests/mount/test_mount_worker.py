"""The process beside a mount's own: what it may know, and that it goes when the mount goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually, expected, files_below

from standin import Spec, StandIn
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SPEC = Spec((DatasetSpec("many", images=400, size=20_000, directories=2),))


def started(mount: Mount) -> list[int]:
    """The processes that the mount has started."""
    tasks = Path(f"/proc/{mount.pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


def is_there(process: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


def reading(server: StandIn, mounted: Mounting) -> tuple[Mount, int]:
    """A mount that has read everything, and its worker."""
    mount = mounted(server)
    assert files_below(mount.datasets / "many/images") == {
        name.removeprefix("images/"): data
        for name, data in expected(server, server.organization["many"]).items()
        if name.startswith("images/")
    }
    (worker,) = started(mount)
    return mount, worker


def test_k1_it_knows_no_key_and_goes_with_the_mount(mounted: Mounting, serving: Serving) -> None:
    server = serving(SPEC)
    mount, worker = reading(server, mounted)

    for name in ("environ", "cmdline"):
        shown = Path(f"/proc/{worker}/{name}").read_bytes()
        assert mount.key.encode() not in shown

    settings = Path(f"/proc/{worker}/environ").read_bytes().upper().split(b"\0")
    assert not [each for each in settings if each.startswith(b"PICTO")]

    assert b"X-Goog" not in Path(f"/proc/{worker}/cmdline").read_bytes()

    mount.unmount()
    eventually(lambda: is_there(worker), False)


def test_m3_it_goes_when_the_mount_is_killed(mounted: Mounting, serving: Serving) -> None:
    server = serving(SPEC)
    mount, worker = reading(server, mounted)
    mount.kill()
    eventually(lambda: is_there(worker), False)


def test_a_lone_read_starts_none(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SPEC))
    for path in sorted((mount.datasets / "many/images").rglob("*.jpg"))[:3]:
        path.read_bytes()
    assert started(mount) == []
