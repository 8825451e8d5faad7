"""Uploads: a signed URL to PUT to, then the registration that makes an image of the bytes."""

from __future__ import annotations

import io
import re
from typing import Annotated, Any

import msgspec
from PIL import Image as Pillow

from standin.dataset import Dataset
from standin.identity import uuid_for
from standin.routes.directories import clean_path
from standin.routes.registry import on, refuse_cold
from standin.routing import Answer, Call, Refusal, bad_request, data
from standin.wire import image_row

_MINUTES = 15


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """One file of a request for upload URLs."""

    filename: str
    content_type: str
    directory_path: str = "/"


class WantedOne(Wanted, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /images/upload-url`."""

    dataset: str


class WantedMany(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/bulk-upload-url`."""

    dataset: str
    images: Annotated[list[Wanted], msgspec.Meta(min_length=1, max_length=500)]


class Arrived(msgspec.Struct, forbid_unknown_fields=True):
    """One file of a registration."""

    filename: str
    file_size: int
    content_type: str
    directory_path: str = "/"
    width: int | None = None
    height: int | None = None


class ArrivedOne(Arrived, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /images/register`."""

    dataset: str


class ArrivedMany(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /images/bulk-register`."""

    dataset: str
    images: Annotated[list[Arrived], msgspec.Meta(min_length=1, max_length=500)]


def sanitise(filename: str) -> str:
    """The name that a file gets, without directories and characters that file systems refuse."""
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*#%]', "_", re.split(r"[/\\]", filename)[-1]).strip()
    return name.lstrip(".") or "image"


def _object_of(dataset: Dataset, directory: str, filename: str) -> str:
    """The storage object that holds a file until it is registered, the same for both steps."""
    return f"uploads/{dataset.id}/{uuid_for(dataset.id, directory, filename)}"


def _url(call: Call, dataset: Dataset, wanted: Wanted) -> dict[str, Any]:
    if not wanted.content_type.startswith("image/"):
        raise bad_request(f"Unsupported content type '{wanted.content_type}'")

    directory = clean_path(wanted.directory_path)
    filename = sanitise(wanted.filename)
    name = _object_of(dataset, directory, filename)

    call.organization.declared_types[name] = wanted.content_type
    url = call.signer.batch("PUT", "content-type%3Bhost")(name)
    return {"filename": filename, "directory_path": directory, "upload_url": url}


@on("POST", "/images/upload-url", role="member")
def upload_url(call: Call) -> Answer:
    """`POST /images/upload-url`: where to PUT one file; 409 `dataset_cold` for a frozen dataset."""
    wanted = call.body(WantedOne)
    dataset = call.dataset(wanted.dataset)
    refuse_cold(dataset)
    return data({**_url(call, dataset, wanted), "expires_in_minutes": _MINUTES})


@on("POST", "/images/bulk-upload-url", role="member")
def bulk_upload_url(call: Call) -> Answer:
    """`POST /images/bulk-upload-url`: where to PUT up to 500 files, in the order of the request."""
    wanted = call.body(WantedMany)
    dataset = call.dataset(wanted.dataset)
    refuse_cold(dataset)
    urls = [_url(call, dataset, each) for each in wanted.images]
    return data({"upload_urls": urls, "expires_in_minutes": _MINUTES})


@on("POST", "/images/register", role="member")
def register(call: Call) -> Answer:
    """`POST /images/register`: 201 with the image; 409 (or 400) if its place is taken."""
    arrived = call.body(ArrivedOne)
    return data(_register(call, call.dataset(arrived.dataset), arrived), 201)


@on("POST", "/images/bulk-register", role="member")
def bulk_register(call: Call) -> Answer:
    """`POST /images/bulk-register`: a file that fails is reported, the others become images."""
    arrived = call.body(ArrivedMany)
    dataset = call.dataset(arrived.dataset)
    succeeded: list[Any] = []
    failed: list[dict[str, str]] = []

    for each in arrived.images:
        try:
            succeeded.append(_register(call, dataset, each))
        except Refusal as problem:
            place = {"filename": each.filename, "directory_path": each.directory_path}
            failed.append({**place, "error": problem.message})

    return data({"succeeded": succeeded, "failed": failed, "count": len(succeeded)})


def _register(call: Call, dataset: Dataset, arrived: Arrived) -> Any:
    refuse_cold(dataset)
    directory = clean_path(arrived.directory_path)
    filename = sanitise(arrived.filename)

    if dataset.at(directory, filename) is not None:
        status = call.switches.duplicate_status
        code = "conflict" if status == 409 else "bad_request"
        raise Refusal(status, code, f"An image named '{filename}' already exists in '{directory}'")

    # Each upload makes one image: the object is taken away.
    name = _object_of(dataset, directory, filename)
    blob = call.organization.blobs.pop(name, None)
    if blob is None:
        raise bad_request(f"No upload of '{filename}' has arrived")

    width = arrived.width
    height = arrived.height
    if not width or not height:
        width, height = _dimensions(blob.data)

    image = call.organization.add_image(
        dataset,
        filename,
        directory,
        blob=blob.data,
        content_type=arrived.content_type,
        width=width,
        height=height,
    )

    return image_row(image, call.base)


def _dimensions(blob: bytes) -> tuple[int | None, int | None]:
    # What Pillow cannot read is registered all the same, without dimensions.
    try:
        with Pillow.open(io.BytesIO(blob)) as picture:
            return picture.size
    except OSError:
        return (None, None)
