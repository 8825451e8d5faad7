"""`/datasets`: the rows and their changes, cold storage, insights, and the signed URLs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from standin.clock import iso
from standin.dataset import Dataset, Selection
from standin.records import Image
from standin.routes.registry import object_of, on, page, refuse_cold
from standin.routing import Answer, Call, bad_request, conflict, data, invalid
from standin.shapes import annotations_of
from standin.wire import DownloadItem, annotation_url, dataset_row, image_rows, summaries

TYPES = {"bbox", "box", "polygon", "polyline", "keypoint"}
MODES = ("full", "images_only", "annotations_only")


@on("GET", "/datasets/", query="limit offset archived")
def listing(call: Call) -> Answer:
    """`GET /datasets/`: the active datasets or, with `archived=true`, the others; newest first."""
    limit = call.number("limit", 100, 1000, 1)
    offset = call.offset
    wanted = call.flag("archived")

    datasets = call.organization.datasets.values()
    found = [each for each in datasets if each.is_archived is wanted and call.sees(each)]
    found.sort(key=lambda each: each.created_at, reverse=True)

    rows = [dataset_row(each, call.organization) for each in found[offset : offset + limit]]
    return page(rows, len(found), limit, offset)


class NewDataset(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /datasets/`."""

    name: str
    readme: str | None = None
    description: str | None = None
    annotation_types: list[str] | None = None
    classes: list[dict[str, Any]] | None = None


@on("POST", "/datasets/", role="member")
def create(call: Call) -> Answer:
    """`POST /datasets/`: 201, or 409 if the name is taken."""
    wanted = call.body(NewDataset)
    _check_readme(call, wanted.readme)
    _check_name(call, wanted.name)
    _check_types(wanted.annotation_types)

    fields: dict[str, Any] = {
        "readme": wanted.readme,
        "description": wanted.description,
        "classes": wanted.classes or [],
    }
    if wanted.annotation_types:
        fields["annotation_types"] = wanted.annotation_types

    dataset = call.organization.add_dataset(wanted.name, **fields)
    return data(dataset_row(dataset, call.organization), 201)


@on("GET", "/datasets/{dataset}", query="include_images images_limit images_offset")
def get(call: Call) -> Answer:
    """`GET /datasets/{dataset}`: the row; `include_images=true` embeds a page of image rows."""
    dataset = call.dataset()
    row = dataset_row(dataset, call.organization)

    if call.flag("include_images") and call.switches.embedded_listing != "absent":
        limit = call.at_most(call.number("images_limit", 1000, 10_000, 1))
        offset = call.number("images_offset", 0)
        if call.switches.embedded_listing == "first_page":
            offset = 0

        images = dataset.select(Selection(granted=call.granted(dataset)))
        row["images"] = image_rows(images[offset : offset + limit], call.base)
        if call.switches.embedded_listing == "summary":
            row["images"] = summaries(row["images"])

    return data(row)


