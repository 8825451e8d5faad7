"""Extended attributes without a kernel: what the API says, for what `stat` costs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import Mount, Rig

from pictofs.errors import NoSuchEntry, Stale
from pictofs.vfs.xattrs import DATASET, PREFIX
from standin import PRESETS, Organization, StandIn

TIME = 1_772_355_600.0
ISO = "2026-03-01T09:00:00+00:00"


def organization() -> Organization:
    made = Organization()
    dataset = made.add_dataset(
        "signs",
        created_at=TIME,
        description="Schilder, größere",
        classes=[{"name": "car", "type": "box"}],
    )
    made.add_image(
        dataset,
        "a.jpg",
        "/cam 1",
        size=500,
        id="9a0e0000-0000-4000-8000-000000000001",
        status="review",
        split="val",
        tags=("night", "größer"),
        annotation_count=2,
        min_confidence=0.71,
        created_at=TIME,
    )
    made.add_image(
        dataset, "bare.jpg", size=500, file_size=0, width=None, height=None, created_at=TIME
    )
    return made


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    with StandIn(organization()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            yield mount


async def xattrs(mount: Mount, path: str) -> dict[str, str]:
    """Those of a path, decoded and without what all names begin with."""
    found = await mount.tree.xattrs((await mount.look(path)).inode)
    assert all(name.startswith(PREFIX) for name in found)
    return {name.removeprefix(PREFIX): value.decode() for name, value in found.items()}


async def test_x1_a_dataset_has_what_the_api_says(mount: Mount) -> None:
    dataset = mount.standin.organization["signs"]
    assert await xattrs(mount, "/datasets/signs") == {
        "id": dataset.id,
        "organization_id": mount.standin.organization.id,
        "name": "signs",
        "description": "Schilder, größere",
        "annotation_types": '["bbox"]',
        "classes": '[{"color":"#e6194b","name":"car","type":"box"}]',
        "image_count": "2",
        "completed_image_count": "0",
        "archived_image_count": "0",
        "total_size": "500",
        "storage_class": "standard",
        "is_public": "false",
        "is_archived": "false",
        "created_at": ISO,
        "updated_at": (await xattrs(mount, "/datasets/signs"))["updated_at"],
    }


async def test_x1_an_image_and_its_annotation_file_have_what_the_listing_says(mount: Mount) -> None:
    dataset = mount.standin.organization["signs"]
    wanted = {
        "id": "9a0e0000-0000-4000-8000-000000000001",
        "dataset_id": dataset.id,
        "filename": "a.jpg",
        "directory_path": "/cam 1",
        "status": "review",
        "split": "val",
        "tags": '["night","größer"]',
        "size": "500",
        "width": "512",
        "height": "384",
        "content_type": "image/jpeg",
        "annotation_count": "2",
        "min_confidence": "0.71",
        "created_at": ISO,
    }
    image = mount.standin.organization.images[wanted["id"]]
    wanted |= {"width": str(image.width), "height": str(image.height)}

    assert await xattrs(mount, "/datasets/signs/images/cam 1/a.jpg") == wanted
    assert await xattrs(mount, "/datasets/signs/annotations/cam 1/a.jpg.json") == wanted


async def test_x1_what_is_null_or_unknown_is_no_attribute(mount: Mount) -> None:
    found = await xattrs(mount, "/datasets/signs/images/bare.jpg")
    assert found.keys().isdisjoint({"split", "width", "height", "min_confidence", "size"})
    assert found["tags"] == "[]"
    await mount.read("/datasets/signs/images/bare.jpg")
    assert (await xattrs(mount, "/datasets/signs/images/bare.jpg"))["size"] == "500"


async def test_x2_other_nodes_have_none(mount: Mount) -> None:
    for path in (
        "/datasets",
        "/.pictofs",
        "/.pictofs/status.json",
        "/datasets/signs/images",
        "/datasets/signs/annotations/cam 1",
    ):
        assert await xattrs(mount, path) == {}


async def test_x3_they_cost_what_stat_costs(mount: Mount) -> None:
    paths = ["/datasets/signs", "/datasets/signs/images/cam 1/a.jpg"]
    inodes = [(await mount.look(path)).inode for path in paths]
    mount.forget_log()
    for inode in inodes:
        assert await mount.tree.xattrs(inode)
    assert mount.asked == []
    mount.clock.advance(301)
    assert await mount.tree.xattrs(inodes[0])
    assert mount.asked == ["GET /datasets/"]


async def test_x1_they_are_as_fresh_as_the_listing(mount: Mount) -> None:
    organization = mount.standin.organization
    assert "description" in await xattrs(mount, "/datasets/signs")

    organization["signs"].description = ""
    organization.changed(organization["signs"], "dataset")
    await mount.library.refresh("signs")

    assert (await xattrs(mount, "/datasets/signs"))["description"] == ""

    (image,) = [each for each in organization.images.values() if each.filename == "a.jpg"]
    organization.update_image(image, split="test", tags=())
    await mount.library.refresh("signs")
    found = await xattrs(mount, "/datasets/signs/images/cam 1/a.jpg")

    assert (found["split"], found["tags"]) == ("test", "[]")


async def test_x1_a_newer_object_that_comes_with_the_images_counts(mount: Mount) -> None:
    await mount.list("/datasets")
    organization = mount.standin.organization
    organization.add_image(organization["signs"], "new.jpg", size=500)
    await mount.list("/datasets/signs/images")
    assert (await xattrs(mount, "/datasets/signs"))["image_count"] == "3"


async def test_x2_a_value_that_no_kernel_takes_is_left_out(tmp_path: Path) -> None:
    made = organization()
    made["signs"].readme = "x" * (1 << 16)
    with StandIn(made) as standin:
        async with Rig(standin, tmp_path / "full").mount() as mount:
            assert len((await xattrs(mount, "/datasets/signs"))["readme"]) == 1 << 16
        made["signs"].readme += "x"
        async with Rig(standin, tmp_path / "over").mount() as mount:
            assert "readme" not in await xattrs(mount, "/datasets/signs")


async def test_x1_nasty_rows_have_attributes_that_are_utf_8_and_json(tmp_path: Path) -> None:
    with StandIn(PRESETS["nasty"](), cold_reads=True) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            seen = 0
            for path in await mount.walk(read=False):
                found = await xattrs(mount, path)
                seen += bool(found)
                assert found.keys() <= {*DATASET, *found}
                if "/images/" in path and found:
                    assert isinstance(json.loads(found["tags"]), list)
            assert seen > 50


async def test_x1_of_what_is_gone_there_are_none(mount: Mount) -> None:
    organization = mount.standin.organization
    path = "/datasets/signs/annotations/cam 1/a.jpg.json"
    folder, note = (await mount.look("/datasets/signs")).inode, (await mount.look(path)).inode
    await mount.read(path)
    (image,) = [each for each in organization.images.values() if each.filename == "a.jpg"]
    organization.set_annotations(image, [])
    await mount.library.refresh("signs")
    await mount.read(path)
    with pytest.raises(Stale):
        await mount.tree.xattrs(note)
    organization.remove_dataset(organization["signs"])
    await mount.library.refresh(None)

    for inode in (folder, note):
        with pytest.raises(NoSuchEntry):
            await mount.tree.xattrs(inode)
