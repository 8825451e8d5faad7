"""A mount without a kernel: what `pictofs.app.mount` puts together, against a stand-in over
loopback."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from pictofs.api.address import Locality
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.config import FreeSpace
from pictofs.errors import PictofsError, Stale
from pictofs.library.library import Library
from pictofs.library.prefetch.prefetcher import PrefetchMode
from pictofs.model.inode import ROOT
from pictofs.store.blobs.cache import BlobCache
from pictofs.store.catalog.catalog import Catalog
from pictofs.vfs.node import Attributes
from pictofs.vfs.tree import OpenFile, Tree
from standin import Fault, Match, StandIn
from standin.records import Image
from standin.routing import PREFIX
from standin.wire import annotation_file, dataset_row

SHORT = 0.1
"""Seconds: a shorter sleep waits for a thread or another process, and time must not run away with
it."""

LONG = 60.0
"""Seconds: housekeeping, which tests do by hand."""


class HandClock:
    """Time that tests move, and the stand-in's with it. Sleeping takes none, and is noted."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self._elapsed = 1000.0
        self.sleeps: list[float] = []

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds
        self._standin.clock.advance(seconds)

    def wall(self) -> float:
        return self._standin.clock()

    def monotonic(self) -> float:
        return self._elapsed

    def chance(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        if seconds < SHORT:
            await trio.sleep(0.001)
            return
        if seconds >= LONG:
            await trio.sleep_forever()
        self.sleeps.append(seconds)
        self.advance(seconds)
        await trio.lowlevel.checkpoint()


@dataclass
class Mount:
    """A mounted tree and what is below it."""

    standin: StandIn
    clock: HandClock
    library: Library
    tree: Tree
    catalog: Catalog
    blob_cache: BlobCache
    request_stats: RequestStats
    nursery: trio.Nursery

    # What a program does, by path.

    async def quiet(self) -> None:
        """Wait until nothing is on its way."""
        with trio.fail_after(20):
            while True:
                await wait_all_tasks_blocked(0.002)
                if not self.library.listing._single_flight._in_progress:
                    return
                await trio.sleep(0.002)

    async def look(self, path: str) -> Attributes:
        """The attributes of `path`, looked up part by part as the kernel does."""
        attributes = await self.tree.attributes(ROOT)
        for name in path.strip("/").split("/"):
            attributes = await self.tree.lookup(attributes.inode, name)
        return attributes

    async def open(self, path: str) -> OpenFile:
        """A handle; a stale inode is looked up again, as the kernel does."""
        for _ in range(3):
            try:
                return await self.tree.open((await self.look(path)).inode)
            except Stale:
                continue
        return await self.tree.open((await self.look(path)).inode)

    async def read(self, path: str, piece: int = 1 << 17) -> bytes:
        """The whole content, as `cat` reads it."""
        opened = await self.open(path)
        try:
            return await self.rest(opened, piece)
        finally:
            self.tree.close(opened.handle)

    async def rest(self, opened: OpenFile, piece: int = 1 << 17) -> bytes:
        """Every byte of an open file."""
        size, data = opened.attributes.size, bytearray()

        while len(data) < size:
            asked = min(piece, size - len(data))
            more = await self.tree.read(opened.handle, len(data), asked)

            assert len(more) == asked, (
                "a read came back short before the end, where the kernel ends the file"
            )

            data += more

        assert await self.tree.read(opened.handle, size, 1) == b""

        return bytes(data)

    async def list(self, path: str) -> dict[str, Attributes]:
        """The entries of a folder, each of which comes once."""
        folder = (await self.look(path)).inode if path.strip("/") else ROOT
        return await self.entries(folder)

    async def entries(self, folder: int) -> dict[str, Attributes]:
        handle = self.tree.open_folder(folder)
        found: dict[str, Attributes] = {}

        try:
            cookie = 0
            while batch := await self.tree.read_folder(handle, cookie):
                for name, attributes, cookie in batch:  # noqa: B007
                    assert name not in found, f"{name!r} came twice"
                    found[name] = attributes
        finally:
            self.tree.close_folder(handle)

        return found

    async def walk(self, path: str = "/datasets", *, read: bool = True) -> dict[str, bytes | None]:
        """Path -> content of everything below `path`; None for folders. Each entry is looked up
        too."""
        top = (await self.look(path)).inode
        return {name: data async for name, _, data in self._walked(path, top, read)}

    async def _walked(
        self, path: str, folder: int, read: bool
    ) -> AsyncIterator[tuple[str, Attributes, bytes | None]]:
        for name, listed in (await self.entries(folder)).items():
            below = f"{path}/{name}"
            found = await self.tree.lookup(folder, name)

            assert (found.inode, found.mode) == (listed.inode, listed.mode), below

            if stat.S_ISDIR(found.mode):
                yield below, found, None
                async for each in self._walked(below, found.inode, read):
                    yield each
            else:
                yield below, found, await self.read(below) if read else b""

    # What it cost.

    @property
    def asked(self) -> list[str]:
        """The requests to the API since the log was cleared, as `METHOD route`."""
        return [f"{each.method} {each.route}" for each in self.standin.log.requests("api")]

    def forget_log(self) -> None:
        self.standin.log.clear()

    async def settle(self) -> None:
        """Wait until no flight is under way."""
        with trio.fail_after(5):
            while self.library.listing._single_flight._in_progress:  # noqa: ASYNC110 - nothing tells it
                await trio.sleep(0.001)


class Rig:
    """A cache folder and a stand-in: `async with rig.mount() as mount` as often as wanted."""

    def __init__(self, standin: StandIn, cache: Path) -> None:
        self.standin = standin
        self.cache = cache
        self.clock = HandClock(standin)

    @asynccontextmanager
    async def mount(
        self,
        *,
        ttl: float = 300.0,
        max_retries: int = 3,
        cache_size: int = 1 << 30,
        timeout: float = 5.0,
        exact: bool = False,
        prefetch: PrefetchMode = "off",
        key: str | None = None,
        doors: tuple[Api, Storage] | None = None,
        **library: Any,
    ) -> AsyncIterator[Mount]:
        """`doors`: the API and the storage client of another mount, to save their making;
        `library`: what else the library is to be told."""
        request_stats = RequestStats()
        request_stats.api_locality = Locality.LOOPBACK  # `doors` may count elsewhere
        blob_cache = BlobCache(
            self.cache / "blobs", limit=cache_size, reserve=FreeSpace(), clock=self.clock
        )
        catalog = Catalog(self.cache / "catalog.db")

        try:
            async with (
                self._doors(doors, key, request_stats, timeout, max_retries) as (api, storage),
                trio.open_nursery() as nursery,
            ):
                made = Library(
                    api,
                    storage,
                    catalog,
                    blob_cache,
                    nursery,
                    self.clock,
                    request_stats,
                    ttl=ttl,
                    max_retries=max_retries,
                    server="5e21e500",
                    prefetch=prefetch,
                    cache_size=cache_size,
                    **library,
                )
                made.start(nursery)
                tree = Tree(
                    made,
                    documents={
                        "README.md": lambda: b"",
                        "status.json": lambda: b"{}\n",
                        "metrics": lambda: b"",
                    },
                    exact_annotation_sizes=exact,
                    started_ns=1,
                )
                yield Mount(
                    self.standin,
                    self.clock,
                    made,
                    tree,
                    catalog,
                    blob_cache,
                    request_stats,
                    nursery,
                )
                nursery.cancel_scope.cancel()

            tree.close_all()  # an open that was about to return does so in spite of being cancelled
        finally:
            catalog.close()
            blob_cache.close()

    @asynccontextmanager
    async def _doors(
        self,
        doors: tuple[Api, Storage] | None,
        key: str | None,
        request_stats: RequestStats,
        timeout: float,
        retries: int,
    ) -> AsyncIterator[tuple[Api, Storage]]:
        if doors is not None:
            yield doors
            return

        api = Api(
            self.standin.api_url,
            ApiKey(key or self.standin.keys["viewer"]),
            clock=self.clock,
            request_stats=request_stats,
            timeout=timeout,
            max_retries=retries,
        )
        storage = Storage(
            clock=self.clock,
            request_stats=request_stats,
            connect_timeout=timeout,
            inactivity_timeout=timeout,
        )
        async with api, storage:
            yield api, storage

    def fault(
        self, do: Any, host: str | None = None, path: str | None = None, **more: Any
    ) -> Fault:
        """Put a fault in force."""
        return self.standin.faults.add(Fault(Match(host, None, path), do, **more))


def annotation_bytes(standin: StandIn, image: Image) -> bytes:
    """The annotation file that the vendor's SDK writes for an image."""
    body = annotation_file(image, standin.organization, standin.api_url + PREFIX)
    return json.dumps(body, indent=2).encode()


def image_bytes(image: Image) -> bytes:
    body = image.body()
    return body.read(0, body.size)


def expected(standin: StandIn) -> dict[str, bytes | None]:
    """Path -> content of everything there is, for an organization of plain names without
    clashes."""
    found: dict[str, bytes | None] = {}

    for dataset in standin.organization.datasets.values():
        if dataset.is_archived:
            continue
        top = f"/datasets/{dataset.name}"
        row = dataset_row(dataset, standin.organization)
        found |= {top: None, f"{top}/images": None, f"{top}/annotations": None}
        found[f"{top}/dataset.json"] = json.dumps(row, indent=2).encode() + b"\n"
        if row.get("readme"):
            found[f"{top}/README.md"] = row["readme"].encode()
        for each in dataset.directories.values():
            found |= {f"{top}/images{each.path}": None, f"{top}/annotations{each.path}": None}
        for image in dataset.images.values():
            if not image.is_archived:
                place = f"{image.directory_path.rstrip('/')}/{image.filename}"
                found[f"{top}/images{place}"] = image_bytes(image)
                found[f"{top}/annotations{place}.json"] = annotation_bytes(standin, image)

    return found


def listed(found: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """What of it comes from a dataset's own listing: dataset.json comes from the list of
    datasets."""
    own = ("/dataset.json", "/README.md")
    return {path: data for path, data in found.items() if not path.endswith(own)}


def descriptors(rig: Rig) -> int:
    """How many files of the cache are open. (The stand-in's sockets are this process's too.)

    Without the ledger and the folders of the blob cache: a thread that counts holds them for moments.
    """
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            path = Path(os.readlink(f"/proc/self/fd/{number}"))
            found += path.is_relative_to(rig.cache) and path.parent != rig.cache / "blobs"
    return found


def blobs(rig: Rig) -> Iterator[Path]:
    """The files of the blob cache, temp files among them."""
    return (path for path in (rig.cache / "blobs").glob("??/*"))


async def error_of(work: Callable[[], Any]) -> PictofsError | None:
    """The named failure of `work`; None where it succeeds."""
    try:
        await work()
    except PictofsError as error:
        return error
    return None
