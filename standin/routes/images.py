"""`/images`: rows, bytes and the bundle; archiving, reviews, splits and tags."""

from __future__ import annotations

import io
import random
import re
import zipfile
from typing import Any, Literal

import msgspec

from standin.dataset import Selection
from standin.records import Image
from standin.routes.registry import on, page, refuse_cold
from standin.routing import Answer, Call, Refusal, Slice, bad_request, conflict, data, invalid
from standin.shapes import annotations_of
from standin.wire import image_row, image_rows, summaries

_FILTERS = "directory_path status split filename include_archived min_confidence_lt"
Split = Literal["train", "val", "test"]


@on("GET", "/images/", query=f"dataset limit offset {_FILTERS}")
def listing(call: Call) -> Answer:
    """`GET /images/?dataset=`: a page of rows, newest first."""
    if "dataset" not in call.query:
        raise invalid(["query", "dataset"], "Field required", "missing")

    dataset = call.dataset(call.query["dataset"])
    limit = call.at_most(call.number("limit", 100, 1000, 1))
    offset = call.offset

    found = dataset.select(
        Selection(
            archived=call.flag("include_archived"),
            directory=call.query.get("directory_path"),
            status=call.query.get("status"),
            split=call.query.get("split"),
            filename=call.query.get("filename"),
            confidence_below=call.fraction("min_confidence_lt"),
            granted=call.granted(dataset),
        )
    )

    rows = image_rows(found[offset : offset + limit], call.base)
    if call.switches.listed_rows == "summary":
        rows = summaries(rows)

    return page(rows, len(found), limit, offset)


@on("GET", "/images/{image_id:uuid}/metadata")
def metadata(call: Call) -> Answer:
    """`GET /images/{image_id}/metadata`: the row of any image of the organization."""
    call.is_served(call.switches.metadata_by_id)
    return data(image_row(call.image_by_id(), call.base))


@on("GET", "/images/{image_id:uuid}")
def bytes_by_id(call: Call) -> Answer:
    """`GET /images/{image_id}`: the bytes of any image of the organization."""
    call.is_served(call.switches.bytes_by_id)
    return _bytes(call, call.image_by_id())


@on("GET", "/images/{dataset}/{path:path}/data-bundle")
def bundle(call: Call) -> Answer:
    """`GET /images/{dataset}/{path}/data-bundle`: a zip with the image and its annotations."""
    image = call.image()
    refuse_cold(call.dataset())
    body = image.body()
    out = io.BytesIO()

    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(image.filename, body.read(0, body.size))
        archive.writestr("annotations.json", msgspec.json.encode(annotations_of(image)))
        manifest = {"image_id": image.id, "filename": image.filename, "has_depth": False}
        archive.writestr("manifest.json", msgspec.json.encode(manifest))

    return Answer(out.getvalue(), media_type="application/zip")


@on("GET", "/images/{dataset}/{path:path}/metadata")
def metadata_by_path(call: Call) -> Answer:
    """`GET /images/{dataset}/{path}/metadata`."""
    return data(image_row(call.image(), call.base))


@on("GET", "/images/{dataset}/{path:path}")
def bytes_by_path(call: Call) -> Answer:
    """`GET /images/{dataset}/{path}`: the bytes of an active image."""
    return _bytes(call, call.image())


def _bytes(call: Call, image: Image) -> Answer:
    if not call.switches.cold_reads:
        refuse_cold(call.organization.datasets[image.dataset_id])

    body = image.body()
    cut: tuple[int, int] | None = None
    headers: dict[str, str] = {}
    if call.switches.api_range:
        cut = byte_range(call.headers.get(b"range", b"").decode("latin-1"), body.size)
        headers["Accept-Ranges"] = "bytes"

    if cut is None:
        return Answer(Slice(body, 0, body.size), headers=headers, media_type=image.content_type)

    start, stop = cut
    if start >= stop:
        refused = {"Content-Range": f"bytes */{body.size}"}
        raise Refusal(416, "range_not_satisfiable", "Range Not Satisfiable", headers=refused)

    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{body.size}"
    return Answer(Slice(body, start, stop), 206, headers, image.content_type)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The [start, stop) of a `Range` header with a single range of bytes.

    None means the whole body, for a header that is absent or malformed; `start >= stop` means that
    the range cannot be satisfied.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None

    first, last = match.groups()
    # `bytes=-N` asks for the last N bytes.
    if not first:
        return (max(0, size - int(last)), size)

    if not last:
        return (int(first), size)
    if int(last) < int(first):
        return None

    return (int(first), min(size, int(last) + 1))


