"""`/annotations`: of one image by path, of many at once, and the annotation file by image id."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from standin import shapes
from standin.records import Image
from standin.routes.registry import on
from standin.routing import Answer, Call, Refusal, bad_request, data, invalid
from standin.wire import annotation_file, annotation_list


@on("GET", "/annotations/{image_id:uuid}/file")
def file(call: Call) -> Answer:
    """`GET /annotations/{image_id}/file`: the wrapper, also for an image without annotations."""
    image = call.image_by_id()
    variant = call.switches.annotation_file
    if variant == "bare":
        return Answer(annotation_list(image))

    body = annotation_file(image, call.organization, call.base)
    if variant == "enveloped":
        return data(body)

    return Answer(body)


@on("GET", "/annotations/{dataset}/{path:path}")
def get(call: Call) -> Answer:
    """`GET /annotations/{dataset}/{path}`: bare; the array may be empty."""
    return Answer(annotation_list(call.image()))


class Saved(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /annotations/{dataset}/{path}`."""

    annotations: list[Any]


class BulkEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One image of a bulk save."""

    image_id: str
    annotations: list[Any]


class Bulk(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /annotations/bulk`."""

    saves: Annotated[list[BulkEntry], msgspec.Meta(min_length=1, max_length=200)]


@on("POST", "/annotations/bulk", role="member")
def bulk(call: Call) -> Answer:
    """`POST /annotations/bulk`: an image that fails is reported, the others are saved."""
    saved: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []

    for entry in call.body(Bulk).saves:
        try:
            saved.append(_save(call, call.image_by_id(entry.image_id), entry.annotations))
        except Refusal as problem:
            # A wrong shape fails the whole request, a wrong image or class only its own entry.
            if problem.status == 422:
                raise

            failed.append({"image_id": entry.image_id, "error": problem.message})

    return Answer({"success": True, "saved": saved, "failed": failed})


@on("POST", "/annotations/{dataset}/{path:path}", role="member")
def save(call: Call) -> Answer:
    """`POST /annotations/{dataset}/{path}`: replaces all; the image keeps its status."""
    image = call.image()
    return Answer({"success": True, **_save(call, image, call.body(Saved).annotations)})


def _save(call: Call, image: Image, sent: list[Any]) -> dict[str, Any]:
    dataset = call.organization.datasets[image.dataset_id]

    try:
        kept = shapes.accept(sent, image.id)
    except msgspec.ValidationError as problem:
        raise invalid(["body", "annotations"], str(problem)) from None

    unknown = {each["name"] for each in kept} - {each["name"] for each in dataset.classes}
    if unknown:
        raise bad_request(f"Classes not defined on the dataset: {', '.join(sorted(unknown))}")
    if len({each["id"] for each in kept}) < len(kept):
        raise bad_request("Annotation ids must be unique within an image")

    previous = image.annotation_count
    call.organization.set_annotations(image, kept)
    return {
        "image_id": image.id,
        "previous_count": previous,
        "new_count": len(kept),
        "status": image.status,
    }


@on("DELETE", "/annotations/{dataset}/{path:path}", role="admin")
def delete(call: Call) -> Answer:
    """`DELETE /annotations/{dataset}/{path}`."""
    image = call.image()
    count = image.annotation_count
    call.organization.set_annotations(image, [])
    body = {"success": True, "image_id": image.id, "deleted_count": count}
    return Answer({**body, "message": "Annotations deleted"})
