"""`formats/` of a dataset, or of one status of it: its images in the layouts that trainers read.

Images are those of `images/` and have the same inode numbers, as if they were hard links. Label
files are made of annotation files when they are opened, and files of a whole dataset once for each
state of it (pictofs/library/formats). Both have another inode number when their content is another,
so that a reader of the new one shares no size and no page with those who still read the old one.
"""

from __future__ import annotations

from bisect import bisect_right

import trio

from pictofs.errors import IsADirectory, NoSuchEntry, NotADirectory, Stale
from pictofs.library.formats.formats import Formats, version_of_label
from pictofs.library.formats.names import Names, placed_in
from pictofs.library.formats.revisions import BuiltFile, WholeFile
from pictofs.library.library import Library
from pictofs.model.formats import (
    NODE_AT,
    NODES,
    REVISION_PLACE,
    TREE_AT,
    TREES,
    Format,
    Node,
    Role,
    Tree,
    base_and_place,
    below,
    label_format,
    label_place,
    listed_folder,
    own_folder,
    tag_place,
    tag_split,
    version_of,
)
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.rows import DatasetRow, DirectoryRow, ImageRow
from pictofs.vfs.node import (
    BATCH,
    Attributes,
    DirectoryHandler,
    Entry,
    EntryBatch,
    FileHandler,
    Opening,
    PlainHandler,
    exactly,
    file,
    folder,
    unsized,
)
from pictofs.vfs.nodes.annotations import PLACEHOLDER_EACH
from pictofs.vfs.nodes.images import image_file

LABEL_PLACEHOLDER_BYTES = 1 << 20
"""Bytes that stat shows for a label file whose annotation file was never read, and for each
annotation as many more as for that file (annotations.py)."""
BUILT_PLACEHOLDER_BYTES = 1 << 30
"""Bytes that stat shows for a file of a whole dataset until it is opened."""

_TREE_FILE = 1
"""The cookie behind the one file that a tree's root has besides images; theirs are 3 and more."""


