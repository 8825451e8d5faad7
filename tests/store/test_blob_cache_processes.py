"""Several processes, one blob cache: nobody reads a wrong byte, the bound holds, the dead leave
nothing."""

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
from blob_cache_worker import content

from pictofs.clock import SystemClock
from pictofs.config import FreeSpace
from pictofs.errors import DiskFull
from pictofs.store.blobs.cache import BlobCache, Busy, CacheUnusable
from pictofs.store.blobs.ledger import Lock, allocated_size

WORKER = Path(__file__).with_name("blob_cache_worker.py")
LIMIT = 40 * 28_672  # about two thirds of what the workers' sixty keys take


def work(task: str, root: Path, seed: int, limit: int = LIMIT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), task, str(root), str(limit), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def cache_at(root: Path, limit: int = LIMIT) -> BlobCache:
    return BlobCache(root, limit=limit, reserve=FreeSpace(), clock=SystemClock())


@contextmanager
def frozen(root: Path):
    """Hold the ledger's lock: no process changes the amount of bytes meanwhile."""
    with open(root / "usage", "rb") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        yield


def on_disk(root: Path) -> int:
    """The bytes taken, temp files included; for frozen shelves."""
    return sum(allocated_size(path.stat().st_size) for path in root.glob("??/*"))


def damaged_or_wrong(blob_cache: BlobCache, keys: range = range(60)) -> list[str]:
    bad = []
    for key in (f"{number:08x}" for number in keys):
        blob = blob_cache.open(key)
        if blob is not None:
            with blob:
                bad += [] if blob.pread(0, blob.size) == content(key) else [key]
    return bad + ["damaged"] * blob_cache.damaged


def test_c5_contending_processes_download_each_key_once(tmp_path):
    root = tmp_path / "cache"
    workers = [work("race", root, seed, limit=1 << 30) for seed in range(4)]
    words = Counter(word for worker in workers for word in worker.communicate()[0].split())
    assert words == {"download": 40, "hit": 120}


def test_c1_the_bound_holds_at_every_moment_and_the_count_is_exact(tmp_path):
    root = tmp_path / "cache"
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

    blob_cache = cache_at(root)

    assert damaged_or_wrong(blob_cache) == []
    assert blob_cache.usage().bytes == on_disk(root)
    assert not list(root.glob("??/*~*"))

    blob_cache.close()


@pytest.mark.parametrize("seed", range(8))
def test_c7_kill_9_at_any_moment_leaves_litter_but_never_a_lie(tmp_path, seed):
    root = tmp_path / "cache"
    workers = [work("forever", root, seed * 10 + number) for number in range(2)]

    for worker in workers:
        for _ in range(40 + 37 * seed):
            assert worker.stdout.readline().strip() != "WRONG"
        worker.kill()

    for worker in workers:
        worker.communicate()
    blob_cache = cache_at(root)

    # Too high is safe and passes with the next count; too low would break the bound.
    assert on_disk(root) <= blob_cache.usage().bytes <= LIMIT
    assert damaged_or_wrong(blob_cache) == []

    blob_cache.recount()

    assert blob_cache.usage().bytes == on_disk(root)
    assert blob_cache.usage().files == len(list(root.glob("??/*")))
    assert not list(root.glob("??/*~*"))

    blob_cache.close()


def test_threads_of_one_process_share_the_bound_too(tmp_path):
    root = tmp_path / "cache"
    blob_cache = cache_at(root)
    keys = [f"{number % 60:08x}" for number in range(400)]

    def put(key: str) -> bool:
        with blob_cache.put(key, content(key), None) as blob:
            return blob.pread(0, 1 << 20) == content(key) and blob_cache.usage().bytes <= LIMIT

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(put, keys))

    assert damaged_or_wrong(blob_cache) == []
    assert blob_cache.usage().bytes == on_disk(root)

    blob_cache.close()


def test_a_dead_downloads_key_is_free_and_its_litter_swept(tmp_path):
    root = tmp_path / "cache"
    blob_cache = cache_at(root)
    worker = work("hold", root, 0)

    assert worker.stdout.readline() == "holding\n"

    with pytest.raises(Busy):
        blob_cache.open_partial("aa", 4)

    assert blob_cache.recount() == 0, "a live download was swept"
    assert on_disk(root) == blob_cache.usage().bytes > 0

    worker.kill()
    worker.communicate()

    with blob_cache.open_partial("aa", None) as partial_blob:
        partial_blob.write(0, b"x")
        with partial_blob.commit(1, None) as blob:
            assert blob.pread(0, 10) == b"x"

    assert on_disk(root) == blob_cache.usage().bytes

    worker = work("hold", root, 0)
    worker.communicate()  # Busy: the key is here by now
    blob_cache.remove("aa")
    worker = work("hold", root, 0)

    assert worker.stdout.readline() == "holding\n"

    worker.kill()
    worker.communicate()

    assert blob_cache.recount() == 1
    assert on_disk(root) == blob_cache.usage().bytes == 0

    blob_cache.close()


