"""Several processes, one shelf: nobody reads a wrong byte, the bound holds, the dead leave nothing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from shelf_worker import content

from pictofs.clock import SystemClock
from pictofs.config import FreeSpace
from pictofs.errors import DiskFull
from pictofs.store.blobs.cache import Busy, Shelf, ShelfUnusable
from pictofs.store.blobs.ledger import Lock, charge

WORKER = Path(__file__).with_name("shelf_worker.py")
LIMIT = 40 * 28_672  # about two thirds of what the workers' sixty keys take


def work(task: str, root: Path, seed: int, limit: int = LIMIT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), task, str(root), str(limit), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def shelf_at(root: Path, limit: int = LIMIT) -> Shelf:
    return Shelf(root, limit=limit, reserve=FreeSpace(), clock=SystemClock())


@contextmanager
def frozen(root: Path):
    """Hold the ledger's lock: no process changes the amount of bytes meanwhile."""
    with open(root / "usage", "rb") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        yield


def on_disk(root: Path) -> int:
    """The bytes taken, temp files included; for frozen shelves."""
    return sum(charge(path.stat().st_size) for path in root.glob("??/*"))


def damaged_or_wrong(shelf: Shelf, keys: range = range(60)) -> list[str]:
    bad = []
    for key in (f"{number:08x}" for number in keys):
        blob = shelf.open(key)
        if blob is not None:
            with blob:
                bad += [] if blob.pread(0, blob.size) == content(key) else [key]
    return bad + ["damaged"] * shelf.damaged


def test_c5_contending_processes_download_each_key_once(tmp_path):
    root = tmp_path / "shelf"
    workers = [work("race", root, seed, limit=1 << 30) for seed in range(4)]
    words = Counter(word for worker in workers for word in worker.communicate()[0].split())
    assert words == {"download": 40, "hit": 120}


def test_c1_the_bound_holds_at_every_moment_and_the_count_is_exact(tmp_path):
    root = tmp_path / "shelf"
    workers = [work("churn", root, seed) for seed in range(3)]
    words: Counter[str] = Counter()
    for line in workers[0].stdout:
        words[line.strip()] += 1
        with frozen(root):
            assert on_disk(root) <= LIMIT
    for worker in workers[1:]:
        words.update(worker.communicate()[0].splitlines())
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert words.total() == 900
    assert words["WRONG"] == 0
    assert words["put"] > 200
    shelf = shelf_at(root)
    assert damaged_or_wrong(shelf) == []
    assert shelf.usage().bytes == on_disk(root)
    assert not list(root.glob("??/*~*"))
    shelf.close()


@pytest.mark.parametrize("seed", range(8))
def test_c7_kill_9_at_any_moment_leaves_litter_but_never_a_lie(tmp_path, seed):
    root = tmp_path / "shelf"
    workers = [work("forever", root, seed * 10 + number) for number in range(2)]
    for worker in workers:
        for _ in range(40 + 37 * seed):
            assert worker.stdout.readline().strip() != "WRONG"
        worker.kill()
    for worker in workers:
        worker.communicate()
    shelf = shelf_at(root)
    # Too high is safe and passes with the next count; too low would break the bound.
    assert on_disk(root) <= shelf.usage().bytes <= LIMIT
    assert damaged_or_wrong(shelf) == []
    shelf.recount()
    assert shelf.usage().bytes == on_disk(root)
    assert shelf.usage().files == len(list(root.glob("??/*")))
    assert not list(root.glob("??/*~*"))
    shelf.close()


def test_threads_of_one_process_share_the_bound_too(tmp_path):
    root = tmp_path / "shelf"
    shelf = shelf_at(root)
    keys = [f"{number % 60:08x}" for number in range(400)]

    def put(key: str) -> bool:
        with shelf.put(key, content(key), None) as blob:
            return blob.pread(0, 1 << 20) == content(key) and shelf.usage().bytes <= LIMIT

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(put, keys))
    assert damaged_or_wrong(shelf) == []
    assert shelf.usage().bytes == on_disk(root)
    shelf.close()


def test_a_dead_downloads_key_is_free_and_its_litter_swept(tmp_path):
    root = tmp_path / "shelf"
    shelf = shelf_at(root)
    worker = work("hold", root, 0)
    assert worker.stdout.readline() == "holding\n"
    with pytest.raises(Busy):
        shelf.draft("aa", 4)
    assert shelf.recount() == 0, "a live download was swept"
    assert on_disk(root) == shelf.usage().bytes > 0
    worker.kill()
    worker.communicate()
    with shelf.draft("aa", None) as draft:
        draft.write(0, b"x")
        with draft.commit(1, None) as blob:
            assert blob.pread(0, 10) == b"x"
    assert on_disk(root) == shelf.usage().bytes

    worker = work("hold", root, 0)
    worker.communicate()  # Busy: the key is here by now
    shelf.remove("aa")
    worker = work("hold", root, 0)
    assert worker.stdout.readline() == "holding\n"
    worker.kill()
    worker.communicate()
    assert shelf.recount() == 1
    assert on_disk(root) == shelf.usage().bytes == 0
    shelf.close()


