"""Long lines on a terminal: they break between words, and nowhere else."""

from __future__ import annotations

import os
import pty
import struct
import sys
from fcntl import ioctl
from pathlib import Path
from subprocess import Popen
from termios import TIOCSWINSZ

import pytest

from pictofs.cli.formatting import wrapped

WORDS = "error: the disk of /tmp/a-folder is full, so nothing more can be kept there for now"


def test_a_line_that_fits_and_one_that_is_no_terminal_s_stay() -> None:
    assert wrapped(WORDS, None) == [WORDS]
    assert wrapped(WORDS, len(WORDS)) == [WORDS]


@pytest.mark.parametrize("width", [10, 20, 40, 80])
def test_words_stay_whole(width: int) -> None:
    lines = wrapped(f"  {WORDS}", width)
    assert " ".join(lines).split() == WORDS.split()
    assert lines[0].startswith("  ")
    for line in lines:
        assert len(line) <= width or len(line.split()) == 1


def test_what_goes_on_is_set_in() -> None:
    assert wrapped("  Fix: make room", 12) == ["  Fix: make", "    room"]
    assert wrapped("one two three", 8, 4) == ["one two", "    three"]


def on_a_terminal(columns: int, *command: str | Path) -> list[str]:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    arguments = [sys.executable, "-m", "pictofs", *map(str, command)]
    process = Popen(arguments, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""

    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece

    os.close(ours)
    process.wait(30)
    return shown.decode().splitlines()


def test_an_error_on_80_columns(tmp_path: Path) -> None:
    path = tmp_path / "there-is-no-such-folder"
    lines = on_a_terminal(80, "unmount", path)
    words = " ".join(lines).split()

    assert words[0] == "error:"
    assert str(path) in words
    assert len(lines) > 1
    for line in lines:
        assert len(line) <= 80 or line.split() == [str(path)]
