"""What `pictofs top` draws, without a terminal and without a mount."""

from __future__ import annotations

import io
import math
import re
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from pictofs.cli.line_chart import Line, chart, round_up
from pictofs.cli.top_frame import Frame
from pictofs.cli.top_history import History
from pictofs.model.status import OperationStatus, Status, to_status

BRAILLE = {chr(code) for code in range(0x2801, 0x2900)}


def status(**changes: Any) -> Status:
    """A status."""
    document = {
        "pid": 7,
        "started_at": time.time() - 4000,
        "base_url": "https://api.pictograph.io",
        "online": True,
        "offline_since": None,
        "open_files": 3,
        "operations": {
            "open": {"ended": 100, "failed": 0, "under_way": 2},
            "read": {"ended": 100, "failed": 0, "under_way": 0},
        },
        "bytes": {"downloaded": 0, "storage": 0, "read": 0},
        "cache": {
            "hits": 0,
            "misses": 0,
            "used": 12_000_000_000,
            "limit": 50_000_000_000,
            "files": 120_000,
        },
        "prefetch": {"fetched": 0, "used": 0, "under_way": 5, "orders": []},
        "rate": {"limit": 5000, "remaining": 4711, "reset_at": time.time() + 3333, "reserve": 500},
        "waiting": {"readers": 1, "api": 1},
        **changes,
    }
    return to_status(document)


def busy(seconds: int) -> tuple[History, Status]:
    """A mount that was looked at each second while it was read in waves."""
    history, document = History(), status(started_at=1.0)

    for second in range(seconds):
        wave = int(1e6 * (2 + math.sin(second / 9)))
        document = deepcopy(document)
        for counts in document.operations.values():
            counts.ended += wave // 10_000

        assert document.bytes is not None

        document.bytes.storage += wave
        document.bytes.read += 3 * wave

        assert document.cache is not None

        document.cache.hits = second * 9
        document.cache.misses = second
        history.add(float(second), document)

    return history, document


