"""Directories of archives: whatever their bytes, a bounded tree of names that are unique, or
BadArchive."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictofs.errors import Corrupt
from pictofs.library.archives.index import (
    NODE_BITS,
    Index,
    Limits,
    Node,
    digest_of,
    read_directory,
)
from pictofs.library.archives.zip_format import (
    CHUNK_BYTES,
    DEFLATED,
    STORED,
    TAIL_BYTES,
    BadArchive,
    Expected,
    Unpacker,
    find_directory,
    payload_start,
    unpack,
)
from standin.archives import HOSTILE, assemble, member

LIMITS = Limits()


def index_of(data: bytes, limits: Limits = LIMITS) -> Index:
    """The tree of a whole archive."""
    place = find_directory(data[-TAIL_BYTES:], len(data))
    raw = data[place.start : place.start + place.size]
    return Index(read_directory(raw, place.start, place.members, len(data), limits))


def nodes(index: Index) -> list[Node]:
    found = [index.node(number) for number in range(index.count)]
    return [node for node in found if node is not None]


def zipped(names: list[str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name.encode())
    return out.getvalue()


def is_a_tree(index: Index) -> None:
    """Every node is found by its name in its folder, and by its path, and by nothing else."""
    found = nodes(index)
    assert len(found) == index.count
    below = [
        node.number
        for each in found
        if each.is_folder
        for node in index.entries(each.number, 0, index.count)
    ]
    assert sorted(below) == list(range(1, index.count))
    for node in found[1:]:
        assert index.find(node.parent, node.name) == node
        assert node.name not in ("", ".", "..")
        assert "/" not in node.name
        assert "\0" not in node.name
        assert len(node.name.encode()) <= 255
    paths = [index.path(node.number) for node in found]
    assert len(set(paths)) == len(paths)


def test_y2_the_end_of_an_archive_of_any_kind() -> None:
    plain = zipped(["a.txt", "b/c.txt"])
    assert [node.name for node in nodes(index_of(plain))] == ["", "a.txt", "b", "c.txt"]

    out = io.BytesIO(plain)
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"PK\5\6" + b"c" * 60_000
    assert index_of(out.getvalue()).count == 4


def test_y10_more_members_than_16_bits_count() -> None:
    names = [f"{place % 7}/{place}.txt" for place in range(66_000)]
    index = index_of(zipped(names))
    assert index.count == 1 + 7 + 66_000
    folder = index.find(0, "3")
    assert folder is not None
    assert index.find(folder.number, "65998.txt") is None
    found = index.find(folder.number, f"{7 * 9000 + 3}.txt")
    assert found is not None
    assert found.crc == zlib.crc32(b"3/63003.txt")


def test_y10_what_is_beyond_the_limits_is_refused() -> None:
    many = zipped([f"{place}.txt" for place in range(30)])
    assert index_of(many, Limits(members=30)).count == 31
    with pytest.raises(BadArchive, match="more than 29 members"):
        index_of(many, Limits(members=29))

    deep = zipped([f"{place}/a.txt" for place in range(30)])
    with pytest.raises(BadArchive, match="more than 29 folders"):
        index_of(deep, Limits(folders=29))

    large = nodes(index_of(many, Limits(member_bytes=5)))[1:]
    assert [node.refusal is None for node in large] == [node.size <= 5 for node in large]
    assert {node.size for node in large} == {5, 6}


def test_y10_a_node_takes_56_bytes_and_its_name() -> None:
    names = [f"{place:010}" for place in range(1000)]
    assert index_of(zipped(names)).size == 41 + 1001 * 56 + 1000 * 10
    assert LIMITS.members + LIMITS.folders < 1 << NODE_BITS


def test_y11_the_numbers_follow_from_the_directory_alone() -> None:
    data = zipped(["b.txt", "a/c.txt", "a/b.txt"])
    one = nodes(index_of(data))
    assert one == nodes(index_of(data))
    assert digest_of(b"x", 1) != digest_of(b"x", 2)


NAME = st.one_of(
    st.sampled_from(["a", "a/", "a/b", "..", "../..", "/", "//", "", "\0", "‛", "‛s", "c" * 300]),
    st.text(max_size=40),
)


@given(st.lists(NAME, max_size=12))
def test_y7_any_names_are_a_tree(names: list[str]) -> None:
    made = assemble(*(member(name.encode("utf-8", "replace")[:60_000], b"x") for name in names))
    is_a_tree(index_of(made))


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_y7_any_bytes_as_names_are_a_tree(names: list[bytes]) -> None:
    is_a_tree(index_of(assemble(*(member(name, b"x") for name in names))))


WRONG = [make() for name, make in HOSTILE.items() if name != "bomb"]


@settings(max_examples=400)
@given(st.data())
def test_y6_any_damage_is_a_tree_or_refused(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(WRONG)))
    for _ in range(data.draw(st.integers(1, 6))):
        if whole:
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))

    try:
        index = index_of(bytes(whole))
    except BadArchive:
        return

    is_a_tree(index)
    for node in nodes(index):
        if node.is_folder or node.refusal is not None:
            continue
        head = bytes(whole[node.offset : node.offset + 4096])
        try:
            start = node.offset + payload_start(head, node.expected)
            body = unpack(bytes(whole[start : start + node.packed]), node.expected)
        except Corrupt:
            continue
        assert (len(body), zlib.crc32(body)) == (node.size, node.crc)


@given(st.binary(max_size=400))
def test_y6_any_bytes_are_refused(data: bytes) -> None:
    try:
        index_of(data)
    except BadArchive:
        return
    raise AssertionError("this was taken for an archive")


def test_y6_an_index_that_is_damaged_is_refused() -> None:
    data = zipped(["a.txt"])
    place = find_directory(data, len(data))
    made = read_directory(data[place.start :][: place.size], place.start, 1, len(data), LIMITS)
    for wrong in (b"", made[:-1], made + b"x", b"X" + made[1:]):
        with pytest.raises(BadArchive):
            Index(wrong)


def deflated(body: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(body) + squeeze.flush()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 << 20])
@pytest.mark.parametrize("step", [7_001, 1 << 20])
def test_y5_a_member_is_unpacked_in_bounded_pieces(size: int, step: int) -> None:
    body = b"0123456789abcdef" * (size // 16) + b"x" * (size % 16)
    for method, packed in ((STORED, body), (DEFLATED, deflated(body))):
        expected = Expected(method, zlib.crc32(body), len(packed), size, 1, 0)
        unpacker = Unpacker(expected)
        pieces = [
            piece
            for at in range(0, len(packed), step)
            for piece in unpacker.feed(packed[at : at + step])
        ]
        unpacker.finish()
        assert b"".join(pieces) == body
        assert max(map(len, pieces), default=0) <= CHUNK_BYTES
        assert unpack(packed, expected) == body


def test_y6_a_bomb_never_unpacks_to_more_than_it_says() -> None:
    packed = deflated(bytes(50 << 20))
    expected = Expected(DEFLATED, 0, len(packed), 1000, 1, 0)
    with pytest.raises(Corrupt, match="more bytes"):
        unpack(packed, expected)
    with pytest.raises(Corrupt, match="more bytes"):
        list(Unpacker(expected).feed(packed))


def test_y6_zip64_fields_that_are_missing_are_damage() -> None:
    right = assemble(member(b"a", b"x", size=1 << 33, method=DEFLATED))
    assert [node.size for node in nodes(index_of(right))] == [0, 1 << 33]
    at = right.rindex(struct.pack("<HH", 1, 16))
    wrong = right[:at] + struct.pack("<HH", 9, 16) + right[at + 4 :]
    (node,) = nodes(index_of(wrong))[1:]
    assert "damaged" in str(node.refusal)
