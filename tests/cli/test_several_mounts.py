"""What `status` and `top` show where there are several mounts: a line for each."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
from mounting import Mounting, Serving
from rich.console import Console
from starting import Pictofs
from test_command_line import FULL
from test_top_frame import busy, frame, status

from pictofs.cli.status import Outline, outline
from pictofs.cli.status import _print as show
from pictofs.cli.top_frame import Frame
from pictofs.cli.top_history import History
from pictofs.cli.top_overview import Overview
from standin import Spec

LIMIT = {"limit": 1000, "remaining": 0, "reserve": 100}


def live(path: str, **changes: Any) -> dict[str, Any]:
    return {"mountpoint": path, "state": "live", "status": {**FULL, **changes}}


def test_several_mounts_are_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until = time.time() + 600
    show(
        [
            live("/mnt/a", online=True),
            live("/mnt/b", online=True, rate={**LIMIT, "spent_until": until, "reset_at": until}),
            {"mountpoint": "/mnt/c", "state": "stale", "status": None},
        ]
    )
    head, a, b, c, _, *below = capsys.readouterr().out.splitlines()

    assert head.split()[:2] == ["mount", "point"]
    assert [line.split()[:2] for line in (a, b, c)] == [
        ["/mnt/a", "online"],
        ["/mnt/b", "online"],
        ["/mnt/c", "stale"],
    ]
    assert "0 of 1,000" in b
    assert "reads of what is not cached fail until" in below[0]
    assert below[1].startswith("/mnt/c: its process is gone. pictofs unmount /mnt/c")
    assert below[2] == "pictofs status MOUNTPOINT shows one of them in full."
    assert len(below) == 3


@pytest.mark.parametrize("key", [*FULL])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True])
def test_an_odd_status_has_a_line(key: str, value: object) -> None:
    found = outline(live("/mnt/a", **{key: value}), time.time())
    assert isinstance(found, Outline)
    assert found.state in ("online", "offline")


def drawn(frames: list[Frame], width: int, height: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, color_system=None)
    console.print(Overview(frames, 1.0).render(width, height))
    return out.getvalue().splitlines()


def test_top_shows_several_mounts_a_line_each() -> None:
    history, document = busy(20)
    spent = status(online=False, rate=LIMIT)
    frames = [
        frame(history, document, 19.0),
        frame(History(), spent, 19.0),
        frame(History(), None, 19.0, "its process is gone"),
    ]
    head, one, two, three, words = drawn(frames, 80, 24)

    assert head.split() == [
        "mount",
        "point",
        "state",
        "in",
        "out",
        "ops/s",
        "hits",
        "limit",
        "left",
    ]
    assert one.split()[:2] == ["/home/me/picto", "online"]
    assert one.split()[-1] == "4,711"
    assert "MB/s" in one
    assert two.split() == ["/home/me/picto", "offline", "-", "-", "-", "-", "0"]
    assert three.split() == ["/home/me/picto", "away", "-", "-", "-", "-", "-"]
    assert "pictofs top MOUNTPOINT shows one in full; q quits" in words


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (60, 20), (80, 6), (80, 2)])
def test_an_overview_fits(width: int, height: int) -> None:
    history, document = busy(20)
    path = Path("/a-long-way/down", *["folder"] * 20, "picto")
    frames = [Frame(path, history, document, None, 1.0, 19.0)] * 40
    lines = drawn(frames, width, height)

    assert len(lines) <= max(height, 4)  # the head, one mount, and two lines of words
    assert max(map(len, lines)) <= width
    assert "more" in lines[-2] or height == 50
    assert "/picto " in lines[1]


def test_one_frame_of_several_mounts(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=1))
    one = mounted(server, home="one")
    two = mounted(server, home="two")

    said = {}
    for command in (["status"], ["top", "--once"]):
        done = Pictofs(*command, env=one.environ, stdout=-1, stderr=-1, text=True)
        out, err = done.communicate(timeout=60)
        assert (done.returncode, err) == (0, "")
        said[command[0]] = out

    # Into a pipe a path is whole; others of the machine may be there, too.
    assert {str(one.root), str(two.root)} <= set(said["status"].split())
    assert said["top"].count("online") >= 2
