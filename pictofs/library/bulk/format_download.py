"""Writes a dataset to a plain folder in the layout of a format: what `cp -r` of `formats/<format>`
in a mount would have made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pictofs.errors import Invalid
from pictofs.library.bulk.download import DownloadJob, DownloadRequest
from pictofs.library.bulk.scope import Choice, Item
from pictofs.library.formats.names import Names
from pictofs.library.library import Library
from pictofs.model.formats import FORMATS, LABELLED, TREES, Format
from pictofs.model.plural import counted
from pictofs.model.records import FileKind
from pictofs.model.selection import SPLITS
from pictofs.store.catalog.rows import ImageRow
from pictofs.store.folder import Folder

Path = tuple[str, ...]


class FormatDownloadJob(DownloadJob):
    """One run: `run`."""

    def __init__(
        self, library: Library, folder: Folder, request: DownloadRequest, format_: Format
    ) -> None:
        """`request`: its choice may name a status.

        Raises Invalid if it names a split, or only images or annotations.
        """
        choice = request.choice
        if choice.split is not None:
            raise Invalid(
                "--format and --split can't go together: a format has each split in a folder of "
                "its own",
                hint="leave out --split",
            )
        if choice.kinds is not None and len(choice.kinds) < 2:
            raise Invalid(
                "--format and --mode can't go together: a format has images and labels",
                hint="leave out --mode",
            )

        kinds: frozenset[FileKind] = frozenset({"images", "annotations"})
        if format_ == "imagefolder":
            kinds = frozenset({"images"})
        wanted = Choice(kinds, choice.status, None)
        super().__init__(library, folder, replace(request, choice=wanted))

        self._format = format_
        self._formats = library.formats
        self._base = choice.status
        self._names: Names | None = None
        self._strays = 0
        self._stray = ""

    async def _list_dataset(self) -> None:
        await super()._list_dataset()
        assert self._dataset is not None
        key = self._dataset.key
        if self._format == "yolo-pose" and not self._formats.has_pose(key):
            raise Invalid(
                f"{self._dataset.name} has no class with a skeleton, and so no poses",
                hint=f"choose another --format: {', '.join(FORMATS)}",
            )

        self._names = await self._formats.names.flat(key)

    # What a file is to the run.

    def _is_there(self, item: Item) -> bool:
        image = item.image
        if item.kind == "images":
            self._look_for_stray(image)
            paths = self._image_paths(image)
            return all(self._folder_writer.has_image(image, path) for path in paths)
        if not self._library.annotations.has(image):
            return False
        if self._format not in LABELLED:
            return True

        label = self._formats.known_label(image, self._base, self._format)
        return label is not None and self._folder.holds_bytes(self._label_path(image), label)

    async def _fetch(self, item: Item) -> None:
        if item.kind == "images":
            await self._fetch_image(item.image)
        else:
            await self._fetch_label(item.image)
        self._downloaded[item.kind] += 1

    def _named(self, item: Item) -> dict[str, str]:
        path = self._image_paths(item.image)[0]
        if item.kind == "annotations" and self._format in LABELLED:
            path = self._label_path(item.image)
        return {"path": "/".join(path), "kind": item.kind.removesuffix("s")}

    async def _fetch_image(self, image: ImageRow) -> None:
        """Bring an image to each of its places: a link to what is there already is enough."""
        paths = self._image_paths(image)
        plain = self._scope.place_of(Item("images", image))
        for path in paths:
            if self._folder_writer.has_image(image, path):
                continue

            there = next(
                (each for each in (*paths, plain) if self._folder_writer.has_image(image, each)),
                None,
            )
            if there is None or not await self._folder_writer.link(there, path):
                await self._folder_writer.image(image, path)

    async def _fetch_label(self, image: ImageRow) -> None:
        annotations = self._library.annotations
        if not annotations.has(image):
            await annotations.fetch(image)
            image = self._library.catalog.image(image.key) or image
        if self._format not in LABELLED:
            return

        content, _ = await self._formats.label(image, self._base, self._format)
        try:
            data = await content.read(0, content.size)
        finally:
            content.close()
        await self._folder_writer.label(image, self._label_path(image), data)

    def _image_paths(self, image: ImageRow) -> list[Path]:
        assert self._names is not None
        folders = self._scope.folder_parts(image.directory)
        return self._names.image_paths(image, self._format, folders)

    def _label_path(self, image: ImageRow) -> Path:
        assert self._names is not None
        folders = self._scope.folder_parts(image.directory)
        return self._names.label_path(image, self._format, folders)

    def _look_for_stray(self, image: ImageRow) -> None:
        """Note an image that lies in a split it is no more in: a trainer would read it in both."""
        for path in self._image_paths(image):
            at = next((at for at, part in enumerate(path[:2]) if part in SPLITS), None)
            if at is None or self._format == "voc":
                continue

            for split in SPLITS:
                other = (*path[:at], split, *path[at + 1 :])
                if split != path[at] and self._folder_writer.has_image(image, other):
                    self._strays += 1
                    self._stray = "/".join(other)

    # What is of the whole dataset.

    def _make_folders(self) -> None:
        """Have a folder for each split, also where it has no image."""
        for tree in TREES:
            if tree.format == self._format:
                self._folder.make(tree.path[1:])
        if self._format == "imagefolder" and self._names is not None:
            for split in SPLITS:
                for tag in self._names.tags:
                    self._folder.make((split, tag))

    def _warn(self) -> None:
        super()._warn()
        if self._strays and self._notice is None:
            self._notice = (
                f"{counted(self._strays, 'image')} of an earlier run are in another split now, and "
                f"a trainer reads them in both: remove {self._stray} and its like, or choose an "
                "empty folder"
            )

    async def _finish(self) -> None:
        """Write the files of the whole dataset, if everything else is there."""
        if self.missing or self.failed or self._dataset is None:
            return

        work = partial(self._formats.builder.made, self._dataset.key, self._base, self._format)
        built = await self._lanes[0].budget.run(work)
        for name, blob_name in built.blobs.items():
            await self._folder_writer.built(blob_name, tuple(name.split("/")), built.changed_ns)
