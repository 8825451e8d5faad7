"""An organization of plain records, written to a catalog as listings write it, and what must be
shown then."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pictofs.model.inode import NodeKind, key_of, number
from pictofs.model.names import entry_fits, escape, tagged
from pictofs.model.records import Dataset, Directory, Image
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.datasets import DATASETS
from pictofs.store.catalog.images import ImageTable
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow, RemovedDentry

MANY = 1 << 30


def dataset(name: str, number: int = 1, **fields: object) -> Dataset:
    fields.setdefault("created_ns", number)
    return Dataset(id=f"d-{number}", name=name, **fields)  # type: ignore[arg-type]


def directory(path: str, number: int | None = None, count: int = 0) -> Directory:
    return Directory(path=path, id=None if number is None else f"dir-{number}", image_count=count)


def image(number: int, filename: str, path: str = "/", **fields: object) -> Image:
    fields.setdefault("created_ns", number)
    return Image(id=f"i-{number}", filename=filename, directory=path, **fields)  # type: ignore[arg-type]


@dataclass
class World:
    """One dataset on the server, the catalog that follows it, and a kernel that remembers every
    name."""

    catalog: Catalog
    dataset: Dataset = field(default_factory=lambda: dataset("d"))
    directories: dict[str, Directory] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    kernel: dict[tuple[int, str], int] = field(default_factory=dict)

    @classmethod
    def at(cls, path: Path) -> World:
        world = cls(Catalog(path))
        world.told(world.catalog.put_datasets([world.dataset], 1.0))
        return world

    @property
    def key(self) -> int:
        return key_of(self.dataset.id)

    @property
    def table(self) -> ImageTable:
        return ImageTable(self.catalog.database)

    # What listings do.

    def put(self, *images: Image, seen: int | None = None) -> list[RemovedDentry]:
        """A page arrives; the server has these images too."""
        self.images.update((each.id, each) for each in images)
        return self.page(list(images), self.table.begin_pass() if seen is None else seen)

    def page(self, images: list[Image], seen: int) -> list[RemovedDentry]:
        return self.told(self.table.put(self.key, self.dataset.id, images, seen, moves=True))

    def tree(self) -> list[RemovedDentry]:
        rows = list(self.directories.values())
        return self.told(self.catalog.put_directories(self.key, self.dataset.id, rows, "s", 1.0))

    def list_dataset(self, order: list[Image] | None = None, size: int = 3) -> list[RemovedDentry]:
        """A complete pass, in pages."""
        rows, seen, gone = order or list(self.images.values()), self.table.begin_pass(), []
        for start in range(0, len(rows), size):
            gone += self.page(rows[start : start + size], seen)
        return gone + self.told(
            self.table.sweep(self.key, seen, directory=None, signature="s", at=1.0)
        )

    def list_folder(self, path: str) -> list[RemovedDentry]:
        """A complete pass over one folder."""
        seen = self.table.begin_pass()
        gone = self.page([each for each in self.images.values() if each.directory == path], seen)
        key = self.directory(path).key
        return gone + self.told(
            self.table.sweep(self.key, seen, directory=key, signature="s", at=1.0)
        )

    def ask(self, path: str, filename: str) -> list[RemovedDentry]:
        """The server is asked for one name."""
        found = [
            each
            for each in self.images.values()
            if (each.directory, each.filename) == (path, filename)
        ]
        seen = self.catalog.meta("pass") or 0
        key = self.directory(path).key
        return self.told(
            self.table.put_answer(self.key, self.dataset.id, key, filename, found, seen)
        )

    # What the catalog shows.

    def directory(self, path: str) -> DirectoryRow:
        row = self.catalog.directory_by_path(self.key, path)
        assert row is not None, path
        return row

    def row(self, number: int) -> ImageRow:
        row = self.catalog.image(key_of(f"i-{number}"))
        assert row is not None, number
        return row

    def all_directories(self) -> list[DirectoryRow]:
        found, pending = [], [self.directory("/")]
        while pending:
            row = pending.pop()
            found.append(row)
            pending += self.catalog.directories_after(row.key, 0, MANY)
        return found

    def shown(self) -> dict[str, dict[str, str]]:
        """Path of a folder -> entry in images/ -> id of the image, or path of the directory."""
        found: dict[str, dict[str, str]] = {}

        for row in self.all_directories():
            below = self.catalog.directories_after(row.key, 0, MANY)
            entries = [(each.entry, each.path) for each in below]
            entries += [
                (each.entry, each.id) for each in self.catalog.images_after(row.key, 0, MANY)
            ]

            assert len(dict(entries)) == len(entries), entries

            found[row.path] = dict(entries)

        return found

    def expected(self) -> dict[str, dict[str, str]]:
        """The same, by the rules of names alone."""
        paths = {"/", *self.directories, *(each.directory for each in self.images.values())}

        for path in list(paths):
            while path != "/":
                path = path.rpartition("/")[0] or "/"  # noqa: PLW2901
                paths.add(path)

        found: dict[str, dict[str, str]] = {path: {} for path in paths}

        for path in paths - {"/"}:
            above, _, name = path.rpartition("/")
            found[above or "/"][plain_or_tagged(name, path)] = path

        rivals = defaultdict(list)
        for each in self.images.values():
            rivals[each.directory, plain_or_tagged(each.filename, each.id)].append(each)
        for (path, entry), group in rivals.items():
            group.sort(key=lambda each: (each.created_ns, each.id))
            free = entry not in found[path]
            for place, each in enumerate(group):
                plain = place == 0 and free
                found[path][entry if plain else tagged(each.filename, each.id)] = each.id

        return found

    # The kernel.

    def told(self, gone: list[RemovedDentry]) -> list[RemovedDentry]:
        """The kernel forgets what it is told, and must then hold no name that leads elsewhere by
        now."""
        for entry in gone:
            self.drop(entry.parent, entry.entry)
        now = self.names()
        for name, inode in self.kernel.items():
            assert now.get(name) == inode, f"the kernel was not told of {name}"
        self.kernel = now
        return gone

    def drop(self, parent: int, entry: str) -> None:
        """Forget a name, and below a folder everything."""
        inode = self.kernel.pop((parent, entry), None)
        for folder, name in list(self.kernel) if inode else ():
            if folder == inode:
                self.drop(folder, name)

    def names(self) -> dict[tuple[int, str], int]:
        """(folder, name) -> inode number, of everything."""
        found: dict[tuple[int, str], int] = {}
        row: DatasetRow | None = self.catalog.dataset(self.key)
        if row is None:
            return found
        found[DATASETS, row.entry] = number(NodeKind.DATASET, row.key)

        for each in self.all_directories():
            for kind, file in (
                (NodeKind.IMAGES, NodeKind.IMAGE),
                (NodeKind.ANNOTATIONS, NodeKind.ANNOTATION),
            ):
                folder = number(kind, each.key)
                for below in self.catalog.directories_after(each.key, 0, MANY):
                    found[folder, below.entry] = number(kind, below.key)
                for image_row in self.catalog.images_after(each.key, 0, MANY):
                    name = image_row.entry if kind is NodeKind.IMAGES else image_row.annotation_name
                    assert (folder, name) not in found, f"two entries are called {name!r}"
                    assert entry_fits(name), name
                    found[folder, name] = number(file, image_row.key)

        return found


def plain_or_tagged(name: str, identity: str) -> str:
    entry = escape(name)
    return entry if entry_fits(entry) else tagged(name, identity)
