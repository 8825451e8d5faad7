"""The folder that gets a download: whole files or none, times, and never a way out."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from pictofs.errors import AlreadyExists, Conflict, Forbidden, Invalid, PictofsError
from pictofs.store.folder import PARTIAL, Folder, FolderUnusable

TIME = 1_772_355_600_123_456_789


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a/b"


@pytest.fixture
def folder(root: Path) -> Iterator[Folder]:
    with Folder(root) as made:
        yield made


def test_a_file_has_its_content_and_time(folder: Folder, root: Path) -> None:
    folder.put(("images", "x", "a.jpg"), b"abc", TIME)
    path = root / "images/x/a.jpg"

    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"abc", TIME)
    assert folder.holds(("images", "x", "a.jpg"), 3, TIME)
    assert not folder.holds(("images", "x", "a.jpg"), 4, TIME)
    assert not folder.holds(("images", "x", "a.jpg"), 3, TIME + 1)
    assert folder.holds_content(("images", "x", "a.jpg"), 3, google_crc32c.value(b"abc"))
    assert not folder.holds_content(("images", "x", "a.jpg"), 3, google_crc32c.value(b"abd"))
    assert not folder.holds_content(("images", "x", "a.jpg"), 2, google_crc32c.value(b"ab"))

    folder.put(("images", "x", "a.jpg"), b"other", 0)

    assert path.read_bytes() == b"other"


@pytest.mark.parametrize(
    ("grain", "kept"), [(100, 1), (10_000_000, 3_000_000), (2_000_000_000, 1_123_000_000)]
)
def test_d2_times_as_far_as_the_disk_keeps_them(folder: Folder, grain: int, kept: int) -> None:
    """What FAT, exFAT and NTFS make of a time is that time; another one is not."""
    assert folder._grain == 1
    folder.put(("f",), b"abc", (TIME + kept) // grain * grain)
    folder._grain = grain
    assert folder.holds(("f",), 3, TIME + kept)
    assert not folder.holds(("f",), 3, TIME + kept + grain)


def test_the_umask_is_the_user_s(folder: Folder, root: Path) -> None:
    before = os.umask(0o027)
    try:
        folder.put(("d", "f"), b"", 0)
    finally:
        os.umask(before)
    assert ((root / "d").stat().st_mode & 0o777, (root / "d/f").stat().st_mode & 0o777) == (
        0o750,
        0o640,
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "nul\0"])
def test_d4_a_part_that_is_no_name_is_refused(folder: Folder, root: Path, name: str) -> None:
    for path in ((name,), (name, "x"), ("x", name)):
        for work in (
            lambda path=path: folder.put(path, b"", 0),
            lambda path=path: folder.make(path),
        ):
            with pytest.raises(Invalid):
                work()
        with pytest.raises(Invalid):
            folder.holds(path, 0, 0)
    assert [each for each in os.listdir(root) if each.encode() != PARTIAL] == []


def test_d4_links_and_folders_are_in_the_way(folder: Folder, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "file").write_bytes(b"x")

    for path in (("link", "f"), ("dangling", "f"), ("dangling",), ("link",), ("file", "f")):
        with pytest.raises(AlreadyExists, match="in the way"):
            folder.put(path, b"data", 0)

    with pytest.raises(AlreadyExists):
        folder.make(("link",))

    assert os.listdir(elsewhere) == []
    assert os.listdir(root / os.fsdecode(PARTIAL)) == []


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Folder(tmp_path / "link") as folder:
        folder.put(("f",), b"data", 0)
    assert (tmp_path / "real/f").read_bytes() == b"data"


def test_one_at_a_time(folder: Folder, root: Path) -> None:
    with pytest.raises(Conflict, match="another pictofs download"):
        Folder(root)


def test_d3_litter_is_swept(root: Path) -> None:
    with Folder(root) as folder:
        partial_file = folder.partial_file()
        partial_file.write(0, b"half of it")
        litter = root / os.fsdecode(PARTIAL)
        assert len(os.listdir(litter)) == 1
    assert len(os.listdir(litter)) == 1  # as after kill -9: nobody has discarded the draft
    with Folder(root):
        assert os.listdir(litter) == []
    assert os.listdir(root) == []
    partial_file.close()


def test_a_draft_is_not_there_before_it_has_landed(folder: Folder, root: Path) -> None:
    with folder.partial_file() as partial_file:
        partial_file.write(0, b"abc")
        partial_file.write(3, b"def")
        assert not (root / "f").exists()
        partial_file.commit(("f",), 5)
    assert (root / "f").read_bytes() == b"abcdef"


@pytest.mark.parametrize(
    ("size", "far"),
    [(0, False), (1, False), (100_000, False), (5_000_000, False), (0, True), (2_000_001, True)],
)
def test_copies_leave_the_rest_behind(
    folder: Folder, root: Path, small_disk: Path, tmp_path: Path, size: int, far: bool
) -> None:
    """From the same file system and from another one, which may copy in another way."""
    source = (small_disk if far else tmp_path) / "source"
    data = os.urandom(size)
    source.write_bytes(data + b"footer")
    with open(source, "rb") as file, folder.partial_file() as partial_file:
        partial_file.copy(file.fileno(), size)
        partial_file.commit(("f",), 0)
    assert (root / "f").read_bytes() == data


def test_a_cut_source_is_no_copy(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"short")
    with (
        open(tmp_path / "source", "rb") as file,
        folder.partial_file() as partial_file,
        pytest.raises(FolderUnusable),
    ):
        partial_file.copy(file.fileno(), 6)


def test_a_full_disk(small_disk: Path) -> None:
    with Folder(small_disk / "out") as folder:
        assert 2_000_000 < folder.free <= 3 << 20
        with pytest.raises(FolderUnusable, match="No space left"):
            folder.put(("f",), bytes(4_000_000), 0)
        folder.put(("f",), bytes(1_000_000), 0)
    assert os.listdir(small_disk / "out") == ["f"]


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(FolderUnusable, match="Read-only file system"):
        Folder(small_disk / "out")


def test_what_can_t_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(AlreadyExists):
            Folder(path)
    (tmp_path / os.fsdecode(PARTIAL)).write_bytes(b"")
    with pytest.raises(AlreadyExists):
        Folder(tmp_path)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, Forbidden),
        (errno.ENOSPC, FolderUnusable),
        (errno.EDQUOT, FolderUnusable),
        (errno.EIO, FolderUnusable),
        (errno.ENAMETOOLONG, Invalid),
        (errno.ENOTDIR, AlreadyExists),
    ],
)
def test_errors_have_names(folder: Folder, number: int, kind: type[PictofsError]) -> None:
    with pytest.raises(kind), folder._errors("trying"):
        raise OSError(number, os.strerror(number))


def test_a_name_that_the_disk_can_t_hold(folder: Folder) -> None:
    with pytest.raises(Invalid, match="can't hold such a name"):
        folder.put(("x" * 300,), b"", 0)
