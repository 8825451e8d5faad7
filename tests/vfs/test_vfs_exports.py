"""`exports/`: finished exports as trees, for the requests that are promised, and nothing wrong from
an archive that is."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import Mount, Rig, descriptors, error_of

from pictofs.errors import (
    Corrupt,
    DiskFull,
    Forbidden,
    NoSuchEntry,
    PictofsError,
    ServerUnreachable,
    Stale,
)
from pictofs.library.archives import archive as archive_module
from pictofs.library.archives import exports as exports_module
from pictofs.library.archives import ranges
from pictofs.library.archives.zip_format import BadArchive
from pictofs.library.content.whole import SMALL_BYTES
from pictofs.model.inode import NodeKind, number
from pictofs.vfs.place import Places
from standin import Organization, StandIn
from standin.archives import HOSTILE, assemble, member, pack
from standin.faults import Corrupt as Flip
from standin.faults import Reset, Truncate, error
from standin.records import Export

TOP = "/datasets/signs/exports"
LIST = "GET /exports/"
SIGN = "GET /exports/{export:path}/download"
FILES = {
    "data.yaml": b"names: [stop]\n",
    "train/images/a.jpg": bytes(range(256)) * 100,
    "train/labels/a.txt": b"0 0.5 0.5 0.1 0.1\n" * 40,
    "train/labels/b.txt": b"",
    "train/images/b.jpg": b"\xff\xd8" + b"b" * 600_000,
}
"""More than the end of the archive that is read first."""


def organization() -> Organization:
    """One dataset with an export, and one without."""
    made = Organization()
    signs = made.add_dataset("signs")
    made.add_image(signs, "a.jpg", size=500)
    made.add_dataset("bare")
    made.add_export(signs, "v1", pack(FILES.items()), format="yolo")
    return made


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with StandIn(organization()) as standin:
        yield Rig(standin, tmp_path)


@pytest.fixture
async def mount(rig: Rig) -> AsyncIterator[Mount]:
    async with rig.mount() as mount:
        await mount.list("/datasets")
        mount.forget_log()
        yield mount


def storage(mount: Mount) -> int:
    """Requests to storage since the log was cleared."""
    return len(mount.standin.log.requests("storage"))


def add(mount: Mount, name: str, archive: bytes, **fields: object) -> Export:
    org = mount.standin.organization
    return org.add_export(org["signs"], name, archive, **fields)


async def files(mount: Mount, export: str) -> dict[str, bytes]:
    """Every file of an export, by its path in it."""
    top = f"{TOP}/{export}"
    found = await mount.walk(top)
    return {path.removeprefix(f"{top}/"): data for path, data in found.items() if data is not None}


# What is shown.


async def test_y1_exports_are_there_and_are_not_listed(mount: Mount) -> None:
    assert set(await mount.list("/datasets/signs")) == {"images", "annotations", "dataset.json"}
    assert stat.S_ISDIR((await mount.look(TOP)).mode)
    assert list(await mount.list(TOP)) == ["v1"]
    assert await mount.list("/datasets/bare/exports") == {}
    assert not [path for path in await mount.walk(read=False) if "/exports" in path]
    with pytest.raises(NoSuchEntry):
        await mount.look(f"{TOP}/v2")


async def test_y1_only_finished_exports_of_this_dataset_are_shown(mount: Mount) -> None:
    org = mount.standin.organization
    add(mount, "pending", b"", status="pending")
    add(mount, "failed", b"", status="failed")
    add(mount, "pictures", b"", include_images=True, format="coco")
    org.add_export(org["bare"], "of another", b"")
    assert list(await mount.list(TOP)) == ["v1", "pictures"]


async def test_y1_names_are_escaped_and_told_apart(mount: Mount) -> None:
    for name in ("july/1", "..", "x" * 300, "v1"):
        add(mount, name, pack(FILES.items()))
    names = list(await mount.list(TOP))

    assert names[:3] == ["v1", "july‛s1", "‛.."]
    assert names[3].startswith("xxx")
    assert len(names[3].encode()) <= 255
    assert names[4].startswith("v1‛~")
    assert await files(mount, "july‛s1") == FILES


async def test_y1_the_list_costs_one_request_and_is_believed_for_the_ttl(mount: Mount) -> None:
    for _ in range(3):
        await mount.list(TOP)
        await mount.look(f"{TOP}/v1")
    assert mount.asked == [LIST]
    assert storage(mount) == 0

    add(mount, "v2", b"")
    mount.clock.advance(299)
    assert list(await mount.list(TOP)) == ["v1"]
    mount.clock.advance(2)
    assert list(await mount.list(TOP)) == ["v1", "v2"]
    assert mount.asked.count(LIST) == 2


async def test_y1_many_who_look_at_once_cost_one_request(mount: Mount) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(mount.list, f"{TOP}/v1")
    assert sorted(mount.asked) == [LIST, SIGN]
    assert storage(mount) == 1


async def test_y1_refresh_asks_again(mount: Mount) -> None:
    await mount.list(f"{TOP}/v1")
    org = mount.standin.organization
    old = next(iter(org.exports.values()))
    del org.exports[old.id]
    add(mount, "v2", b"")
    await mount.library.refresh("signs")
    assert list(await mount.list(TOP)) == ["v2"]
    with pytest.raises(NoSuchEntry):
        await mount.look(f"{TOP}/v1")


async def test_y1_more_exports_than_a_page_has(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports_module, "PAGE", 3)
    for place in range(7):
        add(mount, f"n{place}", b"")
    assert len(await mount.list(TOP)) == 8
    assert mount.asked == [LIST] * 3


async def test_y1_a_server_that_never_ends_its_list_is_left(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports_module, "PAGE", 1)
    for place in range(20):
        add(mount, f"n{place}", b"")
    assert len(await mount.list(TOP)) == 10
    assert mount.asked == [LIST] * 10


async def test_y1_a_key_that_may_not_see_exports(mount: Mount, rig: Rig) -> None:
    rig.fault(error(403, "forbidden"), "api", "/exports/")
    assert isinstance(await error_of(partial(mount.list, TOP)), Forbidden)
    assert len(await mount.list("/datasets/signs/images")) == 1


# What it costs to look into one.


async def test_y2_a_listing_costs_two_requests_and_shows_exact_sizes(mount: Mount) -> None:
    top = f"{TOP}/v1"
    for path in await mount.walk(top, read=False):
        found = await mount.look(path)
        name = path.removeprefix(f"{top}/")
        if stat.S_ISREG(found.mode):
            assert found.size == len(FILES[name])
            assert found.keep > 0
            assert found.mtime_ns == 1_772_357_400 * 10**9  # what the archive says
    assert mount.asked == [LIST, SIGN]
    assert storage(mount) == 1


async def test_y2_a_directory_larger_than_the_end_costs_one_more(mount: Mount) -> None:
    many = {f"labels/{place:06}-{'x' * 60}.txt": b"%d" % place for place in range(4000)}
    add(mount, "many", pack(many.items()))
    assert len(await mount.list(f"{TOP}/many/labels")) == 4000
    assert storage(mount) == 2
    assert await mount.read(f"{TOP}/many/labels/003999-{'x' * 60}.txt") == b"3999"
    assert mount.asked == [LIST, SIGN]


async def test_y2_a_wrong_length_in_the_list_costs_one_more(mount: Mount) -> None:
    data = pack(FILES.items())
    for name, size in (("short", 100), ("long", 1 << 30), ("none", None)):
        add(mount, name, data, file_size=size)
    for name in ("short", "long", "none"):
        before = storage(mount)
        await mount.list(f"{TOP}/{name}")
        assert storage(mount) - before == {"short": 2, "long": 3, "none": 2}[name]
        assert await files(mount, name) == FILES


async def test_y3_members_are_read_once_each_and_never_again(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.list(TOP)
        mount.forget_log()
        assert await files(mount, "v1") == FILES
        assert mount.asked == [SIGN]
        first = storage(mount)
        assert first <= 1 + len(FILES)
        assert await files(mount, "v1") == FILES
        assert storage(mount) == first

    rig.standin.log.clear()
    async with rig.mount() as mount:
        assert await files(mount, "v1") == FILES
        assert storage(mount) == 0
        assert SIGN not in mount.asked

    rig.fault(Reset())
    async with rig.mount(max_retries=0) as mount:
        mount.clock.advance(3600)
        assert await files(mount, "v1") == FILES


async def test_y3_members_in_order_share_requests(mount: Mount) -> None:
    many = {f"{place:03}.jpg": bytes([place]) * 20_000 for place in range(200)}
    add(mount, "many", pack(many.items()))
    assert await files(mount, "many") == many
    # The end, the first member alone, and the rest but for what came with the end.
    assert storage(mount) == 1 + 1 + 4
    assert mount.asked == [LIST, SIGN]
    assert len(mount.library.archives._windows._parts) <= ranges.WINDOWS


async def test_y3_what_lies_between_members_is_not_fetched(mount: Mount) -> None:
    mixed = {
        f"{folder}/{place:02}.txt": os.urandom(size)
        for place in range(20)
        for folder, size in (("large", 90_000), ("small", 30))
    }
    add(mount, "mixed", pack(mixed.items()))
    await mount.list(f"{TOP}/mixed")
    before = mount.request_stats.bytes_in["storage"]
    for place in range(15):
        name = f"small/{place:02}.txt"
        assert await mount.read(f"{TOP}/mixed/{name}") == mixed[name]
    assert mount.request_stats.bytes_in["storage"] - before < 15 * 300


async def test_y3_what_is_not_cached_fails_without_the_server(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert await mount.read(f"{TOP}/v1/data.yaml") == FILES["data.yaml"]

    fault = rig.fault(Reset())
    async with rig.mount(max_retries=0) as mount:
        assert await mount.read(f"{TOP}/v1/data.yaml") == FILES["data.yaml"]
        failed = await error_of(partial(mount.read, f"{TOP}/v1/train/images/a.jpg"))
        assert isinstance(failed, PictofsError)

        rig.standin.faults.remove(fault)
        assert await mount.read(f"{TOP}/v1/train/images/a.jpg") == FILES["train/images/a.jpg"]


async def test_y3_a_url_that_expired_is_renewed(mount: Mount) -> None:
    await mount.read(f"{TOP}/v1/data.yaml")
    mount.clock.advance(1000)
    assert await files(mount, "v1") == FILES
    assert mount.asked.count(SIGN) == 2


async def test_y3_many_readers_of_one_member_cost_one_request(mount: Mount) -> None:
    await mount.list(f"{TOP}/v1")
    before = storage(mount)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(mount.read, f"{TOP}/v1/train/images/a.jpg")
    assert storage(mount) == before + 1


async def test_y4_a_large_member_comes_in_parts(mount: Mount, rig: Rig) -> None:
    body = bytes(range(251)) * (SMALL_BYTES // 251 + 40_000)
    text = b"\n".join(b"%d" % place for place in range(1_400_000))
    big = {"big.jpg": body, "big.txt": text, "small.txt": b"small"}
    add(mount, "big", pack(big.items()))
    parts = -(-len(body) // archive_module.PART_BYTES)
    await mount.list(f"{TOP}/big")

    opened = descriptors(rig)
    before = storage(mount)
    assert await mount.read(f"{TOP}/big/big.jpg", 1 << 20) == body
    assert storage(mount) - before == 1 + parts
    before = storage(mount)
    assert await mount.read(f"{TOP}/big/big.txt", 1 << 20) == text
    assert storage(mount) - before == 2
    assert await mount.read(f"{TOP}/big/small.txt") == b"small"
    assert descriptors(rig) == opened


async def test_y4_a_large_member_goes_on_without_its_reader(mount: Mount, rig: Rig) -> None:
    body = bytes(range(256)) * (9 << 12)
    add(mount, "big", pack([("big.jpg", body)]))
    inode = (await mount.look(f"{TOP}/big/big.jpg")).inode
    with trio.CancelScope() as scope:
        scope.cancel()
        await mount.tree.open(inode)

    assert scope.cancelled_caught
    await mount.settle()
    rig.fault(Reset())
    assert await mount.read(f"{TOP}/big/big.jpg", 1 << 20) == body


async def test_y4_a_member_that_the_cache_can_not_take_is_told(rig: Rig) -> None:
    body = bytes(9 << 20)
    async with rig.mount(cache_size=8 << 20) as mount:
        add(mount, "big", pack([("big.jpg", body), ("small.txt", b"small")]))
        failed = await error_of(partial(mount.read, f"{TOP}/big/big.jpg"))
        assert isinstance(failed, DiskFull)
        assert "--cache-size" in str(failed)
        assert await mount.read(f"{TOP}/big/small.txt") == b"small"


async def test_y4_a_disk_that_takes_nothing(mount: Mount) -> None:
    add(mount, "big", pack([("big.jpg", bytes(9 << 20)), ("small.txt", b"small")]))
    mount.library.cache.failed(DiskFull("the disk is full"))
    assert await mount.read(f"{TOP}/big/small.txt") == b"small"
    assert isinstance(await error_of(partial(mount.read, f"{TOP}/big/big.jpg")), DiskFull)
    mount.clock.advance(31)
    assert await mount.read(f"{TOP}/big/big.jpg", 1 << 20) == bytes(9 << 20)


async def test_y4_a_large_member_that_is_damaged_leaves_nothing(mount: Mount, rig: Rig) -> None:
    body = bytes(9 << 20)
    add(mount, "big", assemble(member(b"big.bin", body, crc=5)))
    failed = await error_of(partial(mount.read, f"{TOP}/big/big.bin"))
    assert isinstance(failed, Corrupt)
    assert "CRC-32" in str(failed)
    assert not list((rig.cache / "blobs").glob("??/*~*"))


# Checks.


async def test_y5_a_transfer_that_went_wrong_is_repeated(mount: Mount, rig: Rig) -> None:
    await mount.list(f"{TOP}/v1")
    fault = rig.fault(Flip(60), "storage", times=1)
    assert await mount.read(f"{TOP}/v1/train/images/a.jpg") == FILES["train/images/a.jpg"]
    assert fault.hits == 1
    rig.fault(Truncate(100), "storage", times=1)
    rig.fault(Reset(10), "storage", times=1)
    assert await mount.read(f"{TOP}/v1/train/images/b.jpg") == FILES["train/images/b.jpg"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty file", "empty"),
        ("no archive", "not a zip archive"),
        ("cut", "not a zip archive"),
        ("damaged directory", "directory is damaged"),
        ("wrong count", "another number of members"),
        ("bytes in front", "not where the archive says"),
    ],
)
async def test_y6_an_archive_that_is_not_read_harms_no_other(
    mount: Mount, what: str, words: str
) -> None:
    add(mount, "bad", HOSTILE[what]())
    assert stat.S_ISDIR((await mount.look(f"{TOP}/bad")).mode)
    failed = await error_of(partial(mount.list, f"{TOP}/bad"))
    assert isinstance(failed, BadArchive)
    assert words in str(failed)
    assert "'bad'" in str(failed)
    assert await files(mount, "v1") == FILES


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("local header", "disagree"),
        ("encrypted", "encrypted"),
        ("unknown method", "packed in a way"),
        ("wrong crc", "CRC-32"),
        ("longer than told", "more bytes"),
        ("shorter than told", "fewer bytes"),
        ("broken stream", "damaged"),
        ("beyond the end", "damaged"),
        ("packed beyond", "damaged"),
        ("overlapping", "other members"),
        ("zip64 size", "larger"),
    ],
)
async def test_y6_a_member_that_is_not_read_harms_no_other(
    mount: Mount, rig: Rig, what: str, words: str
) -> None:
    add(mount, "bad", HOSTILE[what]())
    assert "bad.txt" in await mount.list(f"{TOP}/bad")
    failed = await error_of(partial(mount.read, f"{TOP}/bad/bad.txt"))
    assert isinstance(failed, Corrupt)
    assert words in str(failed)
    assert "bad.txt" in str(failed)
    assert await mount.read(f"{TOP}/bad/good.txt") == b"good\n"
    assert not list((rig.cache / "blobs").glob("??/*~*"))


async def test_y6_what_is_refused_by_its_entry_costs_nothing(mount: Mount) -> None:
    for what in ("encrypted", "bomb"):
        add(mount, what, HOSTILE[what]())
    for what in ("encrypted", "bomb"):
        names = await mount.list(f"{TOP}/{what}")
        before = storage(mount)
        for name in set(names) - {"good.txt"}:
            assert isinstance(
                await error_of(partial(mount.read, f"{TOP}/{what}/{name}")), BadArchive
            )
        assert storage(mount) == before


async def test_y6_an_archive_without_members_is_an_empty_folder(mount: Mount) -> None:
    add(mount, "none", HOSTILE["no members"]())
    assert await mount.list(f"{TOP}/none") == {}


async def test_y7_no_name_leads_out_of_an_archive(mount: Mount) -> None:
    add(mount, "bad", HOSTILE["escaping"]())
    assert await files(mount, "bad") == {
        "good.txt": b"good\n",
        "‛../up.txt": b"../up.txt",
        "‛e/etc/passwd": b"/etc/passwd",
        "a/‛../‛../b.txt": b"a/../../b.txt",
        "‛./c.txt": b"./c.txt",
    }


async def test_y7_odd_names_are_escaped_or_stay(mount: Mount) -> None:
    add(mount, "odd", HOSTILE["odd names"]())
    assert await files(mount, "odd") == {
        "good.txt": b"good\n",
        "‛e": b"",
        "back\\slash.txt": b"back\\slash.txt",
        "nul‛0.txt": b"nul\0.txt",
        "cafΘ.txt": b"caf\xe9.txt",
        "‛‛s.txt": "\u201bs.txt".encode(),
        "a/‛e/b.txt": b"a//b.txt",
    }


async def test_y7_long_and_deep_names_fit(mount: Mount) -> None:
    add(mount, "long", HOSTILE["long names"]())
    found = await files(mount, "long")
    assert sorted(map(len, found.values())) == [5, 404, 608]
    for path in found:
        parts = path.split("/")
        assert len(parts) <= 128
        assert max(len(part.encode()) for part in parts) <= 255


async def test_y7_duplicates_are_told_apart(mount: Mount) -> None:
    add(mount, "twice", HOSTILE["duplicates"]())
    add(mount, "both", HOSTILE["file and folder"]())
    found = await files(mount, "twice")
    tagged = [name for name in found if "‛~" in name]
    assert found["a.txt"] == b"first"
    assert found["A.txt"] == b"3"
    assert [found[name] for name in tagged] == [b"second"]

    found = await files(mount, "both")
    (tagged_name,) = [name for name in found if "‛~" in name]
    assert found[tagged_name] == b"file"
    assert found["a/b.txt"] == b"below"
    assert await mount.list(f"{TOP}/both/c") == {}


async def test_y7_a_symbolic_link_is_a_plain_file(mount: Mount) -> None:
    add(mount, "link", HOSTILE["symbolic link"]())
    assert stat.S_ISREG((await mount.look(f"{TOP}/link/link")).mode)
    assert await mount.read(f"{TOP}/link/link") == b"/etc/passwd"


async def test_y7_impossible_times_are_that_of_the_export(mount: Mount) -> None:
    add(mount, "odd", HOSTILE["odd times"](), created_at=1_700_000_000.0)
    for name in ("zero.txt", "late.txt"):
        found = await mount.look(f"{TOP}/odd/{name}")
        assert found.mtime_ns == 1_700_000_000 * 10**9


# Other archives under a name.


async def test_y8_another_archive_under_the_name_is_another_tree(mount: Mount) -> None:
    org = mount.standin.organization
    export = next(iter(org.exports.values()))
    await mount.list(f"{TOP}/v1")
    old = await mount.look(f"{TOP}/v1/train/images/a.jpg")
    assert await mount.read(f"{TOP}/v1/data.yaml") == FILES["data.yaml"]

    # Of the same length, and of the same list: only storage tells.
    changed = {name: bytes(reversed(data)) for name, data in FILES.items()}
    changed["train/images/a.jpg"] = FILES["train/images/a.jpg"][:-1] + b"?"
    body = pack(changed.items())
    org.finish_export(export, body, 1)
    export.file_size = len(pack(FILES.items()))

    failed = await error_of(partial(mount.tree.open, old.inode))
    assert isinstance(failed, Stale)
    assert isinstance(await error_of(partial(mount.tree.attributes, old.inode)), Stale)
    assert (await mount.look(f"{TOP}/v1/train/images/a.jpg")).inode != old.inode
    assert await files(mount, "v1") == changed


async def test_y8_a_new_export_of_the_name_is_another_tree(mount: Mount) -> None:
    org = mount.standin.organization
    old = await mount.look(f"{TOP}/v1/data.yaml")
    opened = await mount.open(f"{TOP}/v1/data.yaml")
    export = next(iter(org.exports.values()))
    del org.exports[export.id]
    add(mount, "v1", pack([("data.yaml", b"other")]))
    mount.clock.advance(301)

    assert await mount.read(f"{TOP}/v1/data.yaml") == b"other"
    assert (await mount.look(f"{TOP}/v1/data.yaml")).inode != old.inode
    assert await mount.rest(opened) == FILES["data.yaml"]
    mount.tree.close(opened.handle)


async def test_y8_refresh_finds_an_archive_that_changed(mount: Mount) -> None:
    org = mount.standin.organization
    assert await files(mount, "v1") == FILES
    export = next(iter(org.exports.values()))
    org.finish_export(export, pack([("new.txt", b"new")]), 1)
    export.file_size = len(pack(FILES.items()))
    assert await files(mount, "v1") == FILES
    await mount.library.refresh("signs")
    assert await files(mount, "v1") == {"new.txt": b"new"}


async def test_y8_an_archive_that_is_gone_is_told(mount: Mount) -> None:
    await mount.read(f"{TOP}/v1/data.yaml")
    org = mount.standin.organization
    org.blobs.clear()
    failed = await error_of(partial(mount.read, f"{TOP}/v1/train/images/b.jpg"))
    assert isinstance(failed, NoSuchEntry)
    assert "make a new one" in str(failed)
    assert await mount.read(f"{TOP}/v1/data.yaml") == FILES["data.yaml"]


# A storage without ranges.


async def test_y9_without_ranges_the_archive_comes_whole_and_once(rig: Rig) -> None:
    rig.standin.switches.storage_range = False
    async with rig.mount() as mount:
        assert await files(mount, "v1") == FILES
        assert storage(mount) == 2
    async with rig.mount() as mount:
        rig.standin.log.clear()
        assert await files(mount, "v1") == FILES
        assert storage(mount) == 0


async def test_y9_without_ranges_a_large_archive_is_refused(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.standin.switches.storage_range = False
    monkeypatch.setattr(ranges.ArchiveBytes.__init__, "__defaults__", (1000,))
    failed = await error_of(partial(mount.list, f"{TOP}/v1"))
    assert isinstance(failed, BadArchive)
    assert "too many to fetch it whole" in str(failed)


async def test_y9_ranges_that_end_are_made_up_for(mount: Mount) -> None:
    await mount.list(f"{TOP}/v1")
    mount.standin.switches.storage_range = False
    assert await files(mount, "v1") == FILES


# Bounds, inode numbers, places.


async def test_y10_directories_in_memory_are_bounded(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports_module, "INDEX_BYTES", 1500)
    for place in range(5):
        add(mount, f"n{place}", pack(FILES.items()))
    for place in range(5):
        assert await files(mount, f"n{place}") == FILES
    before = storage(mount)
    assert len(mount.library.archives._indexes) <= 2
    for place in range(5):
        assert await files(mount, f"n{place}") == FILES
    assert storage(mount) == before


async def test_y11_numbers_are_the_same_after_a_remount(rig: Rig) -> None:
    async with rig.mount() as mount:
        paths = [TOP, f"{TOP}/v1", *await mount.walk(f"{TOP}/v1", read=False)]
        numbers = {path: (await mount.look(path)).inode for path in paths}
        assert len(set(numbers.values())) == len(numbers)

    # A handle of the mount before is found again, without a look at its path.
    async with rig.mount() as mount:
        for path, inode in numbers.items():
            assert (await mount.tree.attributes(inode)).inode == inode
            assert (await mount.tree.lookup(inode, ".")).inode == inode
            assert (await mount.look(path)).inode == inode


async def test_y11_numbers_that_nothing_has(mount: Mount) -> None:
    await mount.list(f"{TOP}/v1")
    some = (await mount.look(f"{TOP}/v1/data.yaml")).inode >> 12
    for inode in (
        number(NodeKind.EXPORT, 12345, 0),
        number(NodeKind.EXPORT, 12345, 1),
        number(NodeKind.EXPORT, 12345, 2),
        number(NodeKind.EXPORT, some, 9),
        number(NodeKind.EXPORT, some | 0xFFFFF, 0),
    ):
        for work in (mount.tree.attributes, partial(mount.tree.lookup, name="x"), mount.entries):
            assert isinstance(await error_of(partial(work, inode)), (NoSuchEntry, Stale))


async def test_j4_places_of_exports(mount: Mount) -> None:
    places = Places(mount.library)
    for path in (TOP, f"{TOP}/v1", *await mount.walk(f"{TOP}/v1", read=False)):
        assert places.path((await mount.look(path)).inode) == path
    assert places.path(number(NodeKind.EXPORT, 12345, 0)) == "?"


async def test_y3_offline_what_was_seen_is_there(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert await files(mount, "v1") == FILES
    rig.fault(Reset())
    async with rig.mount(max_retries=0, offline=True) as mount:
        mount.clock.advance(10_000)
        assert await files(mount, "v1") == FILES
        failed = await error_of(partial(mount.list, "/datasets/bare/exports"))
        assert isinstance(failed, (ServerUnreachable, PictofsError))


async def test_y2_archives_that_the_platform_makes(tmp_path: Path) -> None:
    """Of each format, as a member of the organization makes it; any role reads it."""
    from mounting import finished_export

    with StandIn(organization()) as standin:
        for format in ("pictograph", "coco", "yolo", "csv"):
            made = finished_export(standin, "signs", format, format=format, include_images=True)
            blob = standin.organization.blobs[made.object_name].data
            async with Rig(standin, tmp_path / format).mount() as mount:
                with zipfile.ZipFile(io.BytesIO(blob)) as archive:
                    assert await files(mount, format) == {
                        name: archive.read(name) for name in archive.namelist()
                    }