class FormatNodes(PlainHandler):
    """`formats/`, and what each format has once in a dataset."""

    def __init__(
        self, library: Library, folders: FormatFolders, labels: Labels, built: BuiltFiles
    ) -> None:
        self._built = built
        self._library = library
        self._formats: Formats = library.formats
        self._folders = folders
        self._labels = labels

    def root(self, row: DatasetRow, base: str | None) -> Attributes:
        """Attributes of `formats/`. `base`: the status that it is of; None: the whole dataset."""
        return self._folder(row, base, ())

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a folder or file. Raises Stale if a file has another content now."""
        if _is_built(inode):
            return await self._built.attributes(inode)

        base, node = _node(inode)
        return self._of(await self._library.listing.dataset(inode.key), base, node)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of an entry. Raises NoSuchEntry, NotADirectory."""
        base, node = _node(inode)
        row = await self._library.listing.dataset(inode.key)

        match node.role:
            case Role.FOLDER:
                return self._entry(row, base, node, name)
            case Role.FLAT_IMAGES:
                return await self._flat_image(row, base, node, name)
            case Role.FLAT_LABELS:
                return await self._flat_label(row, base, node, name)
            case Role.TAGS:
                names = await self._formats.names.flat(row.key)
                if name in names.tags:
                    return self._folders.of_tag(row, base, _split(node), name)
                raise NoSuchEntry(f"no image has the tag {name!r}")

        raise NotADirectory(f"{name!r} was looked up in a file")

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Entries after `cookie`. Raises NotADirectory."""
        base, node = _node(inode)
        row = await self._library.listing.dataset(inode.key)
        found: list[Entry] = []

        match node.role:
            case Role.FOLDER:
                for at, name in enumerate(self._names(row, node), 1):
                    found.append(Entry(name, self._entry(row, base, node, name), at))
                return EntryBatch(found[cookie:], None)
            case Role.FLAT_IMAGES | Role.FLAT_LABELS:
                return EntryBatch(await self._flat(row, base, node, cookie), None)
            case Role.TAGS:
                names = await self._formats.names.flat(row.key)
                for at, name in enumerate(sorted(names.tags), 1):
                    attributes = self._folders.of_tag(row, base, _split(node), name)
                    found.append(Entry(name, attributes, at))
                return EntryBatch(found[cookie : cookie + BATCH], None)

        raise NotADirectory("a file was listed")

    async def open(self, inode: Inode) -> Opening:
        """A file of a whole dataset, which is made if it is not there. Raises IsADirectory,
        Stale."""
        if _is_built(inode):
            return await self._built.open(inode)

        base, node = _node(inode)
        row = await self._library.listing.dataset(inode.key)
        if node.role is not Role.README:
            raise IsADirectory("a folder was opened as a file")

        content = self._formats.readme()
        return Opening(self._of(row, base, node), content, told_one_size=False)

    def _names(self, row: DatasetRow, node: Node) -> list[str]:
        names = below(node.path)
        if not node.path and not self._formats.has_pose(row.key):
            names.remove("yolo-pose")
        return names

    def _entry(self, row: DatasetRow, base: str | None, node: Node, name: str) -> Attributes:
        """An entry of a folder that has nodes and trees alone."""
        path = (*node.path, name)
        if name not in self._names(row, node):
            raise NoSuchEntry(f"there is no {name!r}")
        if path in NODE_AT:
            return self._of(row, base, NODES[NODE_AT[path]])

        return self._folders.of_tree(row, base, TREES[TREE_AT[path]])

    def _of(self, row: DatasetRow, base: str | None, node: Node) -> Attributes:
        if node.role is Role.BUILT:
            return self._built.of(row, base, node)
        if node.role is not Role.README:
            return self._folder(row, base, node.path)

        keep = self._library.listing.fresh_for
        inode = _number(row, base, node.path)
        return file(inode, self._formats.readme().size, row.created_ns, keep, keep)

    def _folder(self, row: DatasetRow, base: str | None, path: tuple[str, ...]) -> Attributes:
        keep = self._library.listing.fresh_for
        return folder(_number(row, base, path), row.created_ns, keep)

    # Folders of all images.

    async def _flat_image(
        self, row: DatasetRow, base: str | None, node: Node, name: str
    ) -> Attributes:
        names = await self._formats.names.flat(row.key)
        image = names.image(_format(node), None, name)
        if image is None or not placed_in(image, base, None):
            raise NoSuchEntry(f"there is no {name!r}")
        return image_file(image, self._library.listing.fresh_for)

    async def _flat_label(
        self, row: DatasetRow, base: str | None, node: Node, name: str
    ) -> Attributes:
        names = await self._formats.names.flat(row.key)
        image = names.labelled(_format(node), None, name)
        if image is None or not placed_in(image, base, None):
            raise NoSuchEntry(f"there is no {name!r}")
        return await self._labels.found(image, row, base, _format(node))

    async def _flat(
        self, row: DatasetRow, base: str | None, node: Node, cookie: int
    ) -> list[Entry]:
        names = await self._formats.names.flat(row.key)
        format_ = _format(node)
        keep = self._library.listing.fresh_for
        after: int | None = cookie
        while after is not None:
            images, after = self._library.catalog.shown_after(
                ImageRow, after, BATCH, dataset=row.key, directory=None, status=base, split=None
            )
            if images and node.role is Role.FLAT_IMAGES:
                return [
                    Entry(names.own_name(each, format_), image_file(each, keep), each.seq)
                    for each in images
                ]
            if images:
                return [
                    Entry(
                        names.label_name(each, format_),
                        self._labels.listed(each, row, base, format_),
                        each.seq,
                    )
                    for each in images
                ]

            await trio.lowlevel.checkpoint()

        return []


class FormatFolders(DirectoryHandler):
    """The virtual directories in a format, and the folders of its tags."""

    def __init__(self, library: Library, labels: Labels, built: BuiltFiles) -> None:
        self._library = library
        self._formats: Formats = library.formats
        self._labels = labels
        self._built = built

    def of_tree(self, row: DatasetRow, base: str | None, tree: Tree) -> Attributes:
        """Attributes of a tree's root."""
        root = self._library.catalog.directory_by_path(row.key, "/")
        if root is None:
            raise NoSuchEntry("the dataset is gone")
        return self._folder(root.key, row, base, TREE_AT[tree.path])

    def of_tag(self, row: DatasetRow, base: str | None, split: str, name: str) -> Attributes:
        """Attributes of a tag's folder."""
        key = self._formats.names.tag_key(row, name)
        return self._folder(key, row, base, tag_place(split))

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes of a folder."""
        base, place = _place(inode)
        if tag_split(place) is not None:
            row = await self._library.listing.dataset(self._tag(inode)[0])
        else:
            row = await self._library.listing.dataset(self._directory(inode).dataset)

        return self._folder(inode.key, row, base, place)

    async def lookup(self, inode: Inode, name: str) -> Attributes:
        """Attributes of a directory, an image or a label file. Raises NoSuchEntry."""
        base, place = _place(inode)
        split = tag_split(place)
        if split is not None:
            return await self._tagged_image(inode, base, split, name)

        tree = TREES[place]
        directory = self._directory(inode)
        names = await self._formats.names.of(directory.dataset)
        row = await self._library.listing.dataset(directory.dataset)
        is_top = directory.parent is None
        own = NODE_AT.get((*tree.path, name))
        if is_top and own is not None:
            return self._built.of(row, base, NODES[own])

        entry = listed_folder(name, tree.format, is_top=is_top)
        below_ = None
        if entry is not None:
            below_ = self._library.catalog.directory_by_entry(directory.key, entry)
        if below_ is not None and names.shows(below_.key, base, tree.split):
            return self._folder(below_.key, row, base, place)

        find = names.labelled if tree.labels else names.image
        image = find(tree.format, directory.key, name)
        if image is None or not placed_in(image, base, tree.split):
            raise NoSuchEntry(f"there is no {name!r}")
        if tree.labels:
            return await self._labels.found(image, row, base, tree.format)

        return image_file(image, self._library.listing.fresh_for)

    async def entries(self, inode: Inode, cookie: int) -> EntryBatch:
        """Entries after `cookie`: directories first, with the cookies that they have in
        `images/`."""
        base, place = _place(inode)
        split = tag_split(place)
        if split is not None:
            return EntryBatch(await self._tagged(inode, base, split, cookie), None)

        tree = TREES[place]
        directory = self._directory(inode)
        names = await self._formats.names.of(directory.dataset)
        row = await self._library.listing.dataset(directory.dataset)
        is_top = directory.parent is None
        if not cookie and is_top:
            found = [
                Entry(node.path[-1], self._built.of(row, base, node), _TREE_FILE)
                for node in NODES
                if node.path[:-1] == tree.path
            ]
            if found:
                return EntryBatch(found, None)

        if cookie == _TREE_FILE:
            cookie = 0
        seq = cookie >> 1

        # An odd cookie is a file's: then all directories have been given.
        catalog = self._library.catalog
        while not cookie & 1 and (rows := catalog.directories_after(directory.key, seq, BATCH)):
            seq = rows[-1].seq
            entries = [
                Entry(
                    own_folder(each.entry, tree.format, is_top=is_top),
                    self._folder(each.key, row, base, place),
                    each.seq << 1,
                )
                for each in rows
                if names.shows(each.key, base, tree.split)
            ]
            if entries:
                return EntryBatch(entries, None)

        return EntryBatch(
            await self._files(directory, row, base, tree, names, seq if cookie & 1 else 0), None
        )

    async def _files(
        self,
        directory: DirectoryRow,
        row: DatasetRow,
        base: str | None,
        tree: Tree,
        names: Names,
        seq: int,
    ) -> list[Entry]:
        keep = self._library.listing.fresh_for
        after: int | None = seq
        while after is not None:
            images, after = self._library.catalog.shown_after(
                ImageRow,
                after,
                BATCH,
                dataset=directory.dataset,
                directory=directory.key,
                status=base,
                split=tree.split,
            )
            if images and tree.labels:
                return [
                    Entry(
                        names.label_name(each, tree.format),
                        self._labels.listed(each, row, base, tree.format),
                        each.seq << 1 | 1,
                    )
                    for each in images
                ]
            if images:
                return [
                    Entry(
                        names.own_name(each, tree.format),
                        image_file(each, keep),
                        each.seq << 1 | 1,
                    )
                    for each in images
                ]

            await trio.lowlevel.checkpoint()

        return []

    # Folders of tags.

    async def _tagged_image(
        self, inode: Inode, base: str | None, split: str, name: str
    ) -> Attributes:
        dataset, tag = self._tag(inode)
        names = await self._formats.names.flat(dataset)
        image = names.image("imagefolder", None, name)
        if image is None or not placed_in(image, base, split) or not names.has_tag(image, tag):
            raise NoSuchEntry(f"there is no {name!r}")
        return image_file(image, self._library.listing.fresh_for)

    async def _tagged(self, inode: Inode, base: str | None, split: str, seq: int) -> list[Entry]:
        dataset, tag = self._tag(inode)
        names = await self._formats.names.flat(dataset)
        keep = self._library.listing.fresh_for
        seqs = names.tags.get(tag, ())
        at = bisect_right(seqs, seq)
        while at < len(seqs):
            images = self._library.catalog.images_at(seqs[at : at + BATCH])
            at += BATCH
            entries = [
                Entry(names.own_name(each, "imagefolder"), image_file(each, keep), each.seq)
                for each in images
                if each.dataset == dataset and placed_in(each, base, split)
            ]
            if entries:
                return entries

            await trio.lowlevel.checkpoint()

        return []

    def _tag(self, inode: Inode) -> tuple[int, str]:
        found = self._formats.names.tag_of(inode.key)
        if found is None:
            raise NoSuchEntry("the folder is gone")
        return found

    def _directory(self, inode: Inode) -> DirectoryRow:
        row = self._library.catalog.directory(inode.key)
        if row is None or _place(inode)[1] >= len(TREES):
            raise NoSuchEntry("the directory is gone")
        return row

    def _folder(self, key: int, row: DatasetRow, base: str | None, place: int) -> Attributes:
        inode = number(NodeKind.FORMAT_FOLDER, key, version_of(base, place))
        return folder(inode, row.created_ns, self._library.listing.fresh_for)


class Labels(FileHandler):
    """Label files: each is what one format makes of one annotation file."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._formats: Formats = library.formats

    async def attributes(self, inode: Inode) -> Attributes:
        """Attributes, with the exact size if the annotation file is there. Raises Stale."""
        base, format_ = _label(inode)
        image, row = self._rows(inode, base)
        found = await self.found(image, row, base, format_)
        if found.inode != number(*inode):
            raise Stale("the label file has a newer version")
        return found

    async def found(
        self, image: ImageRow, row: DatasetRow, base: str | None, format_: Format
    ) -> Attributes:
        """The same of an image's label file. `row`: the image's dataset."""
        size = await self._formats.known_label_size(image, base, format_)
        shown = self.listed(image, row, base, format_)
        return shown if size is None else exactly(shown, size)

    def listed(
        self, image: ImageRow, row: DatasetRow, base: str | None, format_: Format
    ) -> Attributes:
        """Attributes as a listing has them, which looks at no annotation file."""
        place = label_place(format_, self._formats.next_label_version(image, row))
        return unsized(
            number(NodeKind.LABEL, image.key, version_of(base, place)),
            LABEL_PLACEHOLDER_BYTES + PLACEHOLDER_EACH * image.annotation_count,
            max(image.annotation_ns or image.created_ns, row.classes_ns),
            self._library.listing.fresh_for,
        )

    async def open(self, inode: Inode) -> Opening:
        """The label file as the annotation file is now. Raises Stale if the path leads to another
        inode by now."""
        base, format_ = _label(inode)
        image, row = self._rows(inode, base)
        self._check(inode, version_of_label(image, row))
        content, version = await self._formats.label(image, base, format_)
        self._check(inode, version)

        image, row = self._rows(inode, base)
        shown = self.listed(image, row, base, format_)._replace(inode=number(*inode))
        # One number may have several contents: after nine versions, if a version was expected that
        # did not come, if the pixels or the name of the image change, and if other files change the
        # number of a name that is no class.
        return Opening(exactly(shown, content.size), content, told_one_size=False)

    def _check(self, inode: Inode, version: int) -> None:
        base, format_ = _label(inode)
        # The next one was expected, but the annotation file may be as it was.
        places = (label_place(format_, version), label_place(format_, version + 1))
        if inode.version not in [version_of(base, place) for place in places]:
            raise Stale("the label file has a newer version")

    def _rows(self, inode: Inode, base: str | None) -> tuple[ImageRow, DatasetRow]:
        image = self._library.catalog.image(inode.key)
        row = None if image is None else self._library.catalog.dataset(image.dataset)
        if image is None or row is None:
            raise NoSuchEntry("the image is gone")
        # Names that the image alone has got no number among the classes of a status it has left.
        if not placed_in(image, base, None):
            raise NoSuchEntry(f"the image has left the status {base}")
        return image, row


