"""`--access-log` and `--log-format` on real mounts."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, files_below, run

from pictofs.app import mount_table
from standin import Spec
from standin.faults import Fault, Match, error
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SMALL = Spec((DatasetSpec("small", images=20, size=5000, directories=2),))


def lines(file: Path) -> list[dict[str, Any]]:
    """The access log of a mount that logs as JSON."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_j4_each_operation_of_a_copy_is_a_line(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    file, copy = tmp_path / "access.log", tmp_path / "copy"
    mount = mounted(serving(SMALL), "--access-log", str(file), "--log-format", "json")
    mount.expected.append('"level": "INFO"')
    run("cp", "-r", mount.datasets / "small", copy)
    counted = {name: each["ended"] for name, each in mount.status()["operations"].items()}
    found = lines(file)

    paths = {f"/datasets/small/{path.relative_to(copy)}": path for path in copy.rglob("*")}
    opened = Counter(each["path"] for each in found if each["operation"] == "open")

    assert {path for path, copied in paths.items() if copied.is_file()} <= opened.keys()

    read: Counter[str] = Counter()

    for each in found:
        if each["operation"] == "read":
            read[each["path"]] += each["bytes"]

    for path, copied in paths.items():
        if copied.is_file():
            assert read[path] == copied.stat().st_size, path

    listed = {each["path"] for each in found if each["operation"] == "readdir"}

    assert {path for path, copied in paths.items() if copied.is_dir()} <= listed

    # The status came after the last line, and counts its own open.
    logged = Counter(each["operation"] for each in found)

    assert all(
        abs(counted[name] - logged[name]) <= 2 for name in ("open", "read", "readdir", "opendir")
    ), logged

    assert {each["errno"] for each in found} <= {"OK", "ENOENT", "ENODATA", "EOPNOTSUPP"}
    assert all(each["seconds"] >= 0 for each in found)
    assert not any("?" in each["path"] for each in found)

    now = datetime.now(UTC)

    assert all(
        now - timedelta(minutes=5) < datetime.fromisoformat(each["time"]) <= now for each in found
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_k2_neither_log_holds_the_key_or_a_signed_url(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    server = serving(SMALL)
    mount = mounted(server, "--access-log", str(file), "--log-level", "debug", "--max-retries", "1")
    files_below(mount.datasets)
    mount.expected.append(".")
    server.faults.add(Fault(Match(host="storage"), error(500)))
    server.faults.add(Fault(Match(path="/images/"), error(500)))
    mount.pictofs("cache", "clear")
    with pytest.raises(OSError, match="error"):
        next(mount.datasets.glob("small/images/*/*")).read_bytes()

    assert "WARNING pictofs.fuse.operations: open: 127.0.0.1 answered HTTP 500" in mount.log()

    for text in (mount.log(), file.read_text()):
        assert mount.key not in text
        assert "X-Goog-Signature" not in text
        assert "http://127.0.0.1:" + server.storage_url.rpartition(":")[2] not in text


def test_j4_failures_names_and_lines_for_people(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    mount = mounted(serving(SMALL), "--access-log", str(file))
    odd = 'no\n"such" \\ thing'

    assert not (mount.datasets / odd).exists()
    assert not os.path.exists(os.fsencode(mount.datasets) + b"/\xff")

    (mount.root / ".pictofs/metrics").read_bytes()
    (mount.datasets / "small/dataset.json").read_bytes()
    link = next((mount.root / "by-id").iterdir())

    assert link.resolve() == mount.datasets / "small"

    text = file.read_text()
    shape = re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [a-z]+ [A-Z]+ \d+\.\d{3}ms \d+B ".*"')

    assert all(map(shape.fullmatch, text.splitlines()))
    assert re.search(r'lookup ENOENT \S+ 0B "/datasets/no\\n\\"such\\" \\\\ thing"', text)
    assert re.search(r'lookup ENOENT \S+ 0B "/datasets/\\\\xff"', text)
    assert re.search(r'open OK \S+ 0B "/\.pictofs/metrics"', text)
    assert re.search(r'read OK \S+ [1-9]\d*B "/datasets/small/dataset.json"', text)
    assert re.search(r'lookup OK \S+ 0B "/datasets"', text)
    assert f'"/by-id/{link.name}"' in text
    assert not mount.log().count("lookup")


def test_j4_changes_are_logged(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    server = serving(SMALL)
    mount = mounted(server, "--writable", "--access-log", str(file), key=server.keys["admin"])
    (mount.datasets / "new").mkdir()
    (mount.datasets / "new").rename(mount.datasets / "newer")
    (mount.datasets / "newer").rmdir()
    text = file.read_text()
    assert re.search(r'mkdir OK \S+ 0B "/datasets/new"$', text, re.MULTILINE)
    assert re.search(r'rename OK \S+ 0B "/datasets/new" -> "/datasets/newer"$', text, re.MULTILINE)
    assert re.search(r'rmdir OK \S+ 0B "/datasets/newer"$', text, re.MULTILINE)


def test_j3_json_is_an_object_a_line_with_exceptions_in_it(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(SMALL)
    mount = mounted(server, "--log-format", "json", "--max-retries", "0")
    mount.expected.append(".")
    server.faults.add(Fault(Match(), error(500)))
    with pytest.raises(OSError, match="error"):
        next(mount.datasets.glob("*")).joinpath("images/part-000/x").stat()
    found = [json.loads(line) for line in mount.log().splitlines()]

    assert all(each.keys() >= {"time", "level", "logger", "message"} for each in found)
    assert any(each["message"].startswith("mounted ") and each["level"] == "INFO" for each in found)
    assert any(each["level"] == "WARNING" for each in found)


def started(mount: Mount, place: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    place.mkdir()
    return subprocess.run(
        [sys.executable, "-m", "pictofs", "mount", str(place), *map(str, options)],
        env=mount.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_m1_an_access_log_that_can_t_be_written(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    mount = mounted(serving(SMALL))
    done = started(mount, tmp_path / "one", "--access-log", "/proc/no/file")

    assert (done.returncode, done.stderr) == (
        6,
        "error: can't log to /proc/no/file: No such file or directory\n"
        "  Fix: name another place by --access-log\n",
    )

    both = tmp_path / "log"
    done = started(mount, tmp_path / "two", "--access-log", both, "--log-file", both)

    assert (done.returncode, done.stderr) == (
        6,
        f"error: {both} is the log: name another file by --access-log\n",
    )
    assert mount_table.mount_at(tmp_path / "two") is None


def test_k4_j4_it_is_rotated_and_its_owners_alone(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    file.write_text("x" * 9_999_990)
    mount = mounted(serving(SMALL), "--access-log", str(file))
    files_below(mount.datasets)
    assert (tmp_path / "access.log.1").stat().st_size >= 9_999_990
    assert "open OK" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_j4_a_mount_in_the_background(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    mount = mounted(serving(SMALL))
    place, file = tmp_path / "back", tmp_path / "access.log"
    try:
        assert started(mount, place, "--access-log", file).returncode == 0
        assert (place / "datasets/small").is_dir()
        assert "lookup OK" in file.read_text()
    finally:
        mount.pictofs("unmount", place)
