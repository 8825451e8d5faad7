"""`dataset.json` on a mount: cat, mmap and jq's like see the API's object, and never an old one."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
from pathlib import Path

import pytest
from mounting import Mounting, Serving, document_bytes, eventually, run

from standin import PRESETS, StandIn


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(PRESETS["small"]())


def mapped(path: Path) -> bytes:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return bytes(view)


def test_v1_programs_see_the_object(mounted: Mounting, server: StandIn, tmp_path: Path) -> None:
    path = mounted(server).datasets / "small/dataset.json"
    truth = document_bytes(server, server.organization["small"])
    assert path.stat().st_size == len(truth)
    assert subprocess.check_output(["cat", path]) == mapped(path) == truth
    run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == truth
    assert json.loads(path.read_text())["name"] == "small"
    assert "dataset.json" in os.listdir(path.parent)


def test_v1_no_program_sees_an_old_one(mounted: Mounting, server: StandIn) -> None:
    """Each version is read and mapped while the one before is held open."""
    mount = mounted(server)
    organization = server.organization
    dataset = organization["small"]
    path = mount.datasets / "small/dataset.json"
    before = path.read_bytes()
    for number in range(12):
        with open(path, "rb") as held:
            held.read(10)
            dataset.description = "x" * number
            organization.changed(dataset, "dataset")
            mount.pictofs("refresh", mount.datasets / "small")
            truth = document_bytes(server, dataset)
            assert path.stat().st_size == len(truth)
            assert mapped(path) == path.read_bytes() == truth
            held.seek(0)
            assert held.read() == before
        before = truth


def test_v1_it_is_new_after_the_ttl(mounted: Mounting, server: StandIn) -> None:
    path = mounted(server, "--metadata-ttl", "1").datasets / "small/dataset.json"
    path.read_bytes()
    server.organization.add_image(server.organization["small"], "new.jpg", size=500)
    eventually(path.read_bytes, document_bytes(server, server.organization["small"]))
    assert path.stat().st_size == len(path.read_bytes())
