"""The cache folder and its disk."""

from __future__ import annotations

import os
import random
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pictofs.app import cache_folder, mount_table
from pictofs.app.doctor.finding import Finding, fail, failed, ok, warn
from pictofs.clock import SystemClock
from pictofs.config import LibrarySettings
from pictofs.errors import Corrupt, PictofsError
from pictofs.model.plural import counted
from pictofs.store.blobs.blob import FOOTER_SIZE, TEMP_MARK, BlobPath, read_footer
from pictofs.store.blobs.cache import BlobCache
from pictofs.store.blobs.ledger import SHARDS, Usage
from pictofs.store.checksum import checksum

FILES = 50
BYTES = 32 << 20
"""Of the cache, that are looked at: a tenth of a second."""
OLD_S = 86_400.0
"""Seconds after which an unfinished download is nobody's any more."""

FULL_BYTES = 1 << 20
"""Free bytes below which no mount can be made, nor go on for long."""

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "fuse.sshfs")
_OTHER = "name another folder by --cache-dir"


def check_disk(settings: LibrarySettings, mountpoint: Path | None) -> Iterator[Finding]:
    """Whether the cache can be written, how much space there is, and a glance at some files.

    `mountpoint`: of the live mount whose cache it is; None for a mount that shall be made.
    """
    folder = settings.cache_dir
    if mountpoint is not None and not folder.exists():
        yield fail(
            "cache",
            f"{folder}, the cache of {mountpoint}, is gone",
            f"pictofs unmount {shlex.quote(str(mountpoint))}, and mount it again",
        )
        return

    if not folder.exists():
        yield _parent(folder)
        yield from _room(settings, _existing(folder), None)
        return

    try:
        cache_folder.claim(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except PictofsError as error:
        yield failed("cache", error)
        return
    except OSError as error:
        yield fail(
            "cache",
            f"{folder} can't be written: {error.strerror}",
            f"make it writable, or {_OTHER}",
        )
        return

    yield _kind(folder)

    usage = None
    if settings.blobs_dir.exists():
        try:
            usage = _usage(settings)
        except PictofsError as error:
            yield failed("cache", error)

    yield from _room(settings, folder, usage)
    yield from _glance(settings)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _parent(folder: Path) -> Finding:
    parent = _existing(folder)
    if os.access(parent, os.W_OK | os.X_OK):
        return ok("cache", f"{folder} is not there yet; the first mount makes it")
    return fail("cache", f"{folder} can't be made: {parent} is not yours to write to", _OTHER)


def _kind(folder: Path) -> Finding:
    mount = mount_table.mount_of(folder.resolve())
    if mount is not None and mount.fstype in _REMOTE:
        return warn(
            "cache", f"{folder} is on {mount.fstype}, which has no locks to rely on", _OTHER
        )
    if mount is not None and mount.fstype == "tmpfs":
        return warn("cache", f"{folder} is in memory: it goes when the machine restarts", _OTHER)

    return ok("cache", f"{folder} can be written")


def _usage(settings: LibrarySettings) -> Usage:
    blob_cache = BlobCache(
        settings.blobs_dir,
        limit=settings.cache_size,
        reserve=settings.min_free,
        clock=SystemClock(),
    )
    with closing(blob_cache):
        return blob_cache.usage()


def _room(settings: LibrarySettings, folder: Path, usage: Usage | None) -> Iterator[Finding]:
    disk = os.statvfs(folder)
    total = disk.f_blocks * disk.f_frsize
    free = disk.f_bavail * disk.f_frsize
    kept = settings.min_free.of(total)
    taken = usage.bytes if usage else 0
    room = min(settings.cache_size - taken, free - kept)

    facts = f"{_size(free)} free of {_size(total)}, of which --min-free keeps {_size(kept)}"
    if free < FULL_BYTES:
        yield fail("disk", f"the disk of {folder} is full", f"make room on it, or {_OTHER}")
    elif free <= kept:
        yield warn(
            "disk",
            f"{facts}: files are evicted, or go past the cache",
            "make room, or mount with a smaller --min-free",
        )
    else:
        yield ok("disk", facts)

    files = f"{_size(taken)} in {counted(usage.files, 'file')}" if usage else "empty"
    limit = f"of {_size(settings.cache_size)} (--cache-size)"
    if taken > settings.cache_size:
        yield warn(
            "cache size", f"{files} {limit}: the next mount with it evicts", "a larger --cache-size"
        )
    elif room < settings.cache_size - taken:
        yield ok("cache size", f"{files} {limit}; the disk lets it grow by {_size(max(0, room))}")
    else:
        yield ok("cache size", f"{files} {limit}")


def _glance(settings: LibrarySettings) -> Iterator[Finding]:
    broken = sorted((settings.cache_dir / "catalog").glob("*.broken-*"))
    if broken:
        yield warn(
            "catalog",
            f"{len(broken)} could not be read and were put aside",
            f"rm {shlex.quote(str(broken[0].parent))}/*.broken-*",
        )

    seen = damaged = litter = 0
    left = BYTES
    for shard in random.sample(range(SHARDS), SHARDS):
        if seen >= FILES or left <= 0:
            break

        for path in _files(settings.blobs_dir / f"{shard:02x}"):
            if TEMP_MARK in path.name:
                litter += _age(path) > OLD_S
            elif seen < FILES and left > 0:
                seen += 1
                size = path.stat().st_size
                left -= size
                damaged += size <= BYTES and not _sound(shard, path)

    if damaged or litter:
        yield warn(
            "contents",
            f"{counted(seen, 'file')} looked at, {damaged:,} damaged; "
            f"{counted(litter, 'unfinished download')} left over",
            "pictofs cache verify",
        )
    elif seen:
        yield ok("contents", f"{counted(seen, 'file')} looked at, all sound")


def _files(folder: Path) -> list[Path]:
    try:
        return [Path(entry) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sound(shard: int, path: Path) -> bool:
    place = BlobPath.of_file(shard, path.name)
    if place is None:
        return False

    try:
        with open(path, "rb", buffering=0) as file:
            fd = file.fileno()
            size = os.fstat(fd).st_size
            return checksum(fd, size - FOOTER_SIZE) == read_footer(fd, size, place)
    except FileNotFoundError:
        # Evicted meanwhile.
        return True
    except (OSError, Corrupt):
        return False


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
