"""How `warm` and `download` show their progress, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from pictofs.cli import progress as shown
from pictofs.cli.formatting import clock_text
from pictofs.cli.progress import BarProgress, Facts, LineProgress, outcome, showing

UNTIL = 1_800_000_000.0
AWAY = "the server can't be reached"


def facts(**changes: Any) -> Facts:
    """What a run tells of itself."""
    return {
        "state": "fetching",
        "files": 1200,
        "files_done": 540,
        "bytes": 6_500_000_000,
        "bytes_done": 3_000_000_000,
        "failed": 0,
        "requests": 271,
        "until": None,
        "reason": None,
        "notice": None,
        **changes,
    }


WAITING = facts(state="waiting", until=UNTIL)
UNREACHABLE = {**WAITING, "reason": AWAY}


class Clock:
    """`time.monotonic`, as the test has it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(shown.time, "monotonic", made)
    return made  # type: ignore[return-value]


def drawn(width: int, *steps: Facts, clock: Clock) -> str:
    """The bar's line after some steps, a second apart."""
    bar = BarProgress()
    for step in steps:
        clock.now += 1
        bar.show(step)

    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(bar._row)
    bar.close()
    return out.getvalue()


STEPS = [facts(files_done=done, bytes_done=done * 5_500_000) for done in (500, 540)]


def test_in_80_columns_extras_go_first(clock: Clock) -> None:
    line = drawn(80, *STEPS, clock=clock)
    assert line.startswith("fetching ━")
    assert "45 %, 16 s left, 540 of 1,200 files, 220 MB/s" in line
    assert "requests" not in line
    assert len(line.rstrip("\n")) <= 77
    assert line.count("\n") == 1


def test_in_150_columns_everything_is_there(clock: Clock) -> None:
    line = drawn(150, *STEPS, clock=clock)
    assert "220 MB/s, 2.97 GB of 6.5 GB of images, 271 API requests" in line


@pytest.mark.parametrize("step", [WAITING, UNREACHABLE])
@pytest.mark.parametrize("width", [80, 70])
def test_q9_the_deadline_stays(clock: Clock, step: Facts, width: int) -> None:
    line = drawn(width, step, clock=clock)
    assert f"until {clock_text(UNTIL)}" in line
    assert "━━━" in line
    assert "45 %" in line


@pytest.mark.parametrize("width", [40, 20, 5, 1])
def test_a_narrow_terminal_gets_one_line(clock: Clock, width: int) -> None:
    assert drawn(width, *STEPS, WAITING, clock=clock).count("\n") == 1


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_q9_without_a_terminal_a_wait_is_told_at_once_and_every_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = LineProgress()
    progress.show({**WAITING, "files": 0, "files_done": 0})

    words = f"waiting for the request budget until {clock_text(UNTIL)}"
    assert lines(capsys) == [words]

    for _ in range(120):
        clock.now += 1
        progress.show({**WAITING, "files": 0, "files_done": 0})

    assert lines(capsys) == [words, words]


def test_q9_what_is_waited_for_is_what_it_really_is(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    LineProgress().show(UNREACHABLE)
    (line,) = lines(capsys)
    assert line.startswith(f"waiting until {clock_text(UNTIL)} to try again ({AWAY}): 540 of 1,200")


def test_a_long_listing_is_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    for _ in range(25):
        progress.show(facts(state="listing", files=0, files_done=0))
        clock.now += 1
    assert lines(capsys) == ["listing", "listing"]


@pytest.mark.parametrize("given", [{"TERM": "dumb"}, {"TERM": ""}, {"CI": "true"}])
def test_a_terminal_that_can_t_draw_gets_lines(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in {"TERM": "xterm", "CI": "", **given}.items():
        monkeypatch.setenv(name, value)
    with showing(as_json=False) as progress:
        assert isinstance(progress, LineProgress)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("CI", "")
    with showing(as_json=False) as progress:
        assert isinstance(progress, BarProgress)


class Terminal(io.StringIO):
    """Standard error that is one."""

    def isatty(self) -> bool:
        return True


def test_the_last_line_tells_what_was_fetched_and_what_was_right() -> None:
    result = facts(path="/p", fetched=0, found=480, files=480, files_done=480, failures=[], bytes=0)
    assert outcome(result, "right") == [
        "/p: 0 fetched, 480 were right: 480 of 480 files, 271 API requests"
    ]
