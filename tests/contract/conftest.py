"""The vendor's own client against the stand-in: what it sends is served, what it is sent it
parses."""

from __future__ import annotations

from collections.abc import Iterator

import pictograph
import pytest

from standin import Organization, StandIn

EPOCH = 1_772_355_600.0
CLASSES = [
    {"name": "car", "type": "box"},
    {"name": "lake", "type": "polygon"},
    {"name": "lane", "type": "polyline"},
    {"name": "nose", "type": "keypoint"},
]


def house() -> Organization:
    """Two datasets, directories, spaces, unicode, a duplicate basename, annotations of all
    types."""
    organization = Organization(seed="contract")
    signs = organization.add_dataset("road signs", classes=CLASSES, created_at=EPOCH)
    places = [
        ("a.jpg", "/cam1", 4),
        ("a.jpg", "/cam2", 1),
        ("ünï cödé 画像.png", "/cam1", 3),
        ("with space.jpg", "/", 0),
        ("deep.jpg", "/cam1/night shift", 2),
    ]

    for number, (name, directory, count) in enumerate(places):
        organization.add_image(
            signs,
            name,
            directory,
            size=14_000 + number,
            annotation_count=count,
            content_type="image/png" if name.endswith("png") else "image/jpeg",
            status=("new", "annotate", "review", "complete", "complete")[number],
            split=("train", "val", "test", None, "train")[number],
            created_at=EPOCH + number,
        )

    organization.add_directory(signs, "/empty/below")
    other = organization.add_dataset("Ünï 画像 second", classes=CLASSES, created_at=EPOCH + 1)
    organization.add_image(other, "b.jpg", size=20_000, created_at=EPOCH)
    return organization


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A stand-in; afterwards no key may have reached storage and no redirect been sent."""
    with StandIn(house()) as running:
        yield running
        assert not running.log.key_leaks
        assert not [each for each in running.log.requests() if 300 <= each.status < 400]


@pytest.fixture
def client(standin: StandIn) -> Iterator[pictograph.Client]:
    """The vendor's client with an admin's key."""
    with pictograph.Client(standin.keys["admin"], base_url=standin.api_url, max_retries=0) as made:
        yield made
