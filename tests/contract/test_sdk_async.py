"""The asyncio twin. These run on asyncio: the vendor's client does not know trio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pictograph import AsyncClient
from pictograph.exceptions import NotFoundError
from pictograph.models.annotation import BBoxAnnotation
from pictograph.models.common import BoundingBox
from PIL import Image as Pillow

from standin import StandIn

NAME = "road signs"


def run(standin: StandIn, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncClient(
            standin.keys["admin"], base_url=standin.api_url, max_retries=0
        ) as client:
            await body(client)

    asyncio.run(main())


def test_datasets(standin: StandIn) -> None:
    async def body(client: AsyncClient) -> None:
        assert len(await client.datasets.list()) == 2
        assert [each.name async for each in client.datasets.iter(page_size=1)][1] == NAME

        got = await client.datasets.get(NAME, include_images=True)

        assert got.images is not None
        assert len(got.images) == 5
        assert (await client.datasets.get(dataset_id=got.id)).name == NAME

        made = await client.datasets.create("x")
        await client.datasets.delete("x")
        with pytest.raises(NotFoundError):
            await client.datasets.get(dataset_id=made.id)

    run(standin, body)


@pytest.mark.parametrize("mode", ["full", "images_only", "annotations_only"])
def test_download(standin: StandIn, tmp_path: Path, mode: str) -> None:
    twin = standin.organization[NAME].at("/cam2", "a.jpg")
    assert twin is not None

    standin.organization.rename_image(twin, "b.jpg")

    async def body(client: AsyncClient) -> None:
        report = await client.datasets.download(NAME, tmp_path, mode=mode)  # type: ignore[arg-type]
        assert report.success

    run(standin, body)

    for image in standin.organization[NAME].images.values():
        if mode != "annotations_only":
            assert (tmp_path / image.filename).read_bytes() == image.body().read(0, image.size)
        if mode != "images_only":
            wrapped = json.loads((tmp_path / f"{image.filename}.json").read_text())
            assert wrapped["annotations"] == standin.organization.annotations(image)


def test_images(standin: StandIn, tmp_path: Path) -> None:
    Pillow.new("RGB", (8, 6)).save(tmp_path / "up.png")

    async def body(client: AsyncClient) -> None:
        assert len(await client.images.list(NAME, directory_path="/cam1")) == 2
        assert len([each async for each in client.images.iter(NAME, page_size=2)]) == 5

        image = standin.organization[NAME].at("/cam1", "a.jpg")

        assert image is not None
        assert (await client.images.get(NAME, image.id)).file_size == image.size

        out = await client.images.download(NAME, "cam1/a.jpg", tmp_path / "out")

        assert out.read_bytes() == image.body().read(0, image.size)

        made = await client.images.upload(NAME, tmp_path / "up.png", directory_path="/new")

        assert (made.width, made.height) == (8, 6)

        bulk = await client.images.bulk_upload(NAME, [tmp_path / "up.png"], directory_path="/bulk")

        assert bulk.count == 1

        result = await client.batch.update(NAME, [made.id], status="review")

        assert result.processed == 1

    run(standin, body)


def test_annotations_directories_exports_jobs(standin: StandIn, tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        shape = BBoxAnnotation(name="car", bounding_box=BoundingBox(x=1, y=2, w=3, h=4))
        saved = await client.annotations.save(NAME, "cam1/a.jpg", [shape])

        assert (saved.previous_count, saved.new_count) == (4, 1)
        assert (await client.annotations.get(NAME, "cam1/a.jpg"))[0].id == shape.id
        assert (await client.annotations.delete(NAME, "cam1/a.jpg")).deleted_count == 1
        assert len(await client.directories.list(NAME)) == 5

        await client.exports.create(NAME, "e", poll_interval=0.001)
        out = await client.exports.download(NAME, "e", tmp_path / "e.zip")

        assert out.stat().st_size > 0
        assert [each async for each in client.jobs.list(status="all")] == []

    run(standin, body)
