"""A cache that was damaged between two mounts, and disks that take nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, expected, files_below, walk

from standin import PRESETS, Spec, StandIn

DROPPED = "dropped a damaged file"


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(PRESETS["small"]())


def truth(server: StandIn) -> dict[str, bytes]:
    return expected(server, server.organization["small"])


def blobs(mount: Mount) -> list[Path]:
    return sorted(path for path in walk(mount.cache / "content") if path.parent.name != "content")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def swap(path: Path) -> None:
    other = next(each for each in sorted(path.parent.parent.glob("??/*")) if each != path)
    path.write_bytes(other.read_bytes())


def test_b4_damage_between_mounts_is_fetched_again(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, home="one")
    assert files_below(mount.datasets / "small") == truth(server)

    mount.unmount()
    damaged = blobs(mount)[::2]
    for place, path in enumerate(damaged):
        (flip, cut, swap)[place % 3](path)
    before = Spent(server)
    mount = mounted(server, home="one")
    mount.expected.append(DROPPED)

    assert files_below(mount.datasets / "small") == truth(server)
    assert len([each for each in before.all if "/datasets/?" not in each]) <= len(damaged) + 2
    assert "removed 0 damaged files" in mount.pictofs("cache", "verify")


def test_b4_damage_under_a_live_mount_is_fetched_again(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    mount.expected.append(DROPPED)
    assert files_below(mount.datasets / "small") == truth(server)
    for path in blobs(mount):
        flip(path)
    # The kernel's own pages would answer: they are let go, as under memory pressure.
    for path in walk(mount.datasets / "small"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert files_below(mount.datasets / "small") == truth(server)


def scribble(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def age(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 77")


def test_c7_a_catalog_that_can_not_be_read_is_put_aside(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, home="one")
    files_below(mount.datasets / "small")
    aside: list[Path] = []

    for harm in (scribble, tear, age):
        mount.unmount()
        (catalog,) = (mount.cache / "catalog").glob("*.db")
        harm(catalog)
        before = Spent(server)
        mount = mounted(server, home="one")
        mount.expected.append("can't be used")

        assert files_below(mount.datasets / "small") == truth(server)
        assert before.storage == []  # the images were there all the time

        before_that = aside
        aside = [path for path in (mount.cache / "catalog").iterdir() if "broken" in path.name]

        assert len(aside) == 1  # the last one
        assert aside != before_that
        assert {path.stat().st_mode & 0o777 for path in aside} == {0o600}


def test_c4_a_full_disk_is_read_past(small_disk: Path, mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=40, size=100_000))
    mount = mounted(server, "--prefetch", "off", "--min-free", "0", cache=small_disk / "cache")
    mount.expected += ["reading past the cache", "catalog"]
    images = mount.datasets / "dataset-0/images"

    assert len(os.listdir(images)) == 40

    fill(small_disk / "ballast")
    want = expected(server, server.organization["dataset-0"])

    assert {f"images/{name}" for name in os.listdir(images)} <= set(want)
    assert all(data == want[f"images/{name}"] for name, data in files_below(images).items())
    assert mount.log().count("reading past the cache") == 1
    assert mount.status()["bugs"] == 0

    # With room again, it is used again; not at once.
    (small_disk / "ballast").unlink()

    assert all(data == want[f"images/{name}"] for name, data in files_below(images).items())


def fill(path: Path) -> None:
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_c2_what_is_to_stay_free_stays_free(
    small_disk: Path, mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=60, size=100_000))
    # Without prefetching one file is in flight: what is fetched together is looked at one by one.
    mount = mounted(server, "--min-free", "20%", "--prefetch", "off", cache=small_disk / "cache")
    mount.expected.append("reading past the cache")

    for _ in range(2):
        assert len(files_below(mount.datasets / "dataset-0/images")) == 60

        disk = os.statvfs(small_disk)
        free = disk.f_bavail / disk.f_blocks

        assert (
            free >= 0.2
            or taken(mount.cache / "catalog") / disk.f_frsize / disk.f_blocks >= 0.2 - free
        )


def taken(folder: Path) -> int:
    """The catalog does not count against what is to stay free."""
    return sum(path.stat().st_size for path in folder.iterdir())
