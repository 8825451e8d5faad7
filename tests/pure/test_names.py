"""The names of entries: every name of the server's has one, and no two share it (N1 to N4)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pictofs.model.names import (
    NAME_MAX_BYTES,
    QUOTE,
    entry_fits,
    entry_name,
    escape,
    storable,
    tagged,
    unescape,
)

#: What the rule treats in a way of its own, beside whatever else there is.
SPECIAL = st.sampled_from(
    ["/", "\0", QUOTE, ".", "~", "s", "0", "e", "u", "\ud800", "\udfff", "é", "🦀", " "]
)
ANYTHING = st.text(st.characters(), max_size=400)
"""Lone surrogates too: JSON can spell them."""
TRICKY = st.lists(SPECIAL, max_size=300).map("".join)
NAMES = ANYTHING | TRICKY
IDENTITIES = st.text(st.characters(), max_size=40)


def carried_by_posix(entry: str) -> bool:
    """Whether a folder can have an entry of that name."""
    return entry not in ("", ".", "..") and not set(entry) & {"/", "\0"}


@given(NAMES)
@example("")
@example(".")
@example("..")
@example("...")
@example(QUOTE + "e")
@example(QUOTE + ".")
@example(QUOTE + "ud800")
@example("\ud83d\ude00")
def test_n2_an_escaped_name_can_be_an_entry_and_leads_back(name: str) -> None:
    entry = escape(name)
    assert carried_by_posix(entry)
    entry.encode()  # as UTF-8, whatever the name holds
    assert unescape(entry) == (name if entry_fits(entry) else None)


@given(NAMES, NAMES)
@example("/", QUOTE + "s")
@example("", QUOTE + "e")
@example(QUOTE, QUOTE + QUOTE)
def test_n2_two_names_never_share_an_entry(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(NAMES)
def test_n1_a_plain_name_stays_as_it_is(name: str) -> None:
    plain = (
        carried_by_posix(name)
        and QUOTE not in name
        and not any("\ud800" <= c <= "\udfff" for c in name)
    )
    assert (escape(name) == name) == plain


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("with space.jpg", "with space.jpg"),
        (".hidden", ".hidden"),
        ("...", "..."),
        ("100%.jpg", "100%.jpg"),
        ("a\nb", "a\nb"),
        ("", "‛e"),
        (".", "‛."),
        ("..", "‛.."),
        ("a/b.jpg", "a‛sb.jpg"),
        ("../x", "..‛sx"),
        ("nul\0byte", "nul‛0byte"),
        ("‛", "‛‛"),
        ("\ud83d", "‛ud83d"),
    ],
)
def test_n2_the_rule_as_it_is_written_down(name: str, entry: str) -> None:
    assert escape(name) == entry
    assert unescape(entry) == name


def test_n1_twins_stay_apart() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))
    assert len({escape(name) for name in (composed, decomposed, "Case.jpg", "case.jpg")}) == 4


@given(TRICKY | st.lists(SPECIAL, max_size=90).map("".join))
def test_n2_an_entry_means_at_most_one_name(entry: str) -> None:
    """Also one that a person typed."""
    name = unescape(entry)
    assert name is None or escape(name) == entry


@given(NAMES, IDENTITIES)
@example("x" * 300 + ".jpg", "1")
@example("é" * 127 + ".jpg", "1")
@example(QUOTE * 200, "1")
@example("a." + "x" * 300, "1")
@example("/" * 130 + ".jpg", "1")
def test_n3_a_tagged_name_fits_and_is_no_escaped_name(name: str, identity: str) -> None:
    entry = tagged(name, identity)
    assert carried_by_posix(entry)
    assert len(entry.encode()) <= NAME_MAX_BYTES
    # Were it the escaped form of any name, that name would be its meaning.
    assert unescape(entry) is None


@given(NAMES, NAMES)
def test_n3_a_tagged_name_is_never_the_escaped_name_of_another(name: str, other: str) -> None:
    assert tagged(name, "1") != escape(other)


@given(NAMES, NAMES, IDENTITIES, IDENTITIES)
@example("a.jpg", "a.jpg", "1", "2")
def test_n3_tagged_names_of_two_identities_differ(
    name: str, other: str, identity: str, another: str
) -> None:
    if identity != another:
        assert tagged(name, identity) != tagged(other, another)


@given(NAMES, IDENTITIES)
def test_n5_an_entry_depends_on_name_and_identity_alone(name: str, identity: str) -> None:
    entry = entry_name(name, identity)
    assert entry == entry_name(name, identity)
    assert entry == (escape(name) if entry_fits(escape(name)) else tagged(name, identity))
    assert len(entry.encode()) <= NAME_MAX_BYTES


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 300 + ".jpg", ".jpg"),
        ("x" * 300 + ".tar.gz", ".gz"),
        ("x" * 300 + "." + "y" * 30, ""),
        ("x" * 300, ""),
    ],
)
def test_n3_a_tag_keeps_the_extension(name: str, kept: str) -> None:
    entry = tagged(name, "1")
    assert entry.endswith(kept)
    assert entry.startswith("xxx")
    assert entry[: len(entry) - len(kept)][-18:-16] == QUOTE + "~"


@given(st.text(st.characters(), max_size=300))
def test_entry_fits_counts_bytes(entry: str) -> None:
    assert entry_fits(entry) == (len(entry.encode("utf-8", "surrogatepass")) <= NAME_MAX_BYTES)


@given(ANYTHING)
def test_what_is_stored_has_a_form_in_utf_8(text: str) -> None:
    stored = storable(text)
    stored.encode()
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert stored == text
