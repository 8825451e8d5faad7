"""`/batch/images`: one change to many images, each of which may fail on its own.

The answers have no envelope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from standin.dataset import Dataset
from standin.records import Image
from standin.routes.directories import clean_path
from standin.routes.registry import on, refuse_cold
from standin.routing import Answer, Call, Refusal, bad_request, not_found
from standin.shapes import annotations_of

Ids = Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]


class _Batch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    dataset_name: str
    image_ids: Ids


class Move(_Batch):
    """The body of `POST /batch/images/move`."""

    target_directory_path: str = "/"


class Copy(_Batch):
    """The body of `POST /batch/images/copy`."""

    target_directory_path: str = "/"
    duplicate_handling: Literal["rename", "skip", "overwrite"] = "rename"
    copy_annotations: bool = False


class CopyAcross(_Batch):
    """The body of `POST /batch/images/copy-to-dataset`."""

    target_dataset_name: str
    target_directory_path: str = "/"


class Delete(_Batch):
    """The body of `POST /batch/images/delete`."""

    permanent: bool = False


class Updates(msgspec.Struct, forbid_unknown_fields=True):
    """What `PATCH /batch/images/update` may change."""

    status: Literal["new", "annotate", "review", "complete"] | None = None
    display_name: str | None = None
    is_archived: bool | None = None


class Update(_Batch):
    """The body of `PATCH /batch/images/update`."""

    updates: Updates


class _Outcome:
    """What a batch did, image by image."""

    def __init__(self) -> None:
        self.processed = 0
        self.renamed = 0
        self.failed: list[dict[str, str]] = []
        self.directories: set[str] = set()

    def fail(self, image_id: str, reason: str) -> None:
        self.failed.append({"id": image_id, "reason": reason})

    def answer(self, operation: str | None = None, **more: Any) -> Answer:
        body: dict[str, Any] = {
            "success": True,
            "processed": self.processed,
            "failed": self.failed,
            "affected_directories": sorted(self.directories),
            "renamed": self.renamed,
        }
        if operation:
            body["operation"] = operation

        return Answer(body | more)


def _each(
    call: Call,
    batch: _Batch,
    do: Callable[[Image, _Outcome], None],
) -> tuple[Dataset, _Outcome]:
    """Do something to each image of a batch; 404 if none of the ids is in the dataset."""
    dataset = call.dataset(batch.dataset_name)
    outcome = _Outcome()
    if not any(each in dataset.images for each in batch.image_ids):
        raise not_found("None of the images was found")

    for image_id in batch.image_ids:
        image = dataset.images.get(image_id)
        if image is None or not call.sees_image(image):
            outcome.fail(image_id, "not found")
        else:
            do(image, outcome)

    return dataset, outcome


@on("POST", "/batch/images/move", role="member")
def move(call: Call) -> Answer:
    """`POST /batch/images/move`: a name that is taken in the target gets a suffix `-n`."""
    batch = call.body(Move)
    target = clean_path(batch.target_directory_path)

    def one(image: Image, outcome: _Outcome) -> None:
        dataset = call.organization.datasets[image.dataset_id]
        outcome.processed += 1
        if image.directory_path == target:
            return

        name = dataset.free_name(target, image.filename)
        outcome.renamed += name != image.filename
        outcome.directories |= {image.directory_path, target}
        call.organization.move_image(image, target, name)

    dataset, outcome = _each(call, batch, one)
    call.organization.add_job("batch_move", dataset.id)
    return outcome.answer()


@on("POST", "/batch/images/copy", role="member")
def copy(call: Call) -> Answer:
    """`POST /batch/images/copy`: new images of the same bytes; without annotations unless asked."""
    batch = call.body(Copy)
    target = clean_path(batch.target_directory_path)

    def one(image: Image, outcome: _Outcome) -> None:
        dataset = call.organization.datasets[image.dataset_id]
        refuse_cold(dataset)
        name = image.filename
        present = dataset.at(target, image.filename)

        if present is not None and batch.duplicate_handling == "skip":
            outcome.fail(image.id, "already exists")
            return

        if present is image and batch.duplicate_handling == "overwrite":
            outcome.fail(image.id, "an image cannot overwrite itself")
            return

        if present is not None and batch.duplicate_handling == "overwrite":
            call.organization.remove_image(present)
        elif present is not None:
            name = dataset.free_name(target, name, first=2)

        outcome.processed += 1
        outcome.directories.add(target)
        # A copy without its annotations starts as a new image.
        kept = {"status": image.status} if batch.copy_annotations else {}
        _copy(call, image, dataset, (target, name), annotated=batch.copy_annotations, **kept)

    _, outcome = _each(call, batch, one)
    return outcome.answer()


@on("POST", "/batch/images/copy-to-dataset", role="member")
def copy_to_dataset(call: Call) -> Answer:
    """`POST /batch/images/copy-to-dataset`: copies images with all that was decided about them.

    That is their annotations, tags, split and status; classes that the goal lacks are added to it.
    """
    batch = call.body(CopyAcross)
    target = clean_path(batch.target_directory_path)
    goal = call.dataset(batch.target_dataset_name)
    source = call.dataset(batch.dataset_name)
    added: list[str] = []

    def one(image: Image, outcome: _Outcome) -> None:
        name = goal.free_name(target, image.filename)
        outcome.renamed += name != image.filename
        outcome.processed += 1
        outcome.directories.add(target)
        added.extend(_adopt_classes(source, goal, image))

        kept = {"status": image.status, "split": image.split, "tags": image.tags}
        _copy(call, image, goal, (target, name), annotated=True, **kept)

    _, outcome = _each(call, batch, one)
    return outcome.answer(target_dataset=goal.name, classes_added=added)


def _copy(
    call: Call,
    image: Image,
    goal: Dataset,
    place: tuple[str, str],
    *,
    annotated: bool,
    **kept: Any,
) -> None:
    """Add an image of the same bytes at `place`, its directory and filename."""
    copied = call.organization.add_image(
        goal,
        place[1],
        place[0],
        size=image.size,
        blob=image.blob,
        seed=image.seed,
        look=image.look,
        width=image.width,
        height=image.height,
        content_type=image.content_type,
        file_size=image.file_size,
        **kept,
    )

    # None would stand for the annotations that the seed gives.
    copied.annotations = list(annotations_of(image)) if annotated else []
    copied.annotation_count = len(copied.annotations)
    copied.min_confidence = image.min_confidence if annotated else None


def _adopt_classes(source: Dataset, goal: Dataset, image: Image) -> list[str]:
    """Add the classes of an image's annotations that a dataset lacks; returns their names."""
    if goal is source:
        return []

    known = {each["name"] for each in goal.classes}
    used = {each["name"] for each in annotations_of(image)} - known
    missing = [each for each in source.classes if each["name"] in used]

    goal.set_classes([*goal.classes, *missing])
    return [each["name"] for each in missing]


