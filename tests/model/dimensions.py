"""What can be hostile beyond broken answers: each dimension is a few steps, which a story has when
it is enabled."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyfuse3
import trio
from story import Walk, World

from pictofs.library.bulk.download import DownloadJob, DownloadRequest
from pictofs.library.bulk.scope import KINDS
from pictofs.store.folder import Folder
from standin import StandIn
from standin.faults import Corrupt, Fault, Silent, Unsized, error, expired_url, throttled
from standin.routing import PREFIX
from standin.switches import Switches

LARGE = 8 << 20
"""Bytes above which a file is streamed, and not awaited in `open`."""
_BYTES = random.Random(9).randbytes(13 << 20)
HUGE = msgspec.Raw(b"1" + b"0" * 400)
LONG = msgspec.Raw(b"1" * 5000)
DEEP = msgspec.Raw(b"[" * 2000 + b"]" * 2000)
ABSURD: list[dict[str, Any]] = [
    {"min_confidence": HUGE},
    {"min_confidence": msgspec.Raw(b"1e400")},
    {"file_size": LONG},
    {"file_size": HUGE},
    {"file_size": -5},
    {"file_size": 1 << 53},
    {"file_size": (1 << 63) - 1},
    {"file_size": msgspec.Raw(b"1.5e300")},
    {"annotation_count": LONG},
    {"annotation_count": -(1 << 62)},
    {"annotation_count": 1 << 53},
    {"width": HUGE, "height": LONG},
    {"tags": DEEP},
    {"more": DEEP},
    {"created_at": LONG},
    {"created_at": "9999-12-31T23:59:59.999999Z"},
    {"content_type": DEEP},
]
"""Fields of rows that make no sense; the file is there all the same (L4)."""


@dataclass(frozen=True)
class Dimension:
    """Steps of a user, of others, and of what goes wrong; more often where they are there more
    often."""

    user: tuple[str, ...] = ()
    world: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()


DIMENSIONS: dict[str, Dimension] = {
    # Listed sizes that are wrong both ways, or become wrong.
    "sizes": Dimension(world=("upload_many", "upload_many", "list_another_size")),
    # The same above 8 MiB, where files stream.
    "large": Dimension(world=("upload_large",)),
    # A folder is read a few entries at a time, with anything in between.
    "small buffers": Dimension(user=("walk_on",) * 5 + ("read_near",) * 4),
    # Several readers at once.
    "crowd": Dimension(user=("crowd",)),
    # Answers that name no length, chunked or up to the connection's end.
    "no length": Dimension(world=("upload_large",), trouble=("no_lengths",)),
    # Storage without ETag, an image that gets other bytes, and files that the cache can't take.
    "no etag": Dimension(
        user=("hold",) * 2, world=("replace", "upload_large"), trouble=("no_etags",)
    ),
    "past the cache": Dimension(user=("remount_small", "hold"), world=("upload_large",)),
    # Connections go silent, and new ones work.
    "silence": Dimension(trouble=("go_silent",)),
    # Rows with absurd numbers.
    "absurd": Dimension(world=("absurd",)),
    # A second mount of the same cache.
    "second mount": Dimension(user=("switch",) * 3),
    # `pictofs download` beside a mount.
    "download": Dimension(user=("download",)),
    # An export that exists already.
    "export": Dimension(world=("make_export",)),
    # 429 for the rest of the hour.
    "spent": Dimension(user=("epoch",), trouble=("spend",)),
    # One signed URL of a batch is refused.
    "one url": Dimension(user=("epoch",), trouble=("refuse_one",)),
}
ENABLED = frozenset(DIMENSIONS)
"""What the tests play. The aim is `frozenset(DIMENSIONS)`: what is left out shows what is still to
be mended."""
WHOLE = frozenset({"refresh", "epoch", "crowd", "download"})
"""Steps that look at many files."""


class Hostile(World):
    """The steps of all dimensions."""

    async def step(self, name: str, number: int) -> None:
        """Take one step, and look whether all is well."""
        work = partial(getattr(self, name), number)
        await self.bounded(name, work, whole=name in WHOLE)
        await self.check_open()
        self.check_spent()

    @property
    def troubled(self) -> bool:
        """Whether a large file that is open may fail: its bytes are still to come."""
        return self.disturbed or bool(self.replaced)

    def resize(self, size: int) -> None:
        """The next mounts have a cache of that size."""
        if size < self.cache_size:
            # See `Story.fail`: no answer is to be wrong in a way that the small cache can't see.
            for fault in self.wrong:
                if isinstance(fault.do, Corrupt):
                    fault.times = fault.hits
            self.known = {path: data for path, data in self.known.items() if len(data) <= size}
        self.cache_size = size

    def go_online(self, number: int) -> None:
        """All that is wrong is over."""
        self.offline = False
        self.rig.standin.faults.clear()
        self.restore(self.rig.standin)
        self.mild.clear()
        self.wrong.clear()
        self.spent = self.silent_at = None

    @staticmethod
    def restore(standin: StandIn) -> None:
        """The switches that steps change, as they were."""
        standin.switches.storage_validators = Switches().storage_validators
        standin.switches.hash_header = standin.switches.storage_range = True

    # Others.

    def upload_many(self, number: int) -> None:
        """A folder of small images, whose sizes are listed wrong both ways."""
        dataset = self.dataset(number)
        if dataset is None or dataset.is_archived or len(dataset.images) > 30:
            return
        path = self.place(dataset, number // 5)

        for each in range(4 + number % 5):
            size = 500 + 1500 * (each + number) % 20_000
            message = (size // 4, size * 3, 0, size, size - 1, 1 << 20)[(each + number) % 6]
            self.org.add_image(
                dataset, f"{self.fresh('many')}.jpg", path, size=size, file_size=message
            )

        self.happened()

    def list_another_size(self, number: int) -> None:
        """The listing gives another size of an image, true or not."""
        image = self.image(number)
        if image is not None:
            image.lies = None
            image.file_size = (image.size, image.size // 3, image.size + 700, 0)[number % 4]
            self.org.changed(self.org.datasets[image.dataset_id], "images")
            self.happened()

    def upload_large(self, number: int) -> None:
        """An image that is streamed, of which the listing may say anything."""
        dataset = self.dataset(number)
        large = sum(image.size > LARGE for image in self.org.images.values())
        if dataset is None or dataset.is_archived or large >= 2:
            return
        size = LARGE + (1000, 1 << 20, 4 << 20)[number % 3] + number % 1000
        message = (size, LARGE + 77, 20 << 20, 0, 5000, size + 1, 1 << 30)[number % 7]
        start = number % 5000
        name, path = f"{self.fresh('large')}.jpg", self.place(dataset, number // 5)
        data = _BYTES[start : start + size]
        self.org.add_image(dataset, name, path, blob=data, file_size=message)
        self.happened()

    def replace(self, number: int) -> None:
        """An image gets other bytes of the same length under its id, which no promise speaks of but
        B5."""
        image = self.image(number)
        if image is not None and image.size > 0:
            start = (number * 31) % 100_000
            image.blob = _BYTES[start : start + image.size]
            image.size = len(image.blob)
            self.replaced.add(image.id)
            self.org.changed(self.org.datasets[image.dataset_id], "images")
            self.happened()

    def absurd(self, number: int) -> None:
        """A row has a number, or a value, that makes no sense."""
        image = self.image(number)
        if image is not None:
            image.lies = ABSURD[number // 3 % len(ABSURD)]
            self.org.changed(self.org.datasets[image.dataset_id], "images")
            self.happened()

    def make_export(self, number: int) -> None:
        """Somebody exports a dataset, and the archive is there from now on."""
        dataset = self.dataset(number)
        if dataset is None or dataset.is_archived or len(self.rig.standin.faults):
            return
        headers = {"X-API-Key": self.rig.standin.keys["admin"]}

        with httpx.Client(
            base_url=self.rig.standin.api_url + PREFIX, headers=headers, trust_env=False
        ) as api:
            wanted = {"dataset_name": dataset.name, "name": self.fresh("export")}
            made = api.post("/exports/", json=wanted).raise_for_status().json()["data"]
            for _ in range(3):
                api.get(f"/exports/{made['id']}").raise_for_status()

        assert self.org.exports[made["id"]].status == "completed"

    # Trouble.

    def _mildly(self, do: Any, host: str | None = None, path: str | None = None) -> None:
        self.mild.append(self.rig.fault(do, host, path))

    def no_lengths(self, number: int) -> None:
        """Answers name no length, and storage's no checksum and no ranges, as where it decompresses
        on the way."""
        host = ("storage", "api", None)[number % 3]
        wrong = sum(left_of(each) for each in self.wrong)
        alike = wrong > 1 or any(isinstance(each.do, Corrupt) for each in self.wrong)
        self.rig.standin.switches.hash_header = number % 4 > 1 or alike
        self.rig.standin.switches.storage_range = number % 8 > 3
        self._mildly(Unsized(chunked=number % 2 == 0), host)

    def no_etags(self, number: int) -> None:
        """Storage names no version: no entity tag, no generation, no time."""
        self.rig.standin.switches.storage_validators = frozenset()

    def go_silent(self, number: int) -> None:
        """Every connection that there is goes silent; new ones work."""
        self._mildly(Silent())
        self.silent_at = len(self.rig.standin.log.requests())
        for side in self.sides:
            side.changed = True  # a renewal that is due meets it

    def refuse_one(self, number: int) -> None:
        """The signed URL of one image is refused, and fresh ones too; or one of each batch is old
        already."""
        image = self.image(number)
        if number % 2:
            self._mildly(expired_url(number // 2), "api", "/datasets/{dataset}/download")
        elif image is not None:
            self._mildly(error(403), "storage", image.id)

    def spend(self, number: int) -> None:
        """The hourly limit is spent."""
        if self.spent is None and not len(self.rig.standin.faults):
            self.rig.fault(throttled(3598), "api")
            self.was_spent = True
            self.spent = len(self.rig.standin.log.requests()), self.rig.clock.monotonic()

    # Users.

    async def walk_on(self, number: int) -> None:
        """Open a folder, or read a few more entries of one that is open."""
        walk: Walk | None = self.choose(self.walks, number) if number % 3 else None

        if walk is None:
            path = self.choose(self.folders(), number)
            if number % 2:  # where files are, rather
                path = (
                    self.choose([each.rpartition("/")[0] for each in self.files()], number // 6)
                    or path
                )

            folder = await self.tried(path, lambda: self.kernel.open_folder(path))
            if folder is None:
                return
            sure = not self.side.changed and not self.disturbed
            walk = Walk(self.side, folder, self.below(path) if sure else None)
            self.walks.append(walk)

        if self.disturbed:
            walk.expected = None
        try:
            found = await walk.side.kernel.read_folder(walk.folder, 1 + number % 4)
        except pyfuse3.FUSEError:
            assert walk.expected is None, f"{walk.folder.path} can't be read on"
            await self.close_walk(walk)
            return

        if not found:
            if walk.expected is not None:  # else one that was removed and made anew may come twice
                assert sorted(walk.folder.names) == sorted(walk.expected), walk.folder.path
            await self.close_walk(walk)

    async def read_near(self, number: int) -> None:
        """Read a file of a folder that is being read."""
        walk: Walk | None = self.choose(self.walks, number)
        if walk is not None:
            top = walk.folder.path
            path = self.choose(
                [each for each in self.files() if each.rpartition("/")[0] == top], number // 3
            )
            data = path and await self.tried(path, lambda: self.kernel.content(path, 1 << 17))
            if data:
                self.check(path, data)

    async def crowd(self, number: int) -> None:
        """Several programs read at once."""

        async def one(path: str) -> None:
            data = await self.tried(path, lambda: self.kernel.content(path, 1 << 17))
            if data is not None:
                self.check(path, data)

        paths = [self.choose(self.files(), number + each * 7) for each in range(2 + number % 6)]

        async with trio.open_nursery() as nursery:
            for path in paths if self.files() else []:
                nursery.start_soon(one, path)

    async def epoch(self, number: int) -> None:
        """Every image is read, one after the other: no more batches than there are reasons for."""
        log = self.rig.standin.log
        before = len(log.requests())

        for path in [path for path in self.files() if path.split("/")[3] == "images"]:
            data = await self.tried(path, partial(self.kernel.content, path, 1 << 17))
            if data is not None:
                self.check(path, data)

        batches = [
            each for each in log.requests()[before:] if each.route == "/datasets/{dataset}/download"
        ]

        # One for each dataset, one more where refusals made it give that up, and each tried twice.
        assert len(batches) <= 4 * len(self.org.datasets), f"{len(batches)} batches in one pass"

    async def download(self, number: int) -> None:
        """`pictofs download` into a plain folder, by another process where there is another
        mount."""
        dataset = self.dataset(number)
        if dataset is None or dataset.is_archived:
            return
        side = self.sides[(self._current + 1) % len(self.sides)]

        with tempfile.TemporaryDirectory() as place:
            root = Path(place, "out")
            with Folder(root) as folder:
                run = DownloadJob(
                    side.mount.library, folder, DownloadRequest(dataset.name, wait=False)
                )
                await run.run()

            top = f"/datasets/{dataset.name}"
            landed = {f"{top}/{name}": data for name, data in _tree(root).items()}

        for path, data in landed.items():
            assert data is None or self.may_be(path, data), (
                f"{path} was downloaded and never held that"
            )

        sure = (
            not self.offline and not self.faults and side.mount.library.connectivity.error is None
        )

        if sure and not side.changed and not self.was_spent:  # else it rests until the hour is over
            assert run.result()["success"], run.result()

            there = {
                path
                for path in self.now
                if path.startswith(f"{top}/") and path.split("/")[3] in KINDS
            }
            there -= {f"{top}/{kind}" for kind in KINDS}

            assert {*landed} - {f"{top}/{kind}" for kind in KINDS} == there, (
                "another tree was downloaded"
            )

            for path, data in landed.items():
                if (
                    data is not None
                    and not self.is_replaced(path)
                    and not (path.endswith(".json") and side.edited)
                ):
                    assert data == self.now[path], f"{path} was downloaded otherwise"


def left_of(fault: Fault) -> int:
    """How many more answers a fault will spoil."""
    return (fault.times or 0) - fault.hits


def _tree(root: Path) -> dict[str, bytes | None]:
    """What is below a plain folder; None for folders."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }
