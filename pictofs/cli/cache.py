"""`pictofs cache`."""

# ruff: noqa: PLC0415 - the store is imported only by a command that opens it, never for --help

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pictofs.app import cache_folder
from pictofs.cli.formatting import bytes_text, say
from pictofs.cli.options import AsJson, CacheDir
from pictofs.config import FreeSpace, LibrarySettings, resolve
from pictofs.errors import NoSuchEntry, PictofsError
from pictofs.model.plural import counted

if TYPE_CHECKING:
    from pictofs.store.blobs.cache import BlobCache

DAY_S = 86_400

app = typer.Typer(help="Look at the local cache, check it, empty it.")


@app.command()
def info(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Show what the cache takes."""
    blob_cache, root = _open(cache_dir)
    usage = blob_cache.usage()
    if as_json:
        found = {"path": str(root), "files": usage.files, "bytes": usage.bytes, "free": usage.free}
        print(json.dumps(found, indent=2))
        return

    taken = bytes_text(usage.bytes)
    free = bytes_text(usage.free)
    say(f"{root}: {taken} in {counted(usage.files, 'file')}; its disk has {free} free")


@app.command()
def verify(cache_dir: CacheDir = None, as_json: AsJson = False) -> int:
    """Read every cached file and remove what is damaged. Mounts may go on meanwhile.

    Exits with 1 when anything was damaged; it is fetched anew when next read.
    """
    blob_cache, root = _open(cache_dir)
    audit = blob_cache.verify(lambda _: None)

    if as_json:
        found = {
            "path": str(root),
            "files": audit.blobs,
            "bytes": audit.bytes,
            "damaged": audit.damaged,
            "unfinished": audit.litter,
        }
        print(json.dumps(found, indent=2))
    else:
        say(
            f"{root}: {counted(audit.blobs, 'file')}, {bytes_text(audit.bytes)}; "
            f"removed {counted(audit.damaged, 'damaged file')} and {audit.litter:,} unfinished"
        )

    return int(audit.damaged > 0)


@app.command()
def clear(cache_dir: CacheDir = None, as_json: AsJson = False) -> None:
    """Remove all cached image and annotation bytes; listings stay. Mounts may go on meanwhile."""
    blob_cache, root = _open(cache_dir)
    removed = blob_cache.clear()

    if as_json:
        print(json.dumps({"path": str(root), "files": removed}, indent=2))
    else:
        say(f"{root}: removed {counted(removed, 'file')}")


@app.command()
def prune(
    cache_dir: CacheDir = None,
    days: Annotated[
        int,
        typer.Option("--days", metavar="N", min=0, help="For how long nobody has used a catalog."),
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Remove catalogs (listings) that nobody uses: of keys and servers not mounted for N days, of
    older versions, and damaged ones. Cached files stay. Mounts may go on meanwhile.
    """
    from pictofs.store.catalog.prune import prune as prune_catalogs

    settings = _settings(cache_dir)
    folder = settings.cache_dir / "catalog"
    if not folder.exists():
        raise NoSuchEntry(f"there is no cache in {settings.cache_dir}: name another by --cache-dir")

    cache_folder.claim(settings.cache_dir)
    try:
        count, removed = prune_catalogs(folder, time.time() - days * DAY_S)
    except OSError as error:
        raise PictofsError(f"{folder} can't be pruned: {error.strerror}") from None

    if as_json:
        print(json.dumps({"path": str(folder), "catalogs": count, "bytes": removed}, indent=2))
    else:
        say(f"{folder}: removed {counted(count, 'catalog')}, {bytes_text(removed)}")


def _settings(cache_dir: str | None) -> LibrarySettings:
    return LibrarySettings(**resolve(LibrarySettings, {"cache_dir": cache_dir}, os.environ))


def _open(cache_dir: str | None) -> tuple[BlobCache, Path]:
    from pictofs.clock import SystemClock
    from pictofs.store.blobs.cache import BlobCache

    settings = _settings(cache_dir)
    root = settings.blobs_dir
    if not root.exists():
        raise NoSuchEntry(f"there is no cache in {settings.cache_dir}: name another by --cache-dir")

    cache_folder.claim(settings.cache_dir)
    blob_cache = BlobCache(
        root, limit=settings.cache_size, reserve=FreeSpace(), clock=SystemClock()
    )
    return blob_cache, root
