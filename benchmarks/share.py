"""What a dataset costs the nodes of a cluster, and what sharing costs one node."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import trio

from benchmarks.reading import FILES, LABELS, LATENCY, SIZE, _epoch, _images
from benchmarks.rig import Row, Server, mount, new_folder, python, server
from pictofs.api.key import ApiKey
from pictofs.app.library import open_library
from pictofs.config import LibrarySettings
from pictofs.config.shared import SharedAddress
from pictofs.library.library import Library
from pictofs.store.catalog.rows import ImageRow
from pictofs.store.shared import connection
from pictofs.store.shared import engine as shared_engine

NODES = int(os.environ.get("NODES", "64"))
IMAGES = 2500
ANNOTATIONS = 500
READERS = 4
"""Files that a node fetches at once."""
RUNS = 5


@contextmanager
def engine() -> Iterator[SharedAddress]:
    """A redis-server of its own, with the options of docs/cluster.md."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while "Ready to accept" not in process.stdout.readline():
            pass
        yield SharedAddress("127.0.0.1", port)
    finally:
        process.kill()
        process.wait()


def info(address: SharedAddress) -> dict[str, str]:
    """What the engine says of itself."""
    command = ["redis-cli", "-p", str(address.port), "info", "everything"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split(":", 1) for line in said.splitlines() if ":" in line)


async def _read(library: Library) -> None:
    """List the dataset, fetch all of its images and some of its annotation files."""
    await library.listing.datasets()
    (dataset,) = library.catalog.datasets_after(0, 10)
    await library.listing.all_images(dataset.key)
    rows: list[ImageRow] = []
    for folder in library.catalog.directory_keys(dataset.key):
        rows += library.catalog.images_after(folder, 0, IMAGES)
    rows.sort(key=lambda row: row.entry)
    assert len(rows) == IMAGES

    works: Iterator[tuple[Any, ImageRow]] = iter(
        [(library.annotations.fetch, row) for row in rows[:ANNOTATIONS]]
        + [(library.downloads.fetch, row) for row in rows]
    )

    async def work() -> None:
        for fetch, row in works:
            await fetch(row)

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(work)


def _be_patient() -> None:
    """Wait for the engine for as long as it takes: here one loop has the work of 64."""
    for name in ("SILENCE_S", "CALL_MAX_S", "PUT_SILENCE_S", "PUT_MAX_S"):
        setattr(shared_engine, name, 60.0)
    connection.CONNECT_S = 60.0


async def _cost(of: Server, number: int, shared: SharedAddress | None) -> Counter[str]:
    """Requests to the API of so many libraries that begin together."""
    spent: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        libraries = []
        for _ in range(number):
            settings = LibrarySettings(
                base_url=of.api, cache_dir=new_folder() / "cache", shared=shared, timeout=120.0
            )
            opened = open_library(settings, ApiKey(of.key))
            library, nursery = await stack.enter_async_context(opened)
            library.start(nursery, readers=False)
            libraries.append(library)

        async with trio.open_nursery() as nursery:
            for library in libraries:
                nursery.start_soon(_read, library)

        for library in libraries:
            for (host, route, _), count in library.request_stats.requests.items():
                if host == "api":
                    spent[route] += count

    return spent


def nodes() -> list[Row]:
    """Requests of one node alone, and of 64 that share."""
    _be_patient()
    arguments = ("--images", str(IMAGES), "--size", "500")
    with server(*arguments) as s, engine() as address:
        alone = trio.run(_cost, s, 1, None)
        together = trio.run(_cost, s, NODES, address)
        said = info(address)

    one = alone.total()
    all_of_them = together.total()
    # Each node asks for the list of datasets by itself: it tells the server's time.
    bound = 1.1 * one + NODES
    cpu = float(said["used_cpu_user"]) + float(said["used_cpu_sys"])
    print({route: (alone[route], count) for route, count in together.items()})
    print(
        f"engine: {cpu:.1f} s of CPU, {said['total_commands_processed']} commands, "
        f"{said['used_memory_peak_human']} at most, "
        f"{int(said['total_net_output_bytes']) / 1e6:.0f} MB out, "
        f"{int(said['total_net_input_bytes']) / 1e6:.0f} MB in"
    )
    return [
        Row(
            f"{NODES} nodes: list, {IMAGES} images, {ANNOTATIONS} annotation files",
            f"{all_of_them} API requests",
            f"one node {one}",
            all_of_them / one,
            f"<= 1.1 x one + {NODES}",
            all_of_them <= bound,
        )
    ]


def one_node() -> list[Row]:
    """A cold epoch, and a first read of all annotation files, with --shared and without."""
    rows = []
    arguments = ("--images", str(FILES), "--size", str(SIZE), "--latency", str(LATENCY))
    with server(*arguments) as s:
        for work, run, most in (
            ("cold shuffled epoch", _images_of, 1.05),
            # Each file costs a turn.
            ("cold annotations", _labels_of, None),
        ):
            alone: list[float] = []
            shared: list[float] = []
            for _ in range(RUNS):
                # In turns, as the machine may be busy; with an engine that holds nothing.
                alone.append(run(s))
                with engine() as address:
                    shared.append(run(s, "--shared", str(address)))

            a, b = statistics.median(shared), statistics.median(alone)
            rows.append(
                Row(
                    f"{work}, {FILES} files, 20 ms, one node",
                    f"{a:.2f} s with --shared",
                    f"{b:.2f} s without",
                    a / b,
                    "" if most is None else f"<= {most}",
                    None if most is None else a / b <= most,
                )
            )

    return rows


def _images_of(s: Server, *options: str) -> float:
    with mount(s, None, *options) as m:
        return _epoch(s, _images(m))


def _labels_of(s: Server, *options: str) -> float:
    with mount(s, None, *options) as m:
        folder = str(m.path / "datasets/dataset-0/annotations")
        return float(python(LABELS, folder, env=s.environment))


def share() -> list[Row]:
    """Both."""
    return nodes() + one_node()
