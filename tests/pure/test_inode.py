"""Inode numbers: what goes in comes out, and they stay what they are (I1, I2)."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pictofs.model.inode import KEY_BITS, KEY_MASK, ROOT, Inode, NodeKind, key_of, number

KINDS = st.sampled_from(NodeKind)
KEYS = st.integers(0, KEY_MASK)
VERSIONS = st.integers(0, 1 << 20)


@given(KINDS, KEYS, VERSIONS)
def test_i1_a_number_is_taken_apart_into_what_it_was_made_of(
    kind: NodeKind, key: int, version: int
) -> None:
    # 0 is no inode. No label file has it: `label_place` is 1 or more.
    assume((kind, key, version % 256) != (NodeKind.LABEL, 0, 0))
    made = number(kind, key, version)
    assert Inode.of(made) == (kind, key, version % 256)
    assert 0 < made < 1 << 63


@given(KINDS, KINDS, KEYS, KEYS, st.integers(0, 255), st.integers(0, 255))
def test_i1_numbers_of_two_nodes_differ(
    kind: NodeKind, other: NodeKind, key: int, another: int, version: int, later: int
) -> None:
    one, two = (kind, key, version), (other, another, later)
    assert (number(*one) == number(*two)) == (one == two)


@given(st.integers(0, (1 << 64) - 1))
@example(0)
@example(ROOT)
@example(15)
def test_a_number_that_nobody_made_is_taken_apart_or_refused(some: int) -> None:
    inode = Inode.of(some)
    if inode is None:
        assert some & 15 not in list(NodeKind)
    else:
        assert inode.kind == some & 15


def test_i1_the_root_is_the_first_of_the_fixed_nodes() -> None:
    assert number(NodeKind.FIXED, 0) == ROOT


def test_i1_kinds_keep_their_values() -> None:
    """They are part of numbers that backup programs remember."""
    assert {kind.name: kind.value for kind in NodeKind if kind.value <= 6} == {
        "LABEL": 0,
        "FIXED": 1,
        "DATASET": 2,
        "IMAGES": 3,
        "ANNOTATIONS": 4,
        "IMAGE": 5,
        "ANNOTATION": 6,
    }
    assert max(NodeKind) < 16


@given(st.text(st.characters(), max_size=80))
@example("")
@example("\ud800")
def test_i1_i3_a_key_fits_and_depends_on_the_identity_alone(identity: str) -> None:
    assert 0 <= key_of(identity) < 1 << KEY_BITS
    assert key_of(identity) == key_of(identity)


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        ("", 1_865_147_336_995_508),
        ("f508c7e2-42db-591d-aed0-657734d81822", 2_012_313_863_032_433),
    ],
)
def test_i1_keys_are_the_same_on_every_machine(identity: str, key: int) -> None:
    assert key_of(identity) == key


@given(st.sets(st.uuids(), min_size=2, max_size=200))
def test_i1_ids_have_keys_of_their_own(ids: set[object]) -> None:
    assert len({key_of(str(each)) for each in ids}) == len(ids)
