"""Programs that look at the heads of files, and leave the rest."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, eventually

from standin import Spec, StandIn

IMAGES, READ = 300, 40


def bring(mount: Mount) -> list[Path]:
    """All files of the dataset, listed."""
    return sorted((mount.datasets / "dataset-0/images").iterdir())


def downloads(server: StandIn, spent: Spent) -> int:
    """Images that were downloaded, whichever way."""
    return len(spent.storage) + len(
        [each for each in spent.api if each.startswith("/images/{image_id:uuid}?")]
    )


def head(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(64)


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_q6_looking_at_heads_downloads_what_is_looked_at(
    mounted: Mounting, serving: Serving, size: int
) -> None:
    server = serving(Spec.uniform(images=IMAGES, size=size))
    mount = mounted(server)
    paths = bring(mount)
    spent = Spent(server)
    for path in paths[:READ]:
        assert len(head(path)) == 64
    eventually(lambda: mount.status()["prefetch"]["under_way"], 0)

    assert downloads(server, spent) == READ
    assert mount.status()["prefetch"]["fetched"] == 0


def test_q6_many_at_once_look_at_heads(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=IMAGES, size=20_000))
    mount = mounted(server)
    paths = bring(mount)
    spent = Spent(server)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(head, paths[:120]))
    eventually(lambda: mount.status()["prefetch"]["under_way"], 0)
    assert downloads(server, spent) <= 120 + 64  # what eight that are open at once allow


def test_q6_whole_files_are_still_fetched_ahead(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=IMAGES, size=20_000))
    mount = mounted(server)
    for path in bring(mount)[:READ]:
        path.read_bytes()
    eventually(lambda: mount.status()["prefetch"]["fetched"] > READ, True)
