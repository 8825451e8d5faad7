"""A mount's own process: what it reports, what it leaves, where it logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import logging, os, signal, sys, time
from pathlib import Path
from pictofs.app import daemon
from pictofs.config import MountSettings
from pictofs.errors import PictofsError, Unauthorized

def serve(on_ready):
    logging.getLogger("pictofs.test").info("at work")
    {body}

settings = MountSettings(mountpoint=Path("/m"), cache_dir=Path(sys.argv[1]))
try:
    pid = daemon.start(serve, settings, {seconds}, on_retry=lambda why: print("retrying:", why))
except PictofsError as error:
    print(error.exit_code, type(error).__name__, error)
else:
    print("ready", pid)
"""


def start(folder: Path, body: str, seconds: float = 30) -> str:
    program = PROGRAM.format(body=body, seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-c", program, folder],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def log(folder: Path) -> str:
    (file,) = (folder / "log").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    return file.read_text()


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_ready_returns_at_once_and_the_process_stays(tmp_path: Path) -> None:
    # The output is captured: this also shows that the process does not hold it open.
    word, number = start(tmp_path, "on_ready(); time.sleep(60)").split()
    pid = int(number)

    try:
        assert word == "ready"
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"

        targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]

        assert targets[:2] == ["/dev/null"] * 2
        assert Path(targets[2]).parent == tmp_path / "log"
    finally:
        os.kill(pid, signal.SIGTERM)

    assert gone(pid)
    assert "at work" in log(tmp_path)


def test_a_named_error_arrives_with_its_exit_code(tmp_path: Path) -> None:
    said = start(tmp_path, 'raise Unauthorized("the key is refused")')
    assert said == "2 Unauthorized the key is refused"
    assert "the key is refused" in log(tmp_path)


def test_a_bug_names_the_log_that_has_the_traceback(tmp_path: Path) -> None:
    said = start(tmp_path, "1 / 0")
    assert said.startswith("1 PictofsError an unexpected error, which is a bug")
    assert str(tmp_path / "log") in said
    assert "ZeroDivisionError" in log(tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended at once (SIGKILL)"),
        ("os._exit(7)", "ended at once (exit code 7)"),
        ("pass", "was ended before it answered"),
    ],
)
def test_an_early_end(tmp_path: Path, body: str, words: str) -> None:
    assert words in start(tmp_path, body)


def test_silence_is_ended(tmp_path: Path) -> None:
    said = start(
        tmp_path, f"Path('{tmp_path}/pid').write_text(str(os.getpid())); time.sleep(60)", 3
    )
    assert said == "9 TimedOut the mount did not answer within 3 s"
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_error_after_ready_is_only_logged(tmp_path: Path) -> None:
    word, pid = start(tmp_path, 'on_ready(); on_ready(); raise Unauthorized("late")').split()
    assert word == "ready"
    assert gone(int(pid))
    assert "late" in log(tmp_path)


def test_a_log_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert "--log-file" in start(tmp_path, "on_ready()")


def test_e3_retries_arrive_before_the_last_report(tmp_path: Path) -> None:
    body = (
        "from pictofs.api.retries import _tell; tell = _tell.get(); "
        "tell(PictofsError('once')); tell(PictofsError('twice')); on_ready(); "
        "tell(PictofsError('late')); sys.exit()"
    )
    first, second, last = start(tmp_path, body).splitlines()
    assert (first, second) == ("retrying: once", "retrying: twice")
    assert last.startswith("ready ")