def drawn(frame: Frame, width: int, height: int) -> list[str]:
    """The lines of a frame."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, color_system=None)
    console.print(frame.render(width, height))
    return out.getvalue().splitlines()


def frame(
    history: History, document: Status | None, now: float, trouble: str | None = None
) -> Frame:
    return Frame(Path("/home/me/picto"), history, document, trouble, 1.0, now)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60), (60, 20)])
def test_a_frame_fits(width: int, height: int) -> None:
    history, document = busy(200)
    lines = drawn(frame(history, document, 199.0), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert len(BRAILLE & set("".join(lines))) > 10


@pytest.mark.parametrize(("width", "height"), [(40, 10), (20, 3), (10, 1)])
def test_a_small_terminal_gets_no_chart_and_no_error(width: int, height: int) -> None:
    history, document = busy(20)
    lines = drawn(frame(history, document, 19.0), width, height)
    assert max(map(len, lines)) <= width
    assert not BRAILLE - {"⣀"} & set("".join(lines))


def test_a_frame_says_what_is_going_on() -> None:
    history, document = busy(100)
    lines = drawn(frame(history, document, 99.0), 100, 24)
    text = "\n".join(lines)

    for words in (
        "/home/me/picto",
        "  online  up ",
        "https://api.pictograph.io",
        "4,711 of 5,000 left, full again in 55 min",
        "12 GB of 50 GB, 120,000 files",
        "90.0 % of the last opens, 90.0 % since it was mounted",
        "2 operations, 1 API requests, 1 readers waiting, 3 files open, 5 fetched ahead",
        "per second open 100, read 100",
        "in from storage 1 MB/s",
        "out to readers 3 MB/s",
        "operations 200/s",
        "-2 min",
        "now",
        "q quits",
    ):
        assert words in text.replace("1,000,000", "1 MB"), (words, text)

    assert "10 MB/s┤" in text
    assert "1,000/s┤" in text


def test_q8_a_spent_limit_is_told_in_80_columns() -> None:
    history, document = busy(20)
    before = drawn(frame(history, document, 19.0), 80, 24)
    document.rate.spent_until = time.time() + 600
    lines = drawn(frame(history, document, 19.0), 80, 24)
    told = [line.strip() for line in lines if "hourly limit is spent" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"reads of what is not cached fail until \d\d:\d\d: the hourly limit is spent", told[0]
    )
    assert len(lines) == len(before)


def test_nothing_is_known_yet() -> None:
    history = History()
    document = status(
        rate={"limit": None, "remaining": None, "reset_at": None, "reserve": 50},
        cache={"hits": 0, "misses": 0, "error": "the cache disk fails at statfs"},
    )
    history.add(0.0, document)
    text = "\n".join(drawn(frame(history, document, 0.0), 80, 24))
    assert "the server has not told yet" in text
    assert "the cache disk fails at statfs" in text
    assert "- of the last opens" in text


@pytest.mark.parametrize(
    "document", [{}, {"pid": 7, "cache": {"more": 1}, "rate": [], "operations": {"open": {}}}]
)
def test_a_mount_of_another_version_tells_less(document: dict[str, Any]) -> None:
    history = History()
    for moment in (0.0, 1.0):
        history.add(moment, to_status(document))
    text = "\n".join(drawn(frame(history, to_status(document), 1.0), 80, 24))
    assert "the server has not told yet" in text
    assert "offline" not in text


def test_offline_and_failures_show() -> None:
    history = History()
    document = status(online=False, offline_since=time.time() - 90, started_at=1.0)
    history.add(0.0, document)
    operations = {"open": OperationStatus(ended=110, failed=4)}
    document = replace(document, operations=operations)
    history.add(2.0, document)
    text = "\n".join(drawn(frame(history, document, 2.0), 100, 24))
    assert "offline for 1 min 30 s" in text
    assert "open 5, 2.0 failed" in text


def test_a_mount_that_ends_leaves_a_gap_and_comes_back() -> None:
    history, document = busy(10)
    history.add(10.0, None)

    assert history.last is None

    text = "\n".join(drawn(frame(history, document, 10.0, "the mount has ended"), 80, 24))

    assert "the mount has ended" in text
    assert "operations -" in text

    # A new process counts from 0: the fall is no rate.
    fresh = status(pid=8)
    history.add(11.0, fresh)

    assert history.last is None

    history.add(12.0, fresh)

    assert history.last is not None
    assert history.last.total == 0
    assert [sample is None for _, sample in history.samples()][-2:] == [True, False]


def test_five_minutes_are_remembered() -> None:
    history, _ = busy(1000)
    assert len(list(history.samples())) == 301
    assert history.span(999.0) == 300
    assert busy(30)[0].span(29.0) == 60


def test_a_line_breaks_where_nothing_is_known() -> None:
    def columns(points: list[tuple[float, float | None]]) -> set[int]:
        drawing = chart(
            [Line(points, "cyan")],
            width=60,
            height=8,
            span=60,
            ticks=[],
            least=1,
            label=lambda value: f"{value:g}",
        )
        return {
            at
            for row in drawing.plain.splitlines()
            for at, char in enumerate(row)
            if char in BRAILLE
        }

    whole = columns([(float(x), 1.0) for x in range(-60, 1)])
    broken = columns([(float(x), None if -40 < x < -20 else 1.0) for x in range(-60, 1)])

    assert broken < whole
    assert len(whole) - len(broken) > 10


def test_scales_are_round() -> None:
    assert [round_up(value) for value in (1, 1.1, 3, 9, 12e6, 0.03)] == [1, 2, 5, 10, 20e6, 0.05]


def test_a_long_path_shows_its_end() -> None:
    history, document = busy(3)
    long = Frame(Path("/a" * 60 + "/picto"), history, document, None, 1.0, 2.0)
    head = drawn(long, 80, 24)[0]
    assert "/picto   online" in head
    assert len(head) <= 80
