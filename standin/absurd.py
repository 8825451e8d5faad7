"""A dataset of images that each have one absurd value in their row, and of a few good images.

The values are texts of JSON, since several of them have no equal in Python.
"""

from __future__ import annotations

import json

import msgspec

from standin.identity import uuid_for
from standin.organization import Organization
from standin.spec import EPOCH

DEEP = "/" + "/".join(f"part-{number:04d}" for number in range(1000))
#: Values that no field of any type should hold.
VALUES = (
    "1" + "0" * 400,
    "9" * 5000,
    "1e999",
    "-1",
    str(2**63),
    "[" * 2000 + "]" * 2000,
    '{"a":' * 2000 + "1" + "}" * 2000,
    json.dumps("x" * 100_000),
    '"\\ud83d"',
    '["\\ud83d", [[]], null]',
    json.dumps(DEEP),
)
FIELDS = (
    "directory_path",
    "status",
    "split",
    "annotation_count",
    "min_confidence",
    "file_size",
    "width",
    "content_type",
    "tags",
    "created_at",
    "novelty",
)


def fill(organization: Organization) -> None:
    """Make the dataset."""
    dataset = organization.add_dataset("absurd", created_at=EPOCH)
    dataset.lies = {
        "novelty": msgspec.Raw(VALUES[5].encode()),
        "updated_at": msgspec.Raw(b'"\\ud83d"'),
    }
    for field in FIELDS:
        for number, value in enumerate(VALUES):
            organization.add_image(
                dataset,
                f"{field}-{number}.jpg",
                id=uuid_for(organization.seed, "absurd", field, number),
                size=2000,
                created_at=EPOCH + len(dataset.images),
                lies={field: msgspec.Raw(value.encode())},
            )

    for number in range(3):
        organization.add_image(
            dataset,
            f"good-{number}.jpg",
            id=uuid_for(organization.seed, "absurd", number),
            size=2000,
            created_at=EPOCH + 1000 + number,
        )