class BuiltFiles:
    """Files of a whole dataset, which are made of every annotation file when they are opened."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._formats: Formats = library.formats
        self._revisions = library.formats.revisions

    def of(self, row: DatasetRow, base: str | None, node: Node) -> Attributes:
        """Attributes of the file at a node: exact if nothing has changed since it was made."""
        file = WholeFile(row.key, base, NODE_AT[node.path])
        known = self._formats.known_file(file)
        inode = self._revisions.shown(file, None if known is None else known.blob)
        return _shown(inode, row, known)

    async def attributes(self, inode: Inode) -> Attributes:
        """The same of an inode. Raises Stale if the path leads to another one now."""
        file = self._revisions.file(inode)
        row = await self._library.listing.dataset(file.dataset)
        found = self.of(row, file.base, NODES[file.place])
        if found.inode != number(*inode):
            raise Stale("the file has another content")
        return found

    async def open(self, inode: Inode) -> Opening:
        """The file as of now. Raises Stale if it has another content than the inode."""
        file = self._revisions.file(inode)
        row = await self._library.listing.dataset(file.dataset)

        owed = self._revisions.owed(file, inode)
        if owed is not None:
            there = await self._formats.blob(owed.blob)
            if there is not None:
                return Opening(_shown(inode, row, owed), there, told_one_size=False)

        content, built = await self._formats.built(file)
        try:
            is_first = self._revisions.opened(file, inode, built)
        except Stale:
            content.close()
            raise

        # Until now the number had a placeholder.
        return Opening(_shown(inode, row, built), content, told_one_size=not is_first)


def _shown(inode: Inode, row: DatasetRow, built: BuiltFile | None) -> Attributes:
    """Attributes of a file of a whole dataset, of which the kernel keeps nothing: only the mount can
    tell whether it is still right."""
    changed_ns = max(row.created_ns, row.classes_ns)
    shown = unsized(number(*inode), BUILT_PLACEHOLDER_BYTES, changed_ns, 0.0)
    if built is None:
        return shown
    return exactly(shown, built.size)._replace(mtime_ns=built.changed_ns)


def _is_built(inode: Inode) -> bool:
    """Whether an inode is a file of a whole dataset. Raises NoSuchEntry."""
    try:
        place = base_and_place(inode.version)[1]
    except IndexError:
        raise NoSuchEntry("there is no such file") from None
    return place == REVISION_PLACE or (place < len(NODES) and NODES[place].role is Role.BUILT)


def _number(row: DatasetRow, base: str | None, path: tuple[str, ...]) -> int:
    return number(NodeKind.FORMAT, row.key, version_of(base, NODE_AT[path]))


def _place(inode: Inode) -> tuple[str | None, int]:
    """The base and place of a folder. Raises NoSuchEntry."""
    try:
        base, place = base_and_place(inode.version)
    except IndexError:
        raise NoSuchEntry("there is no such folder") from None
    if place >= len(TREES) and tag_split(place) is None:
        raise NoSuchEntry("there is no such folder")
    return base, place


def _node(inode: Inode) -> tuple[str | None, Node]:
    """The base and node of an inode number. Raises NoSuchEntry."""
    try:
        base, place = base_and_place(inode.version)
        return base, NODES[place]
    except IndexError:
        raise NoSuchEntry("there is no such file") from None


def _label(inode: Inode) -> tuple[str | None, Format]:
    """The base and format of a label file. Raises NoSuchEntry."""
    try:
        base, place = base_and_place(inode.version)
        return base, label_format(place)
    except IndexError:
        raise NoSuchEntry("there is no such file") from None


def _format(node: Node) -> Format:
    assert node.format is not None
    return node.format


def _split(node: Node) -> str:
    assert node.split is not None
    return node.split
