"""What a dataset costs eight nodes that begin together, counted exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import annotation_bytes, image_bytes
from shared_rig import Patience, engine
from sharing import Cluster, Node, at_once

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
