"""A process that holds a key: neither a core nor another process of its user shows it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from mounting import Hold, Mount, Mounting, Serving, files_below, inherited

from standin import Spec
from standin.faults import Fault, Match
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    # Only so that the interpreter can be read, wherever it lies.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
SPEC = Spec((DatasetSpec("many", images=100, size=2000, directories=1),))


def core_limit(process: int) -> tuple[int, int]:
    return resource.prlimit(process, resource.RLIMIT_CORE)


@pytest.fixture
def dumping() -> None:
    """Cores are on, as far as this machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def test_k9_no_core_is_dumped(dumping: None, mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SPEC), "--prefetch", "all")
    files_below(mount.datasets / "many/images")
    (worker,) = started(mount)
    assert core_limit(mount.pid) == core_limit(worker) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_k9_its_user_can_not_look_into_it(serving: Serving) -> None:
    """The environment, with the key in it, is closed with the memory. A command that waits for its
    server shows it."""
    server = serving(SPEC)
    held = Hold()
    server.faults.add(Fault(Match("api"), held))
    environ = {
        **inherited(),
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
    }
    command = subprocess.Popen(
        [*AS_NOBODY, sys.executable, "-m", "pictofs", "dataset", "list"],
        env=environ,
        stdout=subprocess.DEVNULL,
    )

    try:
        assert held.waiting.wait(60)

        for name in ("environ", "mem", "maps"):
            done = subprocess.run(
                [*AS_NOBODY, "head", "-c", "10", f"/proc/{command.pid}/{name}"], capture_output=True
            )
            assert (done.returncode, done.stdout) == (1, b""), name
            assert b"ermission denied" in done.stderr
    finally:
        held.open()
        assert command.wait(60) == 0


def started(mount: Mount) -> list[int]:
    tasks = Path(f"/proc/{mount.pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]
