from __future__ import annotations

import pictograph
import pytest
from pictograph.exceptions import ConflictError, NotFoundError, ValidationError
from pictograph.models.annotation import (
    BBoxAnnotation,
    KeypointAnnotation,
    OrientedBoxGeometry,
    PolygonAnnotation,
    PolygonGeometry,
    PolylineAnnotation,
    PolylineGeometry,
)
from pictograph.models.common import BoundingBox, Point

from standin import PRESETS, StandIn
from standin.records import Image

NAME = "road signs"


def the(standin: StandIn, directory: str, filename: str) -> Image:
    found = standin.organization[NAME].at(directory, filename)
    assert found is not None
    return found


def box(name: str = "car", **fields: object) -> BBoxAnnotation:
    shape = BoundingBox(x=1.5, y=2, w=3, h=4)
    return BBoxAnnotation(name=name, bounding_box=shape, **fields)  # type: ignore[arg-type]


ALL = [
    box(confidence=0.25, attributes={"größe": "groß"}),
    box(oriented_box=OrientedBoxGeometry(cx=3, cy=4, w=3, h=4, angle=30)),
    PolygonAnnotation(
        name="lake",
        polygon=PolygonGeometry(paths=[[Point(x=0, y=0), Point(x=9, y=0), Point(x=9, y=9)]]),
    ),
    PolylineAnnotation(
        name="lane", polyline=PolylineGeometry(path=[Point(x=1, y=1), Point(x=5, y=6)])
    ),
    KeypointAnnotation(name="nose", keypoint=Point(x=3, y=4), instance_id=1),
]


def test_generated_annotations_are_of_all_types(client: pictograph.Client) -> None:
    found = client.annotations.get(NAME, "cam1/a.jpg")
    assert [each.type for each in found] == ["bbox", "polygon", "polyline", "keypoint"]
    assert found == client.annotations.get(NAME, "a.jpg", directory_path="/cam1")
    assert client.annotations.get(NAME, "with space.jpg") == []


def test_lowest_confidence_agrees_with_the_row(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam1", "a.jpg")
    found = client.annotations.get(NAME, image.id)
    assert (
        min(each.confidence for each in found) == client.images.get(NAME, image.id).min_confidence
    )


def test_save_replaces_and_reads_back(client: pictograph.Client, standin: StandIn) -> None:
    image = the(standin, "/cam1", "a.jpg")
    before = client.datasets.get(NAME).updated_at
    result = client.annotations.save(NAME, "cam1/a.jpg", ALL)

    assert (result.image_id, result.previous_count, result.new_count) == (image.id, 4, 5)
    assert result.status == "new"

    read = client.annotations.get(NAME, image.id)

    assert [each.id for each in read] == [each.id for each in ALL]
    assert read[2].bounding_box == BoundingBox(x=0, y=0, w=9, h=9)
    assert read[0].attributes == {"größe": "groß"}

    row = client.images.get(NAME, image.id)

    assert (row.annotation_count, row.min_confidence, row.status) == (5, 0.25, "new")
    assert client.datasets.get(NAME).updated_at == before


def test_save_refuses_what_the_dataset_does_not_know(client: pictograph.Client) -> None:
    with pytest.raises(ValidationError, match="unicorn"):
        client.annotations.save(NAME, "cam1/a.jpg", [box("unicorn")])
    with pytest.raises(NotFoundError):
        client.annotations.save(NAME, "a.jpg", [])


def test_delete(client: pictograph.Client) -> None:
    assert client.annotations.delete(NAME, "cam1/a.jpg").deleted_count == 4
    assert client.annotations.get(NAME, "cam1/a.jpg") == []


def test_bulk_save(client: pictograph.Client, standin: StandIn) -> None:
    known, other = the(standin, "/cam1", "a.jpg").id, the(standin, "/cam2", "a.jpg").id
    unknown = "00000000-0000-4000-8000-000000000000"
    result = client.annotations.bulk_save({known: ALL[:1], unknown: [], other: [box("unicorn")]})
    assert [(each.image_id, each.previous_count, each.new_count) for each in result.saved] == [
        (known, 4, 1)
    ]
    assert {each.image_id for each in result.failed} == {unknown, other}
    with pytest.raises(ValidationError):
        client.annotations.bulk_save({f"{known[:-3]}{number:03d}": [] for number in range(201)})


def test_rename_class(client: pictograph.Client) -> None:
    result = client.annotations.rename_class(NAME, "car", "vehicle")
    assert (result.images_updated, result.annotations_updated, result.config_updated) == (
        4,
        4,
        True,
    )
    assert client.annotations.get(NAME, "cam2/a.jpg")[0].name == "vehicle"
    assert "vehicle" in {each.name for each in client.datasets.get(NAME).classes}

    client.datasets.update(
        NAME, classes=[{"name": "a", "type": "box"}, {"name": "b", "type": "box"}]
    )
    with pytest.raises(ConflictError):
        client.annotations.rename_class(NAME, "a", "b")


def test_merge_and_delete_class(client: pictograph.Client) -> None:
    merged = client.annotations.merge_class(NAME, "car", "lane")
    assert (merged.images_updated, merged.config_updated) == (4, True)
    assert client.annotations.get(NAME, "cam2/a.jpg")[0].name == "lane"
    kept = client.annotations.delete_class(NAME, "lake")
    assert (kept.config_updated, kept.annotations_removed) == (True, 0)
    gone = client.annotations.delete_class(
        NAME, "nose", class_type="keypoint", delete_annotations=True
    )
    assert (gone.config_updated, gone.annotations_removed) == (True, 1)
    assert [each.name for each in client.datasets.get(NAME).classes] == ["lane"]


def test_every_optional_part_parses() -> None:
    """The nasty organization's shapes are within the contract, however odd."""
    with (
        StandIn(PRESETS["nasty"]()) as standin,
        pictograph.Client(
            standin.keys["viewer"], base_url=standin.api_url, max_retries=0
        ) as client,
    ):
        found = client.annotations.get("shapes", "all.jpg")
        assert [each.id for each in found] == ["b1", "b2", "p1", "l1", "k1", "k2"]
        assert found[1].name == "船 ⛵"
        assert len(client.annotations.get("shapes", "count-200.jpg")) == 200
