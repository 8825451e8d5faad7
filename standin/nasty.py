"""Names, rows and sizes that break a careless client, one kind per dataset."""

from __future__ import annotations

import unicodedata
from typing import Any

from standin import content
from standin.dataset import Dataset
from standin.identity import uuid_for
from standin.organization import Organization
from standin.spec import EPOCH

#: What a server may well accept, all in one directory.
NAMES = (
    "with space.jpg",
    " leading and trailing .jpg ",
    "ünï — 画像 🦀.jpg",
    unicodedata.normalize("NFC", "café.jpg"),
    unicodedata.normalize("NFD", "café.jpg"),
    "Case.jpg",
    "case.jpg",
    "100%.jpg",
    "percent%20encoded.jpg",
    "hash#1.jpg",
    "query?x=1&y=2.jpg",
    "new\nline.jpg",
    ".hidden.jpg",
    "-rf.jpg",
    "quote'\"`$(id).jpg",
    "back\\slash.jpg",
    "colon:star*.jpg",
    "no suffix",
    "metadata",
    "data-bundle",
    "a.jpg.json",
    "x" * 251 + ".jpg",
    "é" * 125 + "z.jpg",
    "CON.jpg",
    "plus+and&amp;.jpg",
    "\u202egpj.exe.jpg",
)

#: What only a broken or hostile server sends.
HOSTILE = (
    "",
    ".",
    "..",
    "../escape.jpg",
    "/etc/passwd",
    "a/b.jpg",
    "nul\0byte.jpg",
    "x" * 300 + ".jpg",
)


def fill(organization: Organization) -> None:
    """Make the datasets."""
    _names(organization, organization.add_dataset("names", created_at=EPOCH))
    _hostile(organization, organization.add_dataset("hostile", created_at=EPOCH + 1))
    _sizes(organization, organization.add_dataset("sizes", created_at=EPOCH + 2))
    _rows(organization, organization.add_dataset("rows", created_at=EPOCH + 3))
    _shapes(organization, organization.add_dataset("shapes", created_at=EPOCH + 4))
    _names_of_datasets(organization)
    _states(organization)


def _put(
    organization: Organization,
    dataset: Dataset,
    name: str,
    directory: str = "/",
    **fields: Any,
) -> None:
    number = len(dataset.images)
    fields.setdefault("size", 2000 + number)
    identifier = uuid_for(organization.seed, "nasty", dataset.name, number)
    moment = EPOCH + 10 * number

    organization.add_image(dataset, name, directory, id=identifier, created_at=moment, **fields)


def _names(organization: Organization, dataset: Dataset) -> None:
    """Equal names in several directories, images named like directories, and strange names."""
    for directory in ("/", "/a", "/a/b", "/b", "/A"):
        _put(organization, dataset, "same.jpg", directory, annotation_count=2)

    for directory in (
        "/with space",
        "/ünï",
        "/100%",
        "/hash#",
        "/.hidden",
        "/tree",
        "/stats",
        "/b",
    ):
        _put(organization, dataset, "inside.jpg", directory, annotation_count=1)

    _put(organization, dataset, "a")
    _put(organization, dataset, "b", "/a")

    for name in NAMES:
        _put(organization, dataset, name, "/strange", annotation_count=1)

    for path in ("/empty", "/a/empty", "/deep/er/est"):
        organization.add_directory(dataset, path)


def _hostile(organization: Organization, dataset: Dataset) -> None:
    for name in HOSTILE:
        _put(organization, dataset, name, annotation_count=1)

    # Two images at one place.
    _put(organization, dataset, "twin.jpg")
    _put(organization, dataset, "twin.jpg")

    for directory in ("/..", "/../..", "/a//b", "/nul\0", "no-slash", "/ends/"):
        _put(organization, dataset, "inside.jpg", directory)

    _put(organization, dataset, "good.jpg", annotation_count=1)


def _sizes(organization: Organization, dataset: Dataset) -> None:
    """Images with a `file_size` that is unknown or wrong, and bodies from 0 bytes to 12 MB."""
    _put(organization, dataset, "unknown.jpg", size=20_000, file_size=0)
    _put(organization, dataset, "says-less.jpg", size=20_000, file_size=9_000)
    _put(organization, dataset, "says-more.jpg", size=20_000, file_size=31_000)

    _put(organization, dataset, "empty.jpg", size=0)
    _put(organization, dataset, "one-byte.jpg", size=1)
    _put(organization, dataset, "cut-short.jpg", size=300)

    _put(organization, dataset, "large.jpg", size=12_000_001)
    _put(organization, dataset, "large.png", size=9_000_001, content_type="image/png")
    _put(organization, dataset, "good.jpg", size=20_000)


