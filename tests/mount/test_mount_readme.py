"""`README.md` written by programs: shells, cp, dd, truncate, sed, Python, in a mount that is
writable."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from mounting import Hold, Mount, Mounting, Serving, eventually, refused, run

from standin import Organization, StandIn
from standin.faults import Fault, Match, Reset, error, throttled

LIMIT = 1 << 20
"""Bytes of the longest readme."""
TEXT = "# Signs\n\nThree cameras, größer.\n"


def house() -> Organization:
    organization = Organization(seed="readme")
    organization.add_dataset("signs", readme=TEXT)
    organization.add_dataset("bare")
    return organization


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(house())


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    return writable(mounted, server)


def writable(mounted: Mounting, server: StandIn, *options: str, role: str = "member") -> Mount:
    made = mounted(server, "--writable", *options, key=server.keys[role])
    made.expected = [
        r" WARNING pictofs\.fuse\.operations: (open|create|write|flush|fsync|release): ",
        r" WARNING pictofs\.fuse\.operations: (setattr|setxattr|unlink|rename): ",
    ]
    return made


def changes(server: StandIn) -> list[str]:
    """The requests that change something."""
    return [f"{each.method} {each.route}" for each in server.log.requests() if each.method != "GET"]


def shell(command: str, folder: Path) -> None:
    run("sh", "-c", command, cwd=folder)


COMMANDS = {
    "echo": ("echo new > README.md", "new\n"),
    "a program": ("cat /dev/null | tr a b > README.md; printf new | cat > README.md", "new"),
    "append": ("echo more >> README.md", TEXT + "more\n"),
    "append twice": ("(echo more; echo again) >> README.md", TEXT + "more\nagain\n"),
    "cp": ('printf \'# New\' > "$TMPDIR/new.md"; cp "$TMPDIR/new.md" README.md', "# New"),
    "cp -p": (
        'printf \'# New\' > "$TMPDIR/new.md"; chmod 644 "$TMPDIR/new.md"; cp -p "$TMPDIR/new.md" README.md',
        "# New",
    ),
    "tee": ("echo new | tee README.md >/dev/null", "new\n"),
    "dd": (
        "printf '!!' | dd of=README.md bs=1 seek=2 conv=notrunc,fsync status=none",
        "# !!" + TEXT[4:],
    ),
    "truncate": ("truncate -s 7 README.md", TEXT[:7]),
    "grow": ("truncate -s +2 README.md", TEXT + "\0\0"),
    "empty": ("truncate -s 0 README.md", ""),
    "touch": ("touch README.md", TEXT),
    "rsync": ('printf new > "$TMPDIR/README.md"; rsync --inplace -t "$TMPDIR/README.md" .', "new"),
}


@pytest.mark.parametrize(("command", "text"), COMMANDS.values(), ids=COMMANDS)
def test_w9_programs_write_it(
    mount: Mount,
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    text: str,
) -> None:
    if command.find("rsync") >= 0 and shutil.which("rsync") is None:
        pytest.skip("needs rsync")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = mount.datasets / "signs"
    path = folder / "README.md"

    assert path.read_text() == TEXT

    shell(command, folder)
    dataset = server.organization["signs"]

    assert dataset.readme == text

    if text:
        assert path.read_bytes() == text.encode()
        assert path.stat().st_size == len(text.encode())
    else:
        assert not path.exists()


@pytest.mark.parametrize(
    "command", ["echo new > README.md", "printf 'new\\n' | dd of=README.md status=none"]
)
def test_w9_a_dataset_without_one_gets_one(mount: Mount, server: StandIn, command: str) -> None:
    folder = mount.datasets / "bare"
    assert "README.md" not in os.listdir(folder)
    shell(command, folder)
    assert server.organization["bare"].readme == "new\n"
    assert "README.md" in os.listdir(folder)
    assert (folder / "README.md").read_text() == "new\n"
    assert changes(server) == ["PATCH /datasets/{dataset}"]


def test_w9_a_text_costs_one_request_and_an_unchanged_one_none(
    mount: Mount, server: StandIn
) -> None:
    path = mount.datasets / "signs/README.md"
    shell("echo new > README.md", path.parent)

    assert changes(server) == ["PATCH /datasets/{dataset}"]

    shell("echo new > README.md", path.parent)
    with open(path, "r+") as file:
        file.read()
    os.utime(path)
    path.chmod(0o644)

    assert changes(server) == ["PATCH /datasets/{dataset}"]


def test_w9_a_handle_sees_what_it_has_written(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    before = path.read_bytes()

    with open(path, "r+b", buffering=0) as file, open(path, "rb") as reader:
        file.seek(2)
        file.write(b"WORDS")
        file.seek(0)

        assert file.read() == before[:2] + b"WORDS" + before[7:]

        file.truncate(4)

        assert os.pread(file.fileno(), 100, 0) == before[:2] + b"WO"

        file.seek(8)
        file.write(b"!")

        assert os.pread(file.fileno(), 100, 0) == before[:2] + b"WO\0\0\0\0!"
        assert reader.read() == path.read_bytes() == before  # of others nobody does
        assert server.organization["signs"].readme == TEXT

    assert path.read_bytes() == before[:2] + b"WO\0\0\0\0!"


def test_w9_every_reader_has_the_new_one_at_once(mount: Mount, server: StandIn) -> None:
    """By `open`, `stat` and a listing; who has the old one open keeps it."""
    path = mount.datasets / "signs/README.md"
    before = path.read_bytes()

    for number in range(20):
        text = f"# {'x' * (number * 700 % 9000)} {number}".encode()
        with open(path, "rb") as held:
            path.write_bytes(text)
            assert path.stat().st_size == len(text)
            assert path.read_bytes() == text
            assert subprocess.check_output(["cat", path]) == text

            (entry,) = (each for each in os.scandir(path.parent) if each.name == "README.md")

            assert entry.stat().st_size == len(text)
            assert held.read() == before

        before = text

    assert server.organization["signs"].readme == before.decode()
    assert os.getxattr(path.parent, "user.pictograph.readme") == before


def test_w9_the_time_is_the_server_s(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    server.clock.advance(3600)
    path.write_text("new")
    eventually(lambda: path.stat().st_mtime, os.stat(path.parent / "dataset.json").st_mtime)
    assert abs(path.stat().st_mtime - server.clock()) < 60


def test_w9_fsync_sends_and_close_sends_the_rest(mount: Mount, server: StandIn) -> None:
    dataset = server.organization["signs"]
    with open(mount.datasets / "signs/README.md", "wb", buffering=0) as file:
        assert dataset.readme == TEXT  # not the emptiness

        file.write(b"one")
        os.fsync(file.fileno())

        assert dataset.readme == "one"
        assert (mount.datasets / "signs/README.md").read_bytes() == b"one"

        os.fsync(file.fileno())
        file.write(b" two")

    assert dataset.readme == "one two"
    assert changes(server) == ["PATCH /datasets/{dataset}"] * 2


def test_w9_emptied_and_never_written_to_it_is_empty(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    shell(": > README.md", path.parent)
    eventually(lambda: server.organization["signs"].readme, "")
    eventually(path.exists, False)
    os.truncate(_written(path), 2)
    assert server.organization["signs"].readme == "ab"


def _written(path: Path) -> Path:
    path.write_text("abc")
    return path


def test_w9_the_last_close_wins(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    with open(path, "w") as first:
        first.write("first")
        with open(path, "w") as second:
            second.write("second")
        assert server.organization["signs"].readme == path.read_text() == "second"
    assert server.organization["signs"].readme == path.read_text() == "first"


def test_w9_appended_at_the_end_whoever_wrote_before(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    with open(path, "ab", buffering=0) as file:
        for number in range(30):
            file.write(b"%d," % number)
    wanted = TEXT.encode() + b"".join(b"%d," % number for number in range(30))
    assert path.read_bytes() == wanted
    assert changes(server) == ["PATCH /datasets/{dataset}"]


FAILURES: dict[str, tuple[Any, int]] = {
    "a viewer's key": (None, errno.EACCES),
    "a plan that is spent": (error(402, "payment_required"), errno.EDQUOT),
    "a spent limit": (throttled(3000), errno.EBUSY),
    "a refused request": (error(422, "validation_error"), errno.EINVAL),
    "a failing server": (error(503), errno.EIO),
    "a broken line": (Reset(), errno.EIO),
}


@pytest.mark.parametrize(("fault", "code"), FAILURES.values(), ids=FAILURES)
def test_w9_close_says_what_the_server_says(
    mounted: Mounting, server: StandIn, tmp_path: Path, fault: Any, code: int
) -> None:
    mount = writable(mounted, server, "--max-retries", "0", role="member" if fault else "viewer")
    if fault is not None:
        server.faults.add(Fault(Match("api", "PATCH"), fault))
    path = mount.datasets / "signs/README.md"
    (tmp_path / "new.md").write_text("new")

    for work in (lambda: path.write_text("new"), lambda: os.truncate(path, 3)):
        with refused(code):
            work()
        assert path.read_text() == server.organization["signs"].readme == TEXT
        assert path.stat().st_size == len(TEXT.encode())

    assert subprocess.run(["cp", tmp_path / "new.md", path], capture_output=True).returncode == 1

    with refused(code):
        (mount.datasets / "bare/README.md").write_text("new")

    assert "README.md" not in os.listdir(mount.datasets / "bare")

    with open(path, "r+b", buffering=0) as file:
        file.write(b"new")
        with refused(code):
            os.fsync(file.fileno())
        server.faults.clear()
        if fault is None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), file.fileno())  # which tells nothing

    expected = TEXT if fault is None else "new" + TEXT[3:]
    eventually(lambda: server.organization["signs"].readme, expected)


def test_w9_what_is_no_text_is_refused(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    with refused(errno.EINVAL):
        path.write_bytes(b"# Gr\xf6\xdfer")
    assert "text in UTF-8, and byte 4 is none" in mount.log()
    assert (path.read_text(), changes(server)) == (TEXT, [])


def test_w9_a_text_that_is_too_long_is_refused(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    path.write_text("x" * LIMIT)

    assert path.stat().st_size == len(path.read_bytes()) == LIMIT

    for work in (
        lambda: path.write_text("y" * (LIMIT + 1)),
        lambda: os.truncate(path, LIMIT + 1),
        lambda: _appended(path),
    ):
        with refused(errno.EFBIG):
            work()

    path.write_text(TEXT)

    assert path.read_text() == TEXT


def _appended(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(b"z")


def test_w9_while_it_is_sent_others_go_on(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/README.md"
    hold = Hold()
    server.faults.add(Fault(Match(method="PATCH"), hold))
    writer = threading.Thread(target=path.write_text, args=("new",))
    writer.start()

    assert hold.waiting.wait(20)
    assert path.read_text() == TEXT
    assert "images" in os.listdir(path.parent)

    hold.open()
    writer.join(30)

    assert path.read_text() == "new"


@pytest.mark.parametrize(
    "name", ["new.md", "README.md~", ".README.md.swp", "readme.md", "dataset.json"]
)
def test_w7_no_other_file_can_be_made(mount: Mount, server: StandIn, name: str) -> None:
    folder = mount.datasets / "signs"
    with refused(errno.EROFS):
        (folder / name).write_text("x")
    with refused(errno.EROFS):
        (folder / "README.md").unlink()
    with refused(errno.EROFS):
        (folder / "README.md").rename(folder / name)
    with refused(errno.EROFS):
        (folder / "README.md").chmod(0o600)
    assert (changes(server), (folder / "README.md").read_text()) == ([], TEXT)


def test_w7_o_trunc_alone_cuts_nothing(mount: Mount, server: StandIn) -> None:
    path = mount.datasets / "signs/dataset.json"
    before = path.read_bytes()
    with refused(errno.EROFS):
        os.open(path, os.O_RDONLY | os.O_TRUNC)
    assert path.read_bytes() == before


def test_r1_a_mount_that_is_not_writable_refuses_it(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, key=server.keys["admin"])
    for name in ("signs", "bare"):
        for mode in ("w", "a", "x") if name == "bare" else ("w", "a", "r+"):
            with refused(errno.EROFS):
                open(mount.datasets / name / "README.md", mode).close()
    with refused(errno.EROFS):
        os.truncate(mount.datasets / "signs/README.md", 0)
    with open(mount.datasets / "signs/README.md") as file:
        os.fsync(file.fileno())
    assert changes(server) == []
