"""A generated story of a mount and its server, checked at each step against plain dictionaries.

A step is `(name, number)`; the number chooses among what there is at that moment, so that a story stays playable
when steps are taken out of it. `Story` knows what every path has held so far:

- what a reader gets is a content that the path has had, whole, never a mix of two;
- while nothing is wrong and nothing has changed, it is the content that the path has;
- what was read once and has not changed is read again without a server;
- after a refresh the whole tree is what the organization holds.
"""

from __future__ import annotations

import random
import stat
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rig import Mount, Rig, blobs, error_of, expected, image_bytes, note_bytes

from pictofs.api.client import Api
from pictofs.api.storage import Storage
from pictofs.errors import AlreadyExists, NoSuchEntry, NotEmpty, PictofsError, Stale
from pictofs.model.document import document
from pictofs.store.datasets import DATASETS
from pictofs.vfs.tree import OpenFile
from standin import StandIn
from standin.dataset import Dataset
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
from standin.records import Image
from standin.wire import dataset_row

TTL = 100.0
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
Tree = dict[str, "bytes | None"]


class Story:
    """The world of one story, and its steps as methods."""

    def __init__(self, rig: Rig, doors: tuple[Api, Storage]) -> None:
        self.rig, self.doors = rig, doors
        self.org = rig.standin.organization
        self.called: defaultdict[str, set[str]] = defaultdict(set)
        """Filename -> ids of the images that were ever called so, in whatever folder."""
        self.had: defaultdict[tuple[str, str], set[bytes]] = defaultdict(set)
        """`images` or `annotations`, and id -> every content that it has had."""
        self.documents: set[bytes] = set()
        """Every content that a dataset.json has had."""
        self.paths: dict[str, None] = {}
        """Every path of a file that there ever was."""
        self.now: Tree = {}
        self.known: dict[str, bytes] = {}
        """What was read, and is the same still."""
        self.changed = False
        """Whether someone changed something that the mount need not know yet."""
        self.edited = False
        """Whether an annotation file was changed in a way that only a refresh shows."""
        self.offline = False
        self.held: list[tuple[str, OpenFile, bytes]] = []
        self.serial = 0
        self.errors = 0

    # The stage.

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with self.rig.mount(ttl=TTL, max_retries=1, doors=self.doors, writable=True) as self.mount:
            yield
            for _, opened, _ in self.held:
                self.mount.tree.close(opened.handle)
            self.held.clear()

    mount: Mount

    @property
    def disturbed(self) -> bool:
        away = self.offline or self.mount.library.reach.error is not None
        refused = self.doors[0]._meter.is_refusing(self.rig.clock.wall())
        return away or refused or bool(self.rig.standin.faults)

    def choose(self, of: list[Any], number: int) -> Any:
        return of[number % len(of)] if of else None

    def files(self) -> list[str]:
        return [path for path, data in self.now.items() if data is not None]

    def folders(self) -> list[str]:
        return ["/datasets", *(path for path, data in self.now.items() if data is None)]

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
            self.had["annotations", image.id].add(note_bytes(self.rig.standin, image))
        self.known = {path: data for path, data in self.known.items() if self.now.get(path) == data}
        if shows:
            self.changed = True
        self.edited = True

    # What someone else does.

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

    def upload(self, number: int) -> None:
        dataset = self.dataset(number)
        if dataset is not None and not dataset.is_archived:
            name = f"{self.fresh('image')}.jpg"
            size = (300, 700, 1500, 0, 5000)[number % 5]
            says = size if number % 3 else (0, size + 40, size // 2)[number // 3 % 3]
            path, count = self.place(dataset, number // 5), number % 3
            self.org.add_image(dataset, name, path, size=size, file_size=says, annotation_count=count)
            self.happened()

    def upload_again(self, number: int) -> None:
        """Another image takes the place of one that is deleted."""
        image = self.image(number)
        if image is not None:
            dataset = self.org.datasets[image.dataset_id]
            self.org.remove_image(image)
            self.org.add_image(dataset, image.filename, image.directory_path, size=400 + number % 100)
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
            self.org.move_image(image, self.place(dataset, number // 7), f"{self.fresh('moved')}.jpg")
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

    def go_online(self, number: int) -> None:
        self.offline = False
        self.rig.standin.faults.clear()

    def fail(self, number: int) -> None:
        host, do = self.choose(FAULTS, number)
        self.rig.fault(do, host, times=1 + number % 3)

    def damage(self, number: int) -> None:
        """A bit of the cache flips. It is found at the next open: what is open already is read on."""
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
        self.mount.shelf.clear()
        self.known.clear()

    # What the user does.

    async def tried(self, path: str, work: Callable[[], Any]) -> Any:
        """The result of `work`; None where it fails as it may."""
        unknown = self.changed
        try:
            return await work()
        except (NoSuchEntry, Stale):
            self.errors += 1
            assert unknown or self.disturbed or path not in self.now, f"{path} is not shown"
        except PictofsError as failure:
            self.errors += 1
            if not self.disturbed:
                raise AssertionError(f"{path} fails while nothing is wrong: {failure!r}") from failure
        return None

    def may_be(self, path: str, data: bytes) -> bool:
        """Whether a file of that name has ever had this content: folders, and names, may be old ones."""
        if path.count("/") == 3:
            return data in self.documents
        _, _, _, view, *_, name = path.split("/")
        filename = name if view == "images" else name.removesuffix(".json")
        return any(data in self.had[view, each] for each in self.called[filename])

    def check(self, path: str, data: bytes) -> None:
        assert self.may_be(path, data), f"{path} never held {data[:40]!r} ({len(data)} bytes)"
        if not self.changed and not self.disturbed and not (path.endswith(".json") and self.edited):
            assert data == self.now[path], path
        if self.now.get(path) == data:
            self.known[path] = data

    async def read(self, number: int) -> None:
        path = self.choose([*self.files(), *self.paths], number)
        if path is not None:
            data = await self.tried(path, lambda: self.mount.read(path, 128 + number % 700))
            if data is not None:
                self.check(path, data)

    async def read_again(self, number: int) -> None:
        """What was read and has not changed is there, whatever is wrong."""
        path = self.choose(list(self.known), number)
        if path is not None:
            if self.changed and not self.offline:
                return  # the mount may learn of the change half-way
            assert await self.mount.read(path) == self.known[path], path

    async def stat(self, number: int) -> None:
        path = self.choose([*self.now, *self.paths], number)
        if path is not None:
            found = await self.tried(path, lambda: self.mount.look(path))
            if found is not None and path in self.now and not self.changed:
                assert stat.S_ISDIR(found.mode) == (self.now[path] is None)

    async def list(self, number: int) -> None:
        path = self.choose(self.folders(), number)
        found = await self.tried(path, lambda: self.mount.list(path))
        if found is not None and not self.changed and not self.disturbed:
            prefix = path.rstrip("/") + "/"
            names = {each[len(prefix) :] for each in self.now if each.startswith(prefix)}
            assert set(found) == {name for name in names if "/" not in name}, path

    async def miss(self, number: int) -> None:
        path = f"{self.choose(self.folders(), number)}/no such entry"
        assert await self.tried(path, lambda: self.mount.look(path)) is None

    def tops(self) -> list[str]:
        """The names of the datasets."""
        return [path.rpartition("/")[2] for path in self.now if path.count("/") == 2]

    async def change(self, work: Callable[[], Any], refusal: type[PictofsError] | None) -> None:
        """A change by the user; `refusal` is what it must end with where nothing is unknown and nothing is wrong."""
        flags = self.changed, self.edited
        before = self.names()
        failure = await error_of(work)
        sure = not flags[0] and not self.disturbed
        if failure is not None:
            self.errors += 1
        if sure:
            assert type(failure) is (refusal or type(None)), repr(failure)
        elif not self.disturbed:
            assert isinstance(failure, (AlreadyExists, NotEmpty, NoSuchEntry, type(None))), repr(failure)
        if self.names() != before:
            self.happened()
            if failure is None:  # what the mount has done itself it shows
                self.changed, self.edited = flags
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
            await self.change(lambda: self.mount.tree.make_folder(DATASETS, name), refusal)

    async def mv(self, number: int) -> None:
        """A dataset is renamed, or to a name that is taken."""
        name = self.choose(self.tops(), number)
        others = [each for each in self.names().values() if each != name]
        taken = number % 4 == 0 and self.choose(others, number // 4)
        if name is not None:
            to = taken or self.fresh("mine")
            refusal = AlreadyExists if taken else None
            await self.change(lambda: self.mount.tree.rename(DATASETS, name, DATASETS, to), refusal)

    async def rmdir(self, number: int) -> None:
        """A dataset is removed, if it is empty."""
        name = self.choose(self.tops(), number)
        if name is not None:
            dataset = self.org[name]
            full = dataset.images or dataset.directories
            await self.change(
                lambda: self.mount.tree.remove_folder(DATASETS, name), NotEmpty if full else None
            )
            assert not full or dataset.id in self.org.datasets, "images were deleted"

    async def hold(self, number: int) -> None:
        """Open a file and read half of it."""
        path = self.choose(self.files(), number)
        opened = path and await self.tried(path, lambda: self.mount.open(path))
        if opened:
            half = await self.mount.tree.read(opened.handle, 0, opened.attributes.size // 2)
            self.held.append((path, opened, half))

    async def let_go(self, number: int) -> None:
        """Read the rest of a file that was opened some time ago: it is of the same version."""
        if self.held:
            path, opened, half = self.held.pop(number % len(self.held))
            rest = await self.mount.tree.read(opened.handle, len(half), 1 << 20)
            self.mount.tree.close(opened.handle)
            assert self.may_be(path, half + rest), f"{path} is a mix of versions"
            assert len(half + rest) == opened.attributes.size

    async def wait(self, number: int) -> None:
        seconds = (1.0, 16.0, 40.0, TTL + 1, 950.0, 2000.0)[number % 6]
        self.rig.clock.advance(seconds)
        if seconds > TTL and not self.offline and not self.rig.standin.faults:
            self.changed = False  # the next look asks

    async def refresh(self, number: int) -> None:
        """After a refresh by a server that answers, the tree is the organization."""
        self.go_online(0)
        self.rig.clock.advance(16.0)
        await self.mount.library.refresh(None)
        self.changed = self.edited = False
        shown = await self.mount.walk()
        assert shown == self.now, difference(shown, self.now)
        assert self.mount.library.reach.error is None
        self.known = {path: data for path, data in shown.items() if data is not None}


def difference(shown: Tree, there: Tree) -> str:
    wrong = [path for path in shown.keys() & there.keys() if shown[path] != there[path]]
    return f"missing {there.keys() - shown.keys()}, too many {shown.keys() - there.keys()}, wrong {wrong}"


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


def invented(seed: int, length: int) -> Steps:
    """A story: mostly a user, with others at work and now and then trouble."""
    chance = random.Random(seed)
    steps: Steps = [("make_dataset", 0), ("upload", 1), ("upload", 17), ("upload", 34)]
    for _ in range(length):
        kind = chance.choices((USER, WORLD, TROUBLE), (6, 3, 1))[0]
        steps.append((chance.choice(kind), chance.randrange(10_000)))
    return steps


async def play(steps: Steps, standin: StandIn, doors: tuple[Api, Storage], cache: Path) -> Story:
    """Play a story from an empty organization and an empty cache. Raises AssertionError where it goes wrong."""
    for dataset in list(standin.organization.datasets.values()):
        standin.organization.remove_dataset(dataset)
    standin.faults.clear()
    standin.log.clear()
    story = Story(Rig(standin, cache), doors)
    pending = list(steps)
    while pending:
        async with story.opened():
            while pending:
                name, number = pending.pop(0)
                if name == "remount":
                    break
                result = getattr(story, name)(number)
                if result is not None:
                    await result
            else:
                await story.refresh(0)
    return story
