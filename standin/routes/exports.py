"""`/exports`: archives of a dataset's annotations, made on the server and fetched from storage.

The stand-in makes the formats `pictograph`, `coco`, `yolo` and `csv`; an export in another format
ends as `failed`. The layout of the vendor's archives is not documented; that of the last three is
in `standin/archives.py`. Of `pictograph` each image has one JSON file, named after its id so that
equal names in several directories stay apart: `annotations/<image id>.json`, with the wrapper of
`GET /annotations/{image_id}/file`, and with `include_images` also `images/<image id><suffix>`. With
`organize_by_split` all of it is below `train/`, `valid/` or `test/`; images without a split are in
`train/`.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from standin import archives
from standin.dataset import Dataset, Selection
from standin.identity import is_uuid
from standin.records import Export, Image
from standin.routes.registry import on, page, refuse_cold
from standin.routing import Answer, Call, bad_request, conflict, data, not_found
from standin.shapes import annotations_of
from standin.wire import annotation_file, export_row

Format = Literal[
    "pictograph",
    "darwin",
    "coco",
    "yolo",
    "yolo_obb",
    "yolo_pose",
    "dota",
    "pascal_voc",
    "cvat",
    "datumaro",
    "labelme",
    "csv",
]
_FOLDERS = {"train": "train/", "val": "valid/", "test": "test/", None: "train/"}


class NewExport(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /exports/`."""

    dataset_name: str
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    format: Format = "pictograph"
    include_images: bool = False
    class_filter: list[str] | None = None
    status_filter: str | None = None
    organize_by_split: bool = False


@on("POST", "/exports/", role="member")
def create(call: Call) -> Answer:
    """`POST /exports/`: 201 and `pending`; 409 if the name is taken or the dataset is frozen."""
    wanted = call.body(NewExport)
    dataset = call.dataset(wanted.dataset_name)
    refuse_cold(dataset)
    if _named(call, dataset, wanted.name) is not None:
        raise conflict(f"An export named '{wanted.name}' already exists")

    # The dataset may have been named by its id.
    wanted.dataset_name = dataset.name
    export = Export(
        id=call.organization.new_id("export"),
        dataset_id=dataset.id,
        **msgspec.structs.asdict(wanted),
        created_at=call.clock(),
        polls_left=call.switches.export_polls,
    )
    call.organization.exports[export.id] = export
    return data(export_row(export, call.organization, None), 201)


@on("GET", "/exports/", query="limit offset dataset_name status")
def listing(call: Call) -> Answer:
    """`GET /exports/`: newest first."""
    limit = call.number("limit", 100, 1000, 1)
    offset = call.number("offset", 0)

    found = [each for each in reversed(call.organization.exports.values()) if _seen(call, each)]
    if "dataset_name" in call.query:
        dataset = call.dataset(call.query["dataset_name"])
        found = [each for each in found if each.dataset_id == dataset.id]

    if "status" in call.query:
        found = [each for each in found if each.status == call.query["status"]]

    rows = [_row(call, each) for each in found[offset : offset + limit]]
    return page(rows, len(found), limit, offset)


def _seen(call: Call, export: Export) -> bool:
    dataset = call.organization.datasets.get(export.dataset_id)
    return dataset is not None and call.sees(dataset)


def _named(call: Call, dataset: Dataset, name: str) -> Export | None:
    for export in call.organization.exports.values():
        if export.dataset_id == dataset.id and export.name == name:
            return export

    return None


def _export(call: Call) -> Export:
    """The export of the route, by its id, or by its name in the dataset of `?dataset=`."""
    reference = call.params["export"]
    found: Export | None = None
    # Names are unique in a dataset only, so an export's name alone names nothing.
    if "dataset" in call.query:
        found = _named(call, call.dataset(call.query["dataset"]), reference)
    elif is_uuid(reference):
        found = call.organization.exports.get(reference.strip().lower())
    else:
        raise bad_request("An export name needs the query parameter 'dataset'")

    if found is None or not _seen(call, found):
        raise not_found(f"Export '{reference}' not found")

    return found


