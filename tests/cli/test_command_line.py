"""Words, exit codes and the silence about the key, of commands that need no mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from pictofs import __version__
from pictofs.cli import failure, main
from pictofs.cli.demo import check_stand_in, warn_of_the_real_world
from pictofs.cli.formatting import bytes_text, duration_text, share_text
from pictofs.cli.status import _print as show
from pictofs.cli.status import describe
from pictofs.errors import NotSupported, Throttled
from pictofs.model.plural import counted
from pictofs.model.status import to_status

SECRET = "pk_live_" + "5ec2e7" * 10


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("PICTO", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def pictofs(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pictofs", *map(str, arguments)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def fails(code: int, *arguments: str | Path, **environ: str) -> str:
    """What a failing command writes: a line each for what is wrong, what to do and what to read."""
    done = pictofs(*arguments, **environ)
    assert (done.returncode, done.stdout) == (code, "")
    heads = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert heads[0] == "error"
    assert heads[1:] in ([], ["  Fix"], ["  Docs"], ["  Fix", "  Docs"])
    assert "Traceback" not in done.stderr
    return done.stderr


def test_help_and_version() -> None:
    assert pictofs("--version").stdout == f"pictofs {__version__}\n"
    for arguments in ((), ("--help",), ("-h",)):
        done = pictofs(*arguments)
        assert done.returncode == 0
        assert all(
            word in done.stdout
            for word in ("mount", "unmount", "status", "demo", "cache", "refresh")
        )
    assert "--annotation-sizes" in pictofs("mount", "--help", COLUMNS="200").stdout


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from pictofs.cli import main; main(['--version']);"
        "print([m for m in ('trio', 'httpx', 'pyfuse3', 'rich', 'sqlite3', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mount"], "Missing argument 'MOUNTPOINT'\n  Fix: see pictofs mount --help"),
        (["mount", "m", "--nope"], "No such option: --nope"),
        (["mount", "m", "--timeout"], "requires an argument"),
        (["mount", "a", "b"], "unexpected extra argument"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["cache"], "Missing command"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    assert words in fails(6, *arguments)


def test_mounting_without_a_key(tmp_path: Path) -> None:
    assert "no API key\n  Fix: run `pictofs login`" in fails(2, "mount", tmp_path)
    assert "no profile 'x'" in fails(2, "mount", tmp_path, "--profile", "x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key-file", SECRET],
        ["--base-url", f"https://{SECRET}@h"],
        ["--base-url", SECRET],
        ["--profile", SECRET + "!"],
        ["--timeout", SECRET],
        ["--cache-size", "1"],
    ],
)
def test_no_failure_shows_the_key(tmp_path: Path, arguments: list[str]) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    for said in (
        fails(6, "mount", tmp_path, *arguments, PICTOGRAPH_API_KEY=SECRET),
        fails(6, "mount", tmp_path, "--api-key-file", str(key), *arguments),
    ):
        assert "5ec2e7" not in said


def test_a_key_that_no_header_can_carry(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert "5ec2e7" not in fails(6, "mount", tmp_path / "m", PICTOGRAPH_API_KEY=SECRET + " x")


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("missing", 4, "does not exist\n  Fix: create it by `mkdir -p"),
        ("file", 6, "is not a folder"),
        ("full", 5, "is not empty"),
        ("/proc", 5, "is busy: proc"),
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="the machine is looked at first")
def test_where_nothing_can_be_mounted(tmp_path: Path, place: str, code: int, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full/x").mkdir(parents=True)
    assert words in fails(code, "mount", tmp_path / place, PICTOGRAPH_API_KEY=SECRET)


def test_unmounting_what_is_no_mount(tmp_path: Path) -> None:
    assert "is not mounted" in fails(4, "unmount", tmp_path)
    assert "no pictofs mount but proc" in fails(6, "unmount", "/proc")


def test_status_and_refresh_of_what_is_no_mount(tmp_path: Path) -> None:
    assert "is not a pictofs mount" in fails(4, "status", tmp_path)
    assert "is not a pictofs mount" in fails(4, "status", tmp_path / "none", "--json")
    assert "lies in no pictofs mount" in fails(4, "refresh", tmp_path)


def test_cache_commands(tmp_path: Path) -> None:
    assert "there is no cache" in fails(4, "cache", "info")
    (tmp_path / ".cache/pictofs/content").mkdir(parents=True)
    assert "0 B in 0 files" in pictofs("cache", "info").stdout
    assert "0 files, 0 B; removed 0 damaged" in pictofs("cache", "verify").stdout
    for command in ("info", "verify"):
        found = json.loads(pictofs("cache", command, "--json").stdout)
        assert (found["files"], found["bytes"]) == (0, 0)
    (tmp_path / ".cache/pictofs/catalog").mkdir()
    found = json.loads(pictofs("cache", "prune", "--json").stdout)
    assert found == {
        "path": str(tmp_path / ".cache/pictofs/catalog"),
        "catalogs": 0,
        "bytes": 0,
    }
    found = json.loads(pictofs("cache", "clear", "--json").stdout)
    assert found == {"path": str(tmp_path / ".cache/pictofs/content"), "files": 0}
    done = pictofs("cache", "clear", PICTOFS_CACHE_DIR=str(tmp_path / ".cache/pictofs"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed 0 files" in done.stdout


@pytest.mark.parametrize("command", ["warm", "download"])
def test_a_mistyped_choice_is_told_with_the_valid_ones(command: str) -> None:
    said = fails(6, command, "name", "folder", "--split", "trian")
    assert said == "error: --split: 'trian' won't do: write train, val, test or unassigned\n"
    said = fails(6, command, "name", "folder", "--status", "done")
    assert said == "error: --status: 'done' won't do: write new, annotate, review or complete\n"


def test_the_demo_says_what_its_server_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "uvicorn" else object()
    )
    with pytest.raises(NotSupported, match=r"needs uvicorn: pip install 'pictofs\[demo\]'"):
        check_stand_in()


@pytest.mark.parametrize(
    ("exported", "named"),
    [
        ({"PICTOGRAPH_API_KEY": SECRET}, "your PICTOGRAPH_API_KEY:"),
        ({"PICTOGRAPH_API_KEY": "pk_deploy_" + "x" * 32}, "your PICTOGRAPH_API_KEY:"),
        ({"pictograph_base_url": "https://api.pictograph.io"}, "your PICTOGRAPH_BASE_URL:"),
        (
            {"PICTOGRAPH_BASE_URL": "https://api.pictograph.io", "PICTOGRAPH_API_KEY": SECRET},
            "your PICTOGRAPH_BASE_URL and PICTOGRAPH_API_KEY:",
        ),
        ({"PICTOGRAPH_API_KEY": "pk_live_short"}, None),
        ({"PICTOGRAPH_BASE_URL": "http://localhost:1", "PICTOGRAPH_API_KEY": SECRET}, None),
    ],
)
def test_the_demo_says_that_it_is_not_the_real_world(
    exported: dict[str, str], named: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_the_real_world(exported)

    said = capsys.readouterr().err
    assert SECRET not in said
    assert (named in said) if named else (said == "")


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    def fail() -> None:
        raise error

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr("pictofs.cli.app", lambda args, **rest: app(args=[], **rest))
    return main(arguments)


def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing(Throttled("come back\nlater"), monkeypatch) == 8
    assert (
        capsys.readouterr().err
        == "error: come back later\n  Docs: https://pictograph.io/docs/error-handling\n"
    )
    assert failing(KeyboardInterrupt(), monkeypatch) == failure.INTERRUPTED
    assert capsys.readouterr().err == ""


def test_a_bug_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert failing(ZeroDivisionError("x"), monkeypatch) == 1
    said = capsys.readouterr().err
    assert "which is a bug" in said
    assert "Traceback" not in said
    assert "Traceback" in Path(said.split()[-1]).read_text()
    assert failing(ZeroDivisionError("x"), monkeypatch, "--log-level", "debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_bug() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pictofs mount --help | true"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


NOW = 1_000_000.0
FULL = {
    "version": 1,
    "pid": 7,
    "base_url": "https://h",
    "started_at": NOW - 3700,
    "online": False,
    "offline_since": NOW - 90,
    "requests": {"api": 12, "storage": 40, "by_route": {"datasets": 2, "images": 10}},
    "bytes": {"downloaded": 1_500_000, "read": 2_000_000_000},
    "cache": {"dir": "/c", "used": 25, "limit": 100, "hits": 3, "misses": 1},
    "rate": {"limit": 2000, "remaining": 1988, "reset_at": NOW + 600},
    "open_files": 3,
}


def test_a_status_in_words() -> None:
    assert dict(describe(to_status(FULL), NOW)) == {
        "server": "https://h, offline for 1 min 30 s",
        "process": "up 1 h 1 min, id 7",
        "requests": "12 to the API, 40 to storage (images 10, datasets 2)",
        "bytes": "1.5 MB downloaded, 2 GB read",
        "cache": "25 B of 100 B (25.0 %), hit rate 75.0 %",
        "cache folder": "/c",
        "request budget": "1,988 of 2,000 left, full again in 10 min",
        "open files": "3",
    }


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ({}, None),
        ({"spent_until": NOW - 1}, None),
        ({"spent_until": 1e300}, None),
        ({"spent_until": NOW + 600, "wait": 20}, "fail"),
        ({"spent_until": NOW + 600, "wait": 3600}, "wait"),
    ],
)
def test_q8_a_spent_limit_in_words(rate: dict[str, float], words: str | None) -> None:
    said = dict(describe(to_status({**FULL, "rate": rate}), NOW)).get("hourly limit")
    # NOW is 46 min 40 s after a full hour, wherever that is.
    until = time.strftime("%H", time.localtime(NOW)) + ":57"
    wanted = f"reads of what is not cached {words} until {until}: the hourly limit is spent"
    assert said == (wanted if words else None)


def test_the_longest_status_fits_on_one_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 lines of 80 columns, one of which the next prompt takes."""
    monkeypatch.setenv("COLUMNS", "80")
    routes = {f"GET /a-route-of-the-api/{{image}}/{number}": number for number in range(20)}
    document = {
        **FULL,
        "requests": {"api": 9_999_999, "storage": 9_999_999, "by_route": routes},
        "prefetch": {"fetched": 10**6, "used": 10**6, "orders": [{"images": 10**6}] * 16},
        "annotations": {
            "oldest_confirmed_at": NOW - 86_000,
            "renewals": {"held_back": 10**6},
            "origin": {"requests": 10**6, "exports": 10**6},
            "exports": [{"name": "pictofs-0123456789abcdef", "created_at": NOW - 86_000}],
        },
    }

    show([{"mountpoint": "/mnt/picto", "state": "live", "status": document}])

    lines = capsys.readouterr().out.splitlines()
    assert any("and 14 other orders" in line for line in lines)
    assert any("others 136" in line for line in lines)
    assert len(lines) <= 23


@pytest.mark.parametrize("key", [None, *FULL])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True])
def test_an_odd_status_is_still_shown(key: str | None, value: object) -> None:
    document = {key: value} if key is None else {**FULL, key: value}
    json.dumps(describe(to_status(document), NOW))  # type: ignore[arg-type]
    if key is not None:
        del document[key]
        assert describe(to_status(document), NOW)  # type: ignore[arg-type]


def test_quantities() -> None:
    assert [counted(n, "file") for n in (0, 1, 2, 1200)] == [
        "0 files",
        "1 file",
        "2 files",
        "1,200 files",
    ]
    assert [bytes_text(n) for n in (0, 999, 1000, 999_600, 10**15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1 MB",
        "1 PB",
    ]
    assert [duration_text(n) for n in (-1, 0.4, 59.6, 3600, 90061)] == [
        "0 s",
        "0 s",
        "1 min",
        "1 h",
        "1 d 1 h",
    ]
    assert share_text(1, 0) == "-"
