"""The whole tree, at rest: what is mounted is what the organization holds, for few requests."""

from __future__ import annotations

from rig import Rig, expected


async def test_the_tree_is_the_organization(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert await mount.walk() == expected(rig.standin)


async def test_a_second_walk_asks_nothing(rig: Rig) -> None:
    async with rig.mount() as mount:
        first = await mount.walk()
        mount.forget_log()
        assert await mount.walk() == first
        assert rig.standin.log.requests() == []


async def test_a_second_mount_asks_nothing_while_the_listing_is_fresh(rig: Rig) -> None:
    async with rig.mount() as mount:
        first = await mount.walk()
    rig.standin.log.clear()
    async with rig.mount() as mount:
        assert await mount.walk() == first
    assert rig.standin.log.requests() == []


async def test_storage_never_sees_the_key(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk()
    assert rig.standin.log.count("storage") > 0
    assert rig.standin.log.key_leaks == []
