"""The mount of a user who is not root: copies are theirs, and what the mount refuses it refuses
them, too."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, files_below, images_and_notes, run

from pictofs.app import mount_table
from standin import PRESETS, StandIn

USER = 12345
"""A user that no machine has."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]


def as_user(work: Callable[[], object]) -> int:
    """The errno with which `work` fails where that user does it, 0 where it does not fail."""
    child = os.fork()

    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            work()
            code = 0
        except OSError as error:
            code = error.errno or 255
        except shutil.Error:
            code = 254
        finally:
            os._exit(code)

    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(PRESETS["small"]())


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="pictofs-user-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=[[], ["--writable"]], ids=["read-only", "writable"])
def mount(
    request: pytest.FixtureRequest, place: Path, module_mounted: Mounting, server: StandIn
) -> Mount:
    owner = ["--allow-other", "--uid", str(USER), "--gid", str(USER)]
    home = str(place / f"home{len(request.param)}")
    made = module_mounted(server, *owner, *request.param, home=home, key=server.keys["admin"])
    made.expected = [" WARNING pictofs.fuse.operations: .* only datasets can be"]
    return made


COPIES = {
    "cp -r": ["cp", "-r"],
    "cp -a": ["cp", "-a"],
    "rsync -a": ["rsync", "-a"],
    "shutil.copytree": None,
}


def change_copy(file: Path) -> None:
    file.write_bytes(b"mine")
    file.with_name("new").touch()


@pytest.mark.parametrize("command", COPIES.values(), ids=COPIES)
def test_s6_a_copy_belongs_to_whoever_made_it(
    mount: Mount, server: StandIn, place: Path, command: list[str] | None
) -> None:
    source, target = mount.datasets / "small", place / "copies"
    assert as_user(target.mkdir) == 0

    if command is None:
        assert as_user(lambda: shutil.copytree(source, target / "small")) == 0
    elif shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    else:
        run(*AS_USER, *command, source, target)

    wanted = {
        f"small/{path}": data
        for path, data in images_and_notes(server, server.organization["small"]).items()
    }
    found = files_below(target)

    assert {path: found[path] for path in wanted} == wanted
    assert as_user(lambda: change_copy(target / next(iter(wanted)))) == 0

    run(*AS_USER, "rm", "-r", target)

    assert not target.exists()


def some_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.rglob("*")) if path.is_file())


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda folder: (folder / "new").touch(),
    "mkdir": lambda folder: (folder / "new").mkdir(),
    "symlink": lambda folder: (folder / "new").symlink_to("x"),
    "mkfifo": lambda folder: os.mkfifo(folder / "new"),
    "rmdir": lambda folder: some_file(folder).parent.rmdir(),
    "remove": lambda folder: some_file(folder).unlink(),
    "rename": lambda folder: some_file(folder).rename(folder / "new"),
    "link": lambda folder: (folder / "new").hardlink_to(some_file(folder)),
    "write": lambda folder: os.open(some_file(folder), os.O_RDWR),
    "append": lambda folder: os.open(some_file(folder), os.O_WRONLY | os.O_APPEND),
    "truncate": lambda folder: os.truncate(some_file(folder), 0),
    "chmod": lambda folder: some_file(folder).chmod(0o600),
    "chmod of a folder": lambda folder: folder.chmod(0o700),
    "utime": lambda folder: os.utime(some_file(folder)),
}


