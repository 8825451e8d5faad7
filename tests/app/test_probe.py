"""Asking in a process of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from pictofs.app import probe
from pictofs.errors import TimedOut


def test_an_answer_comes_back_whole() -> None:
    assert probe.run_in_subprocess(10, lambda: b"x" * 300_000) == b"x" * 300_000
    assert probe.run_in_subprocess(10, lambda: b"") == b""


def test_an_error_comes_back() -> None:
    def fail() -> bytes:
        raise OSError(errno.ENOTCONN, "gone")

    with pytest.raises(OSError, match="not connected") as caught:
        probe.run_in_subprocess(10, fail)
    assert caught.value.errno == errno.ENOTCONN


def test_a_death_without_an_answer_is_an_error() -> None:
    with pytest.raises(OSError, match="Input/output"):
        probe.run_in_subprocess(10, lambda: os._exit(1))


def test_who_does_not_answer_is_left_behind() -> None:
    began = time.monotonic()

    def hang() -> bytes:
        time.sleep(30)
        return b""

    with pytest.raises(TimedOut):
        probe.run_in_subprocess(0.2, hang)
    assert time.monotonic() - began < 10


FORKING = """
import os, signal
from pictofs.app import probe

def end(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, end)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    probe.run_in_subprocess(10, lambda: b"")
except KeyboardInterrupt:
    print("ended")
"""


def test_m6_a_signal_that_comes_while_a_command_forks_is_not_lost() -> None:
    """Python drops what a handler raises within a hook of fork."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")
