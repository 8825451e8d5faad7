"""The process that fetches ahead: what it brings is right whatever happens to it, to storage, or to
the disk."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from rig import Mount, Rig, blobs, descriptors, expected

import pictofs
from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.config import FreeSpace
from pictofs.errors import DiskFull, PictofsError
from pictofs.library.bulk.warm import WarmJob, WarmRequest
from pictofs.library.content.worker import NotTaken, Setup
from standin import Spec, StandIn
from standin.faults import Corrupt, Fault, Hang, Match, Reset, Truncate, error, html, throttled
from standin.spec import DatasetSpec

FILES = 40
IMAGES = (("datasets", "small", "images"),)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Forty images, in three directories of `small`."""
    with StandIn(Spec((DatasetSpec("small", images=FILES, size=5000, directories=3),))) as running:
        yield running


def children() -> set[int]:
    """The processes that this one has started."""
    return {int(each) for each in Path("/proc/thread-self/children").read_text().split()}


def setup(rig: Rig, cache_size: int = 1 << 30) -> Setup:
    return Setup(
        root=str(rig.cache / "blobs"),
        limit=cache_size,
        reserve=FreeSpace(),
        timeout=5.0,
        allow_plain_http=False,
    )


@asynccontextmanager
async def working(rig: Rig, *, cache_size: int = 1 << 30, **settings: Any) -> AsyncIterator[Mount]:
    """A mount whose worker takes jobs, and that can't download by itself."""
    request_stats = RequestStats()
    api = Api(
        rig.standin.api_url,
        ApiKey(rig.standin.keys["viewer"]),
        clock=rig.clock,
        request_stats=request_stats,
    )
    storage = Storage(clock=rig.clock, request_stats=request_stats)
    storage._dialer = None  # type: ignore[assignment]

    async with (
        api,
        storage,
        rig.mount(
            worker=setup(rig, cache_size), cache_size=cache_size, doors=(api, storage), **settings
        ) as m,
    ):
        assert m.library.worker is not None
        await begin(m)
        yield m


async def begin(mount: Mount) -> None:
    """Have the worker start, and wait until it takes jobs."""
    worker = mount.library.worker
    assert worker is not None
    with suppress(
        NotTaken, PictofsError
    ):  # it may run again by itself, and then nobody listens there
        await worker.fetch("key", "http://127.0.0.1/", 1)
    with trio.fail_after(60):
        while not worker.ready:  # noqa: ASYNC110 - only looking tells
            await trio.sleep(0.01)


async def warm(mount: Mount) -> WarmJob:
    run = WarmJob(mount.library, WarmRequest(IMAGES))
    await run.fetch()
    return run


async def all_landed(mount: Mount, rig: Rig) -> None:
    """Every image is there, is right, and was fetched once at the least."""
    run = await warm(mount)
    result = run.result()

    assert (run.error, result["missing"], result["failures"]) == (None, 0, [])

    before = len(rig.standin.log.requests("storage"))
    found = await mount.walk("/datasets/small/images")

    assert found == {
        path: data
        for path, data in expected(rig.standin).items()
        if path.startswith("/datasets/small/images/")
    }
    assert len(rig.standin.log.requests("storage")) == before


async def test_it_fetches_what_is_fetched_ahead_and_counts_it(rig: Rig) -> None:
    async with working(rig) as mount:
        await all_landed(mount, rig)
        counted = mount.request_stats.requests["storage", "GET", "warm"]
        assert counted == len(rig.standin.log.requests("storage")) == FILES
        assert mount.request_stats.answers["storage", "GET", "warm", "200"] == FILES
        assert mount.request_stats.bytes_in["storage"] == FILES * 5000
        assert mount.request_stats.answers["storage", "GET", "warm", "200"] == FILES
        assert not rig.standin.log.key_leaks
    assert descriptors(rig) == 0


async def test_c6_what_it_made_is_believed_without_another_look(rig: Rig) -> None:
    """This process takes the worker's word for a file as it was then, and for no other."""
    async with working(rig) as mount:
        await warm(mount)
        files = list(blobs(rig))
        assert all(mount.blob_cache._verified.knows(path.stat()) is not None for path in files)
        files[0].write_bytes(b"damaged")
        assert mount.blob_cache._verified.knows(files[0].stat()) is None


@pytest.mark.parametrize(
    "do",
    [Corrupt(), Truncate(1000), Reset(1000), error(503), throttled(1), html(), error(403)],
    ids=["corrupt", "truncate", "reset", "503", "429", "html", "403"],
)
async def test_b3_faults_now_and_then_are_not_noticed(rig: Rig, do: Any) -> None:
    rig.standin.faults.add(Fault(Match("storage"), do, times=2))
    async with working(rig) as mount:
        await all_landed(mount, rig)


