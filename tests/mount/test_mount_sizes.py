"""Programs that believe the size that `stat` gave: what goes wrong, and each of the cures."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, expected, files_below, finished_export

from standin import Spec, StandIn
from standin.spec import DatasetSpec

CURES = ["an export that is there", "exact", "exact in bulk", "warm"]


@pytest.fixture
def server(serving: Serving) -> StandIn:
    made = serving(Spec((DatasetSpec("small", images=12, size=500, directories=2),)))
    made.organization["small"].touch(made.clock() - 3600)
    return made


@pytest.fixture
def truth(server: StandIn, tmp_path: Path) -> Path:
    """A folder with what the annotation files must be."""
    folder = tmp_path / "truth"
    for name, data in expected(server, server.organization["small"]).items():
        if name.startswith("annotations/"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder / "annotations"


def mount_of(server: StandIn, mounted: Mounting, cure: str) -> Mount:
    if cure == "an export that is there":
        finished_export(server, "small", "nightly")
    options = {"exact": ("exact",), "exact in bulk": ("exact", "--bulk-annotations", "export")}.get(
        cure, ("lazy",)
    )
    key = server.keys["admin" if cure == "exact in bulk" else "viewer"]
    mount = mounted(server, "--prefetch", "off", "--annotation-sizes", *options, key=key)
    if cure == "warm":
        mount.pictofs("warm", "--annotations", mount.datasets / "small")
    return mount


def _diff(folder: Path, truth: Path, scratch: Path) -> bool:
    return subprocess.run(["diff", "-rq", folder, truth], capture_output=True).returncode == 0


def _filecmp(folder: Path, truth: Path, scratch: Path) -> bool:
    files = [path.relative_to(truth) for path in truth.rglob("*.json")]
    return all(filecmp.cmp(folder / path, truth / path) for path in files)


def _tarfile(folder: Path, truth: Path, scratch: Path) -> bool:
    try:
        with tarfile.open(scratch / "a.tar", "w") as archive:
            archive.add(folder, "a")
        with tarfile.open(scratch / "a.tar") as archive:
            # Python 3.11 has filters from 3.11.4 on, and Debian 12's is older.
            filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(scratch, **filtered)
    except OSError:
        return False
    return files_below(scratch / "a") == files_below(truth)


def _bsdtar(folder: Path, truth: Path, scratch: Path) -> bool:
    subprocess.run(
        ["bsdtar", "-cf", scratch / "b.tar", "-C", folder.parent, folder.name], check=True
    )
    subprocess.run(["tar", "-xf", scratch / "b.tar", "-C", scratch], check=True)
    return files_below(scratch / folder.name) == files_below(truth)


def _git(folder: Path, truth: Path, scratch: Path) -> bool:
    subprocess.run(["git", "init", "-q", scratch / "g"], check=True)
    command = ["git", "--git-dir", scratch / "g/.git", "--work-tree", folder, "add", "-A"]
    return subprocess.run(command, capture_output=True).returncode == 0


def _rclone(folder: Path, truth: Path, scratch: Path) -> bool:
    command = ["rclone", "copy", "--retries", "1", "--config", "/dev/null", folder, scratch / "r"]
    done = subprocess.run(command, capture_output=True, text=True)
    return (
        done.returncode == 0
        and not done.stderr
        and files_below(scratch / "r") == files_below(truth)
    )


TOOLS: dict[str, Callable[[Path, Path, Path], bool]] = {
    "diff": _diff,
    "filecmp": _filecmp,
    "tarfile": _tarfile,
    "bsdtar": _bsdtar,
    "git": _git,
    "rclone": _rclone,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_s3_who_believes_a_placeholder_is_wrong(
    server: StandIn, mounted: Mounting, truth: Path, tmp_path: Path, tool: str
) -> None:
    """What semantics.md says of these programs; where one of them learns better, it may go from the
    list there."""
    if tool not in ("filecmp", "tarfile") and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    mount = mounted(server, "--prefetch", "off")
    assert not TOOLS[tool](mount.datasets / "small/annotations", truth, tmp_path)


@pytest.mark.parametrize("cure", CURES)
def test_s3_q5_each_cure_makes_them_right(
    server: StandIn, mounted: Mounting, truth: Path, tmp_path: Path, cure: str
) -> None:
    mount = mount_of(server, mounted, cure)
    for name, tool in TOOLS.items():
        if name in ("filecmp", "tarfile") or shutil.which(name) is not None:
            scratch = tmp_path / name
            scratch.mkdir()
            assert tool(mount.datasets / "small/annotations", truth, scratch), name


def test_j6_status_and_metrics_tell_the_age_of_labels(server: StandIn, mounted: Mounting) -> None:
    finished_export(server, "small", "nightly")
    mount = mounted(server, "--prefetch", "off", "--annotation-ttl", "7200")
    files = files_below(mount.datasets / "small/annotations")

    assert len(files) == 12

    facts = mount.status()["annotations"]

    assert facts["ttl"] == 7200
    assert 0 <= facts["oldest_age"] < 60
    assert facts["renewals"] == {"made": 0, "held_back": 0}
    assert facts["from"]["exports"] + facts["from"]["requests"] == 12

    metrics = (mount.root / ".pictofs/metrics").read_text()

    assert "pictofs_annotation_oldest_age_seconds" in metrics
    assert "nightly" not in metrics
    assert "oldest label" in mount.pictofs("status", mount.root)