@on("POST", "/batch/images/delete", role="member")
def delete(call: Call) -> Answer:
    """`POST /batch/images/delete`: archives, or with `permanent` (admins) deletes for good."""
    batch = call.body(Delete)
    if batch.permanent and not call.key.may("admin"):
        raise Refusal(403, "forbidden", "Permanent deletion requires the admin role")

    def one(image: Image, outcome: _Outcome) -> None:
        outcome.processed += 1
        outcome.directories.add(image.directory_path)
        if batch.permanent:
            call.organization.remove_image(image)
        else:
            call.organization.archive_image(image)

    _, outcome = _each(call, batch, one)
    return outcome.answer("deleted" if batch.permanent else "archived")


@on("PATCH", "/batch/images/update", role="member")
def update(call: Call) -> Answer:
    """`PATCH /batch/images/update`: status, display name, and back from the archive."""
    batch = call.body(Update)
    sent = msgspec.structs.asdict(batch.updates)
    changes = {field: value for field, value in sent.items() if value is not None}
    if not changes:
        raise bad_request("Nothing to update")

    def one(image: Image, outcome: _Outcome) -> None:
        outcome.processed += 1
        call.organization.update_image(image, **changes)

    dataset, outcome = _each(call, batch, one)
    # Coming back from the archive changes the listing, all else only rows of it.
    call.organization.changed(dataset, "images" if "is_archived" in changes else "metadata")
    return outcome.answer()
