"""The JSON form of each record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec

from standin.clock import iso
from standin.dataset import Dataset
from standin.organization import Organization
from standin.records import Directory, Export, Image, Job, Notification
from standin.routing import PREFIX
from standin.shapes import annotations_of


class ImageRow(msgspec.Struct):
    """One image, as every route that returns one sends it."""

    id: str
    dataset_id: str
    filename: str
    directory_path: str
    status: str
    split: str | None
    annotation_count: int
    min_confidence: float | None
    file_size: int
    width: int | None
    height: int | None
    content_type: str
    tags: tuple[str, ...]
    is_archived: bool
    image_url: str
    thumbnail_url: None
    annotation_url: str
    created_at: str | None


class DownloadItem(msgspec.Struct, omit_defaults=True):
    """One item of `GET /datasets/{dataset}/download`."""

    id: str
    filename: str
    file_size: int
    annotation_count: int
    image_url: str | None = None
    annotation_url: str | None = None


def image_row(image: Image, base: str) -> ImageRow | dict[str, Any]:
    """An image's row; a dict if the image has lies to tell. `base` is the API root."""
    directory = "" if image.directory_path == "/" else quote(image.directory_path)

    row = ImageRow(
        image.id,
        image.dataset_id,
        image.filename,
        image.directory_path,
        image.status,
        image.split,
        image.annotation_count,
        image.min_confidence,
        image.file_size,
        image.width,
        image.height,
        image.content_type,
        image.tags,
        image.is_archived,
        f"{base}/images/{image.dataset_id}{directory}/{quote(image.filename)}",
        None,
        annotation_url(image),
        iso(image.created_at),
    )
    if image.lies is None:
        return row

    return {**msgspec.structs.asdict(row), **image.lies}


def image_rows(images: Iterable[Image], base: str) -> list[ImageRow | dict[str, Any]]:
    """The rows of a page."""
    return [image_row(image, base) for image in images]


def summaries(rows: Iterable[ImageRow | dict[str, Any]]) -> list[ImageRow | dict[str, Any]]:
    """The rows without `directory_path` and `file_size`."""
    shortened: list[ImageRow | dict[str, Any]] = []
    for row in rows:
        fields = dict(row) if isinstance(row, dict) else msgspec.structs.asdict(row)
        fields.pop("directory_path", None)
        fields.pop("file_size", None)
        shortened.append(fields)

    return shortened


def annotation_url(image: Image) -> str:
    """The API route of an image's annotation file, relative to the host."""
    return f"{PREFIX}/annotations/{image.id}/file"


def dataset_row(dataset: Dataset, organization: Organization) -> dict[str, Any]:
    """A dataset's row, in lists and alone."""
    counts = dataset.counts()

    row = {
        "id": dataset.id,
        "organization_id": organization.id,
        "name": dataset.name,
        "description": dataset.description,
        "readme": dataset.readme,
        "annotation_types": dataset.annotation_types,
        "classes": dataset.classes,
        "image_count": counts.images,
        "completed_image_count": counts.completed,
        "archived_image_count": counts.archived,
        "total_size": counts.size,
        "is_public": dataset.is_public,
        "is_archived": dataset.is_archived,
        "archived_at": iso(dataset.archived_at),
        "storage_class": dataset.storage_class,
        "created_at": iso(dataset.created_at),
        "updated_at": iso(dataset.updated_at),
    }
    if not organization.switches.readme_read:
        del row["readme"]

    if dataset.lies is None:
        return row

    return {**row, **dataset.lies}


class DirectoryCounts:
    """How many active images each directory has: itself, and with all directories below it."""

    def __init__(self, images: Iterable[Image]) -> None:
        self.direct = Counter(image.directory_path for image in images)
        self.nested: Counter[str] = Counter()
        for place, count in self.direct.items():
            path = place
            while path not in ("", "/"):
                self.nested[path] += count
                path = path.rpartition("/")[0]


def directory_row(
    row: Directory,
    dataset: Dataset,
    organization: Organization,
    counts: DirectoryCounts,
    *,
    read: bool,
) -> dict[str, Any]:
    """A directory's row, as reads send it (`read`) or as mutations do."""
    parent = dataset.directories.get(row.parent)
    # Reads still send the older names of two fields, mutations send the newer ones.
    named = ("project_id", "full_path") if read else ("dataset_id", "directory_path")

    return {
        "id": row.id,
        named[0]: dataset.id,
        "organization_id": organization.id,
        "name": row.name,
        "parent_directory_id": parent.id if parent else None,
        named[1]: row.path,
        "image_count": counts.direct[row.path],
        "nested_image_count": counts.nested[row.path],
        "created_by": None,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def annotation_file(image: Image, organization: Organization, base: str) -> dict[str, Any]:
    """The per-image wrapper of `GET /annotations/{image_id}/file` and of export archives."""
    dataset = organization.datasets[image.dataset_id]
    found = annotations_of(image)

    return {
        "image": image.filename,
        "image_url": f"{base}/images/{image.id}",
        "image_uuid": image.id,
        "image_path": image.directory_path,
        "annotation_count": len(found),
        "annotation_url": base + annotation_url(image).removeprefix(PREFIX),
        "dataset": {"name": dataset.name, "slug": slug(dataset.name)},
        "org": {"name": organization.name, "slug": slug(organization.name)},
        "annotations": found,
    }


def annotation_list(image: Image) -> dict[str, Any]:
    """The bare body of `GET /annotations/{dataset}/{path}`."""
    found = annotations_of(image)

    return {
        "success": True,
        "image_id": image.id,
        "filename": image.filename,
        "annotations": found,
        "annotation_count": len(found),
    }


def export_row(
    export: Export,
    organization: Organization,
    download_url: str | None,
) -> dict[str, Any]:
    """An export's row; without `download_url` if it is None, as when an export is created."""
    row: dict[str, Any] = {
        "id": export.id,
        "dataset_id": export.dataset_id,
        "dataset_name": export.dataset_name,
        "name": export.name,
        "format": export.format,
        "include_images": export.include_images,
        "class_filter": export.class_filter,
        "status_filter": export.status_filter,
        "status": export.status,
        "error_message": export.error_message,
        "file_size": export.file_size,
        "image_count": export.image_count,
        "annotation_count": export.annotation_count,
        "created_at": iso(export.created_at),
        "expires_at": iso(export.created_at + 7 * 86_400),
        "organization_id": organization.id,
    }
    if download_url is not None:
        row["download_url"] = download_url

    return row


def job_row(job: Job) -> dict[str, Any]:
    """A job's row."""
    completed = job.status == "completed"

    return {
        "id": job.id,
        "type": job.type,
        "status": job.status,
        "progress": job.progress,
        "name": job.name,
        "dataset_id": job.dataset_id,
        "error": None,
        "created_at": iso(job.created_at),
        "updated_at": iso(job.created_at),
        "completed_at": iso(job.created_at) if completed else None,
        "cancel_path": None,
        "detail": job.detail,
    }


def notification_row(note: Notification, organization: Organization) -> dict[str, Any]:
    """A notification's row."""
    return {
        "id": note.id,
        "organization_id": organization.id,
        "user_id": None,
        "type": note.type,
        "title": note.title,
        "message": None,
        "metadata": note.metadata,
        "read": note.read,
        "created_at": iso(note.created_at),
    }


def slug(name: str) -> str:
    """A name in lower case, its words of letters and digits joined by dashes."""
    spaced = "".join(char if char.isalnum() else " " for char in name.lower())
    return "-".join(spaced.split())
