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
