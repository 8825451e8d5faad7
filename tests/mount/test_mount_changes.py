"""Datasets made, renamed, described and removed through a mount, in every role, and seen by the
vendor's client."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pictograph
import pytest
from mounting import Hold, Mount, Mounting, Serving, Spent, eventually, refused, run, walk

from standin import Organization, StandIn
from standin.dataset import Dataset
from standin.faults import Fault, Match, Reset, error

UUID = "0123abcd-0000-4000-8000-000000000001"
DESCRIPTION = "user.pictograph.description"
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


def house() -> Organization:
    organization = Organization(seed="changes")
    signs = organization.add_dataset("signs", description="Signs of streets")
    for number in range(3):
        organization.add_image(signs, f"{number}.jpg", "/cam1", size=500)
    return organization


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(house())


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    return writable(mounted, server)


@pytest.fixture(scope="module")
def shared_server(module_serving: Serving) -> StandIn:
    return module_serving(house())


@pytest.fixture(scope="module")
def shared(module_mounted: Mounting, shared_server: StandIn) -> Mount:
    """For tests that leave everything as they found it, `signs` alone."""
    return writable(module_mounted, shared_server)


def writable(
    mounted: Mounting, server: StandIn, *options: str, role: str = "admin", **more: Any
) -> Mount:
    made = mounted(server, "--writable", *options, key=server.keys[role], **more)
    made.expected = [
        r" WARNING pictofs\.fuse\.operations: (mkdir|rmdir|rename|unlink|setxattr|removexattr|open): "
    ]
    return made


@pytest.fixture
def client(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[pictograph.Client]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pictograph.Client(server.keys["admin"], base_url=server.api_url, max_retries=0) as made:
        yield made


def names(server: StandIn) -> list[str]:
    return sorted(each.name for each in server.organization.datasets.values())


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


# What can be changed.


def test_w1_the_vendor_s_client_sees_what_the_mount_changes(
    mount: Mount, client: pictograph.Client
) -> None:
    new = mount.datasets / "new"
    run("mkdir", new)
    made = client.datasets.get("new")

    assert (made.image_count, sorted(os.listdir(new))[:1]) == (0, ["annotations"])

    run("setfattr", "-n", DESCRIPTION, "-v", "Größer", new)
    run("mv", new, mount.datasets / "newer")
    renamed = client.datasets.get("newer")

    assert (renamed.id, renamed.description) == (made.id, "Größer")

    run("rmdir", mount.datasets / "newer")

    assert [each.name for each in client.datasets.list()] == ["signs"]


def test_w1_the_mount_shows_what_the_vendor_s_client_changes(
    mounted: Mounting, server: StandIn, client: pictograph.Client
) -> None:
    mount = writable(mounted, server, "--metadata-ttl", "1")
    assert os.listdir(mount.datasets) == ["signs"]

    client.datasets.create("theirs")
    eventually(lambda: sorted(os.listdir(mount.datasets)), ["signs", "theirs"])
    client.datasets.update("theirs", new_name="still theirs", description="x")
    eventually(lambda: sorted(os.listdir(mount.datasets)), ["signs", "still theirs"])
    path = mount.datasets / "still theirs"

    assert os.getxattr(path, DESCRIPTION) == b"x"

    path.rename(mount.datasets / "ours")

    assert client.datasets.get("ours").description == "x"

    client.datasets.delete("ours")
    eventually(lambda: os.listdir(mount.datasets), ["signs"])


Work = Callable[[Path], object]
CELLS: dict[str, tuple[str, Work, int]] = {
    "mkdir": ("member", lambda folder: (folder / "new").mkdir(), 0),
    "mkdir of what is there": ("viewer", lambda folder: (folder / "signs").mkdir(), errno.EEXIST),
    "mkdir of what is archived": (
        "member",
        lambda folder: (folder / "put away").mkdir(),
        errno.EEXIST,
    ),
    "mkdir of what came meanwhile": (
        "member",
        lambda folder: (folder / "theirs").mkdir(),
        errno.EEXIST,
    ),
    "mkdir of a blank name": ("member", lambda folder: (folder / " ").mkdir(), errno.EINVAL),
    "rename": ("member", lambda folder: (folder / "one").rename(folder / "once one"), 0),
    "rename to what is there": (
        "member",
        lambda folder: (folder / "two").rename(folder / "signs"),
        errno.EEXIST,
    ),
    "replace": ("member", lambda folder: (folder / "two").replace(folder / "three"), errno.EEXIST),
    "rename to what came meanwhile": (
        "member",
        lambda folder: (folder / "two").rename(folder / "theirs, too"),
        errno.EEXIST,
    ),
    "rename of what is gone": (
        "member",
        lambda folder: (folder / "gone").rename(folder / "new"),
        errno.ENOENT,
    ),
    "setxattr": ("member", lambda folder: os.setxattr(folder / "two", DESCRIPTION, b"new"), 0),
    "removexattr": ("member", lambda folder: os.removexattr(folder / "signs", DESCRIPTION), 0),
    "setxattr of what is gone": (
        "member",
        lambda folder: os.setxattr(folder / "gone, too", DESCRIPTION, b"new"),
        errno.ENOENT,
    ),
    "rmdir": ("admin", lambda folder: (folder / "three").rmdir(), 0),
    "rmdir of what holds images": (
        "viewer",
        lambda folder: (folder / "signs").rmdir(),
        errno.ENOTEMPTY,
    ),
    "rmdir of what is gone": (
        "viewer",
        lambda folder: (folder / "gone as well").rmdir(),
        errno.ENOENT,
    ),
}
"""The least role, the change, and how it ends for who has that role: by the server's 403, 404, 409,
400 or not."""
LADDER = ("viewer", "member", "admin")


@pytest.mark.parametrize("role", LADDER)
def test_w1_w5_changes_by_role(mounted: Mounting, server: StandIn, role: str) -> None:
    organization = server.organization
    for name in ("one", "two", "three", "gone", "gone, too", "gone as well"):
        organization.add_dataset(name)
    organization.archive_dataset(organization.add_dataset("put away"))
    mount = writable(mounted, server, role=role)
    os.listdir(mount.datasets)
    for name in ("theirs", "theirs, too"):
        organization.add_dataset(name)
    for name in ("gone", "gone, too", "gone as well"):
        organization.remove_dataset(organization[name])
    for cell, (least, work, code) in CELLS.items():
        before = there(server)
        allowed = LADDER.index(role) >= LADDER.index(least)

        if code or not allowed:
            with refused(code if allowed else errno.EACCES):
                work(mount.datasets)
            assert there(server) == before, cell
        else:
            work(mount.datasets)
            assert there(server) != before, cell

    shown = {each.name for each in organization.datasets.values() if not each.is_archived}

    assert set(os.listdir(mount.datasets)) == shown


def there(server: StandIn) -> list[tuple[str, str, str | None]]:
    """What a change may change."""
    return [
        (each.id, each.name, each.description) for each in server.organization.datasets.values()
    ]


# Names.


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("a b", "a b"),
        ("ünï 画像", "ünï 画像"),
        ("‛‛", "‛"),
        ("‛.", "."),
        ("‛..", ".."),
        ("x" * 255, "x" * 255),
        (UUID, UUID),
    ],
)
def test_w2_names_are_sent_unescaped(
    shared: Mount, shared_server: StandIn, entry: str, name: str
) -> None:
    path = shared.datasets / entry
    path.mkdir()
    inode = path.stat().st_ino

    assert names(shared_server) == sorted(["signs", name])
    assert sorted(os.listdir(shared.datasets)) == sorted(["signs", entry])

    path.rename(shared.datasets / "plain")
    (shared.datasets / "plain").rename(path)

    assert (names(shared_server), path.stat().st_ino) == (sorted(["signs", name]), inode)

    path.rmdir()

    assert names(shared_server) == ["signs"]


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (b"front\xe2\x80\x9b~0123456789abcdef.jpg", errno.EINVAL),
        (b"\xe2\x80\x9bx", errno.EINVAL),
        (b"\xff", errno.EINVAL),
        (b"\xe2\x80\x9bud83d", errno.EINVAL),
        (b"a\xe2\x80\x9bsb", errno.EINVAL),
        (b"x" * 256, errno.ENAMETOOLONG),
    ],
    ids=["tag", "escape", "utf-8", "surrogate", "slash", "long"],
)
def test_w2_names_that_no_dataset_has(
    shared: Mount, shared_server: StandIn, entry: bytes, code: int
) -> None:
    path = os.path.join(os.fsencode(shared.datasets), entry)
    with refused(code):
        os.mkdir(path)
    with refused(code):
        os.rename(shared.datasets / "signs", path)
    assert names(shared_server) == os.listdir(shared.datasets) == ["signs"]


# What must not be lost.


def image(organization: Organization, dataset: Dataset) -> None:
    organization.add_image(dataset, "late.jpg", size=500)


def archived(organization: Organization, dataset: Dataset) -> None:
    organization.archive_image(organization.add_image(dataset, "late.jpg", size=500))


def archived_and_not_counted(organization: Organization, dataset: Dataset) -> None:
    archived(organization, dataset)
    dataset.lies = {"image_count": 0, "archived_image_count": None, "total_size": 0}


def image_and_not_counted(organization: Organization, dataset: Dataset) -> None:
    image(organization, dataset)
    dataset.lies = {"image_count": 0}


def directory(organization: Organization, dataset: Dataset) -> None:
    organization.add_directory(dataset, "/empty")


@pytest.mark.parametrize(
    "fill", [image, archived, archived_and_not_counted, image_and_not_counted, directory]
)
def test_w3_what_is_not_empty_stays(
    mount: Mount, server: StandIn, fill: Callable[..., None]
) -> None:
    """What came since the mount has looked counts too: the server is asked at that moment."""
    path = mount.datasets / "new"
    path.mkdir()
    dataset = server.organization["new"]

    assert os.listdir(path / "images") == []

    fill(server.organization, dataset)

    for remove in (["rmdir", path], ["rm", "-r", "-f", path], ["rm", "-r", "-f", mount.datasets]):
        done = subprocess.run(remove, capture_output=True)
        assert done.returncode != 0

    with refused(errno.ENOTEMPTY):
        path.rmdir()

    assert server.organization.datasets.get(dataset.id) is dataset
    assert server.log.count(method="DELETE") == 0
    assert path.is_dir()


def test_w3_rm_r_deletes_nothing(mount: Mount, server: StandIn) -> None:
    (mount.datasets / "empty").mkdir()
    before = sorted(str(path) for path in walk(mount.datasets))
    assert subprocess.run(["rm", "-rf", mount.datasets], capture_output=True).returncode != 0
    with pytest.raises(OSError, match="Read-only"):
        shutil.rmtree(mount.datasets / "signs")
    assert sorted(str(path) for path in walk(mount.datasets)) == before
    assert names(server) == ["empty", "signs"]


def test_w3_an_image_that_comes_between_two_attempts_stays(mount: Mount, server: StandIn) -> None:
    (mount.datasets / "new").mkdir()
    dataset = server.organization["new"]

    async def refuse(exchange: Any) -> None:
        server.organization.add_image(dataset, "late.jpg", size=500)
        await error(503)(exchange)

    server.faults.add(Fault(Match(method="DELETE"), refuse, times=1))
    with refused(errno.ENOTEMPTY):
        (mount.datasets / "new").rmdir()

    assert "new" in names(server)


# What is never replaced, and what can't be moved.


def test_w4_nothing_is_replaced(mount: Mount, server: StandIn) -> None:
    one, two = mount.datasets / "one", mount.datasets / "two"
    one.mkdir()
    two.mkdir()
    before = there(server)

    for flags, code in (
        (0, errno.EEXIST),
        (RENAME_NOREPLACE, errno.EEXIST),
        (RENAME_EXCHANGE, errno.EINVAL),
        (RENAME_WHITEOUT, errno.EINVAL),
    ):
        with refused(code):
            renameat2(one, two, flags)

    assert subprocess.run(["mv", "-T", one, two], capture_output=True).returncode != 0
    assert there(server) == before

    renameat2(one, mount.datasets / "three", RENAME_NOREPLACE)

    assert names(server) == ["signs", "three", "two"]


def test_w4_datasets_stay_in_their_folder(mount: Mount, server: StandIn, tmp_path: Path) -> None:
    one = mount.datasets / "one"
    one.mkdir()
    before = there(server)

    for target in (
        mount.root / "one",
        mount.datasets / "signs/one",
        mount.datasets / "signs/images/one",
    ):
        with refused(errno.EOPNOTSUPP):
            one.rename(target)
        assert subprocess.run(["mv", one, target], capture_output=True).returncode != 0

    with refused(errno.EXDEV):
        one.rename(tmp_path / "one")
    for source in (
        mount.datasets / "signs/images",
        mount.datasets / "signs/images/cam1",
        mount.root / ".pictofs",
    ):
        with refused(errno.EROFS):
            source.rename(mount.datasets / "new")

    assert there(server) == before


# Failures.


def attempt(change: str, folder: Path) -> None:
    """One of the changes, of `one` if not of `new`."""
    if change == "mkdir":
        (folder / "new").mkdir()
    elif change == "rename":
        (folder / "one").rename(folder / "new")
    elif change == "setxattr":
        os.setxattr(folder / "one", DESCRIPTION, b"new")
    else:
        (folder / "one").rmdir()


METHODS = {"mkdir": "POST", "rename": "PATCH", "setxattr": "PATCH", "rmdir": "DELETE"}
AFTER = {
    "mkdir": ["new", "one", "signs"],
    "rename": ["new", "signs"],
    "setxattr": ["one", "signs"],
    "rmdir": ["signs"],
}


@pytest.mark.parametrize("change", METHODS)
@pytest.mark.parametrize(
    "fault",
    [error(503), error(429), Reset(), Reset(after=0)],
    ids=["503", "429", "reset", "reset after it was made"],
)
def test_w5_a_server_that_fails_once(
    shared: Mount, shared_server: StandIn, change: str, fault: Any
) -> None:
    """The change is made, once, and shown; of a lost answer the repetition brings another."""
    server, folder = shared_server, shared.datasets
    (folder / "one").mkdir()
    server.faults.add(Fault(Match(method=METHODS[change]), fault, times=1))
    attempt(change, folder)

    assert sorted(os.listdir(folder)) == names(server) == AFTER[change]

    if change == "setxattr":
        assert os.getxattr(folder / "one", DESCRIPTION) == b"new"
    server.faults.clear()
    for name in {"new", "one"}.intersection(AFTER[change]):
        (folder / name).rmdir()


@pytest.mark.parametrize("change", METHODS)
def test_w5_a_server_that_makes_it_and_never_says_so(
    mounted: Mounting, server: StandIn, change: str
) -> None:
    """What is shown is what is, whatever the caller was told."""
    server.organization.add_dataset("one")
    mount = writable(mounted, server, "--max-retries", "0")
    server.faults.add(Fault(Match(method=METHODS[change]), Reset(after=0)))
    with refused(errno.EIO):
        attempt(change, mount.datasets)
    assert sorted(os.listdir(mount.datasets)) == names(server) == AFTER[change]


@pytest.mark.parametrize("change", METHODS)
def test_w5_a_server_that_is_away(mounted: Mounting, server: StandIn, change: str) -> None:
    server.organization.add_dataset("one")
    mount = writable(mounted, server, "--max-retries", "0")
    before = sorted(os.listdir(mount.datasets))
    server.stop()
    with refused(errno.ENETUNREACH):
        attempt(change, mount.datasets)
    assert sorted(os.listdir(mount.datasets)) == before == names(server)


@pytest.mark.parametrize("change", METHODS)
def test_w5_a_server_that_says_nothing(mounted: Mounting, server: StandIn, change: str) -> None:
    """The caller gets its answer in time; the change, when it comes, is shown."""
    server.organization.add_dataset("one")
    mount = writable(mounted, server, "--timeout", "2")
    hold = Hold()
    server.faults.add(Fault(Match(method=METHODS[change]), hold))
    with refused(errno.ETIMEDOUT):
        attempt(change, mount.datasets)

    assert names(server) == ["one", "signs"]

    hold.open()
    eventually(lambda: sorted(os.listdir(mount.datasets)), AFTER[change])

    assert names(server) == AFTER[change]


def test_w5_while_one_waits_what_is_cached_is_read(mount: Mount, server: StandIn) -> None:
    path = next(walk(mount.datasets / "signs/images"))
    data = path.read_bytes()
    hold = Hold()
    server.faults.add(Fault(Match(method="POST"), hold))
    maker = threading.Thread(target=(mount.datasets / "new").mkdir)
    maker.start()

    assert hold.waiting.wait(20)
    assert path.read_bytes() == data
    figures = os.statvfs(mount.root)
    assert figures.f_files - figures.f_ffree == 3

    hold.open()
    maker.join(30)

    assert (mount.datasets / "new").is_dir()


# What is shown.


def test_w6_a_change_is_shown_at_once(mount: Mount, server: StandIn) -> None:
    datasets = mount.datasets
    spent = Spent(server)
    for path in (datasets / "a", datasets / "b"):
        assert not path.exists()  # looked up: an answer that must not be kept
    (datasets / "a").mkdir()
    inode = (datasets / "a").stat().st_ino

    assert (datasets / "a").exists()

    (datasets / "a").rename(datasets / "b")

    assert not (datasets / "a").exists()
    assert (datasets / "b").stat().st_ino == inode

    (datasets / "b").rmdir()

    assert not (datasets / "b").exists()
    assert [each.partition("?")[0] for each in spent.api] == [
        "/datasets/",
        "/datasets/{dataset}",
        "/datasets/{dataset}",
        "/images/",
        "/directories/{dataset}/tree",
        "/datasets/{dataset}",
    ]


def test_w6_a_renamed_dataset_keeps_its_files(mount: Mount, server: StandIn) -> None:
    path = next(walk(mount.datasets / "signs/annotations"))
    place = path.relative_to(mount.datasets / "signs")
    with open(path, "rb") as opened:
        before = opened.read()
        (mount.datasets / "signs").rename(mount.datasets / "renamed")
        opened.seek(0)
        assert opened.read() == before  # one version
    after = (mount.datasets / "renamed" / place).read_bytes()
    assert (b'"renamed"' in after, b'"renamed"' in before) == (True, False)


def test_w6_links_by_id_lead_to_the_new_name(mount: Mount, server: StandIn) -> None:
    link = mount.root / "by-id" / server.organization["signs"].id
    before = link.stat().st_ino
    assert os.readlink(link) == "../datasets/signs"
    (mount.datasets / "signs").rename(mount.datasets / "renamed")
    assert (os.readlink(link), link.stat().st_ino) == ("../datasets/renamed", before)
    (mount.datasets / "new").mkdir()
    link = mount.root / "by-id" / server.organization["new"].id
    assert link.is_dir()
    (mount.datasets / "new").rmdir()
    assert not link.exists()


def test_w6_the_kernel_forgets_a_link_by_id(mount: Mount, server: StandIn) -> None:
    """What it keeps of a link is its length; reading the link would end that, too."""
    (mount.datasets / "new").mkdir()
    link = mount.root / "by-id" / server.organization["new"].id
    assert link.lstat().st_size == len("../datasets/new")
    (mount.datasets / "new").rename(mount.datasets / "renamed")
    eventually(lambda: link.lstat().st_size, len("../datasets/renamed"))
    (mount.datasets / "renamed").rmdir()
    eventually(lambda: os.path.lexists(link), False)


def test_w6_dataset_json_is_that_of_the_change(mount: Mount, client: pictograph.Client) -> None:
    path = mount.datasets / "signs"
    held = (path / "dataset.json").open()
    before = held.read()
    os.setxattr(path, DESCRIPTION, b"new")
    path = path.rename(mount.datasets / "renamed")
    after = json.loads((path / "dataset.json").read_text())
    there = client.datasets.get("renamed")

    assert (after["id"], after["name"], after["description"]) == (there.id, "renamed", "new")

    held.seek(0)

    assert held.read() == before

    held.close()


def test_w6_an_open_folder_follows_its_dataset(mount: Mount) -> None:
    folder = os.open(mount.datasets / "signs", os.O_RDONLY)
    try:
        (mount.datasets / "signs").rename(mount.datasets / "renamed")
        assert os.listdir(folder)
        assert os.stat("images/cam1/0.jpg", dir_fd=folder).st_size == 500
    finally:
        os.close(folder)


def test_w6_another_mount_shows_it_after_its_ttl(mounted: Mounting, server: StandIn) -> None:
    mount, other = writable(mounted, server), mounted(server, "--metadata-ttl", "1")
    assert os.listdir(other.datasets) == ["signs"]
    (mount.datasets / "new").mkdir()
    eventually(lambda: sorted(os.listdir(other.datasets)), ["new", "signs"])
    (mount.datasets / "new").rename(mount.datasets / "newer")
    eventually(lambda: sorted(os.listdir(other.datasets)), ["newer", "signs"])
    (mount.datasets / "newer").rmdir()
    eventually(lambda: os.listdir(other.datasets), ["signs"])


def test_w6_of_two_mounts_that_make_one_name_one_does(
    mounted: Mounting, server: StandIn, tmp_path: Path
) -> None:
    """With a cache of its own, and with a shared one."""
    several = [
        writable(mounted, server),
        *(writable(mounted, server, cache=tmp_path / "shared") for _ in range(2)),
    ]

    for number in range(5):
        outcomes: list[object] = []
        barrier = threading.Barrier(len(several))

        def make(mount: Mount, name: str) -> None:
            barrier.wait()  # noqa: B023 - each round waits for its threads
            try:
                (mount.datasets / name).mkdir()
                outcomes.append("made")  # noqa: B023
            except FileExistsError:
                outcomes.append("there")  # noqa: B023

        threads = [threading.Thread(target=make, args=(each, f"new-{number}")) for each in several]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sorted(outcomes) == ["made", "there", "there"]

        for each in several:  # who heard that it is there sees it
            assert (each.datasets / f"new-{number}").is_dir()

    assert len(names(server)) == 6


# Everything else.


def _open(path: Path, mode: str) -> None:
    with open(path, mode):
        pass


OTHERS: dict[str, Callable[[Path, Path], object]] = {
    "open for write": lambda file, folder: _open(file, "r+b"),
    "append": lambda file, folder: _open(file, "ab"),
    "open and truncate": lambda file, folder: _open(file, "wb"),
    "create": lambda file, folder: _open(folder / "new.jpg", "xb"),
    "create in a dataset": lambda file, folder: _open(folder.parents[0] / "new.jpg", "xb"),
    "create beside datasets": lambda file, folder: _open(folder.parents[1] / "new.jpg", "xb"),
    "mkdir": lambda file, folder: (folder / "new").mkdir(),
    "mkdir in a dataset": lambda file, folder: (folder.parents[0] / "new").mkdir(),
    "mkdir beside datasets": lambda file, folder: (folder.parents[2] / "new").mkdir(),
    "rmdir": lambda file, folder: folder.rmdir(),
    "rmdir of datasets": lambda file, folder: folder.parents[1].rmdir(),
    "unlink": lambda file, folder: file.unlink(),
    "rename": lambda file, folder: file.rename(folder / "new.jpg"),
    "rename of datasets": lambda file, folder: folder.parents[1].rename(folder.parents[2] / "new"),
    "chmod": lambda file, folder: file.chmod(0o644),
    "chmod of a dataset": lambda file, folder: folder.parents[0].chmod(0o755),
    "chown": lambda file, folder: os.chown(folder.parents[0], 1, 1),
    "truncate": lambda file, folder: os.truncate(file, 0),
    "utime": lambda file, folder: os.utime(folder.parents[0]),
    "symlink": lambda file, folder: (folder.parents[1] / "new").symlink_to("x"),
    "link": lambda file, folder: (folder / "new").hardlink_to(file),
    "mknod": lambda file, folder: os.mknod(folder.parents[1] / "new"),
    "mkfifo": lambda file, folder: os.mkfifo(folder / "new"),
    "setxattr": lambda file, folder: os.setxattr(file, "user.pictograph.status", b"1"),
    "setxattr of a folder": lambda file, folder: os.setxattr(folder.parents[1], DESCRIPTION, b"1"),
    "removexattr": lambda file, folder: os.removexattr(file, "user.pictograph.status"),
    "of dataset.json": lambda file, folder: _open(folder.parents[0] / "dataset.json", "r+b"),
    "mkdir by id": lambda file, folder: (folder.parents[2] / "by-id/new").mkdir(),
    "rmdir by id": lambda file, folder: next((folder.parents[2] / "by-id").iterdir()).unlink(),
    "symlink by id": lambda file, folder: (folder.parents[2] / "by-id/new").symlink_to("x"),
    "of status.json": lambda file, folder: _open(folder.parents[2] / ".pictofs/status.json", "wb"),
}


@pytest.fixture(scope="module")
def module_server(module_serving: Serving) -> StandIn:
    return module_serving(house())


@pytest.fixture(scope="module")
def module_mount(module_mounted: Mounting, module_server: StandIn) -> Mount:
    mount = writable(module_mounted, module_server)
    mount.expected = [" WARNING pictofs.fuse.operations: "]
    return mount


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_w7_every_other_change_is_erofs(
    module_mount: Mount, module_server: StandIn, change: Callable[[Path, Path], object]
) -> None:
    folder = module_mount.datasets / "signs/images"
    before, spent = there(module_server), Spent(module_server)
    with refused(errno.EROFS):
        change(next(walk(folder)), folder)
    assert there(module_server) == before
    assert not [each for each in module_server.log.requests() if each.method != "GET"]
    assert len(spent.api) <= 4  # to look at it first


def test_s6_modes_are_those_of_a_mount_that_is_not_writable(module_mount: Mount) -> None:
    for path, mode in (
        (module_mount.root, 0o755),
        (module_mount.datasets, 0o755),
        (module_mount.datasets / "signs", 0o755),
        (module_mount.datasets / "signs/images", 0o755),
        (module_mount.datasets / "signs/images/cam1/0.jpg", 0o644),
    ):
        assert path.stat().st_mode & 0o7777 == mode, path


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users")
def test_w7_of_other_users_only_the_owner_may_change(mounted: Mounting, server: StandIn) -> None:
    mount = writable(mounted, server, "--allow-other", "--uid", "12345", "--umask", "0")
    for user, codes in (
        (12345, [0, 0, 0, 0, errno.EROFS, errno.EROFS]),
        (54321, [errno.EACCES] * 6),
    ):
        for name in ("mine", "empty"):
            (mount.datasets / name).mkdir()
        works: list[Callable[[int], object]] = [
            lambda folder: os.mkdir(f"new-{user}", dir_fd=folder),  # noqa: B023 - done within the round
            lambda folder: os.rename("mine", f"once-{user}", src_dir_fd=folder, dst_dir_fd=folder),  # noqa: B023
            lambda folder: os.setxattr(
                os.open("signs", os.O_RDONLY, dir_fd=folder), DESCRIPTION, b"x"
            ),
            lambda folder: os.rmdir("empty", dir_fd=folder),
            lambda folder: os.mkdir("signs/images/new", dir_fd=folder),
            lambda folder: os.open("signs/images/cam1/0.jpg", os.O_WRONLY, dir_fd=folder),
        ]

        assert [as_user(user, mount.datasets, work) for work in works] == codes


def as_user(user: int, folder: Path, work: Callable[[int], object]) -> int:
    """The errno of `work`, done by another user in an open folder (above it none may be open to
    that user)."""
    handle = os.open(folder, os.O_RDONLY)
    child = os.fork()

    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            work(handle)
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)

    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# The description.


def test_w8_the_description_is_set_and_removed(mount: Mount, server: StandIn) -> None:
    path, dataset = mount.datasets / "signs", server.organization["signs"]
    for value in ("short", "Größer 画像\nand a line", "x" * 60_000, ""):
        os.setxattr(path, DESCRIPTION, value.encode())
        assert dataset.description == value
        assert os.getxattr(path, DESCRIPTION).decode() == value
    run("setfattr", "-n", DESCRIPTION, "-v", "by the tool", path)
    assert 'description="by the tool"' in run("getfattr", "-d", "--absolute-names", path)
    run("setfattr", "-x", DESCRIPTION, path)
    assert (dataset.description, os.getxattr(path, DESCRIPTION)) == ("", b"")


def test_w8_flags(mount: Mount, server: StandIn) -> None:
    new = mount.datasets / "new"
    new.mkdir()
    with refused(errno.ENODATA):
        os.setxattr(new, DESCRIPTION, b"x", os.XATTR_REPLACE)
    with refused(errno.ENODATA):
        os.removexattr(new, DESCRIPTION)
    os.setxattr(new, DESCRIPTION, b"x", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(new, DESCRIPTION, b"y", os.XATTR_CREATE)
    os.setxattr(new, DESCRIPTION, b"z", os.XATTR_REPLACE)

    assert server.organization["new"].description == "z"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (DESCRIPTION, b"\xff", errno.EINVAL),
        (DESCRIPTION, b"x" * 65_537, errno.E2BIG),
        ("user.pictograph.name", b"other", errno.EOPNOTSUPP),
        ("user.pictograph.image_count", b"0", errno.EOPNOTSUPP),
        ("user.mine", b"x", errno.EOPNOTSUPP),
        ("trusted.mine", b"x", errno.EOPNOTSUPP),
    ],
)
def test_w8_what_can_t_be_set(
    module_mount: Mount, module_server: StandIn, name: str, value: bytes, code: int
) -> None:
    before = there(module_server)
    with refused(code):
        os.setxattr(module_mount.datasets / "signs", name, value)
    assert there(module_server) == before
