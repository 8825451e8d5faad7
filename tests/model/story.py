"""The world of one story: its mounts, what every path has held, and what must hold at every
moment."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyfuse3
import trio
from kernel import File, Folder, Kernel, kernels
from rig import Mount, Rig, annotation_bytes, expected, image_bytes

from pictofs.api.client import Api
from pictofs.api.storage import Storage
from pictofs.model.records import document
from standin import Fault
from standin.dataset import Dataset
from standin.records import Image
from standin.wire import dataset_row

TTL = 100.0
ANNOTATION_TTL: float | None = None
"""Seconds after which an annotation edit shows that no listing tells of; None where only a refresh
shows it."""
ROOMY = 1 << 30
"""Bytes of the cache, where all fits into it."""
STEP_TIME = 60.0
"""Seconds after which a step counts as one that never ends: none waits for more than a few timeouts
of 2 s."""
STEP_REQUESTS, FILE_REQUESTS = 80, 8
"""Requests of both hosts that a step may cost, and for each file more where it looks at all of
them: a listing, a batch, and each of them tried twice by two ways while something is wrong."""
STEP_BYTES, TIMES = 8 << 20, 4
"""Bytes from storage that a step may cost, and how often it may fetch everything there is."""
SPENT_REQUESTS, PROBE_EVERY = 12, 15.0
"""Requests of a mount to an API that has said for how long it takes none, and one more each so many
seconds."""

Tree = dict[str, "bytes | None"]


@dataclass(eq=False)
class Side:
    """One of the mounts that share a cache."""

    mount: Mount
    kernel: Kernel
    changed: bool = False
    """Whether someone changed something that the mount need not know yet."""
    edited: bool = False
    """Whether an annotation file was changed in a way that only a refresh shows."""


@dataclass(eq=False)
class Held:
    """A file that is open since some time ago, and the half of it that was read then."""

    side: Side
    path: str
    file: File
    size: int
    half: bytes


@dataclass(eq=False)
class Walk:
    """A folder that is read a few entries at a time."""

    side: Side
    folder: Folder
    expected: set[str] | None
    """The names that must come; None where something has changed since it was opened."""


class World:
    """What there is, what there was, and what every step must leave true."""

    def __init__(self, rig: Rig, doors: tuple[Api, Storage], mounts: int) -> None:
        self.rig, self.doors = rig, doors
        self.org = rig.standin.organization
        self.called: defaultdict[str, set[str]] = defaultdict(set)
        """Filename -> ids of the images that were ever called so, in whatever folder."""
        self.had: defaultdict[tuple[str, str], set[bytes]] = defaultdict(set)
        """`images` or `annotations`, and id -> every content that it has had."""
        self.replaced: set[str] = set()
        """Ids of images that got other bytes: a mount may show the old ones for ever."""
        self.documents: set[bytes] = set()
        """Every content that a dataset.json has had."""
        self.paths: dict[str, None] = {}
        """Every path of a file that there ever was."""
        self.now: Tree = {}
        self.known: dict[str, bytes] = {}
        """What was read, and is the same still."""
        self.offline = False
        self.held: list[Held] = []
        self.walks: list[Walk] = []
        self.mild: list[Fault] = []
        """Faults that no reader may notice."""
        self.wrong: list[Fault] = []
        """Faults that send wrong bytes, which a checksum alone may show."""
        self.silent_at: int | None = None
        """How long the log was when every connection went silent, of which the mounts may not know
        yet."""
        self.spent: tuple[int, float] | None = None
        """Since what length of the log, and what time, the API takes no requests, as it has
        said."""
        self.was_spent = False
        self.cache_size = ROOMY
        self.serial = 0
        self.errors = 0
        self._mounts = mounts
        self._flags = [(False, False)] * mounts
        self._current = 0
        self.sides: list[Side] = []

    # The stage.

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        options: dict[str, Any] = {
            "ttl": TTL,
            "max_retries": 1,
            "doors": self.doors,
            "writable": True,
        }
        if ANNOTATION_TTL is not None:
            options["annotation_ttl"] = ANNOTATION_TTL
        with kernels():
            async with AsyncExitStack() as stack:
                for changed, edited in self._flags:
                    made = self.rig.mount(cache_size=self.cache_size, **options)
                    mount = await stack.enter_async_context(made)
                    self.sides.append(Side(mount, Kernel(mount), changed, edited))

                yield
                for held in self.held:
                    await held.side.kernel.close(held.file)
                for walk in self.walks:
                    await walk.side.kernel.close_folder(walk.folder)
                self.held.clear()
                self.walks.clear()
                self._flags = [(side.changed, side.edited) for side in self.sides]

            self.sides.clear()

    @property
    def side(self) -> Side:
        return self.sides[self._current]

    @property
    def mount(self) -> Mount:
        return self.side.mount

    @property
    def kernel(self) -> Kernel:
        return self.side.kernel

    def switch(self, number: int) -> None:
        """The other mount is used from now on."""
        self._current = (self._current + 1) % len(self.sides)

    @property
    def faults(self) -> bool:
        """Whether there are faults that a reader may notice."""
        return len(self.rig.standin.faults) > len(self.mild)

    @property
    def disturbed(self) -> bool:
        refused = self.doors[0]._request_stats.is_refusing(self.rig.clock.wall())
        return (
            self.offline
            or self.faults
            or refused
            or self.mount.library.connectivity.error is not None
        )

    def choose(self, of: list[Any], number: int) -> Any:
        return of[number % len(of)] if of else None

    def files(self) -> list[str]:
        return [path for path, data in self.now.items() if data is not None]

    def folders(self) -> list[str]:
        return ["/datasets", *(path for path, data in self.now.items() if data is None)]

    def below(self, path: str) -> set[str]:
        """The names of the entries of a folder."""
        prefix = path.rstrip("/") + "/"
        names = {each[len(prefix) :] for each in self.now if each.startswith(prefix)}
        return {name for name in names if "/" not in name}

    def dataset(self, number: int) -> Dataset | None:
        found: Dataset | None = self.choose(list(self.org.datasets.values()), number)
        return found

    def image(self, number: int) -> Image | None:
        found: Image | None = self.choose(list(self.org.images.values()), number)
        return found

    def fresh(self, kind: str) -> str:
        self.serial += 1
        return f"{kind}{self.serial}"

    def place(self, dataset: Dataset, number: int) -> str:
        path: str = self.choose(["/", *dataset.directories, f"/{self.fresh('dir')}"], number)
        return path

    def happened(self, *, shows: bool = True) -> None:
        """The organization has changed."""
        self.now = expected(self.rig.standin)

        for path, data in self.now.items():
            if data is not None:
                self.paths[path] = None

        for dataset in self.org.datasets.values():
            self.documents.add(document(dataset_row(dataset, self.org)))
        for image in self.org.images.values():
            self.called[image.filename].add(image.id)
            self.had["images", image.id].add(image_bytes(image))
            self.had["annotations", image.id].add(annotation_bytes(self.rig.standin, image))

        self.known = {path: data for path, data in self.known.items() if self.now.get(path) == data}
        for walk in self.walks:
            walk.expected = None
        for side in self.sides:
            side.changed |= shows
            side.edited = True

    # What must hold.

    async def tried(self, path: str, work: Callable[[], Any]) -> Any:
        """The result of `work`; None where it fails as it may."""
        unknown = self.side.changed

        try:
            return await work()
        except pyfuse3.FUSEError as failure:
            self.errors += 1
            name = errno.errorcode[failure.errno]

            if failure.errno in (errno.ENOENT, errno.ESTALE):
                assert unknown or self.disturbed or path not in self.now, (
                    f"{path} is not shown: {name}"
                )
            elif not self.disturbed:
                raise AssertionError(f"{path} fails while nothing is wrong: {name}") from failure

        return None

    def ids(self, path: str) -> set[str]:
        """The images that were ever called as the file at `path` is, or is named after."""
        _, _, _, view, *_, name = path.split("/")
        return self.called[name if view == "images" else name.removesuffix(".json")]

    def may_be(self, path: str, data: bytes) -> bool:
        """Whether a file of that name has ever had this content: folders, and names, may be old
        ones."""
        if path.count("/") == 3:
            return data in self.documents
        view = path.split("/")[3]
        return any(data in self.had[view, each] for each in self.ids(path))

    def is_replaced(self, path: str) -> bool:
        """Whether an image there has got other bytes under its id."""
        return path.count("/") > 3 and not self.replaced.isdisjoint(self.ids(path))

    def check(self, path: str, data: bytes) -> None:
        """A reader got this."""
        assert self.may_be(path, data), f"{path} never held {data[:40]!r} ({len(data)} bytes)"
        surely = not self.side.changed and not self.disturbed and not self.is_replaced(path)
        if surely and not (path.endswith(".json") and self.side.edited):
            assert data == self.now[path], path
        self.note(path, data)

    def note(self, path: str, data: bytes) -> None:
        """A path was read, and must be readable from now on: from the cache, where that takes
        it."""
        if self.now.get(path) == data and len(data) <= self.cache_size:
            self.known[path] = data

    def check_whole(self, shown: Tree) -> None:
        """A mount that knows everything shows this."""
        there = self.now
        wrong = [path for path in shown.keys() & there.keys() if shown[path] != there[path]]
        wrong = [
            path
            for path in wrong
            if not (self.is_replaced(path) and self.may_be(path, shown[path] or b""))
        ]
        missing, more = there.keys() - shown.keys(), shown.keys() - there.keys()

        assert (wrong, missing, more) == ([], set(), set()), (
            f"missing {missing}, too many {more}, wrong {wrong}"
        )

    async def check_open(self) -> None:
        """What is shown of an open file is what is open; nothing has met a bug."""
        for held in self.held:
            attributes = await held.side.mount.tree.attributes(held.file.inode)
            assert attributes.size == held.size, f"{held.path} is open and shows another size"
            shown = held.side.kernel.shown(held.file)
            assert shown in (None, held.size), f"{held.path} is open and is known by another size"
        assert not any(side.kernel.operations.bugs for side in self.sides), "a bug was met"

    def check_spent(self) -> None:
        """An API that has said for how long it takes no requests is not asked all the time."""
        if self.spent is not None:
            before, since = self.spent
            made = [each for each in self.rig.standin.log.requests()[before:] if each.host == "api"]
            most = SPENT_REQUESTS + (self.rig.clock.monotonic() - since) / PROBE_EVERY
            assert len(made) <= most * len(self.sides), (
                f"requests though there is a long wait: {len(made)}"
            )

    async def bounded(self, name: str, work: Callable[[], Any], *, whole: bool) -> None:
        """Do a step, which must end, for no more requests and bytes than its bound. `whole`: it
        looks at all files."""
        log = self.rig.standin.log
        before = len(log.requests())
        everything = sum(image.size for image in self.org.images.values())

        def excess() -> str | None:
            made = log.requests()[before:]
            requests = STEP_REQUESTS + FILE_REQUESTS * len(self.files()) * whole
            size = sum(each.bytes for each in made if each.host == "storage")

            if len(made) > requests or size > STEP_BYTES + TIMES * everything:
                return (
                    f"{name}: work without a bound: {len(made)} requests, {size} bytes from storage"
                )

            return None

        found: str | None = None

        async def watch() -> None:
            nonlocal found
            while (found := excess()) is None:  # noqa: ASYNC110 - the log is another thread's
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(STEP_TIME) as timer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                result = work()
                if result is not None:
                    await result
                nursery.cancel_scope.cancel()

        assert found is None, found
        assert not timer.cancelled_caught, f"{name}: the step does not end"

        found = excess()

        assert found is None, found

    async def close_walk(self, walk: Walk) -> None:
        self.walks.remove(walk)
        with suppress(pyfuse3.FUSEError):
            await walk.side.kernel.close_folder(walk.folder)
