from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pictograph
import pytest
from pictograph.exceptions import ConflictError, NotFoundError, ValidationError
from PIL import Image as Pillow

from standin import StandIn
from standin.records import Image

NAME, OTHER = "road signs", "Ünï 画像 second"


def the(standin: StandIn, directory: str, filename: str) -> Image:
    found = standin.organization[NAME].at(directory, filename)
    assert found is not None
    return found


def picture(path: Path, size: tuple[int, int] = (32, 24), kind: str = "PNG") -> Path:
    Pillow.new("RGB", size, (1, 2, 3)).save(path, kind)
    return path


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 5),
        ({"directory_path": "/cam1"}, 2),
        ({"directory_path": "/"}, 1),
        ({"directory_path": "/cam1/night shift"}, 1),
        ({"directory_path": "/nowhere"}, 0),
        ({"status": "complete"}, 2),
        ({"split": "train"}, 2),
        ({"filename": "a.jpg"}, 2),
        ({"filename": "a.jpg", "directory_path": "/cam2"}, 1),
        ({"filename": "ünï cödé 画像.png"}, 1),
        ({"min_confidence_lt": 1.0}, 4),
        ({"min_confidence_lt": 0.1}, 0),
    ],
)
def test_list_filters(client: pictograph.Client, filters: dict[str, object], expected: int) -> None:
    assert len(client.images.list(NAME, **filters)) == expected  # type: ignore[arg-type]


def test_iter_is_newest_first_over_pages(client: pictograph.Client, standin: StandIn) -> None:
    found = [each.id for each in client.images.iter(NAME, page_size=2)]
    assert found == list(reversed(standin.organization[NAME].images))
    assert standin.log.count(route="/images/") == 3


def test_archived_are_listed_on_demand(client: pictograph.Client, standin: StandIn) -> None:
    client.images.delete(NAME, "with space.jpg")
    assert len(client.images.list(NAME)) == 4
    everything = client.images.list(NAME, include_archived=True)
    assert [each.filename for each in everything if each.is_archived] == ["with space.jpg"]
    dataset = client.datasets.get(NAME)
    assert (dataset.image_count, dataset.archived_image_count) == (4, 1)
    assert client.images.get(NAME, the(standin, "/", "with space.jpg").id).is_archived


