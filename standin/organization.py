"""The organization in memory: datasets, keys, exports, and every way someone changes them.

Tests call these methods to play another user, and the routes call them too. All take the lock,
because the hosts run in a thread of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from standin import content, shapes
from standin.clock import Clock
from standin.dataset import Dataset
from standin.identity import is_uuid, uuid_for
from standin.records import LADDER, Export, Image, Job, Key, Notification, Role
from standin.switches import Change, Switches


class Organization:
    """One organization. `seed` decides every identifier."""

    def __init__(self, name: str = "Stand-in", seed: str = "standin") -> None:
        self.lock = threading.RLock()
        self.name = name
        self.seed = seed
        self.id = uuid_for(seed, "organization")
        self.clock = Clock()
        self.switches = Switches()

        self.datasets: dict[str, Dataset] = {}
        self.images: dict[str, Image] = {}
        self.exports: dict[str, Export] = {}
        self.jobs: list[Job] = []
        self.notifications: list[Notification] = []
        #: Objects at the storage host that are no images: uploads that are not registered yet,
        #: and archives of exports.
        self.blobs: dict[str, content.Stored] = {}
        #: The content type that each signed upload was declared with.
        self.declared_types: dict[str, str] = {}
        self.keys: dict[str, Key] = {}
        self._serial = 0

        for role in LADDER:
            self.add_key(role)

    # Keys.

    def add_key(
        self,
        role: Role,
        grants: dict[str, tuple[str, ...] | None] | None = None,
        secret: str | None = None,
    ) -> Key:
        """Make a key. The first of each role has the same secret in every run."""
        with self.lock:
            number = sum(key.role == role for key in self.keys.values())
            tail = uuid_for(self.seed, "key", role, number).replace("-", "")

            key = Key(secret or f"pk_live_{tail}{tail[::-1]}", role, grants)
            self.keys[key.secret] = key
            return key

    # Datasets.

    def add_dataset(self, name: str, *, dataset_id: str | None = None, **fields: Any) -> Dataset:
        """Make a dataset; `fields` are set on it (`classes`, `readme`, `storage_class`, ...)."""
        with self.lock:
            moment = fields.pop("created_at", None) or self.clock()
            dataset = Dataset(dataset_id or self.new_id("dataset"), name, moment)
            dataset.set_classes(fields.pop("classes", shapes.CLASSES))

            for field, value in fields.items():
                # A misspelt field of a test would be set and never read.
                if not hasattr(dataset, field):
                    raise AttributeError(field)

                setattr(dataset, field, value)

            self.datasets[dataset.id] = dataset
            return dataset

    def dataset(self, reference: str) -> Dataset | None:
        """The dataset of a UUID or a name; text in the shape of a UUID never counts as a name."""
        if is_uuid(reference):
            return self.datasets.get(reference.strip().lower())

        return next((each for each in self.datasets.values() if each.name == reference), None)

    def __getitem__(self, reference: str) -> Dataset:
        """The dataset of a UUID or a name; KeyError when there is none."""
        found = self.dataset(reference)
        if found is None:
            raise KeyError(reference)

        return found

    def remove_dataset(self, dataset: Dataset) -> None:
        """Delete a dataset with its images."""
        with self.lock:
            for image_id in dataset.images:
                del self.images[image_id]

            del self.datasets[dataset.id]

    def rename_dataset(self, dataset: Dataset, name: str) -> None:
        """Rename a dataset; its id stays."""
        with self.lock:
            dataset.name = name
            self.changed(dataset, "dataset")

    def archive_dataset(self, dataset: Dataset, archived: bool = True) -> None:
        """Hide a dataset from the default list, or bring it back."""
        with self.lock:
            dataset.is_archived = archived
            dataset.archived_at = self.clock() if archived else None
            self.changed(dataset, "dataset")

    def changed(self, dataset: Dataset, change: Change) -> None:
        """Note a change: counters are computed anew, `updated_at` moves if the switch says so."""
        with self.lock:
            moves = change in self.switches.updated_at_bumps
            dataset.touch(self.clock() if moves else None)

    # Images.

    def add_image(
        self,
        dataset: Dataset,
        filename: str,
        directory_path: str = "/",
        *,
        size: int = 20_000,
        blob: bytes | None = None,
        **fields: Any,
    ) -> Image:
        """Put an image into a dataset, as an upload does; `fields` are those of `Image`."""
        with self.lock:
            image_id = fields.pop("id", None) or self.new_id("image")
            if blob is not None:
                size = len(blob)

            look: content.Look = fields.pop("look", content.look_for(size))
            count = fields.setdefault("annotation_count", 0)
            seed: str = fields.pop("seed", image_id)
            fields.setdefault("min_confidence", shapes.lowest_confidence(seed, count))

            image = Image(
                id=image_id,
                dataset_id=dataset.id,
                filename=filename,
                directory_path=directory_path,
                created_at=fields.pop("created_at", None) or self.clock(),
                size=size,
                file_size=fields.pop("file_size", size),
                seed=seed,
                look=look,
                width=fields.pop("width", look.width),
                height=fields.pop("height", look.height),
                blob=blob,
                **fields,
            )

            self.take(dataset, [image])
            self.changed(dataset, "images")
            return image

    def take(self, dataset: Dataset, images: Sequence[Image]) -> None:
        """Enter finished images into a dataset."""
        with self.lock:
            dataset.add(images)
            self.images.update((image.id, image) for image in images)

    def remove_image(self, image: Image) -> None:
        """Delete an image for good."""
        with self.lock:
            dataset = self.datasets[image.dataset_id]
            dataset.remove(image)
            del self.images[image.id]
            self.changed(dataset, "images")

    def archive_image(self, image: Image, archived: bool = True) -> None:
        """Hide an image from the default listing, or bring it back."""
        with self.lock:
            image.is_archived = archived
            self.changed(self.datasets[image.dataset_id], "images")

    def move_image(self, image: Image, directory_path: str, filename: str | None = None) -> None:
        """Put an image elsewhere in its dataset; its id stays."""
        with self.lock:
            dataset = self.datasets[image.dataset_id]
            dataset.relocate(image, directory_path, filename or image.filename, self.clock())
            self.changed(dataset, "images")

    def rename_image(self, image: Image, filename: str) -> None:
        """Rename an image inside its directory, which no route offers but a server may do."""
        self.move_image(image, image.directory_path, filename)

    def update_image(self, image: Image, **fields: Any) -> None:
        """Change fields of an image's row, such as `status`, `split` or `tags`."""
        with self.lock:
            for field, value in fields.items():
                setattr(image, field, value)

            self.changed(self.datasets[image.dataset_id], "metadata")

    def replace_content(self, image: Image, seed: str, size: int | None = None) -> None:
        """Store other bytes under the same id. The listing stays as it is, so no client is told."""
        with self.lock:
            image.seed = seed
            image.stored_at = self.clock()
            if size is not None:
                image.size = size

    def set_annotations(self, image: Image, saved: list[Any]) -> None:
        """Replace the annotations of an image, unchecked."""
        with self.lock:
            image.annotations = saved
            image.annotation_count = len(saved)
            # What a test stores may be of any shape, even no object.
            confidences = [each.get("confidence", 1.0) for each in saved if isinstance(each, dict)]
            image.min_confidence = min(confidences, default=None)
            self.changed(self.datasets[image.dataset_id], "annotations")

    def annotations(self, image: Image) -> list[Any]:
        """The annotations of an image as they are stored."""
        with self.lock:
            return shapes.annotations_of(image)

    # Exports.

    def add_export(self, dataset: Dataset, name: str, archive: bytes, **fields: Any) -> Export:
        """A finished export with any bytes as its archive; `fields` are those of `Export`."""
        with self.lock:
            export = Export(
                id=self.new_id("export"),
                dataset_id=dataset.id,
                dataset_name=dataset.name,
                name=name,
                format=fields.pop("format", "pictograph"),
                include_images=fields.pop("include_images", False),
                class_filter=None,
                status_filter=None,
                organize_by_split=False,
                created_at=fields.pop("created_at", None) or self.clock(),
                polls_left=0,
                annotation_count=0,
            )
            self.exports[export.id] = export
            self.finish_export(export, archive, len(dataset.images))
            for field, value in fields.items():
                setattr(export, field, value)

            return export

    def finish_export(self, export: Export, archive: bytes, images: int) -> None:
        """Store the archive of an export, in place of an earlier one."""
        with self.lock:
            self.blobs[export.object_name] = content.Stored(archive)
            export.status = "completed"
            export.file_size = len(archive)
            export.image_count = images

    # Directories.

    def add_directory(self, dataset: Dataset, path: str) -> None:
        """Make a directory with its parents."""
        with self.lock:
            dataset.make_directory(path, self.clock())
            self.changed(dataset, "dataset")

    def remove_directory(self, dataset: Dataset, path: str) -> int:
        """Remove a directory; its images move to the directory above. Returns how many did."""
        with self.lock:
            row = dataset.directories.pop(path)
            moved = [image for image in dataset.images.values() if image.directory_path == path]
            for image in moved:
                name = dataset.free_name(row.parent, image.filename)
                dataset.relocate(image, row.parent, name, self.clock())

            self.changed(dataset, "images")
            return len(moved)

    def rename_directory(self, dataset: Dataset, path: str, name: str) -> None:
        """Rename a directory with all that is in it."""
        with self.lock:
            parent = dataset.directories[path].parent.rstrip("/")
            dataset.move_directory(path, f"{parent}/{name}", self.clock())
            self.changed(dataset, "images")

    # Jobs, notifications and identifiers.

    def add_job(self, kind: str, dataset_id: str | None, name: str | None = None) -> Job:
        """Add a finished background job."""
        with self.lock:
            job = Job(self.new_id("job"), kind, name, dataset_id, self.clock())
            self.jobs.append(job)
            return job

    def notify(self, kind: str, title: str, **metadata: Any) -> None:
        """Add an unread notification."""
        with self.lock:
            note_id = self.new_id("notification")
            note = Notification(note_id, kind, title, self.clock(), metadata=metadata)
            self.notifications.append(note)

    def new_id(self, kind: str) -> str:
        """The next identifier of a kind: the same sequence in every run."""
        with self.lock:
            self._serial += 1
            return uuid_for(self.seed, kind, "new", self._serial)
