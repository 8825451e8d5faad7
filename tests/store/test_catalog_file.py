"""The catalog's file: shared by processes, killed at any moment, damaged, or not a catalog at
all."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from catalog_world import MANY, World, image

from pictofs.errors import DiskFull
from pictofs.store.catalog.catalog import Catalog

WORKER = Path(__file__).with_name("catalog_worker.py")


def worker(path: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(path), str(seed), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def aside(path: Path) -> list[Path]:
    return list(path.parent.glob("*.broken-*"))


def filled(path: Path) -> Path:
    world = World.at(path)
    world.put(*(image(n, f"{n}.jpg", f"/p{n % 7}") for n in range(600)))
    world.catalog.close()
    return path


def usable(path: Path) -> None:
    world = World.at(path)
    world.put(image(1, "a.jpg"))
    assert world.row(1).entry == "a.jpg"
    world.catalog.close()


def test_o1_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    world = World.at(filled(tmp_path / "c.db"))
    assert (
        sum(name.startswith("i-") for names in world.shown().values() for name in names.values())
        == 600
    )
    world.catalog.close()


def test_c7_a_file_of_another_version_is_kept_aside(tmp_path: Path) -> None:
    path = filled(tmp_path / "c.db")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 77")
    db.close()
    usable(path)
    (kept,) = aside(path)
    assert sqlite3.connect(kept).execute("PRAGMA user_version").fetchone() == (77,)


@pytest.mark.parametrize("seed", range(6))
def test_c7_a_damaged_file_is_rebuilt_or_right(tmp_path: Path, seed: int) -> None:
    path = filled(tmp_path / "c.db")
    data, chance = bytearray(path.read_bytes()), random.Random(seed)
    start = chance.randrange(0, len(data) - 5000)
    data[start : start + 5000] = chance.randbytes(5000)
    path.write_bytes(data)
    usable(path)
    assert len(aside(path)) == 1


@pytest.mark.parametrize("content", [b"", b"not a database" * 500, b"SQLite format 3\0"])
def test_c7_a_file_that_is_no_catalog_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(content)
    usable(path)


def test_c7_a_cut_file_is_rebuilt(tmp_path: Path) -> None:
    path = filled(tmp_path / "c.db")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    usable(path)


def test_a_directory_in_its_place_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.mkdir()
    (path / "something").write_text("of someone")
    usable(path)
    assert [(kept / "something").read_text() for kept in aside(path)] == ["of someone"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "other.db"
    target.write_bytes(b"of someone")
    path = tmp_path / "c.db"
    path.symlink_to(target)
    usable(path)
    assert target.read_bytes() == b"of someone"
    assert not path.is_symlink()


def test_a_folder_that_is_not_there_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        Catalog(tmp_path / "nowhere" / "c.db")


def test_a_disk_that_takes_no_more_is_named_and_leaves_the_catalog_usable(tmp_path: Path) -> None:
    world = World.at(tmp_path / "c.db")
    with world.catalog.database.write() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(
        DiskFull, match=rf"^the disk of {re.escape(str(tmp_path))} is full; make room"
    ):
        world.put(*(image(n, f"{n}.jpg") for n in range(5000)))
    world.images.clear()
    world.put(image(1, "a.jpg"))
    assert world.shown()["/"] == {"a.jpg": "i-1"}
    world.catalog.close()


@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_full_disk_is_named_when_it_is_opened(small_disk: Path, left: int) -> None:
    path = filled(small_disk / "c.db")
    pages = [small_disk / f"page-{number}" for number in range(left)]
    for page in pages:
        page.write_bytes(bytes(4096))

    with open(small_disk / "large", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    for page in pages:
        page.unlink()

    with pytest.raises(DiskFull, match=f"^the disk of {small_disk} is full; make room on it, or"):
        Catalog(path)

    (small_disk / "large").unlink()
    usable(path)


def test_processes_that_make_it_at_once_share_it(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    workers = [worker(path, seed, 3) for seed in (1, 2, 3, 4)]
    for each in workers:
        _, said = each.communicate(timeout=60)
        assert each.returncode == 0, said
    assert aside(path) == []
    world = World.at(path)
    world.catalog.put_datasets([], 0.0)
    world.catalog.close()


def test_c5_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    workers = [worker(path, seed, 15) for seed in (1, 2, 3)]

    for each in workers:
        _, said = each.communicate(timeout=60)
        assert each.returncode == 0, said

    catalog = Catalog(path)

    for row in catalog.datasets_after(0, MANY):
        if row.entry in ("own-1", "own-2", "own-3"):
            found = [
                each.entry
                for n in range(3)
                if (folder := catalog.directory_by_path(row.key, f"/p{n}"))
                for each in catalog.images_after(folder.key, 0, MANY)
            ]

            assert sorted(found) == sorted(f"{n + 14}.jpg" for n in range(40))

    catalog.close()


@pytest.mark.parametrize("rounds", [6, pytest.param(200, marks=pytest.mark.long)])
def test_c7_killed_at_any_moment_it_opens_again(tmp_path: Path, rounds: int) -> None:
    path, chance = tmp_path / "c.db", random.Random(1)
    for turn in range(rounds):
        victim = worker(path, 1 + turn % 3, 10_000)
        assert victim.stdout is not None

        for _ in range(chance.randrange(1, 12)):
            victim.stdout.readline()
        victim.kill()
        victim.communicate()
        catalog = Catalog(path)
        checked = catalog.database.reader.execute("PRAGMA integrity_check").fetchone()
        catalog.close()

        assert checked == ("ok",)

    assert aside(path) == []
