"""Changes on the server: seen after the TTL, or at once by `refresh`; an open file keeps its
version."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mounting import (
    Mount,
    Mounting,
    Serving,
    Spent,
    annotation_bytes,
    eventually,
    expected,
    files_below,
    image_bytes,
)

from standin import PRESETS, Organization, Spec, StandIn
from standin.dataset import Dataset
from standin.records import Image

BOX = {
    "id": "x",
    "name": "car",
    "type": "bbox",
    "bounding_box": {"x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0},
}


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(PRESETS["small"]())


def small(server: StandIn) -> Dataset:
    return next(each for each in server.organization.datasets.values())


def first(server: StandIn) -> Image:
    return next(iter(small(server).images.values()))


def note_of(mount: Mount, image: Image) -> Path:
    return (
        mount.datasets
        / "small/annotations"
        / image.directory_path.strip("/")
        / f"{image.filename}.json"
    )


def note_annotations(server: StandIn, image: Image) -> None:
    """Other annotations, and a row that shows it."""
    server.organization.set_annotations(image, [BOX | {"confidence": 0.25}])
    server.organization.update_image(image, status="complete")


def _add_image(organization: Organization, dataset: Dataset) -> None:
    organization.add_image(dataset, "new.jpg", "/new directory", size=700)


def _remove_image(organization: Organization, dataset: Dataset) -> None:
    organization.remove_image(next(iter(dataset.images.values())))


def _archive_image(organization: Organization, dataset: Dataset) -> None:
    organization.archive_image(next(iter(dataset.images.values())))


def _move_image(organization: Organization, dataset: Dataset) -> None:
    organization.move_image(next(iter(dataset.images.values())), "/part-001", "moved.jpg")


def _swap_images(organization: Organization, dataset: Dataset) -> None:
    """Two images trade their names."""
    one, other = list(dataset.images.values())[:2]
    here, there = one.place, other.place
    organization.move_image(one, "/", "between")
    organization.move_image(other, *here)
    organization.move_image(one, *there)


def _rename_directory(organization: Organization, dataset: Dataset) -> None:
    organization.rename_directory(dataset, "/part-001", "renamed")


def _remove_directory(organization: Organization, dataset: Dataset) -> None:
    organization.remove_directory(dataset, "/part-002")


CHANGES = [
    _add_image,
    _remove_image,
    _archive_image,
    _move_image,
    _swap_images,
    _rename_directory,
    _remove_directory,
]


def test_f2_every_change_is_seen_after_the_ttl(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, "--metadata-ttl", "1")
    dataset = small(server)
    assert files_below(mount.datasets / "small") == expected(server, dataset)
    for change in CHANGES:
        change(server.organization, dataset)
        eventually(lambda: _files(mount), expected(server, dataset))


def _files(mount: Mount) -> dict[str, bytes] | None:
    """What is read from the dataset; None when something went away meanwhile."""
    try:
        return files_below(mount.datasets / "small")
    except FileNotFoundError:
        return None


def test_f5_every_change_is_seen_at_once_by_refresh(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    dataset = small(server)
    before = expected(server, dataset)
    assert files_below(mount.datasets / "small") == before
    for change in CHANGES:
        change(server.organization, dataset)
        assert files_below(mount.datasets / "small").keys() == before.keys()
        mount.pictofs("refresh", mount.datasets / "small")
        before = expected(server, dataset)
        assert files_below(mount.datasets / "small") == before


def test_f1_datasets_come_go_and_change_names(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server, "--metadata-ttl", "1")
    organization = server.organization

    assert os.listdir(mount.datasets) == ["small"]

    other = organization.add_dataset("other")
    eventually(lambda: sorted(os.listdir(mount.datasets)), ["other", "small"])
    organization.rename_dataset(small(server), "new name")
    eventually(lambda: sorted(os.listdir(mount.datasets)), ["new name", "other"])

    assert len(files_below(mount.datasets / "new name/images")) == 12

    organization.remove_dataset(other)
    eventually(lambda: os.listdir(mount.datasets), ["new name"])
    organization.archive_dataset(organization["new name"])
    eventually(lambda: os.listdir(mount.datasets), [])


def test_f1_two_datasets_that_trade_names(mounted: Mounting, serving: Serving) -> None:
    organization = Organization()
    one, other = organization.add_dataset("one"), organization.add_dataset("other")
    organization.add_image(one, "a.jpg", size=500)
    organization.add_image(other, "b.jpg", size=500)
    mount = mounted(serving(organization))

    assert os.listdir(mount.datasets / "one/images") == ["a.jpg"]

    organization.rename_dataset(one, "between")
    organization.rename_dataset(other, "one")
    organization.rename_dataset(one, "other")
    mount.pictofs("refresh", mount.root)

    assert os.listdir(mount.datasets / "one/images") == ["b.jpg"]
    assert os.listdir(mount.datasets / "other/images") == ["a.jpg"]


def test_f4_an_annotation_that_changed_is_read_anew_after_the_ttl(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server, "--metadata-ttl", "1")
    image = first(server)
    path = note_of(mount, image)
    before = annotation_bytes(server, image)

    assert path.read_bytes() == before

    number = path.stat().st_ino
    note_annotations(server, image)
    after = annotation_bytes(server, image)

    assert after != before

    os.listdir(path.parent)
    eventually(lambda: os.listdir(path.parent) and subprocess.check_output(["cat", path]), after)

    assert path.stat().st_ino != number
    assert path.stat().st_size == len(after)


def test_f4_f5_refresh_shows_an_annotation_that_nothing_else_told_of(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server)
    image = first(server)
    path = note_of(mount, image)
    path.read_bytes()
    # The same number of annotations, the same confidence: no row moves, and no dataset says that it
    # changed.
    changed = [
        dict(each, id=f"new-{place}")
        for place, each in enumerate(server.organization.annotations(image))
    ]
    server.organization.set_annotations(image, changed)

    assert path.read_bytes() != annotation_bytes(server, image)

    mount.pictofs("refresh", mount.datasets / "small")

    assert subprocess.check_output(["cat", path]) == annotation_bytes(server, image)


def test_b5_an_open_file_keeps_the_version_it_was_opened_with(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server)
    image = first(server)
    path = note_of(mount, image)
    before = annotation_bytes(server, image)
    path.read_bytes()

    with open(path, "rb") as held:
        assert held.read(10) == before[:10]

        note_annotations(server, image)
        after = annotation_bytes(server, image)
        mount.pictofs("refresh", mount.datasets / "small")

        assert subprocess.check_output(["cat", path]) == after
        assert held.read() == before[10:]

        held.seek(0)

        assert held.read() == before
        assert os.fstat(held.fileno()).st_size == len(before)
        assert path.read_bytes() == after
        assert path.stat().st_size == len(after)


def test_b5_a_removed_image_that_is_open_is_read_to_its_end(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server)
    image = first(server)
    path = mount.datasets / "small/images" / image.directory_path.strip("/") / image.filename

    with open(path, "rb") as held:
        held.read(10)
        server.organization.remove_image(image)
        mount.pictofs("refresh", mount.datasets / "small")

        assert not path.exists()

        held.seek(0)

        assert held.read() == image_bytes(image)


def test_b5_bytes_that_are_replaced_under_one_id_are_never_mixed(
    mounted: Mounting, serving: Serving
) -> None:
    """The kernel has one set of pages for all who have an image open, and keeps it between
    opens."""
    server = serving(Spec.uniform(images=1, size=1 << 20))
    mount = mounted(server)
    image = next(iter(server.organization["dataset-0"].images.values()))
    path = mount.datasets / "dataset-0/images" / image.directory_path.strip("/") / image.filename
    before = image_bytes(image)

    with open(path, "rb") as held:
        assert held.read(1000) == before[:1000]

        server.organization.replace_content(image, "another")
        after = image_bytes(image)

        assert after != before

        mount.pictofs("cache", "clear")

        assert path.read_bytes() == after
        assert held.read() == before[1000:]
        assert path.read_bytes() == after

        held.seek(0)

        assert held.read() == before

    assert path.read_bytes() == after


def test_s1_a_new_size_in_the_listing_is_believed_until_open(
    mounted: Mounting, server: StandIn
) -> None:
    mount = mounted(server)
    image = first(server)
    path = mount.datasets / "small/images" / image.directory_path.strip("/") / image.filename
    assert path.stat().st_size == image.size
    server.organization.update_image(image, file_size=image.size + 5)
    mount.pictofs("refresh", mount.datasets / "small")
    assert path.read_bytes() == image_bytes(image)
    assert path.stat().st_size == image.size


def test_f1_a_quiet_server_is_asked_once_a_ttl(mounted: Mounting, server: StandIn) -> None:
    """Whatever is looked at, the list of datasets is all that is asked for while nothing moves."""
    mount = mounted(server, "--metadata-ttl", "1")
    files_below(mount.datasets / "small")
    before = Spent(server)
    eventually(lambda: bool(files_below(mount.datasets / "small") and len(before.api) >= 2), True)
    assert {each.partition("?")[0] for each in before.api} == {"/datasets/"}
    assert before.storage == []


def test_f5_refresh_of_one_dataset_asks_for_that_one(mounted: Mounting, serving: Serving) -> None:
    organization = Organization()
    for name in ("one", "other"):
        organization.add_image(organization.add_dataset(name), "a.jpg", size=500)
    server = serving(organization)
    mount = mounted(server)
    for name in ("one", "other"):
        os.listdir(mount.datasets / name / "images")
    before = Spent(server)

    assert "one is fresh" in mount.pictofs("refresh", mount.datasets / "one")
    assert len(before.api) == 3  # the datasets, its directories, its images

    before = Spent(server)
    os.listdir(mount.datasets / "other/images")

    assert before.all == []
