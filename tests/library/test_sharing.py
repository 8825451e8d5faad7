"""What nodes share by an engine: few requests, right bytes, nothing believed for longer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rig import annotation_bytes, expected
from shared_rig import Engine, Patience, engine, until
from sharing import Cluster, Node, at_once

from pictofs.model.inode import key_of
from pictofs.store.catalog.rows import DatasetRow, ImageRow
from standin import Fault, Match, StandIn
from standin.faults import Mutate
from standin.records import Image

LIST = "GET /datasets/"
TREE = "GET /directories/{dataset}/tree"
LISTING = "GET /datasets/{dataset}"
FILE = "GET /annotations/{image_id:uuid}/file"
URLS = "GET /datasets/{dataset}/download"
BYTES = "GET /images/{image_id:uuid}"
EXPORTS = "GET /exports/"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    return Patience(monkeypatch)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    folder = tmp_path / "engine"
    folder.mkdir()
    with engine(folder) as made:
        yield made


@pytest.fixture
def cluster(standin: StandIn, redis: Engine, tmp_path: Path) -> Cluster:
    return Cluster(standin, redis.address, tmp_path)


NOTE = "/datasets/small/annotations/part-000/image-000000.jpg.json"
IMAGE = "/datasets/small/images/part-000/image-000000.jpg"
DAY = 86_400.0


def image(standin: StandIn, number: int = 0) -> Image:
    name = f"image-{number:06d}.jpg"
    found = standin.organization["small"].images.values()
    return next(each for each in found if each.filename == name)


def edit(standin: StandIn, number: int = 0, *, by: str = "seen", fewer: bool = False) -> bytes:
    """Edit an annotation file; returns what it is now. Its count stays unless `fewer`."""
    org = standin.organization
    found = [
        dict(each, attributes=[{"name": by}]) for each in org.annotations(image(standin, number))
    ]
    org.set_annotations(image(standin, number), found[1:] if fewer else found)
    return annotation_bytes(standin, image(standin, number))


def row(node: Node, number: int = 0) -> ImageRow:
    found = node.catalog.image(key_of(image(node.standin, number).id))
    assert found is not None
    return found


def dataset(node: Node) -> DatasetRow:
    found = node.catalog.dataset_by_entry("small")
    assert found is not None
    return found


async def walked(node: Node) -> dict[str, bytes | None]:
    return await node.walk()


async def is_right(cluster: Cluster, *nodes: Node) -> None:
    """Every byte is what the server has, on each node."""
    for found in await at_once([partial(walked, each) for each in nodes]):
        assert found == expected(cluster.standin)


async def refreshed(cluster: Cluster, *nodes: Node) -> None:
    """Let each node look at what others have refreshed. They do so each 2.5 s at most."""
    # When the second look begins, what the first one has found is done.
    for _ in range(2):
        looks = [each.looks for each in nodes]
        cluster.advance(2.5)
        for each, before in zip(nodes, looks, strict=True):
            await until(lambda: each.looks > before)  # noqa: B023 - awaited in its turn


# What it costs.


async def test_z1_a_second_node_costs_one_request(cluster: Cluster) -> None:
    """It asks for the list of datasets, which tells it the server's time."""
    async with cluster.node() as first:
        await is_right(cluster, first)
        alone = cluster.asked.total()
        await first.sent()
        cluster.forget_log()
        async with cluster.node() as second:
            await is_right(cluster, second)
        assert cluster.asked == {LIST: 1}
        assert alone == 18


async def test_z1_eight_nodes_that_begin_together_cost_one_request_more_each(
    cluster: Cluster,
) -> None:
    async with cluster.nodes(8) as nodes:
        await is_right(cluster, *nodes)
        assert cluster.asked == {
            LIST: 8,
            TREE: 1,
            LISTING: 1,
            FILE: 12,
            BYTES: 1,
            URLS: 1,
            EXPORTS: 1,
        }


async def test_z1_the_list_of_datasets_is_asked_for_once_a_ttl(cluster: Cluster) -> None:
    async with cluster.nodes(4) as nodes:
        await is_right(cluster, *nodes)
        for _ in range(3):
            cluster.advance(301)
            cluster.forget_log()
            for each in nodes:
                await each.list("/datasets")
                await each.sent()
            assert cluster.asked == {LIST: 1}


async def test_z1_names_are_asked_for_once(cluster: Cluster) -> None:
    async with cluster.nodes(4) as nodes:
        for each in nodes:
            await each.list("/datasets")
        cluster.forget_log()
        for each in nodes:
            await each.look(IMAGE)
            await each.sent()
        assert cluster.asked == {TREE: 1, "GET /images/": 1}, cluster.asked


