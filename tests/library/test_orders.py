"""An order on its way to a mount: paths, pieces, requests, and whose it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from rig import Mount, Rig, error_of

from pictofs.app.orders import Orders
from pictofs.control.messages import OrderReply, OrderRequest, to_request
from pictofs.control.order import MountRelativePath, OrderProgress, send_order
from pictofs.control.server import MAX_LINE, ControlServer
from pictofs.errors import Conflict, Invalid, NoSuchEntry, ServerUnreachable
from standin import PRESETS, Fault, Match, Spec, StandIn
from standin.faults import Close

IMAGE = "datasets/small/images/part-000/image-000000.jpg"
ODD = [
    "",
    ".",
    "/",
    "datasets",
    "datasets/small",
    "datasets/small/images",
    "datasets/small/images/part-000",
    "datasets/small/images/part-000/",
    "datasets/small/images/image-000000.jpg",
    "datasets/small/images/part-000/part-000/image-000000.jpg",
    "datasets/small/images//part-000/image-000000.jpg",
    "datasets/none/images/image-000000.jpg",
    "datasets/small/other/part-000/image-000000.jpg",
    "status.json",
    ".pictofs/status.json",
    "datasets/small/images/part-000/\udcff.jpg",
    "datasets/small/images/part-000/image\0.jpg",
    "x" * 5000,
    "datasets/\udcff/images/x.jpg",
    "datasets/small/images/\udcff/x.jpg",
]


def listed(standin: StandIn) -> list[str]:
    """Every image of `small`, by path."""
    dataset = next(each for each in standin.organization.datasets.values() if each.name == "small")
    return [
        f"datasets/small/images{image.directory_path}/{image.filename}"
        for image in dataset.images.values()
    ]


async def ask(orders: Orders, **request: Any) -> dict[str, Any]:
    message = {"op": "order", "by": "me", "paths": [], "peer": os.getpid(), **request}
    answer: dict[str, Any] = msgspec.to_builtins(await orders(to_request(message, OrderRequest)))
    return answer


def status(mount: Mount) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = msgspec.to_builtins(
        mount.library.downloads.prefetch.status().orders
    )
    return orders


async def test_paths_are_understood_for_two_requests(rig: Rig) -> None:
    """The tree and the images of the dataset: not one for each name."""
    async with rig.mount() as mount:
        await mount.library.listing.datasets()
        mount.forget_log()
        answer = await ask(
            Orders(mount.library, mount.nursery), paths=listed(rig.standin), last=True
        )
        assert (answer["images"], answer["unknown"], answer["example"]) == (12, 0, None)
        assert mount.asked == ["GET /directories/{dataset}/tree", "GET /datasets/{dataset}"]


async def test_paths_in_views_are_understood(rig: Rig) -> None:
    async with rig.mount() as mount:
        paths = [
            path.replace("/images/", "/by-split/train/images/") for path in listed(rig.standin)
        ]
        odd = [
            paths[0].rpartition("/images/")[0],
            "datasets/small/by-split",
            "datasets/small/by-split/train/x",
        ]
        answer = await ask(Orders(mount.library, mount.nursery), paths=[*paths, *odd], last=True)

        assert (answer["images"], answer["unknown"], answer["example"]) == (12, 3, odd[0])


async def test_what_is_no_image_is_counted(rig: Rig) -> None:
    async with rig.mount() as mount:
        notes = [
            path.replace("/images/", "/annotations/") + ".json" for path in listed(rig.standin)
        ]
        answer = await ask(
            Orders(mount.library, mount.nursery), paths=[*ODD, IMAGE, *notes], last=True
        )
        assert (answer["images"], answer["annotations"], answer["unknown"]) == (1, 12, len(ODD))
        assert answer["example"] == ""
        assert status(mount)[0]["images"] == 1


async def test_every_name_that_was_escaped_is_understood(tmp_path: Path) -> None:
    with StandIn(PRESETS["nasty"]()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            tree = await mount.walk(read=False)
            images = [
                path.lstrip("/")
                for path, data in tree.items()
                if data is not None and path.split("/")[3] == "images"
            ]
            answer = await ask(Orders(mount.library, mount.nursery), paths=images, last=True)

            assert (answer["images"], answer["unknown"]) == (len(images), 0)
            assert len(images) > 20


async def test_an_order_comes_in_pieces(rig: Rig) -> None:
    async with rig.mount() as mount:
        orders, paths = Orders(mount.library, mount.nursery), listed(rig.standin)
        first = await ask(orders, paths=paths[:5], ahead=3)

        assert [(each["images"], each["keeps"], each["complete"]) for each in status(mount)] == [
            (5, 3, False)
        ]

        await ask(orders, order=first["order"], paths=paths[5:9])
        await ask(orders, order=first["order"], paths=paths[9:], last=True)

        assert [(each["images"], each["complete"]) for each in status(mount)] == [(12, True)]

        late = await error_of(lambda: ask(orders, order=first["order"], paths=paths))

        assert isinstance(late, Conflict)


async def test_a_new_order_takes_the_place_of_one_that_is_still_coming(rig: Rig) -> None:
    async with rig.mount() as mount:
        orders, paths = Orders(mount.library, mount.nursery), listed(rig.standin)
        old = await ask(orders, paths=paths[:5])
        new = await ask(orders, paths=paths[:3])
        assert isinstance(
            await error_of(lambda: ask(orders, order=old["order"], paths=paths)), Conflict
        )
        await ask(orders, order=new["order"], paths=paths[3:4], last=True)
        assert [each["images"] for each in status(mount)] == [4]


@pytest.mark.parametrize(
    "ended", [{"ahead": 0, "paths": [IMAGE]}, {"paths": [], "last": True}, {"last": True}]
)
async def test_an_empty_order_ends_the_last_of_the_same_name(
    rig: Rig, ended: dict[str, Any]
) -> None:
    async with rig.mount() as mount:
        orders = Orders(mount.library, mount.nursery)
        for name in ("me", "you"):
            await ask(orders, by=name, paths=listed(rig.standin), ahead=2, last=True)
        assert (await ask(orders, **ended))["ahead"] == 0
        assert len(status(mount)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"by": 3},
        {"ahead": -1},
        {"ahead": "4"},
        {"paths": "x"},
        {"paths": [1]},
        {"order": "1"},
        {"paths": None},
    ],
)
async def test_nonsense_is_refused(rig: Rig, odd: dict[str, Any]) -> None:
    async with rig.mount() as mount:
        orders = Orders(mount.library, mount.nursery)
        assert isinstance(await error_of(lambda: ask(orders, **odd)), Invalid)


async def test_a_dataset_that_cannot_be_listed_is_said(rig: Rig) -> None:
    async with rig.mount(max_retries=0) as mount:
        await mount.library.listing.datasets()
        rig.standin.faults.add(Fault(Match("api"), Close()))
        failure = await error_of(lambda: ask(Orders(mount.library, mount.nursery), paths=[IMAGE]))
        assert failure is not None
        assert not isinstance(failure, NoSuchEntry)


async def test_more_orders_than_are_remembered(rig: Rig) -> None:
    async with rig.mount() as mount:
        orders = Orders(mount.library, mount.nursery)
        for number in range(20):
            await ask(orders, by=str(number), paths=listed(rig.standin), ahead=1, last=True)
            rig.clock.advance(1)
        assert len(status(mount)) == 16


async def test_an_order_ends_with_its_process(rig: Rig) -> None:
    async with rig.mount() as mount:
        orders = Orders(mount.library, mount.nursery)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:  # noqa: ASYNC220
            bound = {"peer": process.pid, "bound": True, "paths": listed(rig.standin), "ahead": 1}
            for name in ("a", "b", "a"):
                await ask(orders, by=name, last=True, **bound)
            await ask(orders, by="mine", paths=listed(rig.standin), ahead=1, last=True)
            await ask(orders, by="nobody's", **bound | {"peer": 0})

            assert len(status(mount)) == 4

            process.communicate(b"\n")

        with trio.fail_after(5):
            while len(status(mount)) > 2:  # noqa: ASYNC110 - it is the kernel's word that we wait for
                await trio.sleep(0.005)

        assert orders._bound == {}


async def test_a_long_order_goes_through_the_socket(tmp_path: Path) -> None:
    """20,000 paths are 1.2 MB: two dozen requests, none longer than the mount takes."""
    spec = Spec.uniform(images=20_000, size=2000, directories=3)

    with StandIn(spec) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            seen: list[int] = []

            async def watch(request: OrderRequest) -> OrderReply:
                seen.append(len(json.dumps(msgspec.to_builtins(request))))
                return await orders(request)

            orders = Orders(mount.library, mount.nursery)
            socket = tmp_path / "socket"
            await mount.nursery.start(ControlServer(socket, {OrderRequest: watch}).serve)
            images = [
                f"datasets/dataset-0/images/part-{n % 3:03d}/image-{n:06d}.jpg"
                for n in range(20_000)
            ]
            heard = await trio.to_thread.run_sync(
                lambda: told(socket, [*images, None, "x" * 70_000])
            )

            assert (heard.images, heard.unknown, heard.complete) == (20_000, 2, True)
            assert len(seen) > 20
            assert max(seen) < MAX_LINE
            assert status(mount)[0]["images"] == 20_000
            assert await trio.to_thread.run_sync(lambda: told(socket, []).ahead) == 0
            assert status(mount) == []


def told(socket: Path, paths: list[str | None]) -> OrderProgress:
    *_, heard = send_order(socket, paths, by="", ahead=None, bound=False, timeout=30)
    return heard


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable):
        told(tmp_path / "socket", [])


class TestSpelling:
    """Paths as a user has them, relative to the mount point."""

    def test_relative_and_absolute(self, tmp_path: Path) -> None:
        top = tmp_path / "mnt"
        spelling = MountRelativePath(top, top / "datasets/a/images")
        assert spelling("x.jpg") == "datasets/a/images/x.jpg"
        assert spelling("b/x.jpg") == "datasets/a/images/b/x.jpg"
        assert spelling("./b//x.jpg") == "datasets/a/images/b/x.jpg"
        assert spelling(f"{top}/datasets/b/images/x.jpg") == "datasets/b/images/x.jpg"
        assert spelling(f"{top}//datasets/./b/images/x.jpg") == "datasets/b/images/x.jpg"
        assert spelling(f"{top}/x.jpg") == "x.jpg"

    def test_elsewhere(self, tmp_path: Path) -> None:
        spelling = MountRelativePath(tmp_path / "mnt", tmp_path / "mnt")
        for path in (
            "/x.jpg",
            "/etc/passwd",
            f"{tmp_path}/mnt2/x.jpg",
            "../x.jpg",
            "a/../../x.jpg",
        ):
            assert spelling(path) is None

    def test_through_a_link(self, tmp_path: Path) -> None:
        top = tmp_path / "mnt"
        (top / "datasets/a/images").mkdir(parents=True)
        (tmp_path / "data").symlink_to(top / "datasets/a/images")
        spelling = MountRelativePath(top, tmp_path)
        assert spelling(f"{tmp_path}/data/x.jpg") == "datasets/a/images/x.jpg"
        assert spelling("data/x.jpg") == "datasets/a/images/x.jpg"
        assert spelling("data/../x.jpg") == "datasets/a/x.jpg"

    def test_at_the_root(self) -> None:
        assert MountRelativePath(Path("/"), Path("/"))("/datasets/x.jpg") == "datasets/x.jpg"

    def test_memory_is_bounded(self, tmp_path: Path) -> None:
        spelling = MountRelativePath(tmp_path, tmp_path)
        for number in range(70_000):
            spelling(f"{tmp_path}/{number}/x")
        assert len(spelling._folders) < 66_000


async def test_k5_a_guests_orders_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = listed(rig.standin)
    async with rig.mount() as mount:
        orders = Orders(mount.library, mount.nursery)
        told: dict[str, Any] = {"paths": paths[:3], "ahead": 1, "last": True}
        await ask(orders, **told)
        for number in range(20):
            await ask(orders, **told, by=f"sampler {number}", guest=12345)

        assert len(status(mount)) == 1 + 8

        # By the same name, and yet not the owner's.
        await ask(orders, ahead=0, guest=12345)
        assert len(status(mount)) == 1 + 8
        await ask(orders, ahead=0)
        assert len(status(mount)) == 8

        monkeypatch.setattr("pictofs.app.orders.GUEST_IMAGES", 5)
        first = await ask(orders, paths=paths[:3], by="long", guest=54321)
        with pytest.raises(Invalid, match="up to 5 images"):
            await ask(orders, paths=paths[:3], by="long", order=first["order"], guest=54321)
        assert (await ask(orders, paths=paths[:6], last=True))["images"] == 6
