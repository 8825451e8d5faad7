"""`README.md` written without a kernel: what is sent, when, and what each handle sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from rig import Mount, Rig, error_of

from pictofs.errors import (
    AlreadyExists,
    Forbidden,
    Invalid,
    NoSuchEntry,
    ReadOnly,
    ServerFault,
    Stale,
    TooLarge,
)
from pictofs.library.listing.edits import DESCRIPTION_MAX_BYTES
from pictofs.model.inode import Inode, NodeKind
from pictofs.vfs.tree import OpenFile
from standin import Organization, StandIn
from standin.dataset import Dataset
from standin.faults import error

PATH = "/datasets/signs/README.md"
CHANGE = "PATCH /datasets/{dataset}"


def organization() -> Organization:
    made = Organization()
    made.add_dataset("signs", readme="# Signs\n")
    made.add_dataset("bare")
    return made


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with StandIn(organization()) as standin:
        yield Rig(standin, tmp_path)


@pytest.fixture
async def mount(rig: Rig) -> AsyncIterator[Mount]:
    async with rig.mount(writable=True, key=rig.standin.keys["member"], max_retries=0) as mount:
        yield mount


def signs(mount: Mount) -> Dataset:
    return mount.standin.organization["signs"]


async def opened(mount: Mount, *, truncate: bool = False, append: bool = False) -> OpenFile:
    number = (await mount.look(PATH)).inode
    return await mount.tree.open_to_write(number, truncate=truncate, append=append)


async def created(mount: Mount, *, exclusive: bool = False) -> OpenFile:
    folder = (await mount.look("/datasets/bare")).inode
    return await mount.tree.create(
        folder, "README.md", exclusive=exclusive, truncate=False, append=False
    )


async def test_w9_it_is_sent_when_it_is_saved_and_once(mount: Mount) -> None:
    file = await opened(mount)
    before = (await mount.look(PATH)).inode
    mount.forget_log()

    assert mount.tree.write(file.handle, 2, b"Lights") == 6
    assert mount.tree.write(file.handle, 8, b"!\n") == 2
    assert mount.asked == []

    for _ in range(2):
        await mount.tree.save(file.handle)
    await mount.tree.finish(file.handle)

    assert signs(mount).readme == signs(mount).description == "# Lights!\n"
    assert mount.asked == [CHANGE]
    assert await mount.read(PATH) == b"# Lights!\n"
    assert (await mount.look(PATH)).inode != before
    assert mount.tree.open_files == 0


async def test_w9_an_unchanged_text_is_not_sent(mount: Mount) -> None:
    file = await opened(mount, truncate=True)
    mount.tree.write(file.handle, 0, b"# Signs\n")
    await mount.tree.save(file.handle)
    await mount.tree.finish(file.handle)
    assert CHANGE not in mount.asked


async def test_w9_what_is_written_is_sent_again_only_if_it_changed(mount: Mount) -> None:
    file = await opened(mount, append=True)
    for text in (b"one\n", b"two\n"):
        mount.tree.write(file.handle, 0, text)  # where the kernel thinks that the end is
        await mount.tree.save(file.handle)
        await mount.tree.save(file.handle)
    assert signs(mount).readme == "# Signs\none\ntwo\n"
    assert mount.asked.count(CHANGE) == 2


async def test_w9_a_text_that_is_cut_off_at_open_is_not_sent_before_it_is_written(
    mount: Mount,
) -> None:
    """A shell closes the first descriptor of `> README.md` before the program writes."""
    file = await opened(mount, truncate=True)
    await mount.tree.save(file.handle)

    assert (signs(mount).readme, await mount.read(PATH)) == ("# Signs\n", b"# Signs\n")

    mount.tree.write(file.handle, 0, b"new")
    await mount.tree.save(file.handle)
    await mount.tree.finish(file.handle)

    assert (signs(mount).readme, mount.asked.count(CHANGE)) == ("new", 1)

    await mount.tree.finish((await opened(mount, truncate=True)).handle)

    assert signs(mount).readme == ""
    assert isinstance(await error_of(lambda: mount.look(PATH)), NoSuchEntry)


async def test_w9_each_handle_has_a_text_of_its_own(mount: Mount) -> None:
    reader, first, second = (
        await mount.open(PATH),
        await opened(mount),
        await opened(mount, truncate=True),
    )
    mount.tree.write(first.handle, 0, b"1")
    mount.tree.write(second.handle, 0, b"the second")

    assert await mount.tree.read(first.handle, 0, 100) == b"1 Signs\n"
    assert await mount.tree.read(second.handle, 0, 100) == b"the second"

    number = reader.attributes.inode

    assert (await mount.tree.attributes(number)).size == 8  # whose pages the kernel keeps

    await mount.tree.save(second.handle)
    await mount.tree.save(first.handle)

    assert signs(mount).readme == "1 Signs\n"
    assert await mount.rest(reader) == b"# Signs\n"

    mount.tree.close(reader.handle)

    assert (await mount.tree.attributes(number)).size == 10


async def test_w9_a_new_one_is_seen_once_it_is_sent(mount: Mount) -> None:
    file = await created(mount)
    mount.tree.write(file.handle, 0, b"new")
    assert "README.md" not in await mount.list("/datasets/bare")
    assert (await mount.tree.attributes(file.attributes.inode)).size == 3
    await mount.tree.save(file.handle)
    assert await mount.read("/datasets/bare/README.md") == b"new"
    assert isinstance(await error_of(lambda: created(mount, exclusive=True)), AlreadyExists)
    again = await created(mount)
    assert await mount.tree.read(again.handle, 0, 100) == b"new"


async def test_w9_one_that_is_made_and_not_written_is_none(mount: Mount) -> None:
    await mount.tree.finish((await created(mount)).handle)
    assert CHANGE not in mount.asked
    assert "README.md" not in await mount.list("/datasets/bare")


async def test_w9_a_failure_changes_nothing_that_is_shown(rig: Rig, mount: Mount) -> None:
    file = await opened(mount)
    mount.tree.write(file.handle, 0, b"new")
    fault = rig.fault(error(503), "api", "/datasets/{dataset}")
    assert isinstance(await error_of(lambda: mount.tree.save(file.handle)), ServerFault)
    assert await mount.read(PATH) == b"# Signs\n"
    rig.standin.faults.remove(fault)
    await mount.tree.save(file.handle)
    assert signs(mount).readme == "newigns\n"


async def test_w9_a_role_that_is_too_low(rig: Rig) -> None:
    async with rig.mount(writable=True) as viewer:
        file = await opened(viewer)
        viewer.tree.write(file.handle, 0, b"new")
        assert isinstance(await error_of(lambda: viewer.tree.save(file.handle)), Forbidden)
        await viewer.tree.finish(file.handle)  # which was told, and tries no second time
        assert viewer.asked.count(CHANGE) == 1
        assert await viewer.read(PATH) == b"# Signs\n"


async def test_w9_no_utf_8_and_too_many_bytes(mount: Mount) -> None:
    file = await opened(mount, truncate=True)
    mount.tree.write(file.handle, 0, b"caf\xe9")
    refused = await error_of(lambda: mount.tree.save(file.handle))

    assert isinstance(refused, Invalid)
    assert "byte 3" in str(refused)

    number = file.attributes.inode
    await mount.tree.resize(number, DESCRIPTION_MAX_BYTES, file.handle)
    with pytest.raises(TooLarge):
        await mount.tree.resize(number, DESCRIPTION_MAX_BYTES + 1, file.handle)
    with pytest.raises(TooLarge):
        mount.tree.write(file.handle, DESCRIPTION_MAX_BYTES, b"x")

    assert isinstance(
        await error_of(lambda: mount.tree.save(file.handle)), TooLarge
    )  # never half of a text

    await mount.tree.resize(number, 3, file.handle)
    mount.tree.write(file.handle, 0, b"fit")
    await mount.tree.save(file.handle)

    assert signs(mount).readme == "fit"


async def test_w9_closes_at_the_same_time_send_it_once(mount: Mount) -> None:
    file = await opened(mount)
    mount.tree.write(file.handle, 0, b"new")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(mount.tree.save, file.handle)
    assert mount.asked.count(CHANGE) == 1


async def test_w9_a_server_that_gives_no_readme_back(
    rig: Rig, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    rig.standin.switches.readme_read = False
    file = await created(mount)
    mount.tree.write(file.handle, 0, b"new")
    await mount.tree.save(file.handle)
    assert mount.standin.organization["bare"].readme == "new"
    assert "gives no readme back" in caplog.text


async def test_r1_w7_what_can_t_be_written(rig: Rig, mount: Mount) -> None:
    folder = (await mount.look("/datasets/signs")).inode
    document = (await mount.look("/datasets/signs/dataset.json")).inode

    async with rig.mount() as frozen:
        readme = (await frozen.look(PATH)).inode
        for tree, number, parent, name in (
            (mount.tree, document, folder, "other.md"),
            (mount.tree, folder, folder, "dataset.json"),
            (frozen.tree, readme, folder, "README.md"),
        ):
            with pytest.raises(ReadOnly):
                await tree.open_to_write(number, truncate=True, append=False)
            with pytest.raises(ReadOnly):
                await tree.create(parent, name, exclusive=False, truncate=False, append=False)
            with pytest.raises(ReadOnly):
                await tree.resize(number, 0, None)


async def test_i4_a_handle_of_a_forgotten_readme_leads_to_its_folder(mount: Mount) -> None:
    readme = (await mount.look(PATH)).inode
    above = await mount.tree.lookup(readme, "..")
    assert above.inode == (await mount.look("/datasets/signs")).inode
    node = Inode.of(above.inode)
    assert node is not None
    assert node.kind is NodeKind.DATASET


async def test_w9_a_readme_that_goes_between_lookup_and_open_is_looked_up_again(
    mount: Mount,
) -> None:
    """As in `tr a b < /dev/null > README.md; echo new > README.md`: the first one's last close
    comes when the shell has looked up the name already. ENOENT would end the second one."""
    number = (await mount.look(PATH)).inode
    await mount.tree.finish((await opened(mount, truncate=True)).handle)
    assert signs(mount).readme == ""
    for truncate in (False, True):
        again = partial(mount.tree.open_to_write, number, truncate=truncate, append=False)
        assert isinstance(await error_of(again), Stale)
