"""A generated story of mounts and their server, checked at each step against plain dictionaries.

A step is `(name, number)`; the number chooses among what there is at that moment, so that a story
stays playable when steps are taken out of it. `World` knows what every path has held so far:

- what a reader gets is a content that the path has had, whole, never a mix of two, although a kernel stands between
  (`kernel`), which cuts what it reads at the sizes that it was told;
- while nothing is wrong and nothing has changed, it is the content that the path has;
- what was read once and has not changed is read again without a server;
- what is shown of an open file is what is open;
- no step costs more requests or bytes than its bound, and each ends;
- after a refresh the whole tree is what the organization holds.

What else can be hostile is in `dimensions`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
from dimensions import DIMENSIONS, ENABLED, LARGE, Hostile, left_of
from rig import Rig, blobs, error_of
from story import ANNOTATION_TTL, ROOMY, TTL, Held

from pictofs.api.client import Api
from pictofs.api.storage import Storage
from pictofs.errors import AlreadyExists, NoSuchEntry, NotEmpty, PictofsError
from pictofs.store.catalog.datasets import DATASETS
from standin import StandIn
from standin.faults import (
    Close,
    Corrupt,
    MalformedJson,
    Overrun,
    Reset,
    Truncate,
    error,
    html,
    throttled,
)

FAULTS: list[tuple[str | None, Any]] = [
    (None, error(503)),
    (None, error(500)),
    (None, throttled(1)),
    (None, throttled(900)),
    (None, Reset()),
    (None, Reset(after=40)),
    (None, Close(after=40)),
    (None, Overrun(announced=False)),
    ("api", MalformedJson()),
    ("api", html()),
    ("api", error(401, "unauthorized")),
    ("storage", error(403)),
    ("storage", error(404)),
    ("storage", Corrupt(7)),
    ("storage", Truncate(10)),
    ("storage", Overrun()),
]


BELIEVABLE = (Close, Corrupt, Overrun, Truncate)
"""Faults that send wrong bytes, which a checksum alone may show."""


class Story(Hostile):
    """The steps that any story may have, as methods."""

    # What someone else does.

    def upload(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None and not dataset.is_archived:
            name = f"{self.fresh('image')}.jpg"
            size = (300, 700, 1500, 0, 5000)[number % 5]
            message = size if number % 3 else (0, size + 40, size // 2)[number // 3 % 3]
            path, count = self.place(dataset, number // 5), number % 3
            self.org.add_image(
                dataset, name, path, size=size, file_size=message, annotation_count=count
            )
            self.happened()

    def upload_again(self, number: int) -> None:
        """Another image takes the place of one that is deleted."""
        image = self.image(number)
        if image is not None:
            dataset = self.org.datasets[image.dataset_id]
            self.org.remove_image(image)
            self.org.add_image(
                dataset, image.filename, image.directory_path, size=400 + number % 100
            )
            self.happened()

    def delete(self, number: int) -> None:
        image = self.image(number)
        if image is not None:
            self.org.remove_image(image)
            self.happened()

    def archive(self, number: int) -> None:
        image = self.image(number)
        if image is not None:
            self.org.archive_image(image, not image.is_archived)
            self.happened()

    def move(self, number: int) -> None:
        image = self.image(number)
        if image is not None:
            dataset = self.org.datasets[image.dataset_id]
            self.org.move_image(
                image, self.place(dataset, number // 7), f"{self.fresh('moved')}.jpg"
            )
            self.happened()

    def swap(self, number: int) -> None:
        one, two = self.image(number), self.image(number // 3)
        if one and two and one is not two and one.dataset_id == two.dataset_id:
            place = one.place
            self.org.move_image(one, two.directory_path, f"{self.fresh('swap')}.jpg")
            target = two.place
            self.org.move_image(two, *place)
            self.org.move_image(one, *target)
            self.happened()

    def annotate(self, number: int) -> None:
        """An edit that changes the number of annotations."""
        image = self.image(number)
        if image is not None:
            found = self.org.annotations(image)
            extra = {"id": self.fresh("a"), "name": "car", "type": "bbox", "bounding_box": {}}
            self.org.set_annotations(image, [*found, extra] if number % 3 else found[1:])
            self.org.changed(self.org.datasets[image.dataset_id], "images")
            self.happened()

    def touch_up(self, number: int) -> None:
        """An edit that no listing shows."""
        image = self.image(number)
        if image is not None:
            found = [dict(each, confidence=number % 97) for each in self.org.annotations(image)]
            self.org.set_annotations(image, found)
            self.happened(shows=False)

    def make_dataset(self, number: int) -> None:
        if len(self.org.datasets) < 3:
            self.org.add_dataset(self.fresh("set"))
            self.happened()

    def rename_dataset(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None:
            self.org.rename_dataset(dataset, self.fresh("set"))
            self.happened()

    def swap_datasets(self, number: int) -> None:
        sets = list(self.org.datasets.values())
        if len(sets) > 1:
            one, two = sets[number % len(sets)], sets[(number + 1) % len(sets)]
            first, second = one.name, two.name
            self.org.rename_dataset(one, self.fresh("set"))
            self.org.rename_dataset(two, first)
            self.org.rename_dataset(one, second)
            self.happened()

    def delete_dataset(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None and number % 3 == 0:
            self.org.remove_dataset(dataset)
            self.happened()

    def archive_dataset(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None:
            self.org.archive_dataset(dataset, not dataset.is_archived)
            self.happened()

    def make_directory(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None:
            above = self.place(dataset, number // 3).rstrip("/")
            self.org.add_directory(dataset, f"{above}/{self.fresh('dir')}")
            self.happened()

    def rename_directory(self, number: int) -> None:
        dataset = self.dataset(number)
        path = dataset and self.choose(list(dataset.directories), number // 3)
        if path:
            self.org.rename_directory(dataset, path, self.fresh("dir"))
            self.happened()

    def remove_directory(self, number: int) -> None:
        dataset = self.dataset(number)
        path = dataset and self.choose(list(dataset.directories), number // 3)
        if path and not dataset.below(path):
            self.org.remove_directory(dataset, path)
            self.happened()

    # What goes wrong.

    def go_offline(self, number: int) -> None:
        if not self.offline:
            self.offline = True
            self.rig.fault(Reset())

    def fail(self, number: int) -> None:
        host, do = self.choose(FAULTS, number)
        times = 1 + number % 3
        if isinstance(do, Corrupt) and self.cache_size < ROOMY:
            return  # what the cache can't take comes in parts, of which no server sends a checksum
        if isinstance(do, BELIEVABLE) and not self.rig.standin.switches.hash_header:
            # Without a checksum nobody can tell wrong bytes of the right length, two answers that
            # are wrong in the same way, or a wrong length that is announced, of a file of which the
            # listing has none (B3).
            if isinstance(do, Corrupt) or any(map(left_of, self.wrong)):
                return
            announced = do.announced if isinstance(do, Overrun) else isinstance(do, Truncate)
            images = self.org.images.values()
            if announced and any(image.lies or not image.file_size for image in images):
                return
            times = 1

        fault = self.rig.fault(do, host, times=times)
        if isinstance(do, BELIEVABLE):
            self.wrong.append(fault)

    def damage(self, number: int) -> None:
        """A bit of the cache flips. It is found at the next open: what is open already is read
        on."""
        if self.held:
            return
        files = sorted(path for path in blobs(self.rig) if path.stat().st_size > 60)
        path = self.choose(files, number)

        if path is not None:
            data = bytearray(path.read_bytes())
            data[number % len(data)] ^= 1 << number % 8
            path.write_bytes(data)
            self.known.clear()

    def evict(self, number: int) -> None:
        self.mount.blob_cache.clear()
        self.known.clear()

    # What the user does.

    async def read(self, number: int) -> None:
        path = self.choose([*self.files(), *self.paths], number)
        if path is not None:
            piece = max(128 + number % 700, len(self.now.get(path) or b"") // 64)
            data = await self.tried(path, lambda: self.kernel.content(path, piece))
            if data is not None:
                self.check(path, data)

    async def read_again(self, number: int) -> None:
        """What was read and has not changed is there, whatever is wrong."""
        path = self.choose(list(self.known), number)
        if path is not None:
            if self.side.changed and not self.offline:
                return  # the mount may learn of the change half-way
            assert await self.kernel.content(path, 1 << 17) == self.known[path], path

    async def stat(self, number: int) -> None:
        path = self.choose([*self.now, *self.paths], number)
        if path is not None:
            found = await self.tried(path, lambda: self.kernel.look(path))
            if found is not None and path in self.now and not self.side.changed:
                assert found[1].is_folder == (self.now[path] is None)

    async def list(self, number: int) -> None:
        path = self.choose(self.folders(), number)
        found = await self.tried(path, lambda: self.kernel.list(path))
        if found is not None and not self.side.changed and not self.disturbed:
            assert {name for name, _ in found} == self.below(path), path

    async def miss(self, number: int) -> None:
        path = f"{self.choose(self.folders(), number)}/no such entry"
        assert await self.tried(path, lambda: self.kernel.look(path)) is None

    def tops(self) -> list[str]:
        """The names of the datasets."""
        return [path.rpartition("/")[2] for path in self.now if path.count("/") == 2]

    async def change(
        self, work: Callable[[], Any], refusal: type[PictofsError] | None, *shown: str
    ) -> None:
        """A change by the user to the names `shown`.

        `refusal` is what it must end with where nothing is unknown and nothing is wrong.
        """
        flags = self.side.changed, self.side.edited
        before = self.names()
        failure = await error_of(work)
        for name in shown if failure is None else ():
            self.kernel.forget_name(DATASETS, name)
        sure = not flags[0] and not self.disturbed
        if failure is not None:
            self.errors += 1
        if sure:
            assert type(failure) is (refusal or type(None)), repr(failure)
        elif not self.disturbed:
            assert isinstance(failure, (AlreadyExists, NotEmpty, NoSuchEntry, type(None))), repr(
                failure
            )

        if self.names() != before:
            self.happened()
            if failure is None:  # what the mount has done itself it shows
                self.side.changed, self.side.edited = flags
        else:
            assert failure is not None or not sure  # a name that others had given it already

    def names(self) -> dict[str, str]:
        """The datasets, id to name."""
        return {each.id: each.name for each in self.org.datasets.values()}

    async def mkdir(self, number: int) -> None:
        """A dataset is made, or one of a name that is taken."""
        taken = number % 4 == 0 and self.choose(list(self.names().values()), number // 4)
        if taken or len(self.org.datasets) < 4:
            name = taken or self.fresh("mine")
            refusal = AlreadyExists if taken else None
            await self.change(lambda: self.mount.tree.make_folder(DATASETS, name), refusal, name)

    async def mv(self, number: int) -> None:
        """A dataset is renamed, or to a name that is taken."""
        name = self.choose(self.tops(), number)
        others = [each for each in self.names().values() if each != name]
        taken = number % 4 == 0 and self.choose(others, number // 4)
        if name is not None:
            to = taken or self.fresh("mine")
            refusal = AlreadyExists if taken else None
            work = lambda: self.mount.tree.rename(DATASETS, name, DATASETS, to)  # noqa: E731
            await self.change(work, refusal, name, to)

    async def rmdir(self, number: int) -> None:
        """A dataset is removed, if it is empty."""
        name = self.choose(self.tops(), number)
        if name is not None:
            dataset = self.org[name]
            full = dataset.images or dataset.directories
            work = lambda: self.mount.tree.remove_folder(DATASETS, name)  # noqa: E731
            await self.change(work, NotEmpty if full else None, name)
            assert not full or dataset.id in self.org.datasets, "images were deleted"

    async def hold(self, number: int) -> None:
        """Open a file and read half of it."""
        path = self.choose(self.files(), number)
        file = path and await self.tried(path, lambda: self.kernel.open(path))
        if file:
            size = await self.kernel.size(file)
            held = Held(self.side, path, file, size, b"")
            self.held.append(held)
            held.half = await self.tried(path, lambda: self.kernel.read(file, 0, size // 2)) or b""

    async def let_go(self, number: int) -> None:
        """Read the rest of a file that was opened some time ago: it is of the same version."""
        if not self.held:
            return
        held = self.held.pop(number % len(self.held))
        data, kernel = bytearray(held.half), held.side.kernel

        try:
            while part := await kernel.read(held.file, len(data), 1 << 20):
                data += part
        except pyfuse3.FUSEError:
            # What is small, or was in the cache, came before `open` returned.
            assert held.size > LARGE, f"{held.path} is open and fails"
            assert self.troubled, f"{held.path} is large and fails while nothing is wrong"
            return
        finally:
            await kernel.close(held.file)

        assert self.may_be(held.path, bytes(data)), f"{held.path} is a mix of versions"
        assert len(data) == held.size, f"{held.path}: {len(data)} of {held.size} bytes"

    async def wait(self, number: int) -> None:
        seconds = (1.0, 16.0, 40.0, TTL + 1, 950.0, 2000.0)[number % 6]
        self.rig.clock.advance(seconds)

        if seconds > TTL and not self.offline and not self.faults:
            # A look that meets a silent connection shows after a second what is known (O3), and
            # renews behind it.
            asked = self.rig.standin.log.requests()[self.silent_at or 0 :]
            if self.silent_at is not None and not any(each.host == "api" for each in asked):
                return
            self.silent_at = None

            for side in self.sides:
                side.changed = False  # the next look asks
                if ANNOTATION_TTL is not None and seconds > ANNOTATION_TTL:
                    side.edited = False

    async def refresh(self, number: int) -> None:
        """After a refresh by a server that answers, the tree is the organization."""
        self.go_online(0)
        self.rig.clock.advance(16.0)
        await self.mount.library.refresh(None)
        self.side.changed = self.side.edited = False
        shown = await self.kernel.walk()
        self.check_whole(shown)

        assert self.mount.library.connectivity.error is None, (
            f"not reached: {self.mount.library.connectivity.error!r}"
        )

        self.known.clear()

        for path, data in shown.items():
            if data is not None:
                self.note(path, data)


WORLD = (
    ["upload"] * 4
    + ["upload_again", "delete", "archive", "move", "swap", "annotate", "touch_up", "make_dataset"]
    + ["rename_dataset", "swap_datasets", "delete_dataset", "archive_dataset", "make_directory"]
    + ["rename_directory", "remove_directory"]
)
TROUBLE = ["go_offline", "go_online", "go_online", "fail", "fail", "damage", "evict"]
USER = ["read"] * 6 + ["read_again", "read_again", "stat", "list", "list", "miss", "hold", "let_go"]
USER += ["wait", "wait", "refresh", "remount", "mkdir", "mv", "rmdir", "rmdir"]
Steps = list[tuple[str, int]]


def invented(seed: int, length: int, dimensions: frozenset[str] = ENABLED) -> Steps:
    """A story: mostly a user, with others at work and now and then trouble."""
    chance = random.Random(seed)
    steps: Steps = [("make_dataset", 0), ("upload", 1), ("upload", 17), ("upload", 34)]
    if "sizes" in dimensions:
        steps.append(("upload_many", seed))
    # A few at a time, and often: what breaks takes two or three that meet.
    chosen = [
        DIMENSIONS[name] for name in chance.sample(sorted(dimensions), min(4, len(dimensions)))
    ]
    user = [*USER, *(step for each in chosen for step in each.user * 2)]
    world = [*WORLD, *(step for each in chosen for step in each.world * 3)]
    trouble = [*TROUBLE, *(step for each in chosen for step in each.trouble * 3)]

    for _ in range(length):
        kind = chance.choices((user, world, trouble), (6, 3, 1 + bool(chosen)))[0]
        steps.append((chance.choice(kind), chance.randrange(10_000)))

    return steps


async def play(steps: Steps, standin: StandIn, doors: tuple[Api, Storage], cache: Path) -> Story:
    """Play a story from an empty organization and an empty cache. Raises AssertionError where it
    goes wrong."""
    for dataset in list(standin.organization.datasets.values()):
        standin.organization.remove_dataset(dataset)
    standin.organization.exports.clear()
    standin.faults.clear()
    standin.log.clear()
    Story.restore(standin)
    story = Story(
        Rig(standin, cache), doors, mounts=2 if any(name == "switch" for name, _ in steps) else 1
    )
    pending = list(steps)

    while pending:
        async with story.opened():
            while pending:
                name, number = pending.pop(0)
                if name in ("remount", "remount_small"):
                    story.resize(ROOMY if name == "remount" else 6 << 20)
                    break
                await story.step(name, number)
            else:
                await story.step("refresh", 0)

    return story
