"""One dataset: its images (by id, by place, newest first) and its directories."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from standin.identity import uuid_for
from standin.records import Directory, Image

#: How many listings are cached for each dataset.
_REMEMBERED = 64
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")


class Selection(NamedTuple):
    """The filters of an image listing; a filter that is None lets every image through."""

    archived: bool = False
    directory: str | None = None
    status: str | None = None
    split: str | None = None
    filename: str | None = None
    confidence_below: float | None = None
    #: The directories that a key may see, with all directories below them.
    granted: tuple[str, ...] | None = None

    def takes(self, image: Image) -> bool:
        """Whether an image passes."""
        bound = self.confidence_below

        return (
            (self.archived or not image.is_archived)
            and (self.directory is None or image.directory_path == self.directory)
            and (self.status is None or image.status == self.status)
            and (self.split is None or image.split == self.split)
            and (self.filename is None or image.filename == self.filename)
            and (bound is None or _below(image.min_confidence, bound))
            and (self.granted is None or within(image.directory_path, self.granted))
        )


class Counts(NamedTuple):
    """The counters of a dataset's row."""

    images: int
    completed: int
    archived: int
    size: int


class Dataset:
    """A dataset and what it holds. Whoever changes an image in place calls `touch` afterwards."""

    def __init__(self, dataset_id: str, name: str, created_at: float) -> None:
        self.id = dataset_id
        self.name = name
        self.readme: str | None = None
        self.description: str | None = None
        self.annotation_types: list[str] = ["bbox"]
        self.classes: list[dict[str, Any]] = []

        self.is_public = False
        self.is_archived = False
        self.archived_at: float | None = None

        self.storage_class = "standard"
        self.storage_state = "idle"
        self.storage_polls = 0
        self.storage_job: str | None = None
        self.cold_since: float | None = None

        self.created_at = created_at
        self.updated_at: float | None = created_at

        self.images: dict[str, Image] = {}
        self.directories: dict[str, Directory] = {}
        #: Fields of the row that are replaced on the wire, for tests of a lying server.
        self.lies: dict[str, Any] | None = None

        # What is derived from the images, and computed when it is asked for.
        self._places: dict[tuple[str, str], Image] | None = None
        self._selected: dict[Selection, list[Image]] = {}
        self._ordered: list[Image] | None = None
        self._counts: Counts | None = None

    def touch(self, moment: float | None = None) -> None:
        """Forget what was derived from the images; `moment` becomes `updated_at` if it is given."""
        self._selected.clear()
        self._ordered = None
        self._counts = None

        if moment is not None:
            self.updated_at = moment

    def add(self, images: Iterable[Image]) -> None:
        """Add images, and the directories they are in."""
        for image in images:
            self.images[image.id] = image
            if self._places is not None:
                self._places[image.place] = image

            if image.directory_path not in self.directories:
                self.make_directory(image.directory_path, image.created_at)

        self.touch()

    def remove(self, image: Image) -> None:
        """Remove an image; its directory stays."""
        del self.images[image.id]
        # Two images may share a place, as in the preset `nasty`; the last one is known by it.
        if self._places is not None and self._places.get(image.place) is image:
            del self._places[image.place]

        self.touch()

    def relocate(self, image: Image, directory: str, filename: str, moment: float) -> None:
        """Give an image another place; its id stays."""
        if self._places is not None and self._places.get(image.place) is image:
            del self._places[image.place]

        image.directory_path = directory
        image.filename = filename

        if self._places is not None:
            self._places[image.place] = image

        self.make_directory(directory, moment)
        self.touch()

    def at(self, directory: str, filename: str) -> Image | None:
        """The image at a place, archived or not."""
        if self._places is None:
            self._places = {image.place: image for image in self.images.values()}

        return self._places.get((directory, filename))

    def free_name(self, directory: str, filename: str, first: int = 1) -> str:
        """`filename`, or the first `name-n.ext` that is free in the directory."""
        stem, dot, suffix = filename.rpartition(".")
        ending = dot + suffix
        # A name without a dot, or with its only dot in front, has no ending.
        if not stem:
            stem = filename
            ending = ""

        number = first
        free = filename
        while self.at(directory, free) is not None:
            free = f"{stem}-{number}{ending}"
            number += 1

        return free

    def select(self, wanted: Selection) -> list[Image]:
        """The images that pass, newest first; cached until something changes."""
        known = self._selected.get(wanted)
        if known is not None:
            return known

        if self._ordered is None:
            # Reversed before it is sorted: of images of one moment, the last one is the newest.
            self._ordered = list(reversed(self.images.values()))
            self._ordered.sort(key=lambda image: image.created_at, reverse=True)

        if len(self._selected) >= _REMEMBERED:
            self._selected.clear()

        found = [image for image in self._ordered if wanted.takes(image)]
        self._selected[wanted] = found
        return found

    def counts(self) -> Counts:
        """The counters of the row."""
        if self._counts is None:
            active = self.select(Selection())
            completed = sum(image.status == "complete" for image in active)
            size = sum(image.file_size for image in active)
            self._counts = Counts(len(active), completed, len(self.images) - len(active), size)

        return self._counts

    def make_directory(self, path: str, moment: float) -> Directory | None:
        """The directory at a path, made with its parents if it is missing; None for the root."""
        if path in ("/", ""):
            return None

        found = self.directories.get(path)
        if found is None:
            self.make_directory(path.rpartition("/")[0] or "/", moment)
            found = Directory(uuid_for("directory", self.id, path), path, moment, moment)
            self.directories[path] = found

        return found

    def below(self, path: str) -> list[Directory]:
        """The directories below a path, without the one at the path."""
        start = f"{path.rstrip('/')}/"
        return [each for each in self.directories.values() if each.path.startswith(start)]

    def move_directory(self, old: str, new: str, moment: float) -> Directory:
        """Rename a directory with all below it; directory ids stay."""
        self.make_directory(new.rpartition("/")[0] or "/", moment)

        moved = [self.directories[old], *self.below(old)]
        for row in moved:
            del self.directories[row.path]
            row.path = new + row.path[len(old) :]
            row.updated_at = moment

        self.directories.update((row.path, row) for row in moved)

        for image in self.images.values():
            if within(image.directory_path, (old,)):
                image.directory_path = new + image.directory_path[len(old) :]

        self._places = None
        self.touch()
        return moved[0]

    def set_classes(self, classes: Iterable[dict[str, Any]]) -> None:
        """Replace the class list; a class without a colour gets the next one of the palette."""
        coloured: list[dict[str, Any]] = []
        for index, each in enumerate(classes):
            given = {field: value for field, value in each.items() if value is not None}
            coloured.append({"color": COLOURS[index % len(COLOURS)], **given})

        self.classes = coloured


def within(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a directory is one of `roots` or below one."""
    return any(root in ("/", path) or path.startswith(f"{root}/") for root in roots)


def _below(confidence: float | None, bound: float) -> bool:
    # An image without annotations has no confidence, and no bound lets it through.
    return confidence is not None and confidence < bound
