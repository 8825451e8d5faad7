from __future__ import annotations

import json
from pathlib import Path

import pictograph
import pytest
from pictograph.exceptions import ConflictError, NotFoundError

from standin import StandIn

NAME, OTHER = "road signs", "Ünï 画像 second"


def test_list_is_newest_first_with_counters(client: pictograph.Client, standin: StandIn) -> None:
    found = client.datasets.list()
    assert [each.name for each in found] == [OTHER, NAME]
    signs = found[1]
    assert signs.id == standin.organization[NAME].id
    assert (signs.image_count, signs.completed_image_count, signs.archived_image_count) == (5, 2, 0)
    assert signs.total_size == sum(14_000 + number for number in range(5))
    assert {each.name: each.type for each in signs.classes}["car"] == "box"
    assert all(each.color for each in signs.classes)
    assert signs.organization_id == standin.organization.id
    assert signs.created_at.isoformat() == "2026-03-01T09:00:00+00:00"


def test_iter_pages_to_the_end(client: pictograph.Client, standin: StandIn) -> None:
    for number in range(5):
        standin.organization.add_dataset(f"more-{number}")
    names = [each.name for each in client.datasets.iter(page_size=3)]
    assert len(names) == len(set(names)) == 7
    assert standin.log.count(route="/datasets/") == 3


def test_get_by_name_and_by_id(client: pictograph.Client, standin: StandIn) -> None:
    for name in (NAME, OTHER):
        wanted = standin.organization[name]
        assert client.datasets.get(name).id == wanted.id
        assert client.datasets.get(dataset_id=wanted.id).name == name
        assert client.datasets.get(dataset_id=wanted.id.upper()).name == name
    assert client.datasets.get(NAME).images is None


def test_embed_carries_whole_rows_in_pages(client: pictograph.Client, standin: StandIn) -> None:
    truth = standin.organization[NAME]
    rows = client.datasets.get(NAME, include_images=True, images_limit=3).images
    rest = client.datasets.get(NAME, include_images=True, images_limit=3, images_offset=3).images

    assert rows is not None
    assert rest is not None
    assert [each.id for each in rows + rest] == list(reversed(truth.images))

    for row in rows + rest:
        image = truth.images[row.id]
        assert (row.filename, row.directory_path) == (image.filename, image.directory_path)
        assert (row.file_size, row.width, row.height) == (
            image.file_size,
            image.width,
            image.height,
        )
        assert (row.status, row.split) == (image.status, image.split)
        assert (row.annotation_count, row.min_confidence) == (
            image.annotation_count,
            image.min_confidence,
        )
        assert row.dataset_id == truth.id
        assert row.image_url is not None
        assert row.image_url.startswith(standin.api_url)
        assert row.annotation_url == f"/api/v1/developer/annotations/{row.id}/file"


def test_create_update_delete(client: pictograph.Client, standin: StandIn) -> None:
    made = client.datasets.create(
        "new one", readme="# Hello", classes=[{"name": "cat", "type": "box"}]
    )
    assert (made.name, made.image_count, made.annotation_types) == ("new one", 0, ["bbox"])
    assert standin.organization["new one"].id == made.id
    renamed = client.datasets.update("new one", new_name="renamed", annotation_types=["polygon"])
    assert (renamed.id, renamed.name, renamed.annotation_types) == (made.id, "renamed", ["polygon"])
    assert client.datasets.delete("renamed")["deleted"] is True
    with pytest.raises(NotFoundError):
        client.datasets.get(dataset_id=made.id)


def test_classes_base_keeps_what_another_writer_added(client: pictograph.Client) -> None:
    read = client.datasets.get(NAME).classes
    client.datasets.update(NAME, classes=[*read, {"name": "theirs", "type": "box"}])
    mine = client.datasets.update(
        NAME, classes=[*read[1:], {"name": "mine", "type": "box"}], classes_base=read
    )
    assert [each.name for each in mine.classes] == ["lake", "lane", "nose", "mine", "theirs"]
    replaced = client.datasets.update(NAME, classes=read)
    assert [each.name for each in replaced.classes] == ["car", "lake", "lane", "nose"]


def test_name_conflicts(client: pictograph.Client) -> None:
    with pytest.raises(ConflictError):
        client.datasets.create(NAME)
    with pytest.raises(ConflictError):
        client.datasets.update(NAME, new_name=OTHER)


