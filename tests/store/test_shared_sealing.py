"""The seal: what was put under a name by a key opens under that name by that key, and nothing
else."""

from __future__ import annotations

import json
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.store.shared import sealing
from pictofs.store.shared.sealing import Opened, Sealer

KEY = "pk_live_5ecret-of-the-tests"
SERVER = "https://api.example"
SEALER = Sealer(KEY, SERVER)
LISTING = json.dumps([{"filename": f"image-{number}.jpg"} for number in range(500)]).encode()

surrogates = st.text(st.characters(exclude_categories=()))


@given(surrogates, st.binary(max_size=2000))
def test_what_is_sealed_opens(name: str, value: bytes) -> None:
    sealed = SEALER.seal(name, value, 1_772_355_600.125, 300.5)

    assert SEALER.open(name, sealed) == Opened(value, 1_772_355_600.125, 300.5)
    assert Sealer(KEY, SERVER).open(name, sealed) == SEALER.open(name, sealed)


@given(surrogates, surrogates)
def test_names_share_no_place_in_the_engine(one: str, other: str) -> None:
    def places(name: str) -> set[bytes]:
        kinds = (SEALER.record, SEALER.lease, SEALER.channel, SEALER.count)
        return {kind(name) for kind in kinds}

    assert len(places(one)) == 4
    assert (places(one) == places(other)) == (one == other)
    assert places(one).isdisjoint(places(other)) == (one != other)


def test_k2_another_key_or_server_has_other_names_and_opens_nothing() -> None:
    sealed = SEALER.seal("listing", LISTING, 0.0, 300.0)

    for other in (Sealer(KEY + "x", SERVER), Sealer(KEY, SERVER + "x"), Sealer(SERVER, KEY)):
        assert other.open("listing", sealed) is None
        # The prefix, too: a namespace of its own.
        assert (
            other.record("listing").rsplit(b":", 1)[0]
            != SEALER.record("listing").rsplit(b":", 1)[0]
        )
        assert (
            other.record("listing").rsplit(b":", 1)[1]
            != SEALER.record("listing").rsplit(b":", 1)[1]
        )


def test_another_names_value_is_not_opened() -> None:
    sealed = SEALER.seal("annotation/1", b"{}", 0.0, 300.0)

    assert SEALER.open("annotation/2", sealed) is None
    assert SEALER.open("annotation/", sealed) is None


def test_nothing_damaged_is_opened() -> None:
    sealed = SEALER.seal("name", b"a value of the tests", 1.0, 2.0)

    for length in range(len(sealed)):
        assert SEALER.open("name", sealed[:length]) is None
    for at in range(len(sealed)):
        flipped = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        assert SEALER.open("name", flipped) is None
    assert SEALER.open("name", sealed + b"\0") is None
    assert SEALER.open("name", b"") is None
    assert SEALER.open("name", os.urandom(1000)) is None


@pytest.mark.parametrize("number", [0, 2, 255])
def test_another_format_is_not_opened(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(sealing, "FORMAT", number)
    sealed = SEALER.seal("name", b"value", 1.0, 2.0)
    assert SEALER.open("name", sealed) is not None
    monkeypatch.undo()

    assert SEALER.open("name", sealed) is None
    # Nor if its first byte is exchanged.
    assert SEALER.open("name", bytes([sealing.FORMAT]) + sealed[1:]) is None


def test_what_is_large_is_compressed_and_what_would_grow_is_not() -> None:
    noise = os.urandom(10_000)

    assert len(SEALER.seal("name", LISTING, 0.0, 1.0)) < len(LISTING) / 5
    assert len(SEALER.seal("name", noise, 0.0, 1.0)) < len(noise) + 100
    assert SEALER.open("name", SEALER.seal("name", noise, 0.0, 1.0)) == Opened(noise, 0.0, 1.0)


def test_a_value_that_unpacks_to_more_than_the_bound_is_not_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sealed = SEALER.seal("name", bytes(1 << 20), 0.0, 1.0)
    monkeypatch.setattr(sealing, "VALUE_MAX_BYTES", (1 << 20) - 1)

    assert len(sealed) < 10_000
    assert SEALER.open("name", sealed) is None


def test_the_same_value_is_never_sealed_alike() -> None:
    sealed = {SEALER.seal("name", b"value", 0.0, 1.0) for _ in range(1000)}

    assert len(sealed) == 1000
    assert len({value[1:13] for value in sealed}) == 1000


def test_nothing_of_a_value_or_a_name_is_in_plain() -> None:
    secret = b"the name of a dataset"
    sealed = SEALER.seal(secret.decode(), secret, 0.0, 1.0)
    places = SEALER.record(secret.decode()) + SEALER.lease(secret.decode())

    for text in (secret, KEY.encode(), zlib.compress(secret, 1), SERVER.encode()):
        assert text not in sealed
        assert text not in places
