from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pictograph
import pytest
from pictograph.exceptions import ApiError, ConflictError, NotFoundError

from standin import StandIn

NAME = "road signs"


def test_export_becomes_a_zip_of_wrappers(
    client: pictograph.Client, standin: StandIn, tmp_path: Path
) -> None:
    pending = client.exports.create(NAME, "july/1", wait=False)
    assert (pending.status, pending.download_url) == ("pending", None)

    done = client.exports.wait_for_completion(NAME, "july/1", sleep=lambda _: None)

    assert (done.status, done.image_count, done.annotation_count) == ("completed", 5, 10)
    assert client.exports.get_by_id(done.id).download_url

    out = client.exports.download(NAME, "july/1", tmp_path / "july.zip")

    assert out.stat().st_size == done.file_size

    with zipfile.ZipFile(out) as archive:
        images = standin.organization[NAME].images
        assert set(archive.namelist()) == {f"annotations/{image_id}.json" for image_id in images}

        for image in images.values():
            wrapped = json.loads(archive.read(f"annotations/{image.id}.json"))
            assert wrapped["annotations"] == standin.organization.annotations(image)
            assert (wrapped["image"], wrapped["image_path"]) == (
                image.filename,
                image.directory_path,
            )

    assert client.notifications.unread_count() == 1


def test_export_filters_images_and_splits(client: pictograph.Client, tmp_path: Path) -> None:
    client.exports.create(
        NAME,
        "e",
        include_images=True,
        class_filter=["car"],
        status_filter="complete",
        organize_by_split=True,
        poll_interval=0.001,
    )
    out = client.exports.download(NAME, "e", tmp_path / "e.zip")

    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        assert len(names) == 4
        assert all(name.startswith("train/") for name in names)
        wrapped = [json.loads(archive.read(name)) for name in names if name.endswith(".json")]
        assert {each["name"] for one in wrapped for each in one["annotations"]} == {"car"}


def test_exports_list_delete_and_conflict(client: pictograph.Client) -> None:
    for name in ("one", "two", "three"):
        client.exports.create(NAME, name, wait=False)
    with pytest.raises(ConflictError):
        client.exports.create(NAME, "one", wait=False)

    assert [each.name for each in client.exports.list(dataset_name=NAME)] == ["three", "two", "one"]
    assert len(list(client.exports.iter(page_size=2))) == 3
    assert client.exports.list(status="completed") == []

    client.exports.delete(NAME, "one")
    with pytest.raises(NotFoundError):
        client.exports.get(NAME, "one")
    ids = [each.id for each in client.exports.list()]
    result = client.exports.bulk_delete([*ids, "gone"])

    assert (result.count, result.not_found) == (2, ["gone"])


def test_a_format_that_is_not_made_ends_as_failed(client: pictograph.Client) -> None:
    with pytest.raises(ApiError, match="does not make"):
        client.exports.create(NAME, "dota", format="dota", poll_interval=0.001)


def test_notifications(client: pictograph.Client, standin: StandIn) -> None:
    for number in range(3):
        standin.organization.notify("export_ready", f"Number {number}", number=number)
    found = client.notifications.list()

    assert [each.title for each in found] == ["Number 2", "Number 1", "Number 0"]
    assert found[0].metadata == {"number": 2}

    client.notifications.mark_read(found[0].id)

    assert client.notifications.unread_count() == 2
    assert len(client.notifications.list(unread_only=True)) == 2
    assert client.notifications.mark_all_read() == 2

    client.notifications.delete(found[0].id)

    assert len(client.notifications.list()) == 2


def test_jobs(client: pictograph.Client, standin: StandIn) -> None:
    dataset = standin.organization[NAME]
    first = standin.organization.add_job("connector_import", dataset.id, "import")
    standin.organization.add_job("batch_move", dataset.id).status = "running"

    assert [each.type for each in client.jobs.list()] == ["batch_move"]
    assert [each.type for each in client.jobs.list(status="all")] == [
        "batch_move",
        "connector_import",
    ]
    assert [each.id for each in client.jobs.list(status="finished", type="connector_import")] == [
        first.id
    ]

    got = client.jobs.get(first.id)

    assert (got.dataset_id, got.active, got.progress) == (dataset.id, False, 100.0)


def test_organization_and_webhooks(client: pictograph.Client, standin: StandIn) -> None:
    me = client.organizations.me()
    assert (me.id, me.name, me.subscription_tier) == (standin.organization.id, "Stand-in", "pro")
    assert "workflow_run.completed" in client.webhooks.event_types()
    assert list(client.webhooks.list()) == []
