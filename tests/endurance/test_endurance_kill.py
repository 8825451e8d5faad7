"""Mounts that are killed again and again: the next one over the stale mount point finds nothing
wrong."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, active, annotation_bytes, eventually, image_bytes

from pictofs.store.blobs.blob import TEMP_MARK
from standin import Spec, StandIn

IMAGES, SIZE, DIRECTORIES = 260, 100_000, 4
OPTIONS = ("--cache-size", "20MB", "--metadata-ttl", "0")
"""Less room than the images take, so that there are evictions; listings that are always made
anew."""


def kill_rounds(rounds: int, mounted: Mounting, serving: Serving, cache: Path) -> None:
    server = serving(Spec.uniform(images=IMAGES, size=SIZE, directories=DIRECTORIES))
    other = mounted(server, *OPTIONS, home="other", cache=cache)
    held = open(some_image(other, server, random.Random(0)), "rb")  # noqa: SIM115 - across all rounds
    front = held.read(10)

    for number in range(rounds):
        # One in five starts with no bytes, the others with what is left of the one before.
        rng = random.Random(f"kill {number}")
        mount = mounted(server, *OPTIONS, home="one", cache=cache)
        if rng.random() < 0.2:
            mount.pictofs("cache", "clear")
        server.organization.add_image(
            server.organization["dataset-0"], f"new-{number}.jpg", size=SIZE
        )
        readers = start_readers(mount, rng)
        await_requests(server, rng.randrange(120), readers)
        mount.kill()

        assert all(reader.wait(30) is not None for reader in readers)

        mount = mounted(server, *OPTIONS, home="one", cache=cache)
        mount.expected.append("was left over by a mount that died")
        for _ in range(3):
            check_sample(mount, server, rng)
        check_sample(other, server, rng)
        check_cache(mount)
        mount.unmount()

    held.seek(0)

    assert held.read(10) == front
    assert len(held.read()) == SIZE - 10

    held.close()


def start_readers(mount: Mount, rng: random.Random) -> list[subprocess.Popen[bytes]]:
    parts = [mount.datasets / f"dataset-0/images/part-{part:03d}" for part in range(DIRECTORIES)]
    notes = mount.datasets / "dataset-0/annotations" / rng.choice(parts).name
    copies = mount.root.parent / "copies"
    commands = [["cp", "-rT", rng.choice(parts), copies / str(place)] for place in range(2)]
    commands += [["sh", "-c", 'cat "$0"/*', rng.choice(parts)], ["sh", "-c", 'cat "$0"/*', notes]]
    copies.mkdir(exist_ok=True)
    null = subprocess.DEVNULL
    return [subprocess.Popen(command, stdout=null, stderr=null) for command in commands]


def await_requests(server: StandIn, count: int, readers: list[subprocess.Popen[bytes]]) -> None:
    before = len(server.log.requests())
    while len(server.log.requests()) - before < count and any(
        reader.poll() is None for reader in readers
    ):
        time.sleep(0.001)


def some_image(mount: Mount, server: StandIn, rng: random.Random) -> Path:
    image = rng.choice(active(server.organization["dataset-0"]))
    return mount.datasets / "dataset-0/images" / image.directory_path.strip("/") / image.filename


def check_sample(mount: Mount, server: StandIn, rng: random.Random) -> None:
    dataset = server.organization["dataset-0"]
    for image in rng.sample(active(dataset), 5):
        place = f"{image.directory_path.strip('/')}/{image.filename}".lstrip("/")
        assert (mount.datasets / "dataset-0/images" / place).read_bytes() == image_bytes(image)
        note = mount.datasets / f"dataset-0/annotations/{place}.json"
        assert note.read_bytes() == annotation_bytes(server, image)


def check_cache(mount: Mount) -> None:
    said = mount.pictofs("cache", "verify")
    assert "removed 0 damaged files" in said

    eventually(
        lambda: [name for name in names_below(mount.cache / "content") if TEMP_MARK in name], []
    )
    catalogs = [path for path in (mount.cache / "catalog").iterdir() if path.suffix == ".db"]

    assert not [name for name in os.listdir(mount.cache / "catalog") if "broken" in name]

    for path in catalogs:
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        db.close()


def names_below(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def test_c7_two_mounts_killed(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    kill_rounds(2, mounted, serving, tmp_path / "shared")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_c7_two_hundred_mounts_killed(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    kill_rounds(200, mounted, serving, tmp_path / "shared")
