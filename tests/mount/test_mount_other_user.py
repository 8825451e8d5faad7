"""The mount of a user who is not root: copies are theirs, and what the mount refuses it refuses
them, too."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, files_below, images_and_notes, run

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