def _rows(organization: Organization, dataset: Dataset) -> None:
    """Rows with unknown or absent values. The vendor's client refuses a page with one of them."""
    _put(organization, dataset, "null-directory.jpg", lies={"directory_path": None})
    _put(organization, dataset, "status.jpg", lies={"status": "in_progress"})
    _put(organization, dataset, "split.jpg", lies={"split": "holdout"})
    _put(organization, dataset, "null-size.jpg", lies={"file_size": None})
    _put(
        organization,
        dataset,
        "null-type.jpg",
        lies={"content_type": None, "width": None, "height": None},
    )

    _put(organization, dataset, "extra.jpg", lies={"etag": "x", "nested": {"a": [1]}})
    _put(organization, dataset, "null-name.jpg", lies={"filename": None})
    _put(organization, dataset, "number-name.jpg", lies={"filename": 7})
    _put(organization, dataset, "bad-time.jpg", lies={"created_at": "yesterday"})
    _put(organization, dataset, "null-id.jpg", lies={"id": None})

    _put(organization, dataset, "rotated.jpg", size=30_000, look=content.ROTATED)
    _put(organization, dataset, "good.jpg", annotation_count=1)


def _shapes(organization: Organization, dataset: Dataset) -> None:
    """All types of annotations with their optional fields, and class names beyond ASCII."""
    names = {
        "car": "box",
        "船 ⛵": "box",
        "lac à l\u2019été": "polygon",
        "lane": "polyline",
        "nose": "keypoint",
    }
    dataset.set_classes([{"name": name, "type": kind} for name, kind in names.items()])

    _put(organization, dataset, "all.jpg", size=20_000, width=640, height=480)
    image = next(iter(dataset.images.values()))
    image.annotations = _ALL
    image.annotation_count = len(_ALL)
    image.min_confidence = 0.1

    for count in (0, 1, 200):
        _put(organization, dataset, f"count-{count}.jpg", annotation_count=count)

    _put(organization, dataset, "count-lies.jpg", annotation_count=3, lies={"annotation_count": 0})


def _names_of_datasets(organization: Organization) -> None:
    names = (
        "..",
        ".",
        "with/slash",
        "with space",
        "100%",
        "hash#?&",
        "Case",
        "case",
        "ünï 画像",
        unicodedata.normalize("NFD", "ünï 画像"),
        "d" * 300,
        uuid_for("a name of the shape of an id"),
    )

    for number, name in enumerate(names):
        identifier = uuid_for(organization.seed, "nasty dataset", number)
        moment = EPOCH + 100 + number
        dataset = organization.add_dataset(name, dataset_id=identifier, created_at=moment)
        _put(organization, dataset, "one.jpg", "/sub", annotation_count=1)


def _states(organization: Organization) -> None:
    """Empty, archived and frozen datasets, and archived images."""
    organization.add_dataset("empty", created_at=EPOCH + 200)
    hollow = organization.add_dataset("empty directories", created_at=EPOCH + 201)
    organization.add_directory(hollow, "/one/two")

    frozen = organization.add_dataset("frozen", created_at=EPOCH + 202, storage_class="coldline")
    frozen.cold_since = EPOCH + 300
    _put(organization, frozen, "cold.jpg")

    hidden = organization.add_dataset("hidden", created_at=EPOCH + 203)
    _put(organization, hidden, "hidden.jpg")
    organization.archive_dataset(hidden)

    partly = organization.add_dataset("partly archived", created_at=EPOCH + 204)
    for name in ("kept.jpg", "archived.jpg"):
        _put(organization, partly, name, is_archived=name == "archived.jpg")


_COMMON: dict[str, Any] = {"confidence": 1.0, "created_by": None, "attributes": []}
_ALL: list[Any] = [
    {
        "id": "b1",
        "name": "car",
        "type": "bbox",
        "bounding_box": {"x": 10.0, "y": 20.0, "w": 30.5, "h": 12.25},
        **_COMMON,
        "attributes": {"occluded": "true", "größe": "groß"},
    },
    {
        "id": "b2",
        "name": "船 ⛵",
        "type": "bbox",
        "bounding_box": {"x": -5.0, "y": 5.0, "w": 40.1234567890123, "h": 1e-7},
        "oriented_box": {"cx": 25.0, "cy": 25.0, "w": 50.0, "h": 12.0, "angle": 359.9},
        **_COMMON,
        "confidence": 0.1,
    },
    {
        "id": "p1",
        "name": "lac à l\u2019été",
        "type": "polygon",
        "bounding_box": {"x": 0.0, "y": 0.0, "w": 9.0, "h": 9.0},
        "polygon": {
            "paths": [
                [{"x": 0.0, "y": 0.0}, {"x": 9.0, "y": 0.0}, {"x": 9.0, "y": 9.0}],
                [{"x": 6.0, "y": 2.0}, {"x": 8.0, "y": 2.0}, {"x": 8.0, "y": 5.0}],
            ]
        },
        **_COMMON,
    },
    {
        "id": "l1",
        "name": "lane",
        "type": "polyline",
        "bounding_box": {"x": 1.0, "y": 1.0, "w": 49.0, "h": 59.0},
        "polyline": {"path": [{"x": 1.0, "y": 1.0}, {"x": 50.0, "y": 60.0}]},
        **_COMMON,
    },
    {
        "id": "k1",
        "name": "nose",
        "type": "keypoint",
        "keypoint": {"x": 33.0, "y": 41.0},
        "instance_id": 1,
        **_COMMON,
        "attributes": {"occluded": "true"},
    },
    {"id": "k2", "name": "nose", "type": "keypoint", "keypoint": {"x": 1.0, "y": 2.0}, **_COMMON},
]
