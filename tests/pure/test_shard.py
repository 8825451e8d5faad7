"""Shares of a dataset: a partition by ids, and how they are named."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.errors import Invalid
from pictofs.model.shard import Shard, parse


@given(st.text(), st.integers(1, 100))
def test_q10_each_image_falls_to_one_shard(image_id: str, count: int) -> None:
    takers = [index for index in range(count) if Shard(index, count).takes(image_id)]
    assert len(takers) == 1


def test_q10_shares_are_balanced_and_never_change() -> None:
    """They are the same in every release: machines of one job may differ in theirs."""
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))) for number in range(10_000)]
    sizes = [sum(map(Shard(index, 64).takes, ids)) for index in range(64)]

    assert sum(sizes) == 10_000
    assert min(sizes) > 156 - 5 * 12
    assert max(sizes) < 156 + 5 * 12
    assert sizes[:8] == [169, 159, 143, 155, 174, 148, 165, 158]


@pytest.mark.parametrize(
    ("text", "environ", "shard"),
    [
        ("0/1", {}, Shard(0, 1)),
        ("7/8", {"RANK": "3", "WORLD_SIZE": "4"}, Shard(7, 8)),
        ("auto", {"RANK": "3", "WORLD_SIZE": "4"}, Shard(3, 4)),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "64"}, Shard(0, 64)),
        (
            "auto",
            {"RANK": "9", "WORLD_SIZE": "16", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            Shard(9, 16),
        ),
    ],
)
def test_what_names_a_shard(text: str, environ: dict[str, str], shard: Shard) -> None:
    assert parse(text, environ) == shard


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("", {}, "'' won't do"),
        ("1", {}, "'1' won't do"),
        ("1/", {}, "'1/' won't do"),
        ("-1/4", {}, "'-1/4' won't do"),
        ("1/4/2", {}, "'1/4/2' won't do"),
        ("0.5/2", {}, "'0.5/2' won't do"),
        ("٣/٤", {}, "won't do"),
        ("1/99999999999", {}, "won't do"),
        ("4/4", {}, "there is no shard 4 of 4"),
        ("0/0", {}, "there is no shard 0 of 0"),
        ("auto", {}, "RANK and WORLD_SIZE or SLURM_PROCID and SLURM_NTASKS are not set"),
        ("auto", {"RANK": "1"}, "RANK=1 and WORLD_SIZE= name no process"),
        ("auto", {"SLURM_NTASKS": "4"}, "SLURM_PROCID= and SLURM_NTASKS=4 name no process"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "4"}, "RANK=x and WORLD_SIZE=4 name no process"),
        ("auto", {"RANK": "4", "WORLD_SIZE": "4"}, "there is no shard 4 of 4"),
    ],
)
def test_nonsense_is_refused(text: str, environ: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        parse(text, environ)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (6, True)