def test_get_by_name_and_id(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam1", "ünï cödé 画像.png")
    for reference in (image.filename, image.id):
        row = client.images.get(NAME, reference)
        assert (row.id, row.content_type, row.file_size) == (image.id, "image/png", image.size)
    with pytest.raises(ValueError, match="more than one directory"):
        client.images.get(NAME, "a.jpg")
    with pytest.raises(NotFoundError):
        client.images.get(OTHER, image.id)


def test_bytes_by_path_and_by_id(
    client: pictograph.Client, standin: StandIn, tmp_path: Path
) -> None:
    for image in standin.organization[NAME].images.values():
        for reference in (f"{image.directory_path}/{image.filename}".lstrip("/"), image.id):
            out = client.images.download(NAME, reference, tmp_path / "out")
            assert out.read_bytes() == image.body().read(0, image.size)
    assert standin.log.count(host="storage") == 0


def test_bundle(client: pictograph.Client, standin: StandIn, tmp_path: Path) -> None:
    image = the(standin, "/cam1", "a.jpg")
    out = client.images.download_bundle(NAME, "cam1/a.jpg", tmp_path / "bundle.zip")
    with zipfile.ZipFile(out) as archive:
        assert archive.read("a.jpg") == image.body().read(0, image.size)
        assert json.loads(archive.read("annotations.json")) == standin.organization.annotations(
            image
        )
        assert json.loads(archive.read("manifest.json"))["image_id"] == image.id


def test_upload_then_read_back(client: pictograph.Client, standin: StandIn, tmp_path: Path) -> None:
    path = picture(tmp_path / "fresh.png")
    made = client.images.upload(NAME, path, directory_path="/up/loaded")

    assert (made.filename, made.directory_path) == ("fresh.png", "/up/loaded")
    assert (made.width, made.height, made.file_size) == (32, 24, path.stat().st_size)
    assert (made.status, made.annotation_count, made.content_type) == ("new", 0, "image/png")

    back = client.images.download(NAME, "up/loaded/fresh.png", tmp_path / "back")

    assert back.read_bytes() == path.read_bytes()
    assert {each.full_path for each in client.directories.list(NAME)} >= {"/up", "/up/loaded"}
    assert client.images.list(NAME)[0].id == made.id

    with pytest.raises(ConflictError):
        client.images.upload(NAME, path, directory_path="/up/loaded")
    standin.switches.duplicate_status = 400
    with pytest.raises(ValidationError, match="already exists"):
        client.images.upload(NAME, path, directory_path="/up/loaded")


def test_upload_names_are_sanitised_in_both_steps(
    client: pictograph.Client, tmp_path: Path
) -> None:
    path = picture(tmp_path / "x.png")
    assert client.images.upload(NAME, path, filename="../a?b:c.png").filename == "a_b_c.png"


def test_bulk_upload_reports_each_file(client: pictograph.Client, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{number}.png", (10 + number, 10)) for number in range(4)]
    client.images.upload(NAME, paths[2], directory_path="/bulk")
    result = client.images.bulk_upload(NAME, paths, directory_path="/bulk")
    assert [each.filename for each in result.succeeded] == ["0.png", "1.png", "3.png"]
    assert [(each.filename, each.directory_path) for each in result.failed] == [("2.png", "/bulk")]
    assert [each.width for each in result.succeeded] == [10, 11, 13]


def test_upload_from_directory(client: pictograph.Client, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    picture(tmp_path / "in" / "one.png")
    picture(tmp_path / "in" / "sub" / "two.jpg", kind="JPEG")
    report = client.images.upload_from_directory(OTHER, tmp_path / "in")
    assert (report.success, report.images_uploaded) == (True, 2)
    assert len(client.images.list(OTHER)) == 3


def test_permanent_delete(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam1", "a.jpg")
    client.images.delete(NAME, "cam1/a.jpg", permanent=True)
    with pytest.raises(NotFoundError):
        client.images.get(NAME, image.id)
    with pytest.raises(NotFoundError):
        client.images.download(NAME, "cam1/a.jpg", "/nonexistent/never")


def test_review_split_and_tags(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam1", "a.jpg")
    assert client.images.review(NAME, "cam1/a.jpg", "approve") == "complete"
    assert client.images.review(NAME, image.id, "request_changes", note="look again") == "annotate"
    assert image.review_note == "look again"
    assert client.images.set_split(NAME, "cam1/a.jpg", "test") == "test"
    assert client.images.set_split(NAME, "cam1/a.jpg", None) is None

    ids = [image.id, the(standin, "/cam2", "a.jpg").id]

    assert client.images.bulk_tag(NAME, ids, ["night", "rain"]) == 2
    assert client.images.get(NAME, image.id).tags == ["night", "rain"]

    client.images.bulk_tag(NAME, ids, ["rain"], add=False)

    assert client.images.get(NAME, image.id).tags == ["night"]


def test_assign_splits(client: pictograph.Client) -> None:
    counts = client.images.assign_splits(NAME, train=60, val=20, test=20)
    assert counts == {"processed": 5, "train": 3, "val": 1, "test": 1}
    assert len(client.images.list(NAME, split="val")) == 1
    with pytest.raises(ConflictError):
        client.images.assign_splits(NAME, mode="embedding")


def test_batch_move_renames_on_collision(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam2", "a.jpg")
    result = client.batch.move(NAME, [image.id, "no-such-id"], target_directory_path="/cam1")
    assert (result.processed, result.renamed) == (1, 1)
    assert [each.id for each in result.failed] == ["no-such-id"]
    assert result.affected_directories == ["/cam1", "/cam2"]
    moved = client.images.get(NAME, image.id)
    assert (moved.directory_path, moved.filename) == ("/cam1", "a-1.jpg")


@pytest.mark.parametrize(
    ("handling", "processed", "names"),
    [("rename", 1, {"a.jpg", "a-2.jpg"}), ("skip", 0, {"a.jpg"}), ("overwrite", 1, {"a.jpg"})],
)
def test_batch_copy(
    client: pictograph.Client, standin: StandIn, handling: str, processed: int, names: set[str]
) -> None:
    source, present = the(standin, "/cam2", "a.jpg"), the(standin, "/cam1", "a.jpg")
    result = client.batch.copy(
        NAME,
        [source.id],
        target_directory_path="/cam1",
        duplicate_handling=handling,  # type: ignore[arg-type]
        copy_annotations=True,
    )

    assert (result.processed, len(result.failed)) == (processed, 1 - processed)

    found = client.images.list(NAME, directory_path="/cam1")

    assert {each.filename for each in found if each.filename.startswith("a")} == names
    assert (present.id in standin.organization.images) is (handling != "overwrite")


def test_copies_share_bytes_and_labels(
    client: pictograph.Client, standin: StandIn, tmp_path: Path
) -> None:
    source = the(standin, "/cam1", "a.jpg")
    client.datasets.create("target", classes=[])
    result = client.batch.copy_to_dataset(NAME, [source.id], "target", target_directory_path="/in")

    assert (result.processed, result.target_dataset) == (1, "target")
    assert sorted(result.classes_added) == ["car", "lake", "lane", "nose"]

    row = client.images.list("target")[0]

    assert row.id != source.id
    assert (row.split, row.status, row.annotation_count) == (source.split, source.status, 4)

    out = client.images.download("target", "in/a.jpg", tmp_path / "copy")

    assert out.read_bytes() == source.body().read(0, source.size)

    copied = client.annotations.get("target", "in/a.jpg")

    assert copied == client.annotations.get(NAME, "cam1/a.jpg")


def test_batch_delete_and_restore(client: pictograph.Client, standin: StandIn) -> None:
    ids = [the(standin, "/cam1", "a.jpg").id, the(standin, "/cam2", "a.jpg").id]
    assert client.batch.delete(NAME, ids).operation == "archived"
    assert len(client.images.list(NAME)) == 3
    result = client.batch.update(NAME, ids, is_archived=False, status="review")
    assert result.processed == 2
    assert len(client.images.list(NAME, status="review")) == 3
    assert client.batch.delete(NAME, ids, permanent=True).operation == "deleted"
    assert len(client.images.list(NAME, include_archived=True)) == 3
    with pytest.raises(NotFoundError):
        client.batch.update(NAME, ids, status="new")


def test_downloaded_pictures_decode(
    client: pictograph.Client, standin: StandIn, tmp_path: Path
) -> None:
    for image in standin.organization[NAME].images.values():
        out = client.images.download(NAME, image.id, tmp_path / "x")
        with Pillow.open(io.BytesIO(out.read_bytes())) as opened:
            opened.load()
            assert opened.size == (image.width, image.height)