def test_c5_eviction_spares_a_live_download_and_takes_a_dead_one(tmp_path):
    root = tmp_path / "shelf"
    worker = work("hold", root, 0)
    assert worker.stdout.readline() == "holding\n"
    shelf = shelf_at(root, limit=10 * 4096)
    for number in range(20):
        shelf.put(f"{number:02x}", b"data", None).close()
    assert len(list(root.glob("??/*~"))) == 1
    worker.kill()
    worker.communicate()
    for number in range(20, 40):
        shelf.put(f"{number:02x}", b"data", None).close()
    assert list(root.glob("??/*~")) == []
    assert on_disk(root) == shelf.usage().bytes <= 10 * 4096
    shelf.close()


def test_a_stopped_process_that_holds_the_locks_delays_no_read(tmp_path):
    root = tmp_path / "shelf"
    shelf = shelf_at(root)
    shelf.put("aa", b"data", None).close()
    with frozen(root):
        with shelf.open("aa") as blob:
            assert blob.pread(0, 4) == b"data"
        assert shelf.open("bb") is None
        descriptor = os.open(root, os.O_RDONLY)
        with pytest.raises(ShelfUnusable, match="held too long"), Lock(descriptor, "usage", patience=0.01):
            pass
        os.close(descriptor)
    assert shelf.usage().files == 1
    shelf.close()


# A disk of its own


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_c4_a_full_disk_is_an_error_with_a_name_and_spoils_nothing(small_disk):
    root = small_disk / "shelf"
    shelf = shelf_at(root, limit=1 << 30)
    (small_disk / "foreign").write_bytes(bytes(1 << 20))
    for number in range(60):
        shelf.put(f"{number:08x}", content(f"{number:08x}"), None).close()
    assert shelf.usage().files < 60, "the disk held all; the test needs larger files"
    assert damaged_or_wrong(shelf) == []
    assert shelf.usage().bytes == on_disk(root)
    shelf.close()


def test_c2_the_mount_never_fills_the_disk(small_disk):
    root = small_disk / "shelf"
    shelf = Shelf(root, limit=1 << 30, reserve=FreeSpace(share=0.25), clock=SystemClock())
    for number in range(60):
        shelf.put(f"{number:08x}", content(f"{number:08x}"), None).close()
        assert shelf.usage().free >= (2 << 20) // 4 - 4096
    assert 0 < shelf.usage().files < 60
    shelf.close()


def test_c2_c4_a_disk_filled_by_others_fails_downloads_and_keeps_reads(small_disk):
    root = small_disk / "shelf"
    shelf = shelf_at(root, limit=1 << 30)
    shelf.put("aa", b"data", None).close()
    draft = shelf.draft("bb", None)
    with open(small_disk / "foreign", "wb", buffering=0) as foreign, suppress(OSError):
        while foreign.write(bytes(4096)):
            pass
    with draft, pytest.raises(DiskFull):
        draft.write(0, bytes(50_000))
    with pytest.raises(DiskFull):
        shelf.put("cc", bytes(50_000), None)
    with shelf.open("aa") as blob:
        assert blob.pread(0, 4) == b"data"
    assert shelf.usage().bytes == on_disk(root)
    shelf.close()


def test_c4_a_read_only_disk_serves_what_it_has(small_disk):
    root = small_disk / "shelf"
    shelf = shelf_at(root)
    shelf.put("aa", b"data", None).close()
    shelf.put("bb", b"data", None).close()
    shelf.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    shelf = Shelf(root, limit=LIMIT, reserve=FreeSpace(), clock=LaterClock())
    with shelf.open("aa") as blob:
        assert blob.pread(0, 4) == b"data"
    shelf.flush_uses()
    for call in (
        lambda: shelf.draft("cc", 4),
        lambda: shelf.put("cc", b"data", None),
        lambda: shelf.remove("aa"),
        shelf.clear,
        shelf.recount,
    ):
        with pytest.raises(ShelfUnusable):
            call()
    assert shelf.open("cc") is None
    with shelf.open("bb") as blob:
        assert blob.pread(0, 4) == b"data"
    shelf.close()


class LaterClock(SystemClock):
    """A day later, so that reads count as uses to write."""

    def wall(self) -> float:
        return super().wall() + 86_400