class DatasetChange(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PATCH /datasets/{dataset}`."""

    new_name: str | None = None
    readme: str | None = None
    description: str | None = None
    annotation_types: list[str] | None = None
    classes: list[dict[str, Any]] | None = None
    classes_base: list[dict[str, Any]] | None = None


@on("PATCH", "/datasets/{dataset}", role="member")
def update(call: Call) -> Answer:
    """`PATCH /datasets/{dataset}`: a partial update; `classes_base` makes it merge the classes."""
    dataset = call.dataset()
    wanted = call.body(DatasetChange)
    _check_readme(call, wanted.readme)

    # Whoever sends the name a dataset has already gets no 409.
    if wanted.new_name is not None and wanted.new_name != dataset.name:
        _check_name(call, wanted.new_name)
        dataset.name = wanted.new_name

    _check_types(wanted.annotation_types)
    for field in ("readme", "description", "annotation_types"):
        if getattr(wanted, field) is not None:
            setattr(dataset, field, getattr(wanted, field))

    if wanted.classes is not None:
        dataset.set_classes(_merge(dataset.classes, wanted.classes, wanted.classes_base))

    call.organization.changed(dataset, "dataset")
    return data(dataset_row(dataset, call.organization))


def _merge(
    now: list[dict[str, Any]],
    wanted: list[dict[str, Any]],
    base: list[dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """The class list meant by a client that read `base` and sent `wanted`; the list is `now`."""
    if base is None:
        return wanted

    def identity(entry: dict[str, Any]) -> tuple[Any, Any]:
        return (entry.get("name"), entry.get("type"))

    known = {identity(each) for each in base}
    kept = {identity(each) for each in wanted}
    # Classes that others added meanwhile stay; those that the client knew and left out go.
    others = [each for each in now if identity(each) not in known and identity(each) not in kept]
    return wanted + others


@on("DELETE", "/datasets/{dataset}", role="admin")
def delete(call: Call) -> Answer:
    """`DELETE /datasets/{dataset}`: for good, with a summary."""
    dataset = call.dataset()
    call.organization.remove_dataset(dataset)

    return data(
        {
            "id": dataset.id,
            "name": dataset.name,
            "deleted": True,
            "images_deleted": len(dataset.images),
            "directories_deleted": len(dataset.directories),
            "gcs_blobs_deleted": len(dataset.images),
            "gcs_blobs_retained_for_forks": 0,
        }
    )


@on("POST", "/datasets/{dataset}/archive", role="admin")
def archive(call: Call) -> Answer:
    """`POST /datasets/{dataset}/archive`: hides the dataset; 400 for a public one."""
    dataset = call.dataset()
    if dataset.is_public:
        raise bad_request("Unpublish the dataset before archiving it")

    call.organization.archive_dataset(dataset)
    return data(dataset_row(dataset, call.organization))


@on("POST", "/datasets/{dataset}/unarchive", role="admin")
def unarchive(call: Call) -> Answer:
    """`POST /datasets/{dataset}/unarchive`."""
    dataset = call.dataset()
    call.organization.archive_dataset(dataset, archived=False)
    return data(dataset_row(dataset, call.organization))


@on("GET", "/datasets/{dataset}/storage")
def storage(call: Call) -> Answer:
    """`GET /datasets/{dataset}/storage`: each read takes a running transition a step further."""
    dataset = call.dataset()
    if dataset.storage_state != "idle":
        _advance(call, dataset)

    counts = dataset.counts()
    cold = dataset.storage_class == "coldline"
    estimate: dict[str, Any] | None = None
    if cold and dataset.storage_state == "idle":
        estimate = _estimate(call, dataset)

    return data(
        {
            "storage_class": dataset.storage_class,
            "storage_state": dataset.storage_state,
            "cold_since": iso(dataset.cold_since),
            "cold_bytes": counts.size if cold else 0,
            "cold_image_count": counts.images if cold else 0,
            "storage_job_id": dataset.storage_job,
            "restore_estimate": estimate,
        }
    )


def _advance(call: Call, dataset: Dataset) -> None:
    dataset.storage_polls -= 1
    if dataset.storage_polls >= 0:
        return

    freezing = dataset.storage_state == "freezing"
    dataset.storage_class = "coldline" if freezing else "standard"
    dataset.cold_since = call.clock() if freezing else None
    dataset.storage_state = "idle"
    dataset.storage_job = None
    call.organization.changed(dataset, "dataset")


def _estimate(call: Call, dataset: Dataset) -> dict[str, Any]:
    """What a restore costs, in millionths of a US dollar."""
    counts = dataset.counts()
    days = (call.clock() - (dataset.cold_since or call.clock())) / 86_400

    retrieval = counts.size // 50_000
    operations = counts.images * 10
    # Cold storage is paid for 90 days at least.
    early = int(max(0.0, 90 - days) * counts.size / 10_000_000)

    return {
        "operation": "dataset_restore",
        "cold_bytes": counts.size,
        "cold_image_count": counts.images,
        "days_in_cold": days,
        "min_storage_days": 90.0,
        "monthly_savings_micro_usd": counts.size // 100_000,
        "retrieval_micro_usd": retrieval,
        "early_delete_micro_usd": early,
        "operations_micro_usd": operations,
        "total_micro_usd": retrieval + early + operations,
    }


@on("POST", "/datasets/{dataset}/storage/freeze", role="admin")
def freeze(call: Call) -> Answer:
    """`POST /datasets/{dataset}/storage/freeze`: starts the move to cold storage.

    409 for a dataset that is public or cold.
    """
    dataset = call.dataset()
    refuse_cold(dataset)
    if dataset.is_public:
        raise conflict("A public dataset cannot be frozen")

    return data(_transition(call, dataset, "freezing", "dataset_freeze"))


@on("POST", "/datasets/{dataset}/storage/restore", role="admin")
def restore(call: Call) -> Answer:
    """`POST /datasets/{dataset}/storage/restore`: starts the way back, with its price."""
    dataset = call.dataset()
    if dataset.storage_class != "coldline" or dataset.storage_state != "idle":
        raise conflict(f"Dataset '{dataset.name}' is not in cold storage")

    quoted = _estimate(call, dataset)["total_micro_usd"]
    started = _transition(call, dataset, "restoring", "dataset_restore")
    return data({**started, "quoted_micro_usd": quoted})


def _transition(call: Call, dataset: Dataset, state: str, kind: str) -> dict[str, Any]:
    dataset.storage_state = state
    dataset.storage_polls = call.switches.storage_polls
    dataset.storage_job = call.organization.add_job(kind, dataset.id).id
    return {"job_id": dataset.storage_job, "storage_state": state}


@on("GET", "/datasets/{dataset}/insights")
def insights(call: Call) -> Answer:
    """`GET /datasets/{dataset}/insights`: totals over the active images."""
    dataset = call.dataset()
    images = dataset.select(Selection(granted=call.granted(dataset)))

    classes: Counter[str] = Counter()
    pictured: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for image in images:
        found = annotations_of(image)
        classes.update(each["name"] for each in found)
        pictured.update({each["name"] for each in found})
        types.update(each["type"] for each in found)

    total = sum(classes.values())
    annotated = sum(image.annotation_count > 0 for image in images)

    return data(
        {
            "total_images": len(images),
            "total_annotations": total,
            "annotated_images": annotated,
            "unannotated_images": len(images) - annotated,
            "avg_annotations_per_image": total / len(images) if images else 0.0,
            "total_bytes": sum(image.file_size for image in images),
            "status_counts": Counter(image.status for image in images),
            "class_annotation_counts": classes,
            "class_image_counts": pictured,
            "type_counts": types,
            "annotation_density": Counter(str(image.annotation_count) for image in images),
            "dimensions": _dimensions(images),
        }
    )


def _dimensions(images: list[Image]) -> dict[str, Any]:
    known = [(image.width, image.height) for image in images if image.width and image.height]
    widths = [width for width, _ in known]
    heights = [height for _, height in known]
    sizes = Counter(known)

    return {
        "min_width": min(widths, default=None),
        "max_width": max(widths, default=None),
        "min_height": min(heights, default=None),
        "max_height": max(heights, default=None),
        "orientation": {
            "landscape": sum(w > h for w, h in known),
            "portrait": sum(w < h for w, h in known),
            "square": sum(w == h for w, h in known),
        },
        "sizes": [{"w": w, "h": h, "count": count} for (w, h), count in sizes.most_common(200)],
        "distinct_size_count": len(sizes),
        "images_with_dimensions": len(known),
        "images_missing_dimensions": len(images) - len(known),
    }


@on(
    "GET",
    "/datasets/{dataset}/duplicates",
    query="threshold sample neighbors max_pairs directory_path",
)
def duplicates(call: Call) -> Answer:
    """`GET /datasets/{dataset}/duplicates`: the groups of images with the same bytes."""
    dataset = call.dataset()
    directory = call.query.get("directory_path")
    images = dataset.select(Selection(directory=directory, granted=call.granted(dataset)))

    alike: dict[str, list[Image]] = {}
    for image in images:
        alike.setdefault(image.body().etag(), []).append(image)

    groups = [members for members in alike.values() if len(members) > 1]
    sample = call.number("sample", 1000)

    return data(
        {
            "groups": [_group(members) for members in groups],
            "group_count": len(groups),
            "duplicate_image_count": sum(map(len, groups)),
            "redundant_count": sum(len(members) - 1 for members in groups),
            "analyzed": min(len(images), sample),
            "total_images": len(images),
            "sample_limit": sample,
            "sample_capped": len(images) > sample,
            "pairs_capped": False,
            "threshold": call.fraction("threshold") or 0.92,
            "directory_path": directory,
        }
    )


def _group(members: list[Image]) -> dict[str, Any]:
    rows = [
        {
            "id": image.id,
            "filename": image.filename,
            "virtual_directory_path": image.directory_path,
            "status": image.status,
            "annotation_count": image.annotation_count,
        }
        for image in members
    ]

    return {"members": rows, "size": len(rows), "max_similarity": 1.0}


@on("GET", "/datasets/{dataset}/download", query="mode limit status_filter")
def download(call: Call) -> Answer:
    """`GET /datasets/{dataset}/download`: up to 10,000 items with signed image URLs.

    There is no offset, and an unknown `status_filter` gives no items rather than an error.
    """
    dataset = call.dataset()
    mode = call.choice("mode", MODES, "full")
    limit = call.number("limit", 10_000, 10_000, 1)

    if mode != "annotations_only" and not call.switches.cold_reads:
        refuse_cold(dataset)

    wanted = Selection(status=call.query.get("status_filter"), granted=call.granted(dataset))
    sign = call.signer.batch()
    items = [
        DownloadItem(
            image.id,
            image.filename,
            image.file_size,
            image.annotation_count,
            sign(object_of(image.id)) if mode != "annotations_only" else None,
            annotation_url(image) if mode != "images_only" else None,
        )
        for image in dataset.select(wanted)[:limit]
    ]

    return data({"id": dataset.id, "total_items": len(items), "items": items})


def _check_name(call: Call, name: str) -> None:
    if not name.strip() or "/" in name:
        raise bad_request("A dataset name must not be blank or contain '/'")
    if any(each.name == name for each in call.organization.datasets.values()):
        raise conflict(f"A dataset named '{name}' already exists")


def _check_readme(call: Call, readme: str | None) -> None:
    if readme is not None and not call.switches.readme_written:
        raise invalid(["body", "readme"], "Extra inputs are not permitted", "extra_forbidden")


def _check_types(types: list[str] | None) -> None:
    if types is not None and not set(types) <= TYPES:
        raise bad_request(f"Unknown annotation types: {sorted(set(types) - TYPES)}")
