"""`pictofs help`: the pages that an installation brings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pictofs import errors
from pictofs.cli import main
from pictofs.cli.pages import PAGES, find, page
from pictofs.errors import NoSuchEntry, PictofsError

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == (DOCS / f"{name}.md").read_text()


def test_a_heading_shows_what_is_below_it() -> None:
    text = find("mount-at-boot")
    assert text.startswith("## Mount at boot\n")
    assert "systemctl enable --now pictofs@srv-picto" in text
    assert "## Mount at login" not in text
    assert find("Mount at boot") == text

    # What looks like a heading in a shell's lines is none.
    assert "pictofs_info" in find("metrics")


def test_without_a_topic_it_names_the_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(PAGES)]] == list(PAGES)


def test_an_unknown_topic_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "no-such-thing"]) == 4
    assert capsys.readouterr().err == (
        "error: no page and no heading is named 'no-such-thing'\n"
        "  Fix: pictofs help names the pages\n"
    )
    with pytest.raises(NoSuchEntry):
        page("architecture-of-nothing")


def every(kind: type[PictofsError]) -> set[type[PictofsError]]:
    return {kind}.union(*map(every, kind.__subclasses__()))


def test_e3_what_errors_name_can_be_opened() -> None:
    named = {kind.docs for kind in every(PictofsError)} - {""}
    assert {errors.TROUBLESHOOTING, errors.OTHER_USERS} <= named
    for docs in named:
        if topic := re.fullmatch(r"pictofs help (\S+)", docs):
            assert find(topic[1])
        else:
            assert docs.startswith("https://pictograph.io/docs/")
