"""One cache folder, and what others do to it: a process that is stopped in it, and `rm -rf`."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, expected, files_below, walk

from pictofs.store.blobs.blob import TEMP_MARK, BlobPath
from standin import Spec

HOLD = """
import fcntl, os, signal, sys
held = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in sys.argv[1:]]
for fd in held:
    fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""


@contextmanager
def stopped(*locks: Path) -> Iterator[None]:
    """A process that holds locks, as one does that was stopped (Ctrl-Z) at the wrong moment."""
    command = [sys.executable, "-c", HOLD, *map(str, locks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            holder.kill()


def test_c9_a_process_that_is_stopped_with_the_ledger_holds_nobody_up(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=60, size=20_000))
    truth = expected(server, server.organization["dataset-0"])
    mount = mounted(server, "--prefetch", "off")
    mount.expected.append("reading past the cache|lock is held")
    cached = min(name for name in truth if name.endswith(".jpg"))
    folder = mount.datasets / "dataset-0"

    assert (folder / cached).read_bytes() == truth[cached]

    with stopped(mount.cache / "content/usage", mount.cache / "content/eviction"):
        assert files_below(folder) == truth  # 60 images and 60 annotation files, none in the cache
        assert mount.status()["cache"]["files"] >= 1
        assert b"pictofs_cache_bytes" in (mount.datasets.parent / ".pictofs/metrics").read_bytes()
        assert (folder / cached).read_bytes() == truth[cached]


def test_c9_a_process_that_is_stopped_in_a_download_holds_nobody_up(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=3, size=20_000))
    truth = expected(server, server.organization["dataset-0"])
    mount = mounted(server, "--prefetch", "off")
    images = sorted(walk(mount.datasets / "dataset-0/images"))
    images[0].read_bytes()
    content = mount.cache / "content"
    (blob,) = (path.name for path in content.glob("??/*") if TEMP_MARK not in path.name)
    prefix, _, _ = blob.partition("-")
    names = [f"{prefix}-{image.id}" for image in server.organization["dataset-0"].images.values()]
    places = [content / BlobPath.of_name(name).path for name in names if name != blob]
    for place in places:
        place.parent.mkdir(exist_ok=True)
    with stopped(*(place.with_name(place.name + TEMP_MARK) for place in places)):
        for image in images:
            name = str(image.relative_to(mount.datasets / "dataset-0"))
            assert image.read_bytes() == truth[name]
        assert all(place.exists() for place in places)


def test_c10_a_cache_folder_that_was_removed_is_used_again(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=6, size=20_000))
    truth = expected(server, server.organization["dataset-0"])
    mount = mounted(server, "--prefetch", "off")
    mount.expected.append("was removed or moved")
    first, second, third, *_ = sorted(walk(mount.datasets / "dataset-0/images"))
    content = mount.cache / "content"

    def kept() -> int:
        return sum(TEMP_MARK not in path.name for path in content.glob("??/*"))

    assert first.read_bytes() == truth[f"images/{first.name}"]

    shutil.rmtree(mount.cache)

    assert second.read_bytes() == truth[f"images/{second.name}"]
    assert kept() == 1
    assert mount.status()["cache"]["files"] == 1

    content.rename(content.with_name("elsewhere"))

    assert third.read_bytes() == truth[f"images/{third.name}"]
    assert kept() == 1
    assert content.stat().st_mode & 0o777 == 0o700


def hold_open(stack: ExitStack, paths: list[Path]) -> list[bytes]:
    return [stack.enter_context(path.open("rb")).read() for path in paths]


def test_c11_as_many_cached_files_are_open_as_the_hard_limit_allows(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=400, size=500))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    try:
        mount = mounted(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    images = sorted(walk(mount.datasets / "dataset-0/images"))
    whole = [path.read_bytes() for path in images]
    before = Spent(server)
    with ExitStack() as stack:
        assert hold_open(stack, images) == whole

    assert before.all == []


def test_c11_a_limit_that_is_reached_is_named_and_nothing_is_fetched_again(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=100, size=500))
    mount = mounted(server, "--prefetch", "off")
    mount.expected.append("too many open files")
    images = sorted(walk(mount.datasets / "dataset-0/images"))
    whole = [path.read_bytes() for path in images]
    before = Spent(server)
    files = len(os.listdir(f"/proc/{mount.pid}/fd"))
    resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, (files + 20, files + 20))
    with ExitStack() as stack, pytest.raises(OSError, match="Too many open files in system"):
        hold_open(stack, images)

    assert [path.read_bytes() for path in images] == whole
    assert before.all == []