async def test_z1_exports_of_others_are_listed_once(cluster: Cluster) -> None:
    async with cluster.nodes(3) as nodes:
        for each in nodes:
            await each.walk("/datasets/small/annotations")
            await each.quiet()
            await each.sent()
        assert cluster.asked[EXPORTS] == 1


async def test_z1_without_the_option_nothing_is_asked_of_any_engine(
    cluster: Cluster, redis: Engine
) -> None:
    async with cluster.node(store=False) as alone:
        await is_right(cluster, alone)
        assert redis.keys() == []
        assert not alone.library.answers.is_sharing


# For how long it is believed.


async def test_z2_what_another_node_asked_for_is_as_old_as_that(cluster: Cluster) -> None:
    async with cluster.node() as first:
        await is_right(cluster, first)
        await first.sent()
        asked_at = row(first).annotation_checked
        assert asked_at is not None
        cluster.advance(200)
        async with cluster.node() as second:
            await is_right(cluster, second)
            here = dataset(second)
            for at in (here.tree_at, here.listed_at, row(second).annotation_checked):
                assert at is not None
                assert asked_at - 20 < at <= asked_at + 1


async def test_z2_f1_a_shared_list_is_asked_for_again_after_its_ttl(cluster: Cluster) -> None:
    async with cluster.nodes(2) as (first, second):
        await second.list("/datasets")
        cluster.advance(200)
        await first.list("/datasets")
        cluster.advance(150)
        # The first one's list is 150 s old, the second one's is past its time.
        cluster.forget_log()
        await second.list("/datasets")
        assert cluster.asked == {}
        cluster.advance(151)
        # By now both are, although the second one has looked 151 s ago.
        for each in (second, first):
            await each.list("/datasets")
            await each.sent()
        assert cluster.asked == {LIST: 1}


async def test_z2_f9_a_shared_annotation_file_is_due_when_the_first_one_is(
    cluster: Cluster,
) -> None:
    async with cluster.node() as first:
        before = await first.read(NOTE)
        await first.sent()
        cluster.advance(DAY - 1000)
        changed = edit(cluster.standin)
        async with cluster.node() as second:
            assert await second.read(NOTE) == before
            cluster.advance(1001)
            assert await second.read(NOTE) == changed


async def test_z2_f9_a_file_of_before_the_datasets_move_does_not_serve(cluster: Cluster) -> None:
    cluster.standin.switches.updated_at_bumps |= {"annotations"}
    async with cluster.node() as first:
        await first.read(NOTE)
        await first.sent()
        cluster.advance(100)
        changed = edit(cluster.standin)
        # Its count is the same, and so is its record's name.
        async with cluster.node() as second:
            assert await second.read(NOTE) == changed


async def test_z2_a_file_that_a_listing_contradicts_does_not_serve(cluster: Cluster) -> None:
    """A number of annotations that goes there and back has the old record's name again."""
    org = cluster.standin.organization
    async with cluster.nodes(2) as (first, second):
        await second.walk("/datasets/small/images")
        await first.read(NOTE)
        await first.sent()
        whole = org.annotations(image(cluster.standin))
        org.set_annotations(image(cluster.standin), whole[1:])
        cluster.advance(301 * 12)
        await second.walk("/datasets/small/images")
        changed = [dict(each, attributes=[{"name": "back"}]) for each in whole]
        org.set_annotations(image(cluster.standin), changed)
        cluster.advance(301 * 12)
        assert await second.read(NOTE) == annotation_bytes(cluster.standin, image(cluster.standin))


async def test_z2_own_edits_are_not_undone_by_an_older_list(cluster: Cluster) -> None:
    async with cluster.node() as first, cluster.node(writable=True) as second:
        await first.list("/datasets")
        await first.sent()
        assert second.library.edits is not None
        await second.library.edits.create("made")
        await second.sent()
        cluster.advance(301)
        for each in (second, first, second):
            assert "made" in await each.list("/datasets")
            await each.sent()


async def test_z2_an_edit_here_makes_older_lists_useless(cluster: Cluster) -> None:
    """Even if the engine could not be told."""
    async with cluster.node() as first, cluster.node(writable=True) as second:
        await second.list("/datasets")
        cluster.advance(290)
        await first.list("/datasets")
        assert second.library.edits is not None
        second.library.edits._generations = None
        await second.library.edits.create("made")
        cluster.advance(11)
        assert "made" in await second.list("/datasets")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_z2_a_file_that_comes_while_it_is_refreshed_is_asked_for_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    async with cluster.nodes(2) as (first, second):
        await first.read(NOTE)
        await first.sent()
        await second.look(NOTE)
        answers = second.library.answers
        ask = answers.annotation
        changed = b""

        async def slowly(*asked: Any) -> Any:
            nonlocal changed
            heard = await ask(*asked)
            if not changed:
                assert not heard.is_own
                changed = edit(cluster.standin)
                # As another node, or another mount of this cache, would have it done.
                if elsewhere:
                    await first.library.refresh("small")
                    await refreshed(cluster, second)
                else:
                    second.catalog.expire(dataset(second).key)
            return heard

        monkeypatch.setattr(answers, "annotation", slowly)
        await second.read(NOTE)
        assert await second.read(NOTE) == changed


