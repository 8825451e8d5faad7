"""A process that writes the pages of a large listing: the same listing, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from rig import Mount, Rig

from pictofs.errors import InvalidResponse
from pictofs.library.listing import page_writer, passes
from pictofs.library.listing.page_writer import PageJob, PageOutcome, PageWriter
from standin import Spec, StandIn
from standin.faults import Mutate

IMAGES = 4500
FOLDER = "/datasets/dataset-0/images"
LISTING = "GET /datasets/{dataset}"

pytestmark = pytest.mark.usefixtures("small_pages")


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A dataset of five pages, in three folders."""
    with StandIn(Spec.uniform(1, IMAGES, 1000, directories=3, annotations=0)) as running:
        yield running


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[PageOutcome | None]:
    """What the process has answered; it is started for datasets of any size, and waited for."""
    monkeypatch.setattr(passes, "FROM_IMAGES", 1)
    outcomes: list[PageOutcome | None] = []
    write = PageWriter.write

    async def waiting(writer: PageWriter, job: PageJob, body: bytes) -> PageOutcome | None:
        with trio.move_on_after(10):
            while writer._channel is None and not writer._serving.cancel_called:  # noqa: ASYNC110
                await trio.sleep(0.01)

        outcomes.append(await write(writer, job, body))
        return outcomes[-1]

    monkeypatch.setattr(PageWriter, "write", waiting)
    return outcomes


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    started: list[subprocess.Popen[bytes]] = []
    start = page_writer.start

    def noted(*args: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args))
        return started[-1]

    monkeypatch.setattr(page_writer, "start", noted)
    return started


@asynccontextmanager
async def listed(rig: Rig) -> AsyncIterator[Mount]:
    async with rig.mount(timeout=30.0) as mount:
        with trio.fail_after(60):
            found = await mount.walk(FOLDER, read=False)
        assert len([path for path, data in found.items() if data is not None]) == IMAGES
        yield mount


def rows(mount: Mount) -> list[tuple[Any, ...]]:
    """All that the catalog says of images, but for the order in which they came."""
    found = mount.catalog.database.query("SELECT * FROM image ORDER BY key")
    return [row[1:] for row in found]


async def test_q2_the_process_writes_what_the_mount_would_write(
    rig: Rig, tmp_path: Any, written: list[PageOutcome | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listed(rig) as mount:
        assert [outcome and outcome.rows for outcome in written] == [1000, 1000, 1000, 500]
        beside = rows(mount)
        requests = sorted(mount.asked)

    monkeypatch.setattr(passes, "FROM_IMAGES", IMAGES + 1)
    rig.cache = tmp_path / "another"
    written.clear()
    rig.standin.log.clear()

    async def no_process(_writer: PageWriter, _job: PageJob, _body: bytes) -> None:
        return None

    monkeypatch.setattr(PageWriter, "write", no_process)
    async with listed(rig) as mount:
        assert rows(mount) == beside
        assert sorted(mount.asked) == requests


async def test_q2_the_process_ends_with_the_listing(
    rig: Rig, written: list[PageOutcome | None], processes: list[subprocess.Popen[bytes]]
) -> None:
    async with listed(rig) as mount:
        await mount.quiet()
        (process,) = processes
        assert process.returncode == 0

        # A renewal is written here: entries were promised, and which of them are gone is told once.
        await mount.library.refresh(None)
        await mount.list(f"{FOLDER}/part-000")
        assert len(processes) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_t2_a_process_that_dies_costs_time_alone(
    rig: Rig,
    written: list[PageOutcome | None],
    processes: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    write = PageWriter.write

    async def killing(writer: PageWriter, job: PageJob, body: bytes) -> PageOutcome | None:
        outcome = await write(writer, job, body)
        processes[0].send_signal(number)
        return outcome

    monkeypatch.setattr(PageWriter, "write", killing)
    async with listed(rig):
        assert None in written


async def test_t2_a_process_that_stands_still_costs_time_alone(
    rig: Rig,
    written: list[PageOutcome | None],
    processes: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = PageWriter.write

    async def stopping(writer: PageWriter, job: PageJob, body: bytes) -> PageOutcome | None:
        if processes and processes[0].returncode is None:
            monkeypatch.setattr(page_writer, "PAGE_SECONDS", 0.3)
            os.kill(processes[0].pid, signal.SIGSTOP)
        return await write(writer, job, body)

    monkeypatch.setattr(PageWriter, "write", stopping)
    async with listed(rig) as mount:
        assert None in written
        await mount.quiet()
        assert processes[0].returncode == -signal.SIGKILL


async def test_t2_a_process_that_can_t_be_started_costs_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "FROM_IMAGES", 1)

    def none_left(*_: Any) -> None:
        raise page_writer.CannotStart("no process is left")

    monkeypatch.setattr(page_writer, "start", none_left)
    async with listed(rig):
        pass


async def test_q2_a_server_that_ignores_the_offset_is_found_out(
    rig: Rig, written: list[PageOutcome | None]
) -> None:
    rig.standin.switches.embedded_listing = "first_page"
    async with listed(rig) as mount:
        assert None in written
        assert "GET /images/" in mount.asked


async def test_n1_what_the_process_refuses_the_mount_looks_at(
    rig: Rig, written: list[PageOutcome | None]
) -> None:
    answers = 0

    def nameless(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal answers
        answers += 1
        if answers > 1:
            body["data"]["name"] = None
        return body

    rig.fault(Mutate(nameless), "api", LISTING[4:])
    async with rig.mount(timeout=30.0, max_retries=0) as mount:
        with pytest.raises(InvalidResponse, match="a dataset without id or name"):
            await mount.walk(FOLDER, read=False)
        assert set(written) == {None}
