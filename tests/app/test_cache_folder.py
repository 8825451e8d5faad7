"""The cache folder before it is used: closed to others, and all ours."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pictofs.app.cache_folder import claim
from pictofs.errors import Forbidden

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two users")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("found", [0o770, 0o777, 0o720, 0o702])
def test_k4_a_cache_folder_that_others_may_write_to_is_closed(tmp_path: Path, found: int) -> None:
    cache = tmp_path / "cache"
    (cache / "content").mkdir(parents=True)
    cache.chmod(found)
    claim(cache)
    assert mode(cache) == found & ~0o022


def test_k4_a_shared_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "shared files"
    cache.mkdir()
    (cache / "report.txt").touch()
    cache.chmod(0o775)
    with pytest.raises(Forbidden, match=rf"chmod go-w '{cache}'"):
        claim(cache)
    assert mode(cache) == 0o775


def test_k4_a_sticky_folder_is_left_as_it_is(tmp_path: Path) -> None:
    cache = tmp_path / "tmp"
    cache.mkdir()
    cache.chmod(0o1777)
    claim(cache)
    assert mode(cache) == 0o1777


@as_root
@pytest.mark.parametrize(
    "theirs", ["content", "content/07", "content/usage", "catalog/a.db", "log/x.log"]
)
def test_k4_what_another_user_left_is_named_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / "cache"
    for name in ("content/07", "catalog", "log", "run"):
        (cache / name).mkdir(parents=True)
    path = cache / theirs
    if not path.exists():
        path.touch()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(Forbidden, match=f"sudo chown -R root {cache}"):
        claim(cache)


CLAIM = """
import os, sys
from pathlib import Path
from pictofs.app.cache_folder import claim
from pictofs.errors import Forbidden
os.setgid(65534)
os.setuid(65534)
try:
    claim(Path(sys.argv[1]))
    print("claimed")
except Forbidden as error:
    print(error)
"""


@as_root
def test_k4_a_cache_folder_that_sudo_made_is_handed_over_by_one_line(open_folder: Path) -> None:
    cache = open_folder / "cache"
    for name in ("content/07", "catalog"):
        (cache / name).mkdir(parents=True)
    (cache / "catalog/a.db").touch()

    def said(home: Path) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", CLAIM, str(cache)],
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout

    assert f"sudo chown -R nobody {cache}" in said(open_folder)

    # Elsewhere it may be the cache of root's live mount.
    assert said(open_folder / "home") == (
        f"{cache} belongs to the user root; name another cache folder by --cache-dir\n"
    )

    subprocess.run(["chown", "-R", "nobody", str(cache)], check=True)

    assert said(open_folder) == "claimed\n"


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that every user gets to."""
    for each in (tmp_path, *tmp_path.parents[:-2]):
        if each.stat().st_uid == os.geteuid():
            each.chmod(mode(each) | 0o011)
    return tmp_path
