"""Only a catalog that is proven to be whole is believed, and processes that open one at once agree
on it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from catalog_world import MANY, World, dataset, image

from pictofs.errors import DiskFull
from pictofs.model.inode import key_of
from pictofs.model.records import Image
from pictofs.store.catalog.catalog import Catalog

WORKER = Path(__file__).with_name("catalog_worker.py")
PAGE = 4096
IMAGES = 1500
MOMENTS = 6
Files = dict[str, bytes]
"""What a folder held at one moment: name of the file -> content."""


def worker(path: Path, *task: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(path), *map(str, task)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def aside(path: Path) -> list[Path]:
    return list(path.parent.glob("*.broken-*"))


def listing(moment: int) -> list[Image]:
    """What the server has at a moment: images are added, and names are passed on from one to the
    next."""
    return [
        image(n, f"{(n + moment) % IMAGES}.jpg", f"/p{n % 7}", created_ns=1000 + n)
        for n in range(IMAGES // 2 + moment * 100)
    ]


def snapshot(path: Path) -> Files:
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """Copies of the folder of a live catalog, each after a whole listing; some of it still is in
    the -wal."""
    path = tmp_path_factory.mktemp("live") / "c.db"
    world = World.at(path)
    taken = []

    for moment in range(MOMENTS):
        world.images = {each.id: each for each in listing(moment)}
        world.list_dataset(size=300)
        if moment == MOMENTS // 2:
            world.catalog.database.reader.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        taken.append(snapshot(path))

    world.catalog.close()
    return [*taken, snapshot(path)]


def torn(moments: list[Files], seed: int) -> Files:
    """A copy that is put together from moments, or cut."""
    chance = random.Random(seed)
    early, late = sorted(chance.sample(range(len(moments)), 2))
    files = dict(moments[late])
    kind = seed % 6

    if kind == 0:  # `cp` while it was written to
        cut = chance.randrange(len(moments[early]["c.db"]) // PAGE) * PAGE
        files["c.db"] = moments[early]["c.db"][:cut] + files["c.db"][cut:]
    elif kind == 1:
        files.pop("c.db-wal", None)
        files["c.db"] = moments[early]["c.db"]
    elif kind == 2:
        files["c.db-wal"] = moments[early].get("c.db-wal", b"")
    elif kind == 3:  # a power cut: some pages had been written, and some had not
        old, new = moments[early]["c.db"], files["c.db"]
        pages = [new[at : at + PAGE] for at in range(0, len(new), PAGE)]

        for number in range(len(pages)):
            if chance.random() < 0.3 and number * PAGE < len(old):
                pages[number] = old[number * PAGE :][:PAGE]

        files["c.db"] = b"".join(pages)
    elif kind == 4:  # blocks that were given out, and never written
        data = bytearray(files["c.db"])
        start = chance.randrange(len(data) // PAGE) * PAGE
        data[start : start + PAGE] = bytes(PAGE)
        files["c.db"] = bytes(data[: chance.randrange(start, len(data)) + 1])
    else:
        files["c.db-wal"] = files.get("c.db-wal", b"")[: chance.randrange(1, 1 << 20)]

    files.pop("c.db-shm", None)
    return files


def lies(catalog: Catalog) -> list[str]:
    """What the catalog says that was true at no moment: another image's row, or a name that is
    missing in a folder that it claims to have listed."""
    found = []
    (row,) = catalog.datasets_after(0, MANY) or [None]
    truths = [
        {(each.directory, each.filename): each.id for each in listing(n)} for n in range(MOMENTS)
    ]
    told: dict[tuple[str, str], str] = {}

    for folder in catalog.directories_of(row.key) if row else []:
        for name in {name for path, name in truths[-1] if path == folder.path}:
            by_name = catalog.image_by_entry(folder.key, name)
            if by_name is not None:
                told[folder.path, name] = by_name.id
                if by_name.entry != name or key_of(by_name.id) != by_name.key:
                    found.append(f"{name} is shown as {by_name.entry}, {by_name.id}")

        listed = {each.entry for each in catalog.images_after(folder.key, 0, MANY)}
        if listed != {name for path, name in told if path == folder.path}:
            found.append(f"{folder.path}: listing and look-ups differ")

    if row and row.listed_at is not None and told not in truths:
        found.append("what is listed was so at no moment")
    return found


@pytest.mark.parametrize("place", ["elsewhere", "over what was closed"])
@pytest.mark.parametrize("seed", range(100))
def test_c7_a_torn_copy_is_not_believed(
    tmp_path: Path, moments: list[Files], seed: int, place: str
) -> None:
    path = tmp_path / "c.db"
    files = torn(moments, seed)
    if place == "over what was closed":
        files = moments[-1] | files | {"c.db.state": moments[-1]["c.db.state"]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    catalog = Catalog(path)

    assert lies(catalog) == []

    catalog.close()


@pytest.mark.parametrize("lost", ["c.db-wal", "c.db.state"])
def test_c7_a_killed_catalog_that_lost_a_file_is_not_believed(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "c.db"
    kill_writer(path)
    (tmp_path / lost).unlink()
    catalog = Catalog(path)
    assert catalog.datasets_after(0, MANY) == []
    assert len(aside(path)) == 1
    catalog.close()


def test_c7_a_killed_catalog_in_whose_place_an_old_copy_was_put_is_not_believed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.db"
    kill_writer(path)
    shutil.copytree(tmp_path, tmp_path / "copy")

    for each in list(tmp_path.iterdir()):
        if each.is_file():
            each.unlink()

    for each in (tmp_path / "copy").iterdir():  # ext4 gives out the very inodes again
        shutil.copy2(each, tmp_path)
    catalog = Catalog(path)

    assert catalog.datasets_after(0, MANY) == []

    catalog.close()


def test_c7_a_power_cut_is_told_from_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    kill_writer(path)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    state = tmp_path / "c.db.state"
    assert boot in state.read_text()
    state.write_text(state.read_text().replace(boot, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
    catalog = Catalog(path)
    assert catalog.datasets_after(0, MANY) == []
    assert len(aside(path)) == 1
    catalog.close()


def test_c7_what_was_closed_is_believed_wherever_it_was_copied_to(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    world = World.at(tmp_path / "old/c.db")
    world.put(image(1, "a.jpg"))
    world.catalog.close()
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    world = World.at(tmp_path / "new/c.db")
    assert world.row(1).entry == "a.jpg"
    world.catalog.close()
    assert aside(tmp_path / "new/c.db") == []


def test_c7_of_those_put_aside_the_last_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    for content in (b"one" * 5000, b"two" * 5000):
        path.write_bytes(content)
        Catalog(path).close()
    (kept,) = aside(path)
    assert kept.read_bytes()[:3] == b"two"


def kill_writer(path: Path) -> None:
    victim = worker(path, 1, 10_000)
    assert victim.stdout is not None
    for _ in range(8):
        victim.stdout.readline()
    victim.kill()
    victim.communicate()


# Opened at the same moment.


def older(path: Path) -> None:
    Catalog(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()


def unproven(path: Path) -> None:
    """As an older pictofs leaves it, which proves nothing."""
    older(path)
    path.with_name("c.db.state").unlink()


def damaged(path: Path) -> None:
    world = World.at(path)
    world.put(*listing(0))
    world.catalog.close()
    data = bytearray(path.read_bytes())
    data[5 * PAGE : 9 * PAGE] = random.Random(1).randbytes(4 * PAGE)
    path.write_bytes(data)


@pytest.mark.parametrize("found", [None, older, unproven, damaged])
def test_c8_processes_that_start_together_share_one_catalog(tmp_path: Path, found) -> None:
    for turn in range(4):
        path = tmp_path / str(turn) / "c.db"
        path.parent.mkdir()
        if found is not None:
            found(path)
        workers = [worker(path, "hold", number) for number in range(8)]

        for each in workers:
            assert each.stdout is not None
            assert each.stdout.readline() == f"open {path}\n"

        for (
            each
        ) in workers:  # all have it open; now each writes a dataset, and sees those of the others
            assert each.stdin is not None
            each.stdin.write("write\n")
            each.stdin.flush()
            assert each.stdout is not None
            each.stdout.readline()

        for each in workers:
            said, _ = each.communicate("count\n", timeout=60)
            assert said == "8\n"

        assert len(aside(path)) == (found is not None)


def test_c8_a_file_of_another_version_is_left_to_those_who_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    holder = worker(path, "hold", 1)

    assert holder.stdout is not None

    holder.stdout.readline()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 77")
    db.close()
    catalog = Catalog(path)

    assert catalog.database.path == tmp_path / "c-2.db"

    catalog.put_datasets([dataset("mine", 7)], 1.0)
    said, _ = holder.communicate("write\ncount\n", timeout=60)

    assert said == "written\n1\n"

    catalog.close()

    assert aside(path) == []


def test_c8_a_pictofs_without_the_lock_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    holder = worker(path, "hold", 1)
    assert holder.stdout is not None
    holder.stdout.readline()
    (tmp_path / "c.db.state").unlink()  # so that nothing of ours tells that it is in use
    catalog = Catalog(path)
    assert catalog.database.path == tmp_path / "c-2.db"
    said, _ = holder.communicate("write\ncount\n", timeout=60)
    assert said == "written\n1\n"
    catalog.close()


def test_c8_a_locked_catalog_is_not_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    World.at(path).catalog.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    opened = worker(path, "hold", 1)  # in another process: SQLite's locks are a process's

    assert opened.stdout is not None
    assert opened.stdout.readline() == f"open {tmp_path / 'c-2.db'}\n"

    opened.communicate()
    other.close()

    assert aside(path) == []


def test_c9_a_stopped_process_in_a_write_holds_up_one_write_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    holder = worker(path, "hold", 1)

    assert holder.stdout is not None
    assert holder.stdin is not None

    holder.stdout.readline()
    holder.stdin.write("begin\n")
    holder.stdin.flush()

    assert holder.stdout.readline() == "begun\n"

    os.kill(holder.pid, signal.SIGSTOP)
    catalog = Catalog(path)  # opening waits for no write

    for _ in range(40):  # 10 s each would be 400 s
        with pytest.raises(DiskFull, match="locked"):
            catalog.put_datasets([], 1.0)

    assert catalog.datasets_after(0, 1) == []

    os.kill(holder.pid, signal.SIGCONT)
    holder.communicate("\n", timeout=60)
    catalog.put_datasets([dataset("d")], 1.0)

    assert catalog.counts()[0] == 1

    catalog.close()


def test_s7_absurd_totals_are_counted(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "c.db")
    huge = {"total_size": 2**63 - 1, "image_count": 2**63 - 1}
    catalog.put_datasets([dataset(f"d{n}", n, **huge) for n in range(1025)], 1.0)
    assert catalog.counts() == (1025, 2**63 - 1)
    assert catalog.image_total() == 2**63 - 1
    catalog.close()
