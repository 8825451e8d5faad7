"""The training loop of README.md, as it stands there, on a real mount of the demo's organization."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import Mount, Spent

from standin import PRESETS, StandIn

README = Path(__file__).parents[2] / "README.md"


def test_the_training_loop(
    serving: Callable[..., StandIn], mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    server = serving(PRESETS["sample"]())
    mount = mounted(server)
    (tmp_path / "picto").symlink_to(mount.root)
    _, program, _ = blocks()
    (tmp_path / "train.py").write_text(program)
    signs = server.organization["street-signs"]
    marked = sum(image.annotation_count for image in signs.images.values())

    done = train(tmp_path)
    assert done == [f"epoch {epoch}: 240 images, {marked} annotations" for epoch in range(2)]

    spent = Spent(server)
    assert train(tmp_path) == done
    assert spent.all == []


def test_the_order_told(
    serving: Callable[..., StandIn], mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    """Nothing is guessed, and still something is fetched ahead."""
    pytest.importorskip("torch")
    mount = mounted(serving(PRESETS["sample"]()), "--prefetch", "off")
    (tmp_path / "picto").symlink_to(mount.root)
    _, loop, told = blocks()
    ending = "for epoch in range(2):\n    print(sum(len(pixels) for pixels, _ in loader))\n"
    (tmp_path / "train.py").write_text(loop.partition("if __name__")[0] + told + ending)
    assert train(tmp_path) == ["240", "240"]
    assert mount.status()["prefetch"]["fetched"] > 50


def test_the_notebook(
    serving: Callable[..., StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(PRESETS["sample"]())
    monkeypatch.setenv("PICTOGRAPH_BASE_URL", server.api_url)
    monkeypatch.setenv("PICTOGRAPH_API_KEY", server.keys["viewer"])
    notebook, *_ = blocks()
    (tmp_path / "train.py").write_text(notebook)
    datasets = server.organization.datasets.values()
    assert train(tmp_path) == [str(sorted(each.name for each in datasets if not each.is_archived))]


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def train(home: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, home / "train.py"],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
