"""What a dataset costs eight nodes that begin together, counted exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import annotation_bytes, image_bytes
from shared_rig import Patience, engine, until
from sharing import Cluster, Node, at_once

from pictofs.api.stats import background
from pictofs.errors import Throttled
from pictofs.model.inode import key_of
from standin import Spec, StandIn
from standin.spec import DatasetSpec

IMAGES = 2500
IMAGES_READ = 100
"""All of them cost the same, and take a minute: `python -m benchmarks share` reads them."""
ANNOTATIONS = 500
NODES = 8
READERS = 8
"""Files that a node reads at once."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    Patience(monkeypatch)
    (tmp_path / "engine").mkdir()
    spec = Spec((DatasetSpec("small", images=IMAGES, size=200, directories=2),))
    with StandIn(spec) as standin, engine(tmp_path / "engine") as redis:
        yield Cluster(standin, redis.address, tmp_path)


async def epoch(cluster: Cluster, node: Node) -> None:
    """List the dataset, read images and annotation files; each must be right."""
    images = sorted(
        cluster.standin.organization["small"].images.values(), key=lambda each: each.filename
    )
    assert len(await node.walk("/datasets/small/images", read=False)) == IMAGES + 2
    works = [("images", each) for each in images[:IMAGES_READ]]
    works += [("annotations", each) for each in images[:ANNOTATIONS]]
    left = iter(works)

    async def read() -> None:
        for kind, image in left:
            path = f"/datasets/small/{kind}{image.directory_path}/{image.filename}"
            if kind == "images":
                assert await node.read(path) == image_bytes(image)
            else:
                wanted = annotation_bytes(cluster.standin, image)
                assert await node.read(f"{path}.json") == wanted

    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(read)


async def test_z1_eight_nodes_cost_what_one_costs_and_seven_requests(cluster: Cluster) -> None:
    async with cluster.node(store=False) as alone:
        await epoch(cluster, alone)
    one: Counter[str] = cluster.asked
    cluster.forget_log()

    async with cluster.nodes(NODES) as nodes:
        await at_once([partial(epoch, cluster, each) for each in nodes])
    # Each node asks for the list of datasets, which tells it the server's time.
    assert cluster.asked == one + Counter({"GET /datasets/": NODES - 1})
    assert one.total() == ANNOTATIONS + 6


async def test_z1_eight_nodes_make_one_export(cluster: Cluster) -> None:
    async with cluster.nodes(NODES, bulk_annotations=True) as nodes:
        for each in nodes:
            await each.list("/datasets/small/annotations")
        cluster.forget_log()
        keys = [each.catalog.dataset_by_entry("small") for each in nodes]
        works = [
            partial(each.library.exports.fetch, row.key)
            for each, row in zip(nodes, keys, strict=True)
            if row is not None
        ]
        await at_once(works)
        for each in nodes:
            for image in list(cluster.standin.organization["small"].images.values())[:50]:
                path = f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"
                assert await each.read(path) == annotation_bytes(cluster.standin, image)
        assert cluster.asked["POST /exports/"] == 1
        assert cluster.asked["GET /exports/{export:path}/download"] == 1
        assert cluster.asked["DELETE /exports/{export:path}"] == 1
        # The one that is compared with the archive.
        assert cluster.asked["GET /annotations/{image_id:uuid}/file"] == 1
        assert sum(each.library.annotations.ages.exported for each in nodes) == IMAGES - 1


@pytest.mark.parametrize("limit", [700])
async def test_z8_background_work_of_all_nodes_leaves_the_reserve(
    cluster: Cluster, limit: int
) -> None:
    """But for what some nodes have under way when the common number begins anew."""
    images = list(cluster.standin.organization["small"].images.values())
    readers = 4
    cluster.standin.switches.hourly_limit = limit
    async with cluster.nodes(4) as nodes:
        for each in nodes:
            await each.walk("/datasets/small/images", read=False)
            await each.sent()

        async def work(node: Node, number: int) -> None:
            # Each task has images of its own: nothing can be shared.
            for image in images[number :: readers * 4]:
                row = node.catalog.image(key_of(image.id))
                assert row is not None
                try:
                    with background():
                        await node.library.annotations.fetch(row)
                except Throttled:
                    return

            pytest.fail("the reserve was not left alone")

        works = [
            partial(work, each, nodes.index(each) * readers + task)
            for each in nodes
            for task in range(readers)
        ]
        await at_once(works)
        reserve = max(50, limit // 10)
        spent = cluster.asked.total()
        assert limit - reserve - 2 * len(works) <= spent <= limit - reserve + len(works)

        # Who waits is served nevertheless.
        image = images[-1]
        path = f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"
        assert await nodes[0].read(path) == annotation_bytes(cluster.standin, image)


async def test_z8_what_the_server_says_to_one_node_is_told_to_all(cluster: Cluster) -> None:
    cluster.standin.switches.hourly_limit = 5000
    async with cluster.nodes(2) as (first, second):
        for each in (first, second):
            await each.list("/datasets")
        before = second.request_stats.remaining
        cluster.advance(1)
        await first.walk("/datasets/small/images", read=False)
        looks = first.looks
        cluster.advance(2.5)
        await until(lambda: first.looks > looks)
        await first.sent()
        cluster.advance(2.5)
        await until(lambda: second.request_stats.remaining == first.request_stats.remaining)
        assert before is not None
        assert first.request_stats.remaining is not None
        assert first.request_stats.remaining < before