def test_archive_hides_and_unarchive_shows(client: pictograph.Client) -> None:
    assert client.datasets.archive(NAME).is_archived
    assert [each.name for each in client.datasets.list()] == [OTHER]
    assert [each.name for each in client.datasets.list(archived=True)] == [NAME]
    assert client.datasets.get(NAME).archived_at is not None
    assert not client.datasets.unarchive(NAME).is_archived
    assert len(client.datasets.list()) == 2


def test_freeze_and_restore(client: pictograph.Client) -> None:
    assert client.datasets.storage_status(NAME).storage_class == "standard"

    transition = client.datasets.freeze(NAME)

    assert transition.storage_state == "freezing"
    assert client.jobs.get(transition.job_id).type == "dataset_freeze"

    cold = client.datasets.wait_for_storage(NAME, poll_interval=0.01, sleep=lambda _: None)

    assert (cold.storage_class, cold.cold_image_count) == ("coldline", 5)
    assert cold.restore_estimate is not None
    assert client.datasets.get(NAME).storage_class == "coldline"

    with pytest.raises(ConflictError) as refused:
        client.exports.create(NAME, "cold")

    assert refused.value.code == "dataset_cold"

    back = client.datasets.restore(NAME)

    assert back.quoted_micro_usd == cold.restore_estimate.total_micro_usd

    warm = client.datasets.wait_for_storage(NAME, poll_interval=0.01, sleep=lambda _: None)

    assert (warm.storage_class, warm.restore_estimate) == ("standard", None)


def test_insights_and_duplicates(client: pictograph.Client, standin: StandIn) -> None:
    health = client.datasets.insights(NAME)
    assert (health.total_images, health.total_annotations, health.unannotated_images) == (5, 10, 1)
    assert health.type_counts == {"bbox": 4, "polygon": 3, "polyline": 2, "keypoint": 1}
    assert (health.status_counts.complete, health.dimensions.max_width) == (2, 640)
    assert client.datasets.near_duplicates(NAME).group_count == 0
    image = standin.organization[NAME].at("/", "with space.jpg")
    assert image is not None
    client.batch.copy(NAME, [image.id], target_directory_path="/copies")
    twins = client.datasets.near_duplicates(NAME, threshold=0.9)
    assert (twins.group_count, twins.redundant_count) == (1, 1)


@pytest.mark.parametrize("mode", ["full", "images_only", "annotations_only"])
def test_download_gives_the_truth(
    client: pictograph.Client, standin: StandIn, tmp_path: Path, mode: str
) -> None:
    """Two images of one basename collide in the SDK's flat folder; the mount must not follow it
    there."""
    organization = standin.organization
    twin = organization[NAME].at("/cam2", "a.jpg")

    assert twin is not None

    organization.rename_image(twin, "b.jpg")
    report = client.datasets.download(NAME, tmp_path, mode=mode)  # type: ignore[arg-type]

    assert report.success
    assert report.dataset_id == organization[NAME].id
    assert report.images_downloaded == (0 if mode == "annotations_only" else 5)
    assert report.annotations_downloaded == (0 if mode == "images_only" else 5)

    for image in organization[NAME].images.values():
        if mode != "annotations_only":
            assert (tmp_path / image.filename).read_bytes() == image.body().read(0, image.size)
        if mode != "images_only":
            text = (tmp_path / f"{image.filename}.json").read_text()
            wrapped = json.loads(text)

            assert wrapped["annotations"] == organization.annotations(image)
            assert (wrapped["image_uuid"], wrapped["image_path"]) == (
                image.id,
                image.directory_path,
            )
            assert text == json.dumps(wrapped, indent=2)

    assert standin.log.count(host="storage") == report.images_downloaded
    assert all(each.has_key for each in standin.log.requests(host="api"))


def test_download_by_status(client: pictograph.Client, tmp_path: Path) -> None:
    report = client.datasets.download(NAME, tmp_path, mode="images_only", status_filter="complete")
    assert {each.name for each in tmp_path.iterdir()} == {"with space.jpg", "deep.jpg"}
    assert report.success
    assert (
        client.datasets.download(NAME, tmp_path, status_filter="in_progress").total_attempted == 0
    )
