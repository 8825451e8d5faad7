"""Reading patterns against a mount without a kernel, and what they had fetched ahead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from rig import Mount, Rig

from pictofs.library.prefetch.declared_order import DeclaredOrder
from pictofs.store.catalog.rows import ImageRow
from standin import Spec, StandIn

SIZE = 20_000
EACH = 20_480
"""Bytes that an image takes in the cache: whole blocks."""


class Readers:
    """Who reads the images of a mount, by row."""

    def __init__(self, mount: Mount, standin: StandIn) -> None:
        self.mount, self.standin = mount, standin
        self.prefetch = mount.library.downloads.prefetch

    async def images(self, dataset: str = "dataset-0", *, by: str = "seq") -> list[ImageRow]:
        """All images of a dataset, listed, in the order of a column."""
        row = self.mount.catalog.dataset_by_entry(dataset)
        assert row is not None
        await self.mount.library.listing.all_images(row.key)
        folders = self.mount.catalog.directory_keys(row.key)
        found = [
            image for key in folders for image in self.mount.catalog.images_after(key, 0, 1 << 30)
        ]
        return sorted(found, key=lambda image: (image.directory, getattr(image, by)))

    async def read(self, images: Iterable[ImageRow]) -> None:
        """Open and close images one by one, and let what follows from each come to rest."""
        for image in images:
            await self.open(image)
            await self.mount.quiet()

    async def open(self, image: ImageRow) -> None:
        (await self.mount.library.downloads.image(image)).close()

    def there(self, images: Iterable[ImageRow]) -> list[ImageRow]:
        """Those of `images` that the cache has."""
        return [image for image in images if self.mount.library.downloads.has(image)]

    @property
    def downloads(self) -> int:
        """Images that were downloaded, whichever way."""
        keyed = len(self.standin.log.requests("api", route="/images/{image_id:uuid}"))
        return keyed + self.standin.log.count("storage")

    @property
    def misses(self) -> int:
        return self.mount.library.read_stats.misses

    def tell(
        self, images: Iterable[ImageRow], ahead: int | None = None, name: str = ""
    ) -> DeclaredOrder:
        """The order in which images will be read."""
        told = self.prefetch.begin(name, ahead)
        self.prefetch.extend(told, ((image.dataset, image.key) for image in images), complete=True)
        return told


Reading = Callable[..., object]


@asynccontextmanager
async def reading(
    folder: Path, spec: Spec, *, holds: int = 1 << 20, mode: str = "auto", **switches: object
) -> AsyncIterator[Readers]:
    """Readers of an organization, with a cache that holds so many images."""
    with StandIn(spec, **switches) as standin:
        rig = Rig(standin, folder)
        async with rig.mount(prefetch=mode, cache_size=holds * EACH) as mount:
            await mount.library.listing.datasets()
            yield Readers(mount, standin)
