"""`dataset.json` on a mount: cat, mmap and jq's like see the API's object, and never an old one."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import zlib
from itertools import count
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


def changed(server: StandIn, before: bytes, *, alike: bool) -> bytes:
    """Describe the dataset anew; `alike`: so that its file has the 8 lowest bits of the checksum of
    `before`."""
    organization = server.organization
    dataset = organization["small"]

    for number in count():
        dataset.description = "x" * (number % 5_000)
        organization.changed(dataset, "dataset")
        truth = document_bytes(server, dataset)

        if len(truth) != len(before) and alike == (
            (zlib.crc32(truth) ^ zlib.crc32(before)) % 256 == 0
        ):
            return truth

    raise AssertionError


def test_v1_no_program_sees_an_old_one(mounted: Mounting, server: StandIn) -> None:
    """Each version is read and mapped while the one before is held open."""
    mount = mounted(server)
    path = mount.datasets / "small/dataset.json"
    before = path.read_bytes()

    for alike in (False, True, True, False, True):
        with open(path, "rb") as held:
            held.read(10)
            truth = changed(server, before, alike=alike)
            mount.pictofs("refresh", mount.datasets / "small")

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
