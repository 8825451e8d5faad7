"""The prolog for Slurm, as slurmd runs it: by root, with next to nothing in the environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Serving

from pictofs.app import mount_table, mounting, probe
from standin import PRESETS

PROLOG = Path(__file__).parents[2] / "examples/slurm/prolog.sh"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs a prolog as root")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "picto"
    while mount_table.mount_at(tmp_path / "picto"):
        mounting.detach(tmp_path / "picto", lazy=True)


def test_jobs_that_start_together_find_one_mount(
    serving: Serving, tmp_path: Path, place: Path
) -> None:
    server = serving(PRESETS["small"]())
    key = tmp_path / "key"
    key.touch(0o600)
    program = tmp_path / "pictofs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pictofs "$@"\n')
    program.chmod(0o755)

    text = PROLOG.read_text()
    for was, now in (
        ("/mnt/picto", place),
        ("/etc/pictofs/key", key),
        ("/local/pictofs", tmp_path / "cache"),
        ("/usr/local/bin/pictofs", program),
        ("/run/pictofs-prolog.lock", tmp_path / "lock"),
    ):
        assert f"={was}" in text
        text = text.replace(f"={was}", f"={now}")

    prolog = tmp_path / "prolog.sh"
    prolog.write_text(text)
    environ = {"PATH": "/usr/bin:/bin", "PICTOGRAPH_BASE_URL": server.api_url}
    command = ["sh", str(prolog)]

    # Without a key nothing is mounted, and the node is not drained.
    assert subprocess.run(command, env=environ, timeout=60).returncode == 0
    assert mount_table.mount_at(place) is None

    key.write_text(server.keys["viewer"])
    jobs = [subprocess.Popen(command, env=environ) for _ in range(2)]
    assert [job.wait(60) for job in jobs] == [0, 0]
    assert os.listdir(place / "datasets") == ["small"]
    assert len([mount for mount in mount_table.all_mounts() if mount.path == place]) == 1

    # The next job's finds it.
    assert subprocess.run(command, env=environ, timeout=60).returncode == 0

    # One that hangs is mounted anew, once.
    status = json.loads((place / ".pictofs/status.json").read_bytes())
    os.kill(status["pid"], signal.SIGSTOP)
    try:
        jobs = [subprocess.Popen(command, env=environ) for _ in range(2)]
        assert [job.wait(120) for job in jobs] == [0, 0]
        assert probe.state_of(place) == "live"
        assert len([mount for mount in mount_table.all_mounts() if mount.path == place]) == 1
    finally:
        os.kill(status["pid"], signal.SIGKILL)