@on("DELETE", "/images/{dataset}/{path:path}", role="member", query="permanent")
def delete(call: Call) -> Answer:
    """`DELETE /images/{dataset}/{path}`: archives; `permanent=true` deletes, for admins only."""
    image = call.image()
    if not call.flag("permanent"):
        call.organization.archive_image(image)
        return Answer({"success": True, "message": "Image archived"})

    if not call.key.may("admin"):
        raise Refusal(403, "forbidden", "Permanent deletion requires the admin role")

    call.organization.remove_image(image)
    return Answer({"success": True, "message": "Image deleted"})


class Review(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/{dataset}/{path}/review`."""

    action: Literal["approve", "request_changes"]
    note: str | None = None


@on("POST", "/images/{dataset}/{path:path}/review", role="member")
def review(call: Call) -> Answer:
    """`POST /images/{dataset}/{path}/review`: completes an image, or sends it back."""
    image = call.image()
    wanted = call.body(Review)
    if wanted.action == "approve":
        call.organization.update_image(image, status="complete", review_note=None)
    else:
        call.organization.update_image(image, status="annotate", review_note=wanted.note)

    row = {"id": image.id, "status": image.status, "review_note": image.review_note}
    return data({**row, "processed": 1})


class SplitChange(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/{dataset}/{path}/split`."""

    split: Split | None


@on("POST", "/images/{dataset}/{path:path}/split", role="member")
def split(call: Call) -> Answer:
    """`POST /images/{dataset}/{path}/split`."""
    image = call.image()
    call.organization.update_image(image, split=call.body(SplitChange).split)
    return data({"id": image.id, "split": image.split})


class Tagging(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/bulk-tag`."""

    dataset: str
    image_ids: list[str]
    tags: list[str]
    add: bool = True


@on("POST", "/images/bulk-tag", role="member")
def bulk_tag(call: Call) -> Answer:
    """`POST /images/bulk-tag`: adds tags to images, or removes them (`add=false`)."""
    wanted = call.body(Tagging)
    dataset = call.dataset(wanted.dataset)
    images = [dataset.images[each] for each in wanted.image_ids if each in dataset.images]

    for image in images:
        kept = [tag for tag in image.tags if tag not in wanted.tags]
        if wanted.add:
            kept += wanted.tags

        call.organization.update_image(image, tags=tuple(kept))

    return data({"processed": len(images), "tags": wanted.tags, "added": wanted.add})


class Assignment(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/assign-splits`."""

    dataset: str
    train: int = 70
    val: int = 20
    test: int = 10
    seed: int = 42
    split_mode: Literal["random", "embedding"] = "random"


@on("POST", "/images/assign-splits", role="member")
def assign_splits(call: Call) -> Answer:
    """`POST /images/assign-splits`: shares out the active images at random, by the weights.

    409 for the mode `embedding`: the stand-in has no embedding maps.
    """
    wanted = call.body(Assignment)
    dataset = call.dataset(wanted.dataset)
    if wanted.split_mode == "embedding":
        raise conflict("The dataset has no embedding map")

    weights = wanted.train + wanted.val + wanted.test
    if weights <= 0:
        raise bad_request("The weights must not all be zero")

    images = sorted(dataset.select(Selection()), key=lambda image: image.id)
    random.Random(wanted.seed).shuffle(images)
    # The shares of val and test are rounded down, train gets the rest.
    val = len(images) * wanted.val // weights
    test = len(images) * wanted.test // weights
    for index, image in enumerate(images):
        if index < val:
            image.split = "val"
        elif index < val + test:
            image.split = "test"
        else:
            image.split = "train"

    call.organization.changed(dataset, "metadata")
    counts: dict[str, Any] = {"train": len(images) - val - test, "val": val, "test": test}
    return data({"dataset": dataset.name, "processed": len(images), **counts})
