"""`--fuse-fd`: a /dev/fuse that somebody else has opened and mounted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mounting import (
    Serving,
    files_below,
    inherited,
    needs_mount_namespace,
    needs_pid_namespace,
)
from mounting import expected as files_of

from pictofs.app import mount_table, mounting, probe
from standin import Spec, StandIn
from standin.spec import DatasetSpec

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who opens /dev/fuse and mounts it"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse"),
]

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))
UID = 4711
AS_USER = Path(__file__).parents[1] / "user/as_user.py"


def opened(
    place: Path,
    *options: str,
    fstype: str = mount_table.FSTYPE,
    before: tuple[str, ...] = (),
) -> int:
    """A descriptor of /dev/fuse that is mounted at `place`, as the privileged half of a side-car
    driver makes it."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    words = [f"fd={fd}", "rootmode=40000", "group_id=0", "default_permissions", *options]
    subprocess.run(
        [*before, "mount", "-i", "-t", fstype, "-o", ",".join(words), "pictofs", place],
        pass_fds=[fd],
        cwd="/",
        check=True,
    )
    return fd


class Given:
    """A folder to mount at, and processes that serve descriptors."""

    def __init__(self, home: Path, server: StandIn) -> None:
        self.home = home
        self.place = home / "mnt"
        self.place.mkdir()
        self.environ = {
            **inherited(),
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": "",
            "NO_PROXY": "127.0.0.1",
            "PICTOFS_CACHE_DIR": str(home / "cache"),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys["viewer"],
        }
        self.made: list[subprocess.Popen[str]] = []

    def serve(self, fd: int, *options: str, before: tuple[str | Path, ...] = ()) -> Any:
        """Start a mount in the foreground, and keep no copy of the descriptor.

        Returns once it answers, or has ended.
        """
        process = subprocess.Popen(
            [
                *map(str, before),
                *(sys.executable, "-m", "pictofs", "mount", "--foreground"),
                *("--fuse-fd", str(fd), *options, str(self.place)),
            ],
            env=self.environ,
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(fd)
        self.made.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def pictofs(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pictofs", *map(str, arguments)],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )


def ended(process: Any) -> tuple[int, str]:
    """Its exit code, and what it logged."""
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, err


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(SMALL)


@pytest.fixture
def given(tmp_path: Path, server: StandIn) -> Iterator[Given]:
    made = Given(tmp_path, server)
    yield made
    for process in made.made:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)
    while mount_table.mount_at(made.place):
        mounting.detach(made.place, lazy=True)


def test_m8_a_given_descriptor_is_a_mount_like_any_other(given: Given, server: StandIn) -> None:
    process = given.serve(opened(given.place, "user_id=0", "ro"))
    small = given.place / "datasets/small"

    assert files_below(small) == files_of(server, server.organization["small"])

    shown = json.loads(given.pictofs("status", "--json", given.place).stdout)

    assert [(each["state"], each["status"]["pid"]) for each in shown] == [("live", process.pid)]

    warmed = given.pictofs("warm", small)

    assert (warmed.returncode, warmed.stderr) == (0, "")
    assert given.pictofs("refresh", given.place).returncode == 0

    # Root's read-ahead is set, as in a mount of its own.
    mount = mount_table.mount_at(given.place)
    assert mount is not None
    read_ahead = Path(mounting.READ_AHEAD_FILE.format(mount.device))
    if os.access(read_ahead, os.W_OK):
        assert int(read_ahead.read_text()) == mounting.READ_AHEAD_BYTES >> 10

    assert given.pictofs("unmount", given.place).returncode == 0
    assert ended(process)[0] == 0
    assert mount_table.mount_at(given.place) is None


@needs_pid_namespace
def test_m8_readers_need_not_be_seen(given: Given, server: StandIn) -> None:
    """Of those who are outside of the namespace of the container that mounted it the kernel tells
    no process id."""
    fd = opened(given.place, "user_id=0", "ro", before=("unshare", "--pid", "--fork"))
    given.serve(fd)
    small = given.place / "datasets/small"

    assert files_below(small) == files_of(server, server.organization["small"])
    assert given.pictofs("warm", "--check", small).returncode == 0


def test_m8_root_unmounts_it_when_it_ends(given: Given) -> None:
    process = given.serve(opened(given.place, "user_id=0", "ro"))
    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 0
    assert mount_table.mount_at(given.place) is None


@needs_mount_namespace
def test_m8_it_takes_no_right_to_mount(given: Given, server: StandIn) -> None:
    """Neither a capability nor a program that has one: a user whom nothing can give rights."""
    for folder in (given.home, *given.home.parents[:1]):
        folder.chmod(0o755)
    (given.home / "cache").mkdir()
    os.chown(given.home / "cache", UID, UID)

    fd = opened(given.place, f"user_id={UID}", "allow_other", "ro")
    process = given.serve(
        fd,
        before=(
            *("unshare", "--mount", "--propagation", "slave", sys.executable, AS_USER),
            *(str(UID), str(UID), given.home, "setpriv", "--no-new-privs"),
        ),
    )
    assert process.poll() is None, ended(process)

    status = Path(f"/proc/{process.pid}/status").read_text()
    small = given.place / "datasets/small"

    assert f"Uid:\t{UID}\t" in status
    assert "CapPrm:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert files_below(small) == files_of(server, server.organization["small"])
    assert (small / "images").stat().st_uid == UID

    # Who has mounted it has to unmount it. Until then nobody takes it for an empty folder.
    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 0
    assert probe.state_of(given.place) == "stale"
    assert given.pictofs("unmount", given.place).returncode == 0


@needs_mount_namespace
def test_m8_it_may_be_mounted_out_of_sight(given: Given, tmp_path: Path, server: StandIn) -> None:
    """As in the container of a side-car: what is mounted lies in the others alone."""
    holder = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", 'mount -t tmpfs elsewhere "$0" && echo ready && exec sleep 600'),
            given.place,
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        inside = ("nsenter", "--mount", "--target", str(holder.pid))
        fd = opened(given.place, "user_id=0", "ro", before=inside)
        process = given.serve(fd)
        seen = subprocess.run([*inside, "ls", given.place / "datasets"], capture_output=True)

        assert mount_table.mount_at(given.place) is None
        assert (seen.stdout, process.poll()) == (b"small\n", None)

        subprocess.run([*inside, "umount", given.place], check=True)

        assert ended(process)[0] == 0
    finally:
        holder.kill()
        holder.communicate(timeout=60)


def test_m8_the_lines_of_shell_that_the_page_has(given: Given) -> None:
    """Root gives its rights away: what is left may neither mount nor unmount."""
    page = (Path(__file__).parents[2] / "docs/howto.md").read_text()
    section = page.partition("## Mount without the right to\n")[2]
    script = section.partition("```sh\n")[2].partition("```")[0]
    program = f"{sys.executable} -m pictofs"
    for was, now in (
        ("/mnt/picto", str(given.place)),
        ("    pictofs mount", f"    {program} mount"),
        ("=1000", "=0"),
    ):
        assert was in script
        script = script.replace(was, now)

    process = subprocess.Popen(
        ["sh", "-c", script],
        cwd="/",
        env={**given.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    given.made.append(process)
    assert process.stdout is not None
    process.stdout.readline()

    assert os.listdir(given.place / "datasets") == ["small"]
    assert "CapBnd:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text()

    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 0
    assert probe.state_of(given.place) == "stale"


def test_m8_it_goes_on_in_the_background(given: Given) -> None:
    fd = opened(given.place, "user_id=0", "ro")
    done = subprocess.run(
        [sys.executable, "-m", "pictofs", "mount", "--fuse-fd", str(fd), given.place],
        env=given.environ,
        pass_fds=[fd],
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(fd)

    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(given.place / "datasets") == ["small"]
    assert given.pictofs("unmount", given.place).returncode == 0


def test_m8_a_crash_leaves_it_broken(given: Given) -> None:
    process = given.serve(opened(given.place, "user_id=0", "ro"))
    process.kill()
    process.wait(60)

    with pytest.raises(OSError, match="not connected") as broken:
        os.listdir(given.place)
    assert broken.value.errno == errno.ENOTCONN


def test_r1_changes_are_refused_where_the_kernel_was_not_told(given: Given) -> None:
    """Whoever mounted it left `ro` out."""
    given.serve(opened(given.place, "user_id=0"))
    folder = given.place / "datasets/small"
    image = next((folder / "images").rglob("*.jpg"))
    digest = hashlib.sha256(image.read_bytes()).digest()
    changes: list[Callable[[], object]] = [
        lambda: image.open("r+b"),
        lambda: image.write_bytes(b""),
        lambda: os.truncate(image, 0),
        lambda: image.chmod(0o600),
        image.unlink,
        lambda: image.rename(folder / "other"),
        lambda: image.with_name("new").touch(),
        (given.place / "datasets/new").mkdir,
        lambda: os.setxattr(folder, "user.pictograph.description", b"x"),
        lambda: os.symlink("x", folder / "link"),
    ]
    for change in changes:
        with pytest.raises(OSError, match="Read-only file system"):
            change()

    assert hashlib.sha256(image.read_bytes()).digest() == digest


def test_e3_what_is_no_such_descriptor_is_said(given: Given, tmp_path: Path) -> None:
    unmounted = os.open("/dev/fuse", os.O_RDWR)
    null = os.open("/dev/null", os.O_RDWR)
    cases = [
        (999, 6, "there is no such descriptor"),
        (null, 6, "not one of /dev/fuse"),
        (unmounted, 1, "is not mounted"),
        ("2", 6, "3 or more"),
        ("x", 6, "3 or more"),
    ]
    for fd, code, words in cases:
        done = subprocess.run(
            [sys.executable, "-m", "pictofs", "mount", "--fuse-fd", str(fd), given.place],
            env=given.environ,
            pass_fds=[unmounted, null],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr.count("error: ")) == (code, 1), done.stderr
        assert words in " ".join(done.stderr.split())

    os.close(unmounted)
    os.close(null)


@pytest.mark.parametrize(
    ("fstype", "words"), [("fuse", "by the type fuse.pictofs"), (None, "another mount of pictofs")]
)
def test_m5_a_mount_point_that_is_another_s(given: Given, fstype: str | None, words: str) -> None:
    options = ("user_id=0", "ro")
    if fstype is None:
        elsewhere = given.home / "elsewhere"
        elsewhere.mkdir()
        fd = opened(elsewhere, *options)
        beneath = opened(given.place, *options)
    else:
        fd = opened(given.place, *options, fstype=fstype)
        beneath = None

    code, err = ended(given.serve(fd))
    if beneath is not None:
        os.close(beneath)
        mounting.detach(given.home / "elsewhere", lazy=True)

    assert (code, words in " ".join(err.split())) == (5, True), err
