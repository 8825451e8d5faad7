"""A short description of an organization, from which the organization is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from standin import content
from standin.dataset import Dataset
from standin.identity import uuid_for
from standin.organization import Organization
from standin.records import Image
from standin.shapes import hash_of, lowest_confidence

#: The moment (seconds since 1970) from which generated times count. Each image of a dataset is made
#: a second after the one before it.
EPOCH = 1_772_355_600.0
STATUSES = ("new", "annotate", "review", "complete")
SPLITS = ("train", "train", "train", "val", "test", None)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A dataset of images of one kind.

    `size` is in bytes, `annotations` counts those of each image, and `statuses` is one status for
    all images or `mixed`.
    """

    name: str
    images: int = 100
    size: int = 102_400
    directories: int = 1
    annotations: int = 3
    statuses: str = "mixed"
    content_type: Literal["image/jpeg", "image/png"] = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Spec:
    """The datasets of an organization, and a function that adds anything else to it."""

    datasets: tuple[DatasetSpec, ...] = ()
    seed: str = "standin"
    finish: Callable[[Organization], None] | None = field(default=None, compare=False)

    @classmethod
    def uniform(
        cls,
        datasets: int = 1,
        images: int = 1500,
        size: int = 102_400,
        *,
        directories: int = 1,
        annotations: int = 3,
        statuses: str = "mixed",
        seed: str = "standin",
    ) -> Spec:
        """Datasets `dataset-0`, `dataset-1`, ... of the same kind, for benchmarks."""
        made: list[DatasetSpec] = []
        for number in range(datasets):
            name = f"dataset-{number}"
            made.append(DatasetSpec(name, images, size, directories, annotations, statuses))

        return cls(tuple(made), seed)

    def build(self) -> Organization:
        """The organization of this description; the same in every run."""
        organization = Organization(seed=self.seed)

        for number, each in enumerate(self.datasets):
            identifier = uuid_for(self.seed, "dataset", each.name)
            moment = EPOCH + number
            dataset = organization.add_dataset(each.name, dataset_id=identifier, created_at=moment)
            _fill(organization, dataset, each)

        if self.finish is not None:
            self.finish(organization)

        return organization


def _fill(organization: Organization, dataset: Dataset, spec: DatasetSpec) -> None:
    """Make the images of a dataset."""
    look = content.look_for(spec.size)
    suffix = "png" if spec.content_type == "image/png" else "jpg"
    places = ["/"]
    if spec.directories > 1:
        places = [f"/part-{number:03d}" for number in range(spec.directories)]

    # Few calls for each image, so that a million of them are made in seconds.
    made: list[Image] = []
    for number in range(spec.images):
        identifier = uuid_for(dataset.id, number)
        draw = hash_of(identifier)
        made.append(
            Image(
                id=identifier,
                dataset_id=dataset.id,
                filename=f"image-{number:06d}.{suffix}",
                directory_path=places[number % len(places)],
                created_at=EPOCH + 100 + number,
                size=spec.size,
                file_size=spec.size,
                seed=identifier,
                look=look,
                width=look.width,
                height=look.height,
                content_type=spec.content_type,
                status=STATUSES[draw % 4] if spec.statuses == "mixed" else spec.statuses,
                split=SPLITS[(draw >> 3) % len(SPLITS)],
                annotation_count=spec.annotations,
                min_confidence=lowest_confidence(identifier, spec.annotations),
            )
        )

    organization.take(dataset, made)
