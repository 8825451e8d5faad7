"""`pictofs cache prune` beside a live mount."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mounting import Mounting, Serving, files_below
from starting import run_pictofs

from standin import PRESETS


def grow_old(catalog: Path, days: int) -> None:
    """As if it had been closed some days ago."""
    then = time.time() - days * 86_400
    for path in catalog.parent.glob(f"{catalog.name}*"):
        os.utime(path, (then, then))


def test_c12_what_nobody_uses_is_removed(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["small"]())
    old = mounted(server, key=server.keys["member"])
    cache = old.cache
    files_below(old.datasets)
    old.unmount()
    (of_member,) = (cache / "catalog").glob("*.db")

    mount = mounted(server, cache=cache)
    contents = files_below(mount.datasets)
    (in_use,) = {*(cache / "catalog").glob("*.db")} - {of_member}

    # Of the first version, and of the last one; and one that a crash left.
    folder = cache / "catalog"
    first = folder / "0000-1111.db"
    first.write_bytes(b"x" * 1000)
    (folder / f"{in_use.name}.broken-1").write_bytes(b"x" * 1000)
    newer = folder / "0000-1111.v9.db"
    newer.touch()

    assert "removed 2 catalogs, 2 kB" in mount.pictofs("cache", "prune")
    assert of_member.exists()

    grow_old(of_member, 31)
    grow_old(in_use, 31)
    assert "removed 0 catalogs, 0 B" in mount.pictofs("cache", "prune", "--days", "32")
    assert "removed 1 catalog, " in mount.pictofs("cache", "prune")

    assert not of_member.exists()
    assert in_use.exists()
    assert newer.exists()
    assert files_below(mount.datasets) == contents

    # Also with a killed mount's -wal, and what is there afterwards is a catalog as any other.
    mount.kill()
    mount.discard()
    assert "removed 2 catalogs, " in mount.pictofs("cache", "prune", "--days", "0")
    assert not [path for path in folder.iterdir() if path.suffix not in (".state", ".lock")]
    assert files_below(mounted(server, cache=cache, home="again").datasets) == contents


def test_a_cache_that_is_not_there(tmp_path: Path) -> None:
    environ = {**os.environ, "PICTOFS_CACHE_DIR": str(tmp_path / "none")}
    done = run_pictofs("cache", "prune", env=environ, text=True)
    assert done.returncode == 4
    assert "there is no cache" in done.stderr
    assert not (tmp_path / "none").exists()
