"""A copy of a whole dataset from a server of which one request in nine goes wrong, in every way
there is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, active, expected, files_below, run

from standin import Spec, StandIn
from standin.faults import (
    Close,
    Corrupt,
    Drip,
    Fault,
    MalformedJson,
    Match,
    Overrun,
    Reset,
    Truncate,
    error,
    html,
    redirect,
    throttled,
)

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
    pytest.mark.timeout(300),
]

IMAGES = 400
EACH = 0.01
"""The chance of each fault, on each request. That one file meets seven in a row has a chance of
1e-6."""
STORAGE = (
    *(error(status) for status in (403, 408, 500, 503)),
    throttled(1),
    throttled(),
    Reset(),
    Reset(1000),
    Close(1000),
    Truncate(1000),
    Overrun(),
    Corrupt(100),
    Drip(100_000),
    html(),
    redirect("http://127.0.0.1:1/elsewhere"),
)
API = (
    *(error(status) for status in (408, 500, 503)),
    throttled(1),
    throttled(),
    Reset(),
    Reset(100),
    Close(100),
)
"""What is an answer outside the contract is told at once, and not asked for again: see the last
test."""


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(Spec.uniform(images=IMAGES, size=5000, directories=4))


def faulty(server: StandIn) -> list[Fault]:
    """Put every fault in force, each by a die of its own."""
    hosts = [("storage", do) for do in STORAGE] + [("api", do) for do in API]
    return [
        server.faults.add(Fault(Match(host), do, probability=EACH, seed=seed))
        for seed, (host, do) in enumerate(hosts)
    ]


def steadfast(mounted: Mounting, server: StandIn) -> Mount:
    mount = mounted(server, "--max-retries", "6")
    mount.expected += [""]  # a fault is told, each in its own words
    return mount


def test_b3_t2_a_copy_is_right_whatever_goes_wrong_on_the_way(
    mounted: Mounting, server: StandIn, tmp_path: Path
) -> None:
    mount = steadfast(mounted, server)
    faults = faulty(server)
    run("cp", "-rT", mount.datasets / "dataset-0", tmp_path / "copy")
    assert sum(fault.hits for fault in faults) > IMAGES // 20
    assert files_below(tmp_path / "copy") == expected(server, server.organization["dataset-0"])


def test_e1_a_fault_that_lasts_fails_its_own_file_alone(
    mounted: Mounting, server: StandIn, tmp_path: Path
) -> None:
    mount = mounted(server, "--max-retries", "1")
    mount.expected += [""]
    image = active(server.organization["dataset-0"])[IMAGES // 2]
    server.faults.add(Fault(Match("storage", path=image.id), Corrupt()))
    server.faults.add(Fault(Match("api", path=rf"/images/{image.id}"), error(503)))
    server.faults.add(Fault(Match("api", path=rf"/annotations/{image.id}/file"), MalformedJson()))
    copied = subprocess.run(
        ["cp", "-rT", mount.datasets / "dataset-0", tmp_path / "copy"],
        stderr=subprocess.PIPE,
        timeout=200,
    )

    assert copied.returncode == 1

    failed = copied.stderr.decode().splitlines()

    assert len(failed) == 2
    assert all("Input/output error" in line and image.filename in line for line in failed)

    place = f"{image.directory_path.strip('/')}/{image.filename}"
    right = expected(server, server.organization["dataset-0"])
    for name in (f"images/{place}", f"annotations/{place}.json"):
        del right[name]

    assert {
        name: data for name, data in files_below(tmp_path / "copy").items() if name in right
    } == right
