"""A run that fetches the files of a scope: what `warm` and `download` have in common.

It looks at what is there, has exports bring the annotation files of whole datasets, and fetches
the rest one by one. A subclass says where a file goes: into the cache, or into a plain folder.

Files come in lanes, each with workers and a request budget of its own. A lane that waits for its
budget, or an export, does not hold up another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from pictofs.api.stats import background
from pictofs.errors import Conflict, DiskFull, Forbidden, PictofsError, Throttled
from pictofs.library.annotations.export import FEW
from pictofs.library.annotations.export import REQUESTS as EXPORT_REQUESTS
from pictofs.library.bulk.budget import RequestBudget
from pictofs.library.bulk.inventory import Inventory, inventory
from pictofs.library.bulk.scope import Choice, Item, Scope
from pictofs.library.connectivity import UNAVAILABLE
from pictofs.library.library import Library
from pictofs.model.records import FileKind

UNAVAILABLE_MAX = 20
"""Files in a row after which the server counts as gone or closed.

It did not answer for them, or refused them.
"""
FAILURES_MAX = 1000
"""Failures that are told one by one."""
STEADFAST = 4
"""One in so many workers goes on while readers wait for the server.

A training must not stop the rest for good.
"""
GIVE_WAY_S = 0.01
"""Seconds between two looks at whether readers still wait."""
REPORT_EVERY_S = 0.25
"""Seconds between two progress objects: so soon a client that has left is noticed, too."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """Which files are to be fetched, and how."""

    choice: Choice = field(default_factory=Choice)
    workers: int = 16
    bulk: bool = False
    """Whether annotations may come by exports that are made for them."""
    wait: bool = True
    """Whether to wait when the request budget is spent, and not end."""


@dataclass(eq=False)
class Lane:
    """Workers that fetch files of some kinds, one kind after the other, under one budget."""

    kinds: tuple[FileKind, ...]
    workers: int
    budget: RequestBudget
    unavailable: int = 0
    """Files in a row that the server did not answer for, or refused."""
    is_exporting: bool = False
    is_spent: bool = False
    """Whether no more is asked for: the budget is spent, and that is not waited for."""
    begun: trio.Event = field(default_factory=trio.Event)
    """Set once a file has come, or could not be had."""


class Job(ABC):
    """One run. Its work is a task of its own; the rest may be asked meanwhile."""

    def __init__(
        self,
        library: Library,
        request: JobRequest,
        purpose: str,
        lanes: Mapping[tuple[FileKind, ...], int],
    ) -> None:
        """`purpose`: what its requests are counted under. `lanes`: kinds, and how many workers."""
        self._library = library
        self._request = request
        self._purpose = purpose
        self._scope = Scope(library.catalog, request.choice)
        self._lanes = [
            Lane(
                kinds,
                workers,
                RequestBudget(library.request_stats, library.clock, wait=request.wait),
            )
            for kinds, workers in lanes.items()
        ]
        self._active = self._lanes[:1]
        """The lanes that ask for something now; listings belong to the first one."""
        self._cancel = trio.CancelScope()

        self._state = "listing"
        self._before = library.request_stats.spent(purpose)
        self._inventory = Inventory()
        self._found = 0
        """Files that were there, and right, at the first look."""
        self.failed = 0
        """Files and folders that could not be had."""
        self._failures: list[dict[str, str]] = []
        self._notice: str | None = None

        self.finished = trio.Event()
        self.error: Exception | None = None
        """What ended the run early."""

    # What a file is to the run.

    @abstractmethod
    def _is_there(self, item: Item) -> bool:
        """Whether a file is there and right. Inline."""

    @abstractmethod
    async def _fetch(self, item: Item) -> None:
        """Fetch a file. Raises what keeps it from coming."""

    @abstractmethod
    def _named(self, item: Item) -> dict[str, str]:
        """What tells of which file a failure is: `path` at least, JSON-ready."""

    # What can be asked.

    @property
    def missing(self) -> int:
        """Files that are not there."""
        return self._inventory.missing

    def progress(self) -> dict[str, Any]:
        """How far it is, JSON-ready."""
        images = self._inventory.counts["images"]

        # It waits only if every lane that asks for something does.
        budgets = [lane.budget for lane in self._active]
        rests = [(end, each.reason) for each in budgets if (end := each.until) is not None]
        until = None
        reason = None
        if rests and len(rests) == len(budgets):
            until, reason = min(rests, key=lambda rest: rest[0])

        state = self._state
        if until:
            state = "waiting"
        elif self._active and all(lane.is_exporting for lane in self._active):
            state = "exporting"

        return {
            "state": "done" if self.finished.is_set() else state,
            "files": self._inventory.files,
            "files_done": self._inventory.files - self.missing,
            "bytes": images.bytes,
            "bytes_done": images.bytes_present,
            "failed": self.failed,
            "requests": self._library.request_stats.spent(self._purpose) - self._before,
            "until": until,
            "reason": reason,
            "notice": self._notice,
        }

    def result(self) -> dict[str, Any]:
        """How it ended, JSON-ready."""
        return {
            **self.progress(),
            "fetched": max(0, self._inventory.files - self.missing - self._found),
            "found": self._found,
            "missing": self.missing,
            "failures": self._failures,
        }

    async def next_report(self) -> None:
        """Wait until there may be progress to tell, or the run has ended."""
        with trio.move_on_after(REPORT_EVERY_S):
            await self.finished.wait()

    def cancel(self) -> None:
        """End the run where it is; what has landed stays."""
        self._cancel.cancel()

    # What it does.

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Keep what goes wrong for the one who asks: nothing of it may end the mount."""
        try:
            with self._cancel, background(self._purpose):
                yield
        except PictofsError as error:
            self.error = self.error or _cause(error)
        except Exception as error:
            self.error = error
        finally:
            self.finished.set()

    async def _list(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._lanes[0].budget.listing(work)

    async def _look(self) -> None:
        """Count what is there, and find out which exports are, if one could save requests."""
        await self._count()
        self._found = self._inventory.files - self.missing
        if all(unfetched.steady <= FEW for unfetched in self._inventory.unfetched.values()):
            return

        # A look at what is there waits for no budget.
        with suppress(Throttled):
            await self._library.exports.look()
        if any(self._library.exports.found(dataset) for dataset in self._inventory.unfetched):
            await self._count()

    async def _count(self) -> None:
        self._state = "looking"
        self._inventory = await self._counted()

    async def _counted(self) -> Inventory:
        return await inventory(self._library, self._scope, self._is_there)

    async def _fetch_missing(self) -> None:
        self._state = "fetching"
        self._active = []

        async with trio.open_nursery() as nursery:
            for lane in self._lanes:
                self._active.append(lane)
                nursery.start_soon(self._serve, lane)
                # The one request for the URLs of many images comes before those of the next lane.
                await lane.begun.wait()

    async def _serve(self, lane: Lane) -> None:
        if "annotations" in lane.kinds:
            lane.is_exporting = True
            try:
                await self._export(lane)
            except PictofsError as error:
                self._end(lane, error)
            lane.is_exporting = False

        missing = self._inventory.missing_rows
        items = ((kind, row_id) for kind in lane.kinds for row_id in missing[kind])
        count = sum(len(missing[kind]) for kind in lane.kinds)
        async with trio.open_nursery() as nursery:
            for number in range(min(lane.workers, count)):
                nursery.start_soon(self._work, lane, number, items)

        self._active.remove(lane)
        lane.begun.set()

    async def _export(self, lane: Lane) -> None:
        """Have archives bring the annotation files of datasets, as far as that saves requests.

        Raises DiskFull, and Throttled if the budget is not waited for.
        """
        exports = self._library.exports
        unfetched = self._inventory.unfetched
        served = [dataset for dataset, each in unfetched.items() if each.is_served]
        for dataset in served:
            work = partial(exports.take, dataset)
            await self._archive(lane, work, "an export that is there does not serve")

        if not self._request.bulk:
            return
        if served:
            unfetched = (await self._counted()).unfetched
        for dataset, each in unfetched.items():
            if each.files > EXPORT_REQUESTS:
                work = partial(exports.fetch, dataset, self._request.choice.status)
                await self._archive(lane, work, "their export failed")

    async def _archive(self, lane: Lane, work: Callable[[], Awaitable[None]], failure: str) -> None:
        try:
            await lane.budget.run(work)
        except (Throttled, DiskFull):
            raise
        except PictofsError as error:
            self._notice = self._notice or f"annotations come one by one, {failure}: {error}"

    async def _work(self, lane: Lane, number: int, items: Iterator[tuple[FileKind, int]]) -> None:
        for kind, row_id in items:
            if lane.is_spent:
                return

            # A file that comes from the cache waits for nothing.
            await trio.lowlevel.checkpoint()
            while number % STEADFAST and self._library.read_stats.waiting:
                await self._library.clock.sleep(GIVE_WAY_S)

            try:
                await lane.budget.run(partial(self._bring, kind, row_id))
            except PictofsError as error:
                self._fail(lane, kind, row_id, error)
            else:
                lane.budget.progressed()
                lane.unavailable = 0

            lane.begun.set()

    async def _bring(self, kind: FileKind, row_id: int) -> None:
        # As it is now: it may have waited for long.
        image = self._library.catalog.image(row_id)
        if image is None:
            # The dataset was listed anew, and the last look will not count it.
            return

        item = Item(kind, image)
        await self._fetch(item)
        self._inventory.counts[kind].landed(item.size or 0)

    def _fail(self, lane: Lane, kind: FileKind, row_id: int, error: PictofsError) -> None:
        if isinstance(error, (*UNAVAILABLE, Conflict, Forbidden)):
            lane.unavailable += 1
        else:
            lane.unavailable = 0

        if isinstance(error, (DiskFull, Throttled)) or lane.unavailable >= UNAVAILABLE_MAX:
            # It concerns every other file, too.
            self._end(lane, error)
            return

        image = self._library.catalog.image(row_id)
        if image is not None:
            self._note_failure(error, self._named(Item(kind, image)))

    def _end(self, lane: Lane, error: PictofsError) -> None:
        self.error = self.error or _cause(error)
        if isinstance(error, Throttled):
            # What is under way is paid for, and another lane may cost nothing.
            lane.is_spent = True
        else:
            self._cancel.cancel()

    def _note_failure(self, error: PictofsError, named: dict[str, str]) -> None:
        self.failed += 1
        if len(self._failures) < FAILURES_MAX:
            self._failures.append({**named, "error": str(error)})


def _cause(error: PictofsError) -> PictofsError:
    """What ended a run: a server that gives no signed URLs, and not that these are waited for."""
    cause = error.__cause__
    return cause if isinstance(error, Throttled) and isinstance(cause, PictofsError) else error
