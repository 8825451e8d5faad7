"""The whole tree, at rest: what is mounted is what the organization holds, for few requests."""

from __future__ import annotations

from functools import partial

from rig import Rig, error_of, expected, image_bytes

from pictofs.errors import NoSuchEntry


async def test_l2_the_tree_is_the_organization(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert await mount.walk() == expected(rig.standin)


async def test_q1_a_second_walk_asks_nothing(rig: Rig) -> None:
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


async def test_k1_storage_never_sees_the_key(rig: Rig) -> None:
    async with rig.mount() as mount:
        await mount.walk()
    assert rig.standin.log.count("storage") > 0
    assert rig.standin.log.key_leaks == []


async def test_l2_images_of_a_renamed_directory_outlive_the_tree_that_is_read_after_them(
    rig: Rig,
) -> None:
    org = rig.standin.organization
    dataset = org["small"]
    image = org.add_image(dataset, "a.jpg", "/old", size=300)

    async with rig.mount() as mount:
        await mount.look("/datasets/small/images/old")
        org.rename_directory(dataset, "/old", "new")
        await mount.list("/datasets/small/images")  # names /new, which no directory is called yet
        rig.clock.advance(301)

        assert await mount.read("/datasets/small/images/new/a.jpg") == image_bytes(image)
        assert await mount.walk() == expected(rig.standin)


async def test_l1_a_directory_that_only_old_images_name_is_not_listed(rig: Rig) -> None:
    org = rig.standin.organization
    dataset = org["small"]
    image = org.add_image(dataset, "a.jpg", "/old", size=300)

    async with rig.mount() as mount:
        await mount.look("/datasets/small/images/old")
        org.rename_directory(dataset, "/old", "new")

        for name in (
            "1",
            "2",
            "3",
        ):  # the third is answered by the listing, which names /new; no tree does
            assert isinstance(
                await error_of(partial(mount.look, f"/datasets/small/images/{name}")), NoSuchEntry
            )

        org.move_image(image, "/", "a.jpg")
        org.remove_directory(dataset, "/new")
        rig.clock.advance(301)

        assert not {"old", "new"} & (await mount.list("/datasets/small/images")).keys()
        assert await mount.walk() == expected(rig.standin)
