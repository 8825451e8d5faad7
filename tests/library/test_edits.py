"""Changes to datasets and the list of them: what is changed here is not taken back by what was
asked before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from rig import Mount, Rig, error_of

from pictofs.errors import AlreadyExists, Forbidden, InvalidResponse, NotEmpty, ServerFault
from pictofs.library.listing.listing import NO_DATASET
from pictofs.model.names import tagged
from pictofs.store.catalog.datasets import DATASETS
from standin import Organization, StandIn
from standin.exchange import Exchange
from standin.faults import Fault, Match, Mutate, Reset, error, throttled


@pytest.fixture
def standin() -> Iterator[StandIn]:
    organization = Organization()
    organization.add_dataset("one")
    with StandIn(organization) as running:
        yield running


@pytest.fixture
async def mount(rig: Rig) -> AsyncIterator[Mount]:
    async with rig.mount(writable=True, key=rig.standin.keys["admin"]) as mount:
        yield mount


class Late:
    """A fault: the answer is made at once, and comes when it is let go."""

    def __init__(self) -> None:
        self.made, self.let_go = threading.Event(), threading.Event()

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.collect()
        self.made.set()
        await asyncio.to_thread(self.let_go.wait, 60)
        await exchange.answer(answer)


async def shown(mount: Mount) -> list[str]:
    return sorted(await mount.list("/datasets"))


CHANGES: dict[str, Any] = {
    "create": (lambda edits: edits.create("new"), ["new", "one"]),
    "rename": (lambda edits: edits.rename("one", "new"), ["new"]),
    "remove": (lambda edits: edits.remove("one"), []),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_w6_a_list_that_was_asked_for_before_takes_no_change_back(
    rig: Rig, mount: Mount, change: str
) -> None:
    """Not even where another mount, which shares the catalog, has made the change."""
    work, names = CHANGES[change]
    await mount.list("/datasets")
    mount.clock.advance(301)
    late = Late()
    mount.standin.faults.add(Fault(Match(path="/datasets/", method="GET"), late, times=1))

    async with (
        rig.mount(writable=True, key=mount.standin.keys["admin"]) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(mount.list, "/datasets")
        await trio.to_thread.run_sync(late.made.wait, 30)
        await work(other.library.edits)
        assert await shown(other) == names
        late.let_go.set()

    assert await shown(mount) == names
    assert sorted(each.name for each in mount.standin.organization.datasets.values()) == names


async def test_w6_a_twin_gets_its_plain_name_back(mount: Mount) -> None:
    younger = mount.standin.organization.add_dataset("one")
    await mount.library.refresh(None)
    entry = tagged("one", younger.id)
    assert await shown(mount) == ["one", entry]
    before = (await mount.look(f"/datasets/{entry}")).inode
    await mount.tree.rename(DATASETS, "one", DATASETS, "other")
    assert await shown(mount) == ["one", "other"]
    assert (await mount.look("/datasets/one")).inode == before


async def test_w2_a_name_that_the_server_changes_is_shown_as_it_is(mount: Mount) -> None:
    def shout(body: Any) -> Any:
        body["data"]["name"] = mount.standin.organization["new"].name = "NEW"
        return body

    mount.standin.faults.add(Fault(Match(method="POST"), Mutate(shout)))
    made = await mount.tree.make_folder(DATASETS, "new")
    assert made.keep_entry == 0.0
    assert await shown(mount) == ["NEW", "one"]
    assert (await mount.look("/datasets/NEW")).inode == made.inode


async def test_w5_a_caller_that_gives_up_leaves_the_change_under_way(mount: Mount) -> None:
    await shown(mount)
    late = Late()
    mount.standin.faults.add(Fault(Match(method="POST"), late, times=1))
    with trio.move_on_after(0.2):
        await mount.tree.make_folder(DATASETS, "new")
    late.let_go.set()
    await mount.settle()
    mount.forget_log()
    assert await shown(mount) == ["new", "one"]
    assert mount.asked == []


async def test_w3_the_answer_must_be_about_this_dataset(mount: Mount) -> None:
    """An empty one that the server takes for the one that was meant is no reason to delete."""
    organization = mount.standin.organization
    organization.add_image(organization["one"], "a.jpg", size=500)
    empty = organization.add_dataset("empty")

    def other(body: Any) -> Any:
        return {"data": body["data"] | {"id": empty.id, "image_count": 0}}

    mount.standin.faults.add(Fault(Match(method="GET", path="/datasets/{dataset}"), Mutate(other)))

    assert isinstance(
        await error_of(lambda: mount.tree.remove_folder(DATASETS, "one")), InvalidResponse
    )
    assert mount.standin.log.count(method="DELETE") == 0


@pytest.mark.parametrize("path", ["/datasets/{dataset}", "/images/", "/directories/{dataset}/tree"])
async def test_w3_what_can_t_be_looked_at_stays(mount: Mount, path: str) -> None:
    mount.standin.faults.add(Fault(Match(method="GET", path=path), error(503)))
    assert isinstance(
        await error_of(lambda: mount.tree.remove_folder(DATASETS, "one")), ServerFault
    )
    assert mount.standin.log.count(method="DELETE") == 0


async def test_w5_a_refusal_costs_one_request_and_says_why(rig: Rig, mount: Mount) -> None:
    async with rig.mount(writable=True, key=mount.standin.keys["viewer"]) as viewer:
        await shown(viewer)
        mount.forget_log()

        for work in (
            lambda: viewer.tree.make_folder(DATASETS, "new"),
            lambda: viewer.tree.rename(DATASETS, "one", DATASETS, "new"),
            lambda: viewer.tree.remove_folder(DATASETS, "one"),
        ):
            refused = await error_of(work)
            assert isinstance(refused, Forbidden)
            assert "use a key with a higher role" in str(refused)

        assert await shown(viewer) == ["one"]
        assert viewer.library.connectivity.error is None

    assert mount.standin.log.count(method="GET") == 3  # rmdir looks first


async def test_w4_w5_who_hears_that_a_name_is_taken_is_shown_it(mount: Mount) -> None:
    await shown(mount)
    mount.standin.organization.add_dataset("theirs")
    assert isinstance(
        await error_of(lambda: mount.tree.make_folder(DATASETS, "theirs")), AlreadyExists
    )
    assert await shown(mount) == ["one", "theirs"]


async def test_w3_rmdir_says_what_there_is(mount: Mount) -> None:
    organization = mount.standin.organization
    organization.archive_image(organization.add_image(organization["one"], "a.jpg", size=500))
    refused = await error_of(lambda: mount.tree.remove_folder(DATASETS, "one"))
    assert isinstance(refused, NotEmpty)
    assert "holds 1 images, archived ones included: `pictofs dataset delete`" in str(refused)


async def test_w1_a_change_takes_one_request_and_rmdir_four(mount: Mount) -> None:
    await shown(mount)
    mount.forget_log()
    await mount.tree.make_folder(DATASETS, "new")
    await mount.tree.rename(DATASETS, "new", DATASETS, "newer")

    assert mount.asked == ["POST /datasets/", "PATCH /datasets/{dataset}"]

    mount.forget_log()
    await mount.tree.remove_folder(DATASETS, "newer")

    assert mount.asked == [
        "GET /datasets/{dataset}",
        "GET /images/",
        "GET /directories/{dataset}/tree",
        "DELETE /datasets/{dataset}",
    ]


async def test_w5_after_a_lost_answer_the_list_is_read_again(rig: Rig, mount: Mount) -> None:
    async with rig.mount(writable=True, key=mount.standin.keys["admin"], max_retries=0) as once:
        await shown(once)
        mount.standin.faults.add(Fault(Match(method="POST"), Reset(after=0), times=1))
        assert isinstance(
            await error_of(lambda: once.tree.make_folder(DATASETS, "new")), ServerFault
        )
        mount.forget_log()
        assert await shown(once) == ["new", "one"]
        assert mount.asked == []


async def test_w6_a_list_that_is_always_too_old_is_left_to_the_next_look(mount: Mount) -> None:
    """Three requests, however often something is changed meanwhile; what is known stays."""
    await shown(mount)

    async def change(exchange: Exchange) -> None:
        mount.catalog.expire(NO_DATASET)
        await exchange.proceed()

    fault = mount.standin.faults.add(Fault(Match(path="/datasets/", method="GET"), change))
    mount.clock.advance(301)
    mount.forget_log()
    await mount.library.listing.datasets()

    assert mount.asked == ["GET /datasets/"] * 3
    assert mount.catalog.dataset_by_entry("one")

    mount.standin.faults.remove(fault)
    mount.forget_log()

    assert await shown(mount) == ["one"]
    assert mount.asked == ["GET /datasets/"]


@pytest.mark.parametrize("do", [error(401, "unauthorized"), throttled(3000)], ids=["401", "429"])
async def test_o6_a_change_asks_where_reads_were_just_refused(mount: Mount, do: Any) -> None:
    edits = mount.library.edits
    assert edits is not None

    await mount.list("/datasets")
    fault = mount.standin.faults.add(Fault(Match("api"), do))

    assert await error_of(lambda: mount.list("/datasets/one/images")) is not None

    asked = len(mount.asked)

    assert await error_of(lambda: mount.list("/datasets/one/images")) is not None
    assert len(mount.asked) == asked

    mount.standin.faults.remove(fault)
    await edits.create("new")

    assert mount.asked[asked] == "POST /datasets/"