def _row(call: Call, export: Export) -> dict[str, Any]:
    url = None
    if export.status == "completed":
        url = call.signer.batch()(export.object_name)

    return export_row(export, call.organization, url)


@on("GET", "/exports/{export:path}/download", query="dataset")
def download(call: Call) -> Answer:
    """`GET /exports/{name}/download?dataset=` or `GET /exports/{id}/download`: a signed URL."""
    export = _export(call)
    if export.status != "completed":
        raise bad_request(f"Export '{export.name}' is {export.status}")

    return data({"download_url": call.signer.batch()(export.object_name)})


@on("GET", "/exports/{export:path}", query="dataset")
def get(call: Call) -> Answer:
    """`GET /exports/{name}?dataset=` or `GET /exports/{id}`: each read takes it a step further."""
    export = _export(call)
    if export.status in ("pending", "processing"):
        _advance(call, export)

    return data(_row(call, export))


def _advance(call: Call, export: Export) -> None:
    if export.polls_left > 0:
        export.polls_left -= 1
        export.status = "processing"
    elif export.format != "pictograph" and export.format not in archives.FORMATS:
        export.status = "failed"
        export.error_message = f"The stand-in does not make the format '{export.format}'"
    else:
        _finish(call, export)


def _finish(call: Call, export: Export) -> None:
    dataset = call.organization.datasets[export.dataset_id]
    images = dataset.select(Selection(status=export.status_filter))
    out = io.BytesIO()
    export.annotation_count = 0

    hostile = call.switches.export_archive
    if hostile is not None:
        out.write(archives.HOSTILE[hostile]())
    elif export.format in archives.FORMATS:
        export.annotation_count = sum(len(annotations_of(image)) for image in images)
        made = archives.FORMATS[export.format](images, export.include_images)
        out.write(archives.pack(made))
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for image in images:
                export.annotation_count += _pack(call, export, image, archive)

    call.organization.finish_export(export, out.getvalue(), len(images))
    call.organization.notify("export_ready", f"Export {export.name} is ready", export_id=export.id)


def _pack(call: Call, export: Export, image: Image, archive: zipfile.ZipFile) -> int:
    """Put the annotations of an image, and its bytes if the export has them, into the archive.

    Returns the number of annotations.
    """
    wrapped = annotation_file(image, call.organization, call.base)
    if export.class_filter is not None:
        kept = [each for each in wrapped["annotations"] if each["name"] in export.class_filter]
        wrapped |= {"annotations": kept, "annotation_count": len(kept)}

    folder = ""
    if export.organize_by_split:
        folder = _FOLDERS.get(image.split, "train/")

    archive.writestr(f"{folder}annotations/{image.id}.json", msgspec.json.encode(wrapped))

    if export.include_images:
        # Pictures are compressed already.
        body = image.body()
        suffix = PurePosixPath(image.filename).suffix
        name = f"{folder}images/{image.id}{suffix}"
        archive.writestr(name, body.read(0, body.size), zipfile.ZIP_STORED)

    return len(wrapped["annotations"])


@on("DELETE", "/exports/{export:path}", role="admin", query="dataset")
def delete(call: Call) -> Answer:
    """`DELETE /exports/{name}?dataset=`: 204."""
    export = _export(call)
    _remove(call, export)
    return Answer(None, 204)


class Doomed(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /exports/bulk-delete`."""

    export_ids: Annotated[list[str], msgspec.Meta(min_length=1)]


@on("POST", "/exports/bulk-delete", role="admin")
def bulk_delete(call: Call) -> Answer:
    """`POST /exports/bulk-delete`: unknown ids are reported and do not fail the request."""
    wanted = list(dict.fromkeys(call.body(Doomed).export_ids))
    present = [each for each in wanted if each in call.organization.exports]
    for each in present:
        _remove(call, call.organization.exports[each])

    missing = [each for each in wanted if each not in present]
    return data({"succeeded": present, "not_found": missing, "count": len(present)})


def _remove(call: Call, export: Export) -> None:
    del call.organization.exports[export.id]
    call.organization.blobs.pop(export.object_name, None)
