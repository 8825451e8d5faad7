"""The examples, run short on a real mount of the demo's organization."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent

from pictofs.app import mount_table
from standin import PRESETS

EXAMPLES = Path(__file__).parents[2] / "examples"
needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")


def run(name: str, *arguments: str | Path, **environ: str) -> list[str]:
    """The lines that an example prints; a warning, of an order that is not told say, is a
    failure."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", EXAMPLES / name, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert (done.returncode, done.stderr) == (0, "")

    return done.stdout.splitlines()


def losses(lines: list[str]) -> list[float]:
    return [
        float(match.group(1))
        for line in lines
        if (match := re.fullmatch(r"epoch \d+: loss (\S+)", line))
    ]


@needs_torch
@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("classify.py", r"right about \d+ of \d+ images that it has not seen"),
        ("detect.py", r"found \d+ of \d+ boxes .* with \d+ guesses"),
    ],
)
def test_training(mounted: Mounting, serving: Serving, name: str, ending: str) -> None:
    """It learns something in two epochs, in the order that the mount was told, and the next run
    costs no request."""
    server = serving(PRESETS["sample"]())
    mount = mounted(server, "--prefetch", "off")
    lines = run(name, mount.datasets / "street-signs", "--epochs", "2")
    images = server.organization["street-signs"].images.values()
    splits = Counter(image.split or "train" for image in images)
    tested = splits["val"]
    ends = "tags: _untagged, dark"
    if name == "detect.py":
        tested += splits["test"]
        ends = "classes: crossing, road, speed limit, stop, yield"

    assert lines[0] == f"{splits['train']} images to learn from, {tested} to test; {ends}"

    first, last = losses(lines)

    assert last < first
    assert re.fullmatch(ending, lines[-1]), lines[-1]
    assert mount.status()["prefetch"]["fetched"] > 50

    spent = Spent(server)

    assert losses(run(name, mount.datasets / "street-signs", "--epochs", "1"))
    assert spent.all == []


@needs_torch
def test_processes_of_torchrun_tell_an_order_each(mounted: Mounting, serving: Serving) -> None:
    """Together they read each image of an epoch once, most of it fetched ahead, and the next run
    costs no request."""
    server = serving(PRESETS["sample"]())
    mount = mounted(server, "--prefetch", "off")
    splits = Counter(
        image.split or "train" for image in server.organization["street-signs"].images.values()
    )
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(EXAMPLES / "distributed.py", mount.datasets / "street-signs", "--workers", "1"),
        *("--epochs", "2"),
    ]

    def train() -> list[str]:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr
        assert "is not told to a mount" not in done.stderr
        return done.stdout.splitlines()

    half = (splits["train"] + 1) // 2
    lines = [f"epoch {n}: images read by each process: [{half}, {half}]" for n in (1, 2)]

    assert train() == lines
    assert mount.status()["prefetch"]["fetched"] > 50

    spent = Spent(server)

    assert train() == lines
    assert spent.all == []


def test_tasks_of_slurm_work_on_a_share_each(serving: Serving, tmp_path: Path) -> None:
    """Two nodes with a mount and a cache of their own each: together they cost what one would have,
    but for the listing and the URLs."""
    server = serving(PRESETS["sample"]())
    signs = server.organization["street-signs"].images.values()
    program = tmp_path / "pictofs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pictofs "$@"\n')
    program.chmod(0o755)
    spent = Spent(server)
    tasks = []

    for node in range(2):
        home = tmp_path / f"node-{node}"
        home.mkdir()
        text = (EXAMPLES / "slurm/task.sh").read_text()
        for was, now in (
            ("PLACE=/tmp/", f"PLACE={home}/"),
            ("CACHE=/local/", f"CACHE={home}/"),
            ("PICTOFS=pictofs", f"PICTOFS={program}"),
        ):
            assert was in text
            text = text.replace(was, now)
        (home / "task.sh").write_text(text)

        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys["viewer"],
            "SLURM_JOB_ID": "17",
            "SLURM_PROCID": str(node),
            "SLURM_NTASKS": "2",
        }
        tasks.append(
            subprocess.Popen(
                ["sh", home / "task.sh", "street-signs", sys.executable, EXAMPLES / "share.py"],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    images = 0
    marks = 0
    for task in tasks:
        out, err = task.communicate(timeout=110)
        assert task.returncode == 0, err
        found = re.search(r"^(\d+) images, (\d+) marks$", out, re.MULTILINE)
        assert found is not None, out
        assert 0 < int(found[1]) < len(signs)
        images += int(found[1])
        marks += int(found[2])

    assert images == len(signs)
    assert marks == sum(image.annotation_count for image in signs)
    assert len([each for each in spent.api if each.startswith("/annotations/")]) == len(signs)
    assert len(spent.storage) == len(signs)
    assert not [each for each in mount_table.all_mounts() if each.path.is_relative_to(tmp_path)]


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs ray")
def test_ray_reads_paths(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["sample"]())
    mount = mounted(server)
    signs = server.organization["street-signs"].images.values()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "ray_images.py", mount.datasets / "street-signs"],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    marks = sum(image.annotation_count for image in signs)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(signs)} images, {marks} marks"


def test_the_notebook(serving: Serving, tmp_path: Path) -> None:
    server = serving(PRESETS["sample"]())
    environ = {
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "XDG_CACHE_HOME": "",
    }
    lines = run("notebook.py", **environ)

    assert lines[:3] == ["aerial tiles: 12 images, 0.5 MB", "empty: 0 images, 0.0 MB", lines[2]]
    assert lines[2].startswith("street-signs: 240 images, ")
    assert "street-signs/images/cam1/frame-0000.jpg: 640 x 480, mean color " in lines[5]
    assert "   20 road" in lines
    assert not [mount for mount in mount_table.all_mounts() if mount.path.is_relative_to(tmp_path)]
