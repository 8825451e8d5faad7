"""`by-id/` on a mount: readlink, and programs that follow."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, active, annotation_bytes, image_bytes, run

from standin import PRESETS, Spec, StandIn

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(PRESETS["small"]())


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_v2_programs_follow_links(mounted: Mounting, server: StandIn, role: str) -> None:
    mount = mounted(server, key=server.keys[role])
    dataset, by_id = server.organization["small"], mount.root / "by-id"

    assert os.listdir(by_id) == [dataset.id]
    assert os.readlink(by_id / dataset.id) == "../datasets/small"
    assert run("readlink", "-e", by_id / dataset.id.upper()).strip() == str(
        mount.datasets / "small"
    )

    for image in active(dataset):
        place = Path(image.directory_path.strip("/"), image.filename)
        assert os.readlink(by_id / image.id) == f"../datasets/small/images/{place}"
        assert (by_id / image.id).read_bytes() == image_bytes(image)
        assert run("cat", by_id / f"{image.id}.json").encode() == annotation_bytes(server, image)
        assert os.path.samefile(by_id / image.id, mount.datasets / "small/images" / place)

    assert run("find", mount.root, "-type", "l").splitlines() == [str(by_id / dataset.id)]


def test_v3_one_id_in_100_000_images_costs_one_request_more_than_its_path(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=100_000, size=500, directories=50))
    mount = mounted(server)
    image = list(server.organization.images.values())[54_321]
    before = Spent(server)
    path = os.path.realpath(mount.root / "by-id" / image.id)

    assert os.path.exists(path)
    assert [each.partition("?")[0] for each in before.api] == [
        "/images/{image_id:uuid}/metadata",
        "/directories/{dataset}/tree",
        "/images/",
    ]

    for _ in range(20):
        assert not os.path.lexists(mount.root / "by-id" / NOBODY)
        assert not os.path.lexists(mount.root / "by-id" / "not an id")

    assert len(before.api) == 4


def test_r1_links_can_not_be_changed(mounted: Mounting, server: StandIn) -> None:
    by_id = mounted(server).root / "by-id"
    link = by_id / server.organization["small"].id
    for change in (
        link.unlink,
        lambda: link.rename(by_id / "x"),
        lambda: (by_id / "y").symlink_to("x"),
    ):
        with pytest.raises(OSError, match="Read-only") as refused:
            change()
        assert refused.value.errno == errno.EROFS