def test_c5_eviction_spares_a_live_download_and_takes_a_dead_one(tmp_path):
    root = tmp_path / "cache"
    worker = work("hold", root, 0)

    assert worker.stdout.readline() == "holding\n"

    blob_cache = cache_at(root, limit=10 * 4096)
    for number in range(20):
        blob_cache.put(f"{number:02x}", b"data", None).close()

    assert len(list(root.glob("??/*~"))) == 1

    worker.kill()
    worker.communicate()
    for number in range(20, 40):
        blob_cache.put(f"{number:02x}", b"data", None).close()

    assert list(root.glob("??/*~")) == []
    assert on_disk(root) == blob_cache.usage().bytes <= 10 * 4096

    blob_cache.close()


def test_a_stopped_process_that_holds_the_locks_delays_no_read(tmp_path):
    root = tmp_path / "cache"
    blob_cache = cache_at(root)
    blob_cache.put("aa", b"data", None).close()

    with frozen(root):
        with blob_cache.open("aa") as blob:
            assert blob.pread(0, 4) == b"data"

        assert blob_cache.open("bb") is None

        descriptor = os.open(root, os.O_RDONLY)

        with (
            pytest.raises(CacheUnusable, match="held too long"),
            Lock(descriptor, "usage", patience=0.01),
        ):
            pass

        os.close(descriptor)

    assert blob_cache.usage().files == 1

    blob_cache.close()


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
    root = small_disk / "cache"
    blob_cache = cache_at(root, limit=1 << 30)
    (small_disk / "foreign").write_bytes(bytes(1 << 20))
    for number in range(60):
        blob_cache.put(f"{number:08x}", content(f"{number:08x}"), None).close()
    assert blob_cache.usage().files < 60, "the disk held all; the test needs larger files"
    assert damaged_or_wrong(blob_cache) == []
    assert blob_cache.usage().bytes == on_disk(root)
    blob_cache.close()


def test_c2_the_mount_never_fills_the_disk(small_disk):
    root = small_disk / "cache"
    blob_cache = BlobCache(root, limit=1 << 30, reserve=FreeSpace(share=0.25), clock=SystemClock())
    for number in range(60):
        blob_cache.put(f"{number:08x}", content(f"{number:08x}"), None).close()
        assert blob_cache.usage().free >= (2 << 20) // 4 - 4096
    assert 0 < blob_cache.usage().files < 60
    blob_cache.close()


def test_c2_c4_a_disk_filled_by_others_fails_downloads_and_keeps_reads(small_disk):
    root = small_disk / "cache"
    blob_cache = cache_at(root, limit=1 << 30)
    blob_cache.put("aa", b"data", None).close()
    partial_blob = blob_cache.open_partial("bb", None)

    with open(small_disk / "foreign", "wb", buffering=0) as foreign, suppress(OSError):
        while foreign.write(bytes(4096)):
            pass

    with partial_blob, pytest.raises(DiskFull):
        partial_blob.write(0, bytes(50_000))
    with pytest.raises(DiskFull):
        blob_cache.put("cc", bytes(50_000), None)
    with blob_cache.open("aa") as blob:
        assert blob.pread(0, 4) == b"data"

    assert blob_cache.usage().bytes == on_disk(root)

    blob_cache.close()


def test_c4_a_read_only_disk_serves_what_it_has(small_disk):
    root = small_disk / "cache"
    blob_cache = cache_at(root)
    blob_cache.put("aa", b"data", None).close()
    blob_cache.put("bb", b"data", None).close()
    blob_cache.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    blob_cache = BlobCache(root, limit=LIMIT, reserve=FreeSpace(), clock=LaterClock())
    with blob_cache.open("aa") as blob:
        assert blob.pread(0, 4) == b"data"
    blob_cache.flush_uses()

    for call in (
        lambda: blob_cache.open_partial("cc", 4),
        lambda: blob_cache.put("cc", b"data", None),
        lambda: blob_cache.remove("aa"),
        blob_cache.clear,
        blob_cache.recount,
    ):
        with pytest.raises(CacheUnusable):
            call()

    assert blob_cache.open("cc") is None

    with blob_cache.open("bb") as blob:
        assert blob.pread(0, 4) == b"data"
    blob_cache.close()


class LaterClock(SystemClock):
    """A day later, so that reads count as uses to write."""

    def wall(self) -> float:
        return super().wall() + 86_400