# Refreshing.


async def test_z3_a_refresh_on_one_node_reaches_all(cluster: Cluster) -> None:
    async with cluster.nodes(4) as nodes:
        await is_right(cluster, *nodes)
        before = await nodes[1].read(NOTE)
        changed = edit(cluster.standin)
        assert await nodes[1].read(NOTE) == before != changed
        cluster.forget_log()
        await nodes[0].library.refresh("small")
        await refreshed(cluster, *nodes)
        for each in nodes:
            assert await each.read(NOTE) == changed
            await each.sent()
        assert cluster.asked[FILE] == 1
        assert cluster.asked[LIST] == 1
        await is_right(cluster, *nodes)
        assert cluster.asked[FILE] == 12


async def test_z3_a_refresh_of_all_reaches_all(cluster: Cluster) -> None:
    async with cluster.nodes(2) as (first, second):
        await is_right(cluster, first, second)
        changed = edit(cluster.standin)
        await first.library.refresh(None)
        await refreshed(cluster, second)
        assert await second.read(NOTE) == changed


async def test_z3_f8_a_frozen_node_keeps_what_it_read(cluster: Cluster) -> None:
    async with cluster.node() as first, cluster.node(frozen=True) as second:
        before = await second.read(NOTE)
        changed = edit(cluster.standin)
        await first.library.refresh("small")
        await refreshed(cluster, second)
        assert await second.read(NOTE) == before
        assert await first.read(NOTE) == changed


async def test_z3_numbers_that_were_lost_come_back_and_look_like_no_refresh(
    cluster: Cluster, redis: Engine
) -> None:
    async with cluster.nodes(2) as (first, second):
        await is_right(cluster, first, second)
        await first.library.refresh("small")
        await refreshed(cluster, first, second)
        await is_right(cluster, first, second)
        before = dict(first.generations._known)
        assert second.generations._known == before

        redis.say("flushall")
        cluster.forget_log()
        for _ in range(3):
            await refreshed(cluster, first, second)
        await is_right(cluster, first, second)
        assert first.generations._known == before
        assert second.generations._known == before
        assert cluster.asked[FILE] == 0


async def test_z3_a_refresh_while_the_engine_is_away_is_made_up_for(
    cluster: Cluster, redis: Engine, patience: Patience
) -> None:
    async with cluster.nodes(2) as (first, second):
        await is_right(cluster, first, second)
        patience.short()
        redis.stop()
        await first.library.refresh("small")
        changed = edit(cluster.standin)
        await first.library.refresh("small")
        assert await first.read(NOTE) == changed
        redis.go_on()
        patience.long()
        cluster.advance(30)
        await until(lambda: not first.generations._owed)
        await refreshed(cluster, second)
        await refreshed(cluster, second)
        assert await second.read(NOTE) == changed


# Listings.


async def test_z4_a_listing_that_moves_is_not_shared(cluster: Cluster) -> None:
    """Pages that don't belong together would be taken for a listing that stood still."""
    changes: list[str] = []

    def move(body: Any) -> Any:
        changes.append("")
        del body["data"]["images"][-len(changes) :]
        return body

    async with cluster.nodes(2) as (first, second):
        await first.list("/datasets")
        await second.list("/datasets")
        fault = cluster.standin.faults.add(
            Fault(Match("api", None, "/datasets/{dataset}"), Mutate(move))
        )
        await first.walk("/datasets/small/images", read=False)
        await first.sent()
        fault.times = fault.hits
        cluster.forget_log()
        await second.walk("/datasets/small/images", read=False)
        assert cluster.asked[LISTING] == 1


async def test_z4_a_page_that_is_gone_costs_one_more_pass(cluster: Cluster, redis: Engine) -> None:
    async with cluster.nodes(2) as (first, second):
        await is_right(cluster, first)
        await first.sent()
        sealer = first.engine._sealer
        pages = await _names(first, "1/page/")
        assert len(pages) == 1
        redis.say("del", *(sealer.record(each).decode() for each in pages))
        cluster.forget_log()
        await is_right(cluster, second)
        assert cluster.asked == {LIST: 1, LISTING: 1}


async def _names(node: Node, prefix: str) -> list[str]:
    return [each for each in node.put_names if each.startswith(prefix)]