@pytest.mark.parametrize("part", ["images", "annotations"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_w7_the_owner_hears_erofs(
    mount: Mount, change: Callable[[Path], object], part: str
) -> None:
    """With `--writable` from the mount, without it from the kernel (R1)."""
    folder = mount.datasets / "small" / part
    before = subprocess.run(
        [*AS_USER, "find", folder, "-ls"], capture_output=True, check=True
    ).stdout

    assert as_user(lambda: change(folder)) == errno.EROFS
    assert (
        subprocess.run([*AS_USER, "find", folder, "-ls"], capture_output=True, check=True).stdout
        == before
    )


READING_PYTHON = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""Only so that the interpreter can be read, wherever it lies: no socket is opened by that."""


def guest(mount: Mount, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """`python COMMAND` as that user, with nothing of the mount's owner in the environment."""
    environ = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    return subprocess.run(
        [*AS_USER[:-1], *READING_PYTHON, sys.executable, *map(str, command)],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_k5_others_look_at_a_mount_for_all(mount: Mount) -> None:
    for command in (["status"], ["top", "--once"]):
        done = guest(mount, "-m", "pictofs", *command, mount.root)
        assert (done.returncode, done.stderr) == (0, "")
        assert "request budget" in done.stdout or "left" in done.stdout

    assert mount.status()["control_socket"].startswith("/run/pictofs/")
    assert Path("/run/pictofs").stat().st_mode & 0o777 == 0o711


def test_k5_others_command_nothing(mount: Mount) -> None:
    for command in ("refresh", "warm"):
        done = guest(mount, "-m", "pictofs", command, mount.datasets / "small")
        assert (done.returncode, done.stdout) == (3, "")
        assert "it is root's mount: only its owner and root may do that" in done.stderr
        assert "run it as root, or on a mount of your own" in done.stderr


def test_k5_others_tell_an_order(mount: Mount, place: Path) -> None:
    images = sorted(map(str, (mount.datasets / "small/images").rglob("*.*")))
    order = place / "order"
    order.write_text("\n".join(images))
    done = guest(mount, "-m", "pictofs", "prefetch", mount.root, "--order", order)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(images)} images will be fetched" in done.stdout
    assert len(mount.status()["prefetch"]["orders"]) == 1

    # The owner's is another one, and ends by itself.
    mount.pictofs("prefetch", mount.root, "--order", order)
    mount.pictofs("prefetch", mount.root, "--order", order, "--ahead", "0")

    assert len(mount.status()["prefetch"]["orders"]) == 1

    done = guest(mount, "-m", "pictofs", "prefetch", mount.root, "--order", order, "--ahead", "0")

    assert (done.returncode, done.stderr) == (0, "")
    assert mount.status()["prefetch"]["orders"] == []

    code = "import sys; from pictofs.torch import PrefetchingSampler as S; list(S([1, 0], sys.argv[1:]))"
    done = guest(mount, "-W", "error", "-c", code, *images[:2])

    assert (done.returncode, done.stderr) == (0, "")


def test_k5_a_mount_for_its_owner_alone_says_whose_it_is(
    mounted: Mounting, serving: Serving, place: Path
) -> None:
    mount = mounted(serving(PRESETS["small"]()), home=str(place / "private"))
    done = guest(mount, "-m", "pictofs", "status", mount.root)

    assert done.returncode == 0
    assert "it is root's mount, closed to you" in " ".join(done.stdout.split())

    for command in (["top", "--once"], ["refresh"], ["warm"]):
        done = guest(mount, "-m", "pictofs", *command, mount.root)
        assert done.returncode != 0
        assert "is root's mount, and closed to you" in done.stderr


AS_ROOT_THEN_USER = f"""
import contextlib, io, os, sys
from pictofs.cli import main

# What a command imports can't be read any more later.
with contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[1:])

os.setgroups([])
os.setgid({USER})
os.setuid({USER})
sys.exit(main(sys.argv[1:]))
"""


def test_k5_a_mount_whose_mode_keeps_others_out_says_whose_it_is(
    mounted: Mounting, serving: Serving, place: Path
) -> None:
    server = serving(PRESETS["small"]())
    mount = mounted(server, "--allow-other", "--umask", "077", home=str(place / "shut"))
    order = place / "no-order"
    order.touch()

    for code, command in (
        (0, ["status", mount.root]),
        (1, ["top", "--once", mount.root]),
        (3, ["prefetch", mount.root, "--order", order]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", AS_ROOT_THEN_USER, *map(str, command)],
            env={"HOME": "/nonexistent", "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == code, said
        assert "closed to you" in said
        assert "is root's mount" in said


def test_unmount_says_whose_mount_it_is(mount: Mount) -> None:
    done = guest(mount, "-m", "pictofs", "unmount", mount.root)
    assert done.returncode == 3
    assert f"{mount.root} is root's mount: only its owner and root may unmount it" in done.stderr
    assert f"sudo pictofs unmount {mount.root}" in done.stderr
    assert mount_table.mount_at(mount.root) is not None
