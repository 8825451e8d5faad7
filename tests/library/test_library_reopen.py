"""An image that was open lately is opened again without a wait, unless anything has changed."""

from __future__ import annotations

import os

import pytest
from rig import Mount, Rig, blobs, image_bytes

from pictofs.vfs.nodes import images
from standin.records import Image

NAME = "part-000/image-000000.jpg"
PATH = f"/datasets/small/images/{NAME}"


def image_of(rig: Rig) -> Image:
    images = rig.standin.organization["small"].images.values()
    return next(each for each in images if each.filename == "image-000000.jpg")


async def opened_twice(mount: Mount) -> int:
    """The inode of the image, which has been open and is known."""
    await mount.list("/datasets/small/images/part-000")
    await mount.read(PATH)
    await mount.read(PATH)
    return (await mount.look(PATH)).inode


def reopens(mount: Mount, inode: int) -> bool:
    opened = mount.tree.reopen(inode)
    if opened is None:
        return False

    mount.tree.close(opened.handle)
    return True


async def test_b5_what_was_open_is_opened_again_with_the_same_answer(rig: Rig) -> None:
    async with rig.mount(prefetch="auto") as mount:
        inode = await opened_twice(mount)
        hits = mount.library.read_stats.hits
        mount.forget_log()

        first = await mount.tree._images.open(mount.tree._node(inode)[0])
        first.content.close()
        opened = mount.tree.reopen(inode)

        assert opened is not None
        assert (opened.attributes, opened.keep) == (first.attributes, True)
        assert not opened.renew_size
        assert not opened.direct
        assert mount.tree.read_at_once(opened.handle, 0, 1 << 20) == image_bytes(image_of(rig))

        mount.tree.close(opened.handle)

        assert mount.library.read_stats.hits == hits + 2
        assert mount.asked == []


async def test_s8_not_once_the_catalog_has_another_size(rig: Rig) -> None:
    """By another mount on the same cache: this one's kernel may be told the new size meanwhile."""
    async with rig.mount() as mount:
        inode = await opened_twice(mount)
        assert reopens(mount, inode)

        image = image_of(rig)

        async with rig.mount() as other:
            rig.standin.organization.update_image(image, file_size=21_000)
            await other.library.refresh("small")
            await other.list("/datasets/small/images/part-000")

        assert not reopens(mount, inode)

        opened = await mount.tree.open(inode)

        assert opened.renew_size

        mount.tree.close(opened.handle)


async def test_b4_not_once_the_cache_has_lost_it(rig: Rig) -> None:
    async with rig.mount() as mount:
        inode = await opened_twice(mount)
        mount.blob_cache.clear()

        assert not reopens(mount, inode)
        assert await mount.read(PATH) == image_bytes(image_of(rig))
        assert reopens(mount, inode)


@pytest.mark.parametrize("change", ["flipped", "cut", "link"])
async def test_b4_not_once_its_blob_was_touched(rig: Rig, change: str) -> None:
    async with rig.mount() as mount:
        inode = await opened_twice(mount)
        name = image_of(rig).id
        (blob,) = [path for path in blobs(rig) if name in path.name]
        data = blob.read_bytes()

        if change == "flipped":
            blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        elif change == "cut":
            os.truncate(blob, len(data) - 1)
        else:
            blob.unlink()
            blob.symlink_to("/etc/hostname")

        assert not reopens(mount, inode)
        assert await mount.read(PATH) == image_bytes(image_of(rig))


async def test_q1_no_more_are_remembered_than_memory_is_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "RECENT_MAX", 2)
    async with rig.mount() as mount:
        await mount.walk("/datasets/small/images")
        await mount.walk("/datasets/small/images")
        assert len(mount.tree._images._recent) == 2
        assert await mount.read(PATH) == image_bytes(image_of(rig))