async def test_urls_that_are_refused_make_it_ask_for_others(rig: Rig) -> None:
    async with working(rig) as mount:
        # As many as are under way at once: no answer that is taken comes between, whatever their
        # order.
        rig.standin.faults.add(Fault(Match("storage"), error(403), times=16))
        mount.forget_log()
        await all_landed(mount, rig)
        assert mount.asked.count("GET /datasets/{dataset}/download") == 2


async def test_b3_a_doubtful_length_is_left_to_the_mount(rig: Rig) -> None:
    """No checksum, and another length than the listing's: only the mount can ask the API which one
    is right."""
    rig.standin.organization.switches.hash_header = False
    for image in rig.standin.organization["small"].images.values():
        image.file_size = 4999
    async with rig.mount(worker=setup(rig)) as mount:
        await begin(mount)
        await all_landed(mount, rig)
        assert len(rig.standin.log.requests("storage")) >= 2 * FILES  # two answers that agree


async def test_c5_a_disk_that_takes_no_more_ends_the_run_and_no_reader(rig: Rig) -> None:
    async with working(rig) as mount:
        content = rig.cache / "blobs"
        for shard in range(256):
            (content / f"{shard:02x}").mkdir(exist_ok=True)
            (content / f"{shard:02x}").rmdir()
            (content / f"{shard:02x}").write_text("in the way")
        run = await warm(mount)
        assert isinstance(run.error, DiskFull)


async def test_a_worker_that_is_killed_costs_nothing_but_time(rig: Rig) -> None:
    before = children()
    rig.standin.faults.add(Fault(Match("storage"), Hang(), times=3))

    async with rig.mount(worker=setup(rig)) as mount:
        await begin(mount)
        (worker,) = children() - before

        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_landed, mount, rig)
            with trio.fail_after(60):
                while len(rig.standin.log.requests("storage")) < 3:  # noqa: ASYNC110 - only looking tells
                    await trio.sleep(0.01)
            os.kill(worker, signal.SIGKILL)

        await begin(mount)

        assert children() - before not in (set(), {worker})

    assert children() == before


async def worker_of(before: set[int]) -> int:
    """The process that was started since."""
    (worker,) = children() - before
    return worker


async def test_t5_a_worker_that_stands_still_holds_nobody_up(rig: Rig) -> None:
    """Stopped in the middle of its downloads, with locks on their files: it is killed, and the
    mount fetches."""
    before = children()
    rig.standin.faults.add(Fault(Match("storage"), Hang(), times=3))

    async with rig.mount(worker=setup(rig)) as mount:
        await begin(mount)
        worker = await worker_of(before)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_landed, mount, rig)
            with trio.fail_after(60):
                while len(rig.standin.log.requests("storage")) < 3:  # noqa: ASYNC110 - only looking tells
                    await trio.sleep(0.01)
            os.kill(worker, signal.SIGSTOP)

        assert worker not in children()

        await begin(mount)

    assert children() == before


async def test_t5_more_jobs_than_it_takes(rig: Rig) -> None:
    """The socket is full, and everybody waits for it."""
    before = children()

    async with rig.mount(worker=setup(rig)) as mount:
        await begin(mount)
        os.kill(await worker_of(before), signal.SIGSTOP)
        worker, refused = mount.library.worker, []

        assert worker is not None

        async def ask(number: int) -> None:
            with pytest.raises(NotTaken):
                await worker.fetch(f"key-{number}", f"http://127.0.0.1/{'x' * 2000}", 1)
            refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(ask, number)

        assert len(refused) == 1000


WORKER = "pictofs/library/content/worker_process.py"
BROKEN = {
    "of another version": ("pictofs/__init__.py", '__version__ = "', '__version__ = "9.'),
    "that can't be imported": (WORKER, "import msgspec\n", "import msgspec_is_gone\n"),
    "that says nothing": (WORKER, "Hello(__version__)", "[]"),
    "that talks nonsense": (WORKER, "Outcome(number=job.number)", "Outcome(number='x' * 1000)"),
}
"""What an upgrade can put in the place of the program that the mount knows."""


@pytest.mark.parametrize("kind", BROKEN)
async def test_t5_a_worker(
    rig: Rig,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, old, new = BROKEN[kind]
    shutil.copytree(Path(pictofs.__file__).parent, tmp_path / "other/pictofs")
    text = (tmp_path / "other" / file).read_text()

    assert old in text

    (tmp_path / "other" / file).write_text(text.replace(old, new, 1))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))

    async with rig.mount(worker=setup(rig)) as mount:
        worker = mount.library.worker
        assert worker is not None

        for _ in range(2):
            with pytest.raises(NotTaken):
                await worker.fetch("key", "http://127.0.0.1/", 1)
            with trio.fail_after(60):
                while "there is no process" not in caplog.text:
                    await trio.sleep(0.01)
                    if worker.ready:
                        with pytest.raises(NotTaken):
                            await worker.fetch("key", "http://127.0.0.1/", 1)

        await all_landed(mount, rig)

    said = [record for record in caplog.records if record.name == "pictofs.library.content.worker"]

    assert [record.levelname for record in said].count("WARNING") == 1, caplog.text
