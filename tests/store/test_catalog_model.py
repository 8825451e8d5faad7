"""Whatever the server does, a listing makes the catalog equal to it, and the kernel is told what it
must forget."""

from __future__ import annotations

import tempfile
from pathlib import Path

from catalog_world import World, directory, image
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pictofs.model.records import Image

LONG = "l" * 251 + ".jpg"
NAMES = [
    "a",
    "b",
    "x",
    "x.json",
    "y.jpg",
    "a/b",
    "‛s",
    "..",
    "",
    LONG,
    "m" * 250,
    "m" * 250 + ".json",
]
PATHS = [
    "/a",
    "/a/x",
    "/a/a",
    "/b",
    "/x.json",
    "/a/x.json",
    "/x",
    "/x.json.json",
    "/" + LONG,
    "/y.jpg",
]
numbers = st.integers(0, 9)
names = st.sampled_from(NAMES)
paths = st.sampled_from(["/", "/", *PATHS])


class Following(RuleBasedStateMachine):
    """Someone changes the organization; listings of all kinds are made in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World.at(Path(self.folder.name) / "catalog.db")
        self.fresh = True

    def teardown(self) -> None:
        self.world.catalog.close()
        self.folder.cleanup()

    @rule(number=numbers, name=names, path=paths, count=st.integers(0, 2), age=st.integers(0, 3))
    def have_image(self, number: int, name: str, path: str, count: int, age: int) -> None:
        made = image(number, name, path, annotation_count=count, created_ns=age)
        self.world.images[made.id] = made
        self.fresh = False

    @rule(number=numbers)
    def lose_image(self, number: int) -> None:
        self.world.images.pop(f"i-{number}", None)
        self.fresh = False

    @rule(first=numbers, second=numbers)
    def swap_names(self, first: int, second: int) -> None:
        images = self.world.images
        one, two = images.get(f"i-{first}"), images.get(f"i-{second}")
        if one and two:
            images[one.id] = moved(one, two)
            images[two.id] = moved(two, one)
            self.fresh = False

    @rule(path=st.sampled_from(PATHS), number=st.one_of(st.none(), st.integers(0, 4)))
    def have_directory(self, path: str, number: int | None) -> None:
        taken = {row.id for row in self.world.directories.values()}
        made = directory(path, number)
        if made.id is None or made.id not in taken:
            self.world.directories[path] = made

    @rule(path=st.sampled_from(PATHS))
    def lose_directory(self, path: str) -> None:
        self.world.directories.pop(path, None)

    @rule(first=st.sampled_from(PATHS), second=st.sampled_from(PATHS))
    def rename_directory(self, first: str, second: str) -> None:
        """Its id stays, and so do its images; the two swap names where both are there."""
        rows = self.world.directories
        one, two = rows.pop(first, None), rows.pop(second, None)
        if one:
            rows[second] = directory(second, int(one.id[4:]) if one.id else None)
        if two and first != second:
            rows[first] = directory(first, int(two.id[4:]) if two.id else None)

    @rule()
    def read_tree(self) -> None:
        self.world.tree()

    @rule(chance=st.randoms(use_true_random=False), size=st.integers(1, 5))
    def read_dataset(self, chance: object, size: int) -> None:
        rows = list(self.world.images.values())
        chance.shuffle(rows)  # type: ignore[attr-defined]
        self.world.tree()
        self.world.list_dataset(rows, size)
        self.fresh = True

    @rule(path=paths)
    def read_folder(self, path: str) -> None:
        if self.world.catalog.directory_by_path(self.world.key, path):
            self.world.list_folder(path)

    @rule(path=paths, name=names)
    def read_name(self, path: str, name: str) -> None:
        if self.world.catalog.directory_by_path(self.world.key, path):
            self.world.ask(path, name)

    @invariant()
    def each_item_is_there_once(self) -> None:
        shown = self.world.shown()
        ids = [
            each for entries in shown.values() for each in entries.values() if each.startswith("i-")
        ]
        assert len(ids) == len(set(ids))
        self.world.names()

    @rule()
    def compare(self) -> None:
        """After a complete listing the catalog shows what there is, by the rules of names alone."""
        self.world.tree()
        self.world.list_dataset()
        assert self.world.shown() == self.world.expected()


def moved(one: Image, to: Image) -> Image:
    return image(int(one.id[2:]), to.filename, to.directory, created_ns=one.created_ns)


TestFollowing = Following.TestCase
TestFollowing.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
