"""One process, one shelf: what is stored is what is read, and everything else is told apart from it."""

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
from pictofs.store.blobs.blob import FOOTER_SIZE, Place
from pictofs.store.blobs.cache import Audit, Busy, Shelf, ShelfUnusable
from pictofs.store.blobs.ledger import charge
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
    return tmp_path / "shelf"


@pytest.fixture
def shelf(root: Path, clock: HandClock):
    shelf = Shelf(root, limit=100 << 20, reserve=FreeSpace(), clock=clock)
    yield shelf
    shelf.close()


def reopened(root: Path, limit: int = 100 << 20, reserve: str = "0") -> Shelf:
    return Shelf(root, limit=limit, reserve=free_space(reserve), clock=SystemClock())


def store(shelf: Shelf, key: str, data: bytes) -> None:
    shelf.put(key, data, None).close()


def read(shelf: Shelf, key: str) -> bytes | None:
    blob = shelf.open(key)
    if blob is None:
        return None
    with blob:
        return blob.pread(0, blob.size + 1000)


def file_of(root: Path, key: str) -> Path:
    return root / Place.of_key(key).path


def on_disk(root: Path) -> int:
    return sum(charge(path.stat().st_size) for path in root.glob("??/*"))


def flip(path: Path, offset: int) -> None:
    """Flip one bit and put the times back, as failing hardware does."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of some kernels ticks every 4 ms
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_ctime_ns == before.st_ctime_ns:
            data[offset] ^= 1
            path.write_bytes(data)


# What is read


@given(key=st.text(), data=st.binary(max_size=5000), offset=st.integers(0, 6000), length=st.integers(0, 6000))
def test_any_key_reads_back_exactly_and_the_footer_is_never_served(key, data, offset, length):
    with tempfile.TemporaryDirectory() as folder:
        shelf = reopened(Path(folder) / "s")
        with shelf.put(key, data, google_crc32c.value(data)) as fresh:
            assert fresh.pread(offset, length) == data[offset : offset + length]
        assert shelf.open(key + "0") is None
        again = reopened(Path(folder) / "s")
        with again.open(key) as blob:
            assert (blob.key, blob.size) == (key, len(data))
            assert blob.pread(offset, length) == data[offset : offset + length]
        shelf.close()
        again.close()


@given(key=st.text(alphabet="0123456789abcdef-./~x\0\n\udc80é"))
def test_no_key_leaves_its_directory(key):
    place = Place.of_key(key)
    assert place.path.count("/") == 1
    assert place.name not in (".", "..")
    assert "~" not in place.name
    assert Place.of_file(place.fan, place.name) == place


def test_an_image_keeps_its_id_as_its_name(shelf, root):
    store(shelf, KEY, b"x")
    assert [path.name for path in root.glob("??/*")] == [KEY]


def test_c3_an_open_blob_outlives_its_removal(shelf):
    with shelf.put(KEY, b"bytes", None) as blob:
        assert shelf.remove(KEY) is True
        assert shelf.remove(KEY) is False
        assert shelf.open(KEY) is None
        assert blob.pread(0, 5) == b"bytes"
    blob.close()
    with pytest.raises(Corrupt):
        blob.pread(0, 5)


def test_large_content_is_left_for_a_thread_to_verify_once(shelf, root):
    store(shelf, KEY, BIG)
    other = reopened(root)
    with other.open(KEY) as blob:
        assert blob.verified is False
        blob.verify()
        assert blob.verified is True
    with other.open(KEY) as blob:
        assert blob.verified is True
        assert blob.pread(0, len(BIG)) == BIG
    other.close()


def test_b4_unverified_content_is_never_served(shelf, root):
    store(shelf, KEY, BIG)
    flip(file_of(root, KEY), 1_500_000)
    with shelf.open(KEY) as blob, pytest.raises(Corrupt):
        blob.pread(0, 10)
    assert shelf.open(KEY) is None
    assert shelf.damaged == 1


# Tampering and torn files


@pytest.mark.parametrize("offset", [0, 2500, 4999, *range(-FOOTER_SIZE, 0)])
def test_b4_a_flipped_bit_anywhere_is_found_though_it_was_verified_before(shelf, root, offset, caplog):
    data = os.urandom(5000)
    store(shelf, KEY, data)
    assert read(shelf, KEY) == data
    flip(file_of(root, KEY), offset)
    assert shelf.open(KEY) is None
    assert not file_of(root, KEY).exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    store(shelf, KEY, data)
    assert read(shelf, KEY) == data


@pytest.mark.parametrize(
    "length", [0, 1, FOOTER_SIZE - 1, FOOTER_SIZE, 2500, 5000, 5000 + FOOTER_SIZE - 1, 9000]
)
def test_b4_a_cut_or_extended_file_is_found(shelf, root, length):
    store(shelf, KEY, os.urandom(5000))
    os.truncate(file_of(root, KEY), length)
    assert shelf.open(KEY) is None
    assert shelf.damaged == 1


def test_a_file_cut_while_open_is_an_error_and_not_fewer_bytes(shelf, root):
    with shelf.put(KEY, os.urandom(5000), None) as blob:
        os.truncate(file_of(root, KEY), 100)
        with pytest.raises(Corrupt):
            blob.pread(0, 5000)


def test_b4_swapped_blobs_are_found(shelf, root):
    store(shelf, "aa", b"one")
    store(shelf, "bb", b"two")
    one, two = file_of(root, "aa"), file_of(root, "bb")
    one.rename(root / "spare")
    two.rename(one)
    (root / "spare").rename(two)
    assert read(shelf, "aa") is None
    assert read(shelf, "bb") is None


def test_damage_is_warned_about_once_and_counted(shelf, root, caplog):
    for key in ("aa", "bb", "cc"):
        store(shelf, key, b"data")
        flip(file_of(root, key), 0)
        assert shelf.open(key) is None
    assert shelf.damaged == 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder"])
def test_what_is_no_file_is_not_served_and_hangs_nobody(shelf, root, kind, tmp_path):
    store(shelf, KEY, b"data")
    path = file_of(root, KEY)
    path.unlink()
    (tmp_path / "secret").write_bytes(b"secret")
    {
        "symlink": lambda: path.symlink_to(tmp_path / "secret"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    assert shelf.open(KEY) is None
    shelf.recount()
    shelf.verify(lambda _: None)
    assert (tmp_path / "secret").read_bytes() == b"secret"


# The directory


def test_k4_the_cache_is_private(shelf, root):
    store(shelf, KEY, b"data")
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


def test_c5_one_download_of_a_key_at_a_time(shelf, root):
    other = reopened(root)
    with shelf.draft(KEY, 4) as draft:
        for rival in (shelf, other):
            with pytest.raises(Busy):
                rival.draft(KEY, 4)
            assert rival.open(KEY) is None
        draft.write(0, b"data")
        draft.commit(4, None).close()
    with pytest.raises(Busy):
        other.draft(KEY, 4)
    assert read(other, KEY) == b"data"
    other.close()


def test_an_abandoned_download_leaves_nothing(shelf, root):
    with shelf.draft(KEY, 1 << 20) as draft:
        draft.write(0, b"data")
        assert shelf.usage().bytes == charge((1 << 20) + FOOTER_SIZE)
    draft.abandon()
    assert shelf.usage().bytes == on_disk(root) == 0
    shelf.draft(KEY, 4).abandon()


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
        shelf = reopened(Path(folder) / "s")
        with shelf.draft(KEY, len(data) if known else None) as draft:
            for start, end in pieces:
                draft.write(start, data[start:end])
                assert draft.pread(start, end - start) == data[start:end]
            with draft.commit(len(data), google_crc32c.value(data)) as blob:
                assert blob.pread(0, 4000) == data
        assert shelf.usage().bytes == on_disk(Path(folder) / "s")
        shelf.close()


def test_a_transfer_begun_anew_is_summed_anew(shelf):
    with shelf.draft(KEY, 6) as draft:
        draft.write(0, b"bad")
        draft.write(0, b"goo")
        draft.write(3, b"d!!")
        draft.commit(6, google_crc32c.value(b"good!!")).close()
    assert read(shelf, KEY) == b"good!!"


def test_b3_a_wrong_checksum_or_length_is_never_published(shelf, root):
    with shelf.draft(KEY, 4) as draft:
        draft.write(0, b"data")
        with pytest.raises(Corrupt):
            draft.commit(5, None)
        with pytest.raises(Corrupt):
            draft.commit(4, 1234)
    with pytest.raises(Corrupt):
        shelf.put(KEY, b"data", 1234)
    assert shelf.open(KEY) is None
    assert shelf.usage().bytes == on_disk(root) == 0


def test_a_shorter_transfer_than_announced_keeps_only_its_room(shelf, root):
    with shelf.draft(KEY, 1 << 20) as draft:
        draft.write(0, b"data")
        draft.commit(4, None).close()
    assert shelf.usage().bytes == on_disk(root) == 4096
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


def test_the_same_content_stored_twice_counts_once(shelf, root):
    store(shelf, KEY, b"data")
    store(shelf, KEY, b"data")
    assert (shelf.usage().bytes, shelf.usage().files) == (4096, 1)
    assert on_disk(root) == 4096


# The bound


def test_c3_the_least_used_go_first_and_the_rest_stay(root, clock):
    shelf = Shelf(root, limit=20 * 4096, reserve=FreeSpace(), clock=clock)
    for number in range(20):
        clock.now += 1000
        store(shelf, f"{number:02x}", b"data")
    clock.now += 1000
    assert read(shelf, "00") == b"data"
    with shelf.put("ff", b"new", None) as newest:
        kept = [number for number in range(20) if shelf.open(f"{number:02x}")]
        assert kept == [0, *range(4, 20)]
        assert newest.pread(0, 3) == read(shelf, "ff") == b"new"
    assert shelf.usage().bytes == on_disk(root) == 18 * 4096
    shelf.close()


def test_noting_a_use_costs_no_new_verification(shelf, root, clock):
    store(shelf, KEY, BIG)
    before = file_of(root, KEY).stat()
    clock.now += 1000
    assert read(shelf, KEY) == BIG
    shelf.flush_uses()
    assert file_of(root, KEY).stat().st_mtime == before.st_mtime + 1000
    with shelf.open(KEY) as blob:
        assert blob.verified is True


def test_what_can_never_fit_evicts_nothing(root):
    shelf = reopened(root, limit=40_960)
    store(shelf, "aa", b"data")
    with pytest.raises(DiskFull):
        shelf.put("bb", bytes(50_000), None)
    with pytest.raises(DiskFull):
        shelf.draft("bb", 1 << 60)
    with shelf.draft("bb", 30_000), pytest.raises(DiskFull):
        shelf.draft("cc", 30_000)
    assert read(shelf, "aa") == b"data"
    shelf.close()


def test_c1_a_download_that_outgrows_the_bound_is_stopped(root):
    shelf = reopened(root, limit=40_960)
    with shelf.draft(KEY, None) as draft:
        for start in range(0, 40_000, 1000):
            draft.write(start, bytes(1000))
        with pytest.raises(DiskFull):
            draft.write(40_000, bytes(1000))
    assert shelf.usage().bytes == on_disk(root) == 0
    shelf.close()


def test_c2_the_reserve_is_kept_though_the_bound_is_not_reached(root):
    shelf = reopened(root, reserve="99.9%")
    with pytest.raises(DiskFull):
        shelf.put(KEY, b"data", None)
    shelf.close()


def test_clear_spares_the_downloads_under_way(shelf, root):
    for number in range(30):
        store(shelf, f"{number:02x}", b"data")
    with shelf.draft(KEY, 4) as draft:
        assert shelf.clear() == 30
        assert shelf.usage().files == 0
        draft.write(0, b"data")
        draft.commit(4, None).close()
    assert read(shelf, KEY) == b"data"
    assert shelf.usage().bytes == on_disk(root) == 4096


@pytest.mark.parametrize("page", [b"", b"\xff" * 4096, bytes(4096)])
def test_a_lost_or_damaged_count_is_counted_anew(shelf, root, page):
    for number in range(30):
        store(shelf, f"{number:02x}", bytes(5000))
    (root / "usage").write_bytes(page)
    other = reopened(root)
    other.recount()
    assert (other.usage().bytes, other.usage().files) == (on_disk(root), 30)
    other.close()


# The audit


def test_verify_removes_the_damaged_and_the_litter_and_keeps_the_rest(shelf, root):
    for number in range(20):
        store(shelf, f"{number:02x}", b"data")
    store(shelf, KEY, BIG)
    flip(file_of(root, "03"), 2)
    os.truncate(file_of(root, "04"), 3)
    (root / Place.of_key("05").path).with_name("stray name").write_bytes(b"?")
    file_of(root, "06").with_name("06~dead").write_bytes(b"half")
    with shelf.draft("aa", 4) as alive:
        seen: list[int] = []
        audit = shelf.verify(lambda counts: seen.append(counts.blobs))
        assert audit == Audit(blobs=21, bytes=18 * 4 + len(BIG), damaged=2, litter=2)
        assert len(seen) == 256
        alive.write(0, b"live")
        alive.commit(4, None).close()
    assert [number for number in range(20) if not shelf.open(f"{number:02x}")] == [3, 4]
    assert shelf.usage().bytes == on_disk(root)


# The disk fails


def test_an_emptied_cache_starts_anew(shelf, root):
    store(shelf, KEY, b"data")
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert shelf.open(KEY) is None
    store(shelf, KEY, b"data")
    assert read(shelf, KEY) == b"data"
    assert shelf.usage().bytes == on_disk(root) == 4096


def test_c10_a_vanished_cache_is_made_anew(shelf, root):
    store(shelf, KEY, b"data")
    shutil.rmtree(root)
    assert shelf.open(KEY) is None
    store(shelf, KEY, b"data")
    assert read(shelf, KEY) == b"data"
    assert file_of(root, KEY).exists()
    assert shelf.usage().bytes == on_disk(root) == 4096
    shelf.flush_uses()


def test_a_cache_whose_disk_vanished_fails_by_name(tmp_path, clock):
    root = tmp_path / "disk/pictofs/content"
    shelf = Shelf(root, limit=100 << 20, reserve=FreeSpace(), clock=clock)
    shutil.rmtree(tmp_path / "disk")
    assert shelf.open(KEY) is None
    for call in (
        lambda: shelf.draft(KEY, 4),
        lambda: shelf.put(KEY, b"data", None),
        shelf.usage,
        shelf.recount,
    ):
        with pytest.raises(ShelfUnusable):
            call()
    assert not (tmp_path / "disk").exists()
    assert issubclass(ShelfUnusable, PictofsError)
    shelf.flush_uses()
    shelf.close()
