"""One process, one blob cache: what is stored is what is read, and everything else is told apart from
it."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from itertools import pairwise
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.clock import SystemClock
from pictofs.config import FreeSpace
from pictofs.config.values import free_space
from pictofs.errors import Corrupt, DiskFull, Invalid, PictofsError
from pictofs.store.blobs.blob import FOOTER_SIZE, BlobPath
from pictofs.store.blobs.cache import Audit, BlobCache, Busy, CacheUnusable
from pictofs.store.blobs.ledger import allocated_size
from pictofs.store.blobs.space import lock_temp

KEY = "0192f0c4-7a1b-7c3d-8e4f-001122334455"
BIG = bytes(range(256)) * 8192  # 2 MiB: more than is verified inline


class HandClock(SystemClock):
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def wall(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def blob_cache(root: Path, clock: HandClock):
    blob_cache = BlobCache(root, limit=100 << 20, reserve=FreeSpace(), clock=clock)
    yield blob_cache
    blob_cache.close()


def reopened(root: Path, limit: int = 100 << 20, reserve: str = "0") -> BlobCache:
    return BlobCache(root, limit=limit, reserve=free_space(reserve), clock=SystemClock())


def store(blob_cache: BlobCache, key: str, data: bytes) -> None:
    blob_cache.put(key, data, None).close()


def read(blob_cache: BlobCache, key: str) -> bytes | None:
    blob = blob_cache.open(key)
    if blob is None:
        return None
    with blob:
        return blob.pread(0, blob.size + 1000)


def file_of(root: Path, key: str) -> Path:
    return root / BlobPath.of_name(key).path


def on_disk(root: Path) -> int:
    return sum(allocated_size(path.stat().st_size) for path in root.glob("??/*"))


def flip(path: Path, offset: int) -> None:
    """Flip one bit and put the times back, as failing hardware does."""
    before = path.stat()

    while (
        path.stat().st_ctime_ns == before.st_ctime_ns
    ):  # the clock of some kernels ticks every 4 ms
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

        if path.stat().st_ctime_ns == before.st_ctime_ns:
            data[offset] ^= 1
            path.write_bytes(data)


# What is read


@given(
    key=st.text(),
    data=st.binary(max_size=5000),
    offset=st.integers(0, 6000),
    length=st.integers(0, 6000),
)
def test_any_key_reads_back_exactly_and_the_footer_is_never_served(key, data, offset, length):
    with tempfile.TemporaryDirectory() as folder:
        blob_cache = reopened(Path(folder) / "s")
        with blob_cache.put(key, data, google_crc32c.value(data)) as fresh:
            assert fresh.pread(offset, length) == data[offset : offset + length]

        assert blob_cache.open(key + "0") is None

        again = reopened(Path(folder) / "s")

        with again.open(key) as blob:
            assert (blob.blob_name, blob.size) == (key, len(data))
            assert blob.pread(offset, length) == data[offset : offset + length]

        blob_cache.close()
        again.close()


@given(key=st.text(alphabet="0123456789abcdef-./~x\0\n\udc80é"))
def test_no_key_leaves_its_directory(key):
    place = BlobPath.of_name(key)
    assert place.path.count("/") == 1
    assert place.name not in (".", "..")
    assert "~" not in place.name
    assert BlobPath.of_file(place.shard, place.name) == place


def test_an_image_keeps_its_id_as_its_name(blob_cache, root):
    store(blob_cache, KEY, b"x")
    assert [path.name for path in root.glob("??/*")] == [KEY]


def test_c3_an_open_blob_outlives_its_removal(blob_cache):
    with blob_cache.put(KEY, b"bytes", None) as blob:
        assert blob_cache.remove(KEY) is True
        assert blob_cache.remove(KEY) is False
        assert blob_cache.open(KEY) is None
        assert blob.pread(0, 5) == b"bytes"
    blob.close()
    with pytest.raises(Corrupt):
        blob.pread(0, 5)


def test_large_content_is_left_for_a_thread_to_verify_once(blob_cache, root):
    store(blob_cache, KEY, BIG)
    other = reopened(root)
    with other.open(KEY) as blob:
        assert blob.verified is False
        blob.verify()
        assert blob.verified is True
    with other.open(KEY) as blob:
        assert blob.verified is True
        assert blob.pread(0, len(BIG)) == BIG
    other.close()


def test_b4_unverified_content_is_never_served(blob_cache, root):
    store(blob_cache, KEY, BIG)
    flip(file_of(root, KEY), 1_500_000)
    with blob_cache.open(KEY) as blob, pytest.raises(Corrupt):
        blob.pread(0, 10)
    assert blob_cache.open(KEY) is None
    assert blob_cache.damaged == 1


# Tampering and torn files


@pytest.mark.parametrize("offset", [0, 2500, 4999, *range(-FOOTER_SIZE, 0)])
def test_b4_a_flipped_bit_anywhere_is_found_though_it_was_verified_before(
    blob_cache, root, offset, caplog
):
    data = os.urandom(5000)
    store(blob_cache, KEY, data)

    assert read(blob_cache, KEY) == data

    flip(file_of(root, KEY), offset)

    assert blob_cache.open(KEY) is None
    assert not file_of(root, KEY).exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

    store(blob_cache, KEY, data)

    assert read(blob_cache, KEY) == data


@pytest.mark.parametrize(
    "length", [0, 1, FOOTER_SIZE - 1, FOOTER_SIZE, 2500, 5000, 5000 + FOOTER_SIZE - 1, 9000]
)
def test_b4_a_cut_or_extended_file_is_found(blob_cache, root, length):
    store(blob_cache, KEY, os.urandom(5000))
    os.truncate(file_of(root, KEY), length)
    assert blob_cache.open(KEY) is None
    assert blob_cache.damaged == 1


def test_a_file_cut_while_open_is_an_error_and_not_fewer_bytes(blob_cache, root):
    with blob_cache.put(KEY, os.urandom(5000), None) as blob:
        os.truncate(file_of(root, KEY), 100)
        with pytest.raises(Corrupt):
            blob.pread(0, 5000)


def test_b4_swapped_blobs_are_found(blob_cache, root):
    store(blob_cache, "aa", b"one")
    store(blob_cache, "bb", b"two")
    one, two = file_of(root, "aa"), file_of(root, "bb")
    one.rename(root / "spare")
    two.rename(one)
    (root / "spare").rename(two)
    assert read(blob_cache, "aa") is None
    assert read(blob_cache, "bb") is None


def test_damage_is_warned_about_once_and_counted(blob_cache, root, caplog):
    for key in ("aa", "bb", "cc"):
        store(blob_cache, key, b"data")
        flip(file_of(root, key), 0)
        assert blob_cache.open(key) is None
    assert blob_cache.damaged == 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder"])
def test_what_is_no_file_is_not_served_and_hangs_nobody(blob_cache, root, kind, tmp_path):
    store(blob_cache, KEY, b"data")
    path = file_of(root, KEY)
    path.unlink()
    (tmp_path / "secret").write_bytes(b"secret")
    {
        "symlink": lambda: path.symlink_to(tmp_path / "secret"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()

    assert blob_cache.open(KEY) is None

    blob_cache.recount()
    blob_cache.verify(lambda _: None)

    assert (tmp_path / "secret").read_bytes() == b"secret"


# The directory


def test_k4_the_cache_is_private(blob_cache, root):
    store(blob_cache, KEY, b"data")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.glob("??")]} == {0o700}


def test_k4_a_cache_open_to_others_is_closed_to_them(root):
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    reopened(root).close()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_k4_a_linked_cache_is_refused(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Invalid, match="link"):
        reopened(root)


def test_a_file_in_place_of_the_cache_is_refused(root):
    root.write_bytes(b"")
    with pytest.raises(Invalid, match="directory"):
        reopened(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_k4_another_users_cache_is_refused(root):
    root.mkdir()
    os.chown(root, 12345, 12345)
    with pytest.raises(Invalid, match="another user"):
        reopened(root)


# Downloads


def test_c5_one_download_of_a_key_at_a_time(blob_cache, root):
    other = reopened(root)
    with blob_cache.open_partial(KEY, 4) as partial_blob:
        for rival in (blob_cache, other):
            with pytest.raises(Busy):
                rival.open_partial(KEY, 4)
            assert rival.open(KEY) is None

        partial_blob.write(0, b"data")
        partial_blob.commit(4, None).close()

    with pytest.raises(Busy):
        other.open_partial(KEY, 4)

    assert read(other, KEY) == b"data"

    other.close()


def test_an_abandoned_download_leaves_nothing(blob_cache, root):
    with blob_cache.open_partial(KEY, 1 << 20) as partial_blob:
        partial_blob.write(0, b"data")
        assert blob_cache.usage().bytes == allocated_size((1 << 20) + FOOTER_SIZE)
    partial_blob.abandon()
    assert blob_cache.usage().bytes == on_disk(root) == 0
    blob_cache.open_partial(KEY, 4).abandon()


@given(
    data=st.binary(max_size=3000),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    order=st.randoms(use_true_random=False),
    known=st.booleans(),
)
def test_a_download_in_any_order_of_pieces_reads_back(data, cuts, order, known):
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = list(pairwise(edges))
    order.shuffle(pieces)

    with tempfile.TemporaryDirectory() as folder:
        blob_cache = reopened(Path(folder) / "s")
        with blob_cache.open_partial(KEY, len(data) if known else None) as partial_blob:
            for start, end in pieces:
                partial_blob.write(start, data[start:end])
                assert partial_blob.pread(start, end - start) == data[start:end]
            with partial_blob.commit(len(data), google_crc32c.value(data)) as blob:
                assert blob.pread(0, 4000) == data

        assert blob_cache.usage().bytes == on_disk(Path(folder) / "s")

        blob_cache.close()


def test_a_transfer_begun_anew_is_summed_anew(blob_cache):
    with blob_cache.open_partial(KEY, 6) as partial_blob:
        partial_blob.write(0, b"bad")
        partial_blob.write(0, b"goo")
        partial_blob.write(3, b"d!!")
        partial_blob.commit(6, google_crc32c.value(b"good!!")).close()
    assert read(blob_cache, KEY) == b"good!!"


def test_b3_a_wrong_checksum_or_length_is_never_published(blob_cache, root):
    with blob_cache.open_partial(KEY, 4) as partial_blob:
        partial_blob.write(0, b"data")
        with pytest.raises(Corrupt):
            partial_blob.commit(5, None)
        with pytest.raises(Corrupt):
            partial_blob.commit(4, 1234)
    with pytest.raises(Corrupt):
        blob_cache.put(KEY, b"data", 1234)
    assert blob_cache.open(KEY) is None
    assert blob_cache.usage().bytes == on_disk(root) == 0


def test_a_shorter_transfer_than_announced_keeps_only_its_room(blob_cache, root):
    with blob_cache.open_partial(KEY, 1 << 20) as partial_blob:
        partial_blob.write(0, b"data")
        partial_blob.commit(4, None).close()
    assert blob_cache.usage().bytes == on_disk(root) == 4096
    other = reopened(root)
    assert read(other, KEY) == b"data"
    other.close()


def test_a_temp_file_that_lost_its_name_locks_nothing(tmp_path):
    temp, folder = tmp_path / "aa~", os.open(tmp_path, os.O_RDONLY)
    with open(temp, "wb") as old:
        temp.unlink()
        assert lock_temp(folder, old.fileno(), temp.name) is False
        with open(temp, "wb") as new:
            assert lock_temp(folder, old.fileno(), temp.name) is False
            assert lock_temp(folder, new.fileno(), temp.name) is True
            with open(temp, "wb") as late:
                assert lock_temp(folder, late.fileno(), temp.name) is False
    os.close(folder)


def test_the_same_content_stored_twice_counts_once(blob_cache, root):
    store(blob_cache, KEY, b"data")
    store(blob_cache, KEY, b"data")
    assert (blob_cache.usage().bytes, blob_cache.usage().files) == (4096, 1)
    assert on_disk(root) == 4096


# The bound


def test_c3_the_least_used_go_first_and_the_rest_stay(root, clock):
    blob_cache = BlobCache(root, limit=20 * 4096, reserve=FreeSpace(), clock=clock)
    for number in range(20):
        clock.now += 1000
        store(blob_cache, f"{number:02x}", b"data")

    clock.now += 1000

    assert read(blob_cache, "00") == b"data"

    with blob_cache.put("ff", b"new", None) as newest:
        kept = [number for number in range(20) if blob_cache.open(f"{number:02x}")]
        assert kept == [0, *range(4, 20)]
        assert newest.pread(0, 3) == read(blob_cache, "ff") == b"new"

    assert blob_cache.usage().bytes == on_disk(root) == 18 * 4096

    blob_cache.close()


def test_noting_a_use_costs_no_new_verification(blob_cache, root, clock):
    store(blob_cache, KEY, BIG)
    before = file_of(root, KEY).stat()
    clock.now += 1000
    assert read(blob_cache, KEY) == BIG
    blob_cache.flush_uses()
    assert file_of(root, KEY).stat().st_mtime == before.st_mtime + 1000
    with blob_cache.open(KEY) as blob:
        assert blob.verified is True


def test_what_can_never_fit_evicts_nothing(root):
    blob_cache = reopened(root, limit=40_960)
    store(blob_cache, "aa", b"data")
    with pytest.raises(DiskFull):
        blob_cache.put("bb", bytes(50_000), None)
    with pytest.raises(DiskFull):
        blob_cache.open_partial("bb", 1 << 60)
    with blob_cache.open_partial("bb", 30_000), pytest.raises(DiskFull):
        blob_cache.open_partial("cc", 30_000)
    assert read(blob_cache, "aa") == b"data"
    blob_cache.close()


def test_c1_a_download_that_outgrows_the_bound_is_stopped(root):
    blob_cache = reopened(root, limit=40_960)
    with blob_cache.open_partial(KEY, None) as partial_blob:
        for start in range(0, 40_000, 1000):
            partial_blob.write(start, bytes(1000))
        with pytest.raises(DiskFull):
            partial_blob.write(40_000, bytes(1000))
    assert blob_cache.usage().bytes == on_disk(root) == 0
    blob_cache.close()


def test_c2_the_reserve_is_kept_though_the_bound_is_not_reached(root):
    blob_cache = reopened(root, reserve="99.9%")
    with pytest.raises(DiskFull):
        blob_cache.put(KEY, b"data", None)
    blob_cache.close()


def test_clear_spares_the_downloads_under_way(blob_cache, root):
    for number in range(30):
        store(blob_cache, f"{number:02x}", b"data")
    with blob_cache.open_partial(KEY, 4) as partial_blob:
        assert blob_cache.clear() == 30
        assert blob_cache.usage().files == 0
        partial_blob.write(0, b"data")
        partial_blob.commit(4, None).close()
    assert read(blob_cache, KEY) == b"data"
    assert blob_cache.usage().bytes == on_disk(root) == 4096


@pytest.mark.parametrize("page", [b"", b"\xff" * 4096, bytes(4096)])
def test_a_lost_or_damaged_count_is_counted_anew(blob_cache, root, page):
    for number in range(30):
        store(blob_cache, f"{number:02x}", bytes(5000))
    (root / "usage").write_bytes(page)
    other = reopened(root)
    other.recount()
    assert (other.usage().bytes, other.usage().files) == (on_disk(root), 30)
    other.close()


# The audit


def test_verify_removes_the_damaged_and_the_litter_and_keeps_the_rest(blob_cache, root):
    for number in range(20):
        store(blob_cache, f"{number:02x}", b"data")
    store(blob_cache, KEY, BIG)
    flip(file_of(root, "03"), 2)
    os.truncate(file_of(root, "04"), 3)
    (root / BlobPath.of_name("05").path).with_name("stray name").write_bytes(b"?")
    file_of(root, "06").with_name("06~dead").write_bytes(b"half")

    with blob_cache.open_partial("aa", 4) as alive:
        seen: list[int] = []
        audit = blob_cache.verify(lambda counts: seen.append(counts.blobs))

        assert audit == Audit(blobs=21, bytes=18 * 4 + len(BIG), damaged=2, litter=2)
        assert len(seen) == 256

        alive.write(0, b"live")
        alive.commit(4, None).close()

    assert [number for number in range(20) if not blob_cache.open(f"{number:02x}")] == [3, 4]
    assert blob_cache.usage().bytes == on_disk(root)


# The disk fails


def test_an_emptied_cache_starts_anew(blob_cache, root):
    store(blob_cache, KEY, b"data")
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert blob_cache.open(KEY) is None
    store(blob_cache, KEY, b"data")
    assert read(blob_cache, KEY) == b"data"
    assert blob_cache.usage().bytes == on_disk(root) == 4096


def test_c10_a_vanished_cache_is_made_anew(blob_cache, root):
    store(blob_cache, KEY, b"data")
    shutil.rmtree(root)
    assert blob_cache.open(KEY) is None
    store(blob_cache, KEY, b"data")
    assert read(blob_cache, KEY) == b"data"
    assert file_of(root, KEY).exists()
    assert blob_cache.usage().bytes == on_disk(root) == 4096
    blob_cache.flush_uses()


def test_a_cache_whose_disk_vanished_fails_by_name(tmp_path, clock):
    root = tmp_path / "disk/pictofs/content"
    blob_cache = BlobCache(root, limit=100 << 20, reserve=FreeSpace(), clock=clock)
    shutil.rmtree(tmp_path / "disk")

    assert blob_cache.open(KEY) is None

    for call in (
        lambda: blob_cache.open_partial(KEY, 4),
        lambda: blob_cache.put(KEY, b"data", None),
        blob_cache.usage,
        blob_cache.recount,
    ):
        with pytest.raises(CacheUnusable):
            call()

    assert not (tmp_path / "disk").exists()
    assert issubclass(CacheUnusable, PictofsError)

    blob_cache.flush_uses()
    blob_cache.close()
