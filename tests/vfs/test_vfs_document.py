"""`dataset.json`: the API's object, right in size and time, fresh as the listing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rig import Mount, Rig

from pictofs.errors import Stale
from pictofs.model.moment import time_ns
from pictofs.model.records import document
from standin import PRESETS, StandIn
from standin.dataset import Dataset
from standin.wire import dataset_row

PATH = "/datasets/small/dataset.json"


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    with StandIn(PRESETS["small"]()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            yield mount


def small(mount: Mount) -> Dataset:
    return mount.standin.organization["small"]


def current(mount: Mount) -> bytes:
    return document(dataset_row(small(mount), mount.standin.organization))


async def test_v1_it_is_the_object_and_costs_nothing(mount: Mount) -> None:
    await mount.list("/datasets")
    mount.forget_log()
    data = await mount.read(PATH)
    assert data == current(mount)
    assert json.loads(data)["id"] == small(mount).id
    attributes = await mount.look(PATH)
    assert attributes[:6] == (await mount.list("/datasets/small"))["dataset.json"][:6]
    assert attributes.size == len(data)
    assert mount.asked == []


async def test_v1_another_object_is_another_file(mount: Mount) -> None:
    organization = mount.standin.organization
    before, number = current(mount), (await mount.look(PATH)).inode
    held = await mount.open(PATH)
    small(mount).description = "ä, and more\nlines"
    organization.clock.advance(60)
    organization.changed(small(mount), "dataset")

    assert await mount.read(PATH) == before  # the listing is fresh still

    await mount.library.refresh("small")

    assert await mount.read(PATH) == current(mount) != before

    attributes = await mount.look(PATH)

    assert attributes.inode != number
    assert attributes.mtime_ns == time_ns(json.loads(current(mount))["updated_at"]) > 0

    with pytest.raises(Stale):
        await mount.tree.open(number)

    assert await mount.rest(held) == before
    assert (await mount.tree.attributes(number)).size == len(before)

    mount.tree.close(held.handle)
    with pytest.raises(Stale):
        await mount.tree.attributes(number)


async def test_v1_it_changes_after_the_ttl(mount: Mount) -> None:
    await mount.read(PATH)
    organization = mount.standin.organization
    organization.add_image(small(mount), "new.jpg", size=500)
    mount.clock.advance(301)
    mount.forget_log()
    assert await mount.read(PATH) == current(mount)
    assert mount.asked == ["GET /datasets/"]


async def test_v1_the_kernel_believes_no_size_of_it(mount: Mount) -> None:
    """Eight bits of a number do not tell all contents apart."""
    opened = await mount.open(PATH)
    assert (opened.keep, opened.direct, opened.attributes.keep) == (False, False, 0.0)
    assert (await mount.look(PATH)).keep == 0.0
    mount.tree.close(opened.handle)
