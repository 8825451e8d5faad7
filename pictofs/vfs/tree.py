"""The tree: operations by inode number, and the handles of open files and folders."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NoReturn

from pictofs.errors import NoSuchEntry, NotSupported, ReadOnly
from pictofs.library.content.content import CachedContent, Content
from pictofs.library.library import Library
from pictofs.library.listing.edits import Edits
from pictofs.model.inode import KIND_MASK, Inode, NodeKind
from pictofs.model.inode import number as number_of
from pictofs.model.records import document
from pictofs.store.catalog.datasets import DATASETS, DOCUMENT, README
from pictofs.store.catalog.rows import DatasetRow, RemovedDentry
from pictofs.vfs import xattrs
from pictofs.vfs.node import Attributes, Entry, NodeHandler, Opening, exactly
from pictofs.vfs.nodes.annotations import AnnotationFile, AnnotationsDirectory, ExactSizes
from pictofs.vfs.nodes.by_id import IdLink
from pictofs.vfs.nodes.dataset import DatasetDirectory, dataset_folder
from pictofs.vfs.nodes.dataset_file import DatasetFile, readme
from pictofs.vfs.nodes.exports import ExportNodes
from pictofs.vfs.nodes.fixed import BY_ID, Documents, FixedNodes
from pictofs.vfs.nodes.formats import BuiltFiles, FormatFolders, FormatNodes, Labels
from pictofs.vfs.nodes.images import ImageFile, ImagesDirectory
from pictofs.vfs.nodes.selected import FilteredDirectory, SelectionRoot
from pictofs.vfs.parents import parent_of
from pictofs.vfs.writing import ReadmeWriter, WrittenText

DESCRIPTIONS = (xattrs.PREFIX + "description", xattrs.PREFIX + "readme")
"""The extended attributes of a dataset that can be set: the API's older and newer name of one
field."""

WHOLE = 0.9
"""A file counts as read whole if this part of it was read. The kernel reads 16 KiB where a program
asks for the first 64 bytes."""

SETTLED_MAX = 100_000
"""Files for which the size that the kernel was told last is remembered: 10 MB of memory."""

PAGES_MAX = 100_000
"""Files for which the version of the kernel's pages is remembered: 10 MB of memory."""


@dataclass(eq=False, slots=True)
class OpenFile:
    """An open file."""

    handle: int
    content: Content
    attributes: Attributes
    renew_size: bool
    """Whether the kernel may hold another size, and must ask for this one."""
    renew_pages: bool
    """Whether the kernel may use another size without asking, and have pages that end at that size.
    True only if nothing else has the file open, so that no page of it is on its way."""
    direct: bool
    """Whether the kernel must keep no pages of it: the content is made at open, or another version
    is open."""
    keep: bool
    """Whether the pages that the kernel may have kept from earlier reads are right."""
    reached: int = 0
    """The end of the furthest read, in bytes from the start; 0 if the kernel served every read."""


@dataclass
class _OpenFolder:
    inode: Inode
    entries: list[Entry] = field(default_factory=list)
    """Entries read ahead, as one reply to the kernel takes fewer of them. The first follows
    `start`."""
    start: int = 0
    """The cookie before the first entry."""


class Tree:
    """A file system without a kernel: `pictofs.fuse` connects it to one."""

    def __init__(
        self,
        library: Library,
        *,
        documents: Documents,
        exact_annotation_sizes: bool,
        started_ns: int,
    ) -> None:
        self._library = library

        self._images = ImageFile(library)
        exact = ExactSizes(library, exact_annotation_sizes)
        links = IdLink(library)
        labels = Labels(library)
        built = BuiltFiles(library)
        format_folders = FormatFolders(library, labels, built)
        format_nodes = FormatNodes(library, format_folders, labels, built)
        selections = SelectionRoot(library, format_nodes)
        exports = ExportNodes(library)
        images = ImagesDirectory(library)
        annotations = AnnotationsDirectory(library, exact)
        objects = DatasetFile(library, NodeKind.DOCUMENT, DOCUMENT, document)
        readmes = DatasetFile(
            library, NodeKind.README, README, readme, written=library.edits is not None
        )

        self._handlers: Mapping[NodeKind, NodeHandler] = {
            NodeKind.FIXED: FixedNodes(library, documents, links, started_ns),
            NodeKind.LINK: links,
            NodeKind.DATASET: DatasetDirectory(
                library, {DOCUMENT: objects, README: readmes}, selections, format_nodes, exports
            ),
            NodeKind.EXPORT: exports,
            NodeKind.FORMAT: format_nodes,
            NodeKind.FORMAT_FOLDER: format_folders,
            NodeKind.LABEL: labels,
            NodeKind.VIEW: selections,
            NodeKind.VIEW_IMAGES: FilteredDirectory(library, NodeKind.VIEW_IMAGES, images),
            NodeKind.VIEW_ANNOTATIONS: FilteredDirectory(
                library, NodeKind.VIEW_ANNOTATIONS, annotations
            ),
            NodeKind.DOCUMENT: objects,
            NodeKind.README: readmes,
            NodeKind.IMAGES: images,
            NodeKind.ANNOTATIONS: annotations,
            NodeKind.IMAGE: self._images,
            NodeKind.ANNOTATION: AnnotationFile(library, exact),
        }
        self._readme_writer = ReadmeWriter(library, readmes)

        self._numbers: Iterator[int] = count(1)
        self._files: dict[int, OpenFile] = {}
        self._folders: dict[int, _OpenFolder] = {}
        self._by_inode: dict[int, list[OpenFile]] = {}

        # By inode number, for files whose size the kernel may have been told differently before:
        # the size that it was told last.
        self._settled: dict[int, int] = {}
        # By inode number: the version of the kernel's pages, of which all open handles share one
        # set.
        self._pages: dict[int, Hashable] = {}

    @property
    def open_files(self) -> int:
        """How many file handles there are."""
        return len(self._files)

    def inode_of(self, handle: int) -> int:
        """The inode number of the file or folder open as `handle`; 0 if there is none."""
        if handle in self._files:
            return self._files[handle].attributes.inode

        folder = self._folders.get(handle)
        return number_of(*folder.inode) if folder else 0

    async def attributes(self, number: int) -> Attributes:
        """What stat shows; for an open file, what it showed when the file was opened."""
        opened = self._by_inode.get(number)
        if opened:
            return _shown_of(opened)

        inode, handler = self._node(number)
        return self.shown(await handler.attributes(inode))

    async def lookup(self, parent: int, name: str) -> Attributes:
        """The entry `name` of a folder; for "." the node itself, for ".." the folder that contains
        it.

        No entry is listed as "." or "..". The kernel asks for them if it has a file handle, of an
        NFS client for example, whose inode it has forgotten.
        """
        inode, handler = self._node(parent)
        if name == ".":
            return await self._itself(parent)
        if name == "..":
            inode = self._library.formats.revisions.first(inode)
            return await self._itself(parent_of(self._library.catalog, inode))

        return self.shown(await handler.lookup(inode, name))

    async def _itself(self, number: int) -> Attributes:
        attributes = await self.attributes(number)
        if attributes.inode != number:
            raise NoSuchEntry("there is no such inode")
        return attributes

    def shown(self, attributes: Attributes) -> Attributes:
        """What the kernel may be told of a file now: while it is open, only the size it was opened
        with.

        Every answer with attributes goes through this at the moment it is given: attributes read
        from the catalog earlier may shorten a file that was opened meanwhile.
        """
        number = attributes.inode
        size = attributes.size
        opened = self._by_inode.get(number)
        if opened:
            known = _shown_of(opened)
            return attributes._replace(size=known.size, blocks=known.blocks, keep=known.keep)

        if self._settled and self._settled.get(number, size) != size:
            del self._settled[number]

        return attributes

    @property
    def shows_other_sizes(self) -> bool:
        """Whether `shown` would change anything: a file is open, or was of another size."""
        return bool(self._by_inode or self._settled)

    async def xattrs(self, number: int) -> Mapping[str, bytes]:
        """Extended attributes by name."""
        inode, handler = self._node(number)
        return await handler.xattrs(inode)

    async def make_folder(self, parent: int, name: str) -> Attributes:
        """`mkdir`: a new dataset, in `datasets/`. Raises AlreadyExists; elsewhere ReadOnly."""
        row = await self._edits(parent).create(name)
        made = dataset_folder(row, self._library.listing.fresh_for)

        # A server may keep a name in another form than it was given.
        return made if row.entry == name else made._replace(keep_entry=0.0)

    async def remove_folder(self, parent: int, name: str) -> None:
        """`rmdir`: an empty dataset. Raises NotEmpty, NoSuchEntry; elsewhere ReadOnly."""
        self._forget_link(await self._edits(parent).remove(name))

    async def rename(self, parent: int, name: str, to: int, new_name: str) -> None:
        """`mv` of a dataset within `datasets/`. It never replaces another dataset.

        Raises AlreadyExists, NoSuchEntry; NotSupported for another folder, ReadOnly for anything
        but a dataset.
        """
        edits = self._edits(parent)
        if to != DATASETS:
            raise NotSupported(
                f"the dataset {name!r} can't be moved into another folder: it can be renamed only"
            )

        self._forget_link(await edits.rename(name, new_name))

    def _forget_link(self, row: DatasetRow) -> None:
        """Have the kernel look up the target and the length of the dataset's link by id again."""
        self._library.invalidations.tell(
            [RemovedDentry(number_of(NodeKind.FIXED, BY_ID), row.id.lower())]
        )

    async def set_xattr(self, number: int, name: str, value: bytes) -> None:
        """`setfattr`: a dataset's description.

        Raises Invalid if it is not UTF-8, NotSupported for another name, ReadOnly for anything but
        a dataset.
        """
        inode, _ = self._node(number)
        edits = self._library.edits
        # Not ReadOnly: at NotSupported `cp -p` falls back to setting the mode alone.
        if edits is not None and inode.kind is NodeKind.README:
            raise NotSupported(f"{README} has no extended attributes")
        if edits is None or inode.kind is not NodeKind.DATASET:
            self.refuse()
        if name not in DESCRIPTIONS:
            raise NotSupported(f"{name!r} can't be set: of a dataset only {DESCRIPTIONS[0]} can")

        await edits.describe(inode.key, value)

    def refuse(self) -> NoReturn:
        """Refuse any other change. Raises ReadOnly."""
        raise ReadOnly(
            "only datasets can be made, renamed, described and removed, and README.md be written"
        )

    def _edits(self, parent: int) -> Edits:
        edits = self._library.edits
        if edits is None or parent != DATASETS:
            self.refuse()
        return edits

    async def target(self, number: int) -> str:
        """Where a symbolic link leads."""
        inode, handler = self._node(number)
        return await handler.target(inode)

    def open_folder(self, number: int) -> int:
        """A handle for reading a folder."""
        handle = next(self._numbers)
        self._folders[handle] = _OpenFolder(self._node(number)[0])
        return handle

    async def read_folder(self, handle: int, cookie: int) -> list[Entry]:
        """Some entries after `cookie`, 0 for the first; none at the end.

        Waits if the next page is on its way, and raises the error that kept it from coming. The
        attributes are those of the catalog some time ago: `shown` says what the kernel may be told.
        """
        folder = self._folders[handle]
        if folder.start == cookie and folder.entries:
            return folder.entries

        for place, entry in enumerate(folder.entries):
            if entry.cookie == cookie:
                folder.entries = folder.entries[place + 1 :]
                folder.start = cookie
                break
        else:
            folder.entries = []

        if not folder.entries:
            folder.entries = await self._more(folder.inode, cookie)
            folder.start = cookie

        return folder.entries

    async def _more(self, inode: Inode, cookie: int) -> list[Entry]:
        handler = self._handlers[inode.kind]
        while True:
            batch = await handler.entries(inode, cookie)
            if batch.entries or batch.in_progress_listing is None:
                return batch.entries

            await batch.in_progress_listing.more()
            if batch.in_progress_listing.finished.is_set():
                # Not another look at the entries: it would begin another pass.
                if batch.in_progress_listing.error is not None:
                    raise batch.in_progress_listing.error

                return (await handler.entries(inode, cookie)).entries

    def close_folder(self, handle: int) -> None:
        """Release a folder's handle."""
        del self._folders[handle]

    async def open(self, number: int) -> OpenFile:
        """A handle for reading a file, with its exact size. Raises Stale: look the path up
        again."""
        opened = self.reopen(number)
        if opened is not None:
            return opened

        inode, handler = self._node(number)
        return self._opened(number, await handler.open(inode), inode.kind)

    def reopen(self, number: int) -> OpenFile | None:
        """What `open` would return for an image that was open lately, without a wait.

        None if only `open` can tell.
        """
        if number & KIND_MASK != NodeKind.IMAGE:
            return None

        opening = self._images.reopen(number)
        return None if opening is None else self._opened(number, opening, NodeKind.IMAGE)

    def _opened(self, number: int, opening: Opening, kind: NodeKind) -> OpenFile:
        attributes, content, told_one_size = opening

        # No await from here on. The kernel drops an answer that was made before, which is older
        # than what it is told now; an answer that is made later goes through `shown`.
        others = self._by_inode.setdefault(number, [])
        differs = any(each.content.version != content.version for each in others if not each.direct)
        told_one_size = differs or (
            told_one_size and all(each.content.size == content.size for each in others)
        )

        opened = OpenFile(
            handle=next(self._numbers),
            content=content,
            attributes=attributes,
            renew_size=not told_one_size,
            renew_pages=not told_one_size
            and not others
            and self._settled.get(number) != content.size,
            direct=differs or kind is NodeKind.FIXED,
            keep=self._pages.get(number) == content.version,
        )
        self._files[opened.handle] = opened

        # In front, as `_shown_of` looks from the end: the kernel goes on with what the others have
        # open.
        if differs:
            others.insert(0, opened)
            return opened

        others.append(opened)
        self._remember_pages(number, content.version)
        if not told_one_size:
            self._settle(number, content.size)

        return opened

    def _remember_pages(self, number: int, version: Hashable) -> None:
        if len(self._pages) >= PAGES_MAX and number not in self._pages:
            self._pages.clear()

        self._pages[number] = version

    def _settle(self, number: int, size: int) -> None:
        """Note the size that the kernel is told now. Entries read ahead may have another: drop
        them."""
        if len(self._settled) >= SETTLED_MAX:
            self._settled.clear()

        self._settled[number] = size
        for folder in self._folders.values():
            folder.entries = []

    async def open_to_write(self, number: int, *, truncate: bool, append: bool) -> OpenFile:
        """A handle for writing a file: a dataset's readme.

        Raises Stale; ReadOnly for anything else.
        """
        edits, inode = self._writable(number)
        attributes, text = await self._readme_writer.open(
            edits, inode, truncate=truncate, append=append
        )
        return self._opened_to_write(attributes, text)

    async def create(
        self, parent: int, name: str, *, exclusive: bool, truncate: bool, append: bool
    ) -> OpenFile:
        """A handle for writing a new file: the readme of a dataset that has none.

        Its name is shown once it is saved.

        Raises AlreadyExists if `exclusive`; ReadOnly for anything else.
        """
        inode, _ = self._node(parent)
        edits = self._library.edits
        if edits is None or inode.kind is not NodeKind.DATASET or name != README:
            self.refuse()

        attributes, text = await self._readme_writer.create(
            edits, inode.key, exclusive=exclusive, truncate=truncate, append=append
        )
        return self._opened_to_write(attributes, text)

    def _opened_to_write(self, attributes: Attributes, text: WrittenText) -> OpenFile:
        opened = OpenFile(
            handle=next(self._numbers),
            content=text,
            attributes=attributes,
            renew_size=False,
            renew_pages=False,
            direct=True,
            keep=False,
        )

        self._files[opened.handle] = opened
        self._by_inode.setdefault(attributes.inode, []).append(opened)
        return opened

    def _writable(self, number: int) -> tuple[Edits, Inode]:
        """How to change a file, and its inode. Raises ReadOnly if it can't be changed."""
        inode, _ = self._node(number)
        edits = self._library.edits
        if edits is None or inode.kind is not NodeKind.README:
            self.refuse()
        return edits, inode

    def written(self, handle: int) -> WrittenText | None:
        """The text behind a handle that is open for writing; None for any other handle."""
        opened = self._files.get(handle)
        if opened is None or not isinstance(opened.content, WrittenText):
            return None
        return opened.content

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write `data` at `offset` of a file that is open for writing; how many bytes were taken.

        Raises TooLarge.
        """
        text = self.written(handle)
        if text is None:
            self.refuse()
        return text.write(offset, data)

    async def save(self, handle: int) -> None:
        """Send what was written and not yet sent. Raises what keeps the server from taking it."""
        text = self.written(handle)
        if text is not None:
            await text.save()

    def check_writable(self, number: int) -> None:
        """Raises ReadOnly if the file can't be changed."""
        self._writable(number)

    async def resize(self, number: int, size: int, handle: int | None) -> Attributes:
        """`truncate` to `size` bytes; the attributes afterwards.

        With a handle that is open for writing only its text changes, else the text on the server.
        Raises TooLarge, Stale, ReadOnly.
        """
        edits, inode = self._writable(number)
        text = None if handle is None else self.written(handle)
        if text is None:
            return await self._readme_writer.truncate(edits, inode, size)

        text.truncate(size)
        return await self.attributes(number)

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        """Bytes of an open file, fewer than `length` only at its end."""
        opened = self._files[handle]
        data = await opened.content.read(offset, length)
        self._count_read(opened, offset, data)
        return data

    def read_at_once(self, handle: int, offset: int, length: int) -> bytes | None:
        """What `read` returns, without a wait; None if it has to wait."""
        opened = self._files[handle]
        if not isinstance(opened.content, CachedContent):
            return None

        data = opened.content.pread(offset, length)
        self._count_read(opened, offset, data)
        return data

    def _count_read(self, opened: OpenFile, offset: int, data: bytes) -> None:
        opened.reached = max(opened.reached, offset + len(data))
        self._library.read_stats.bytes_read += len(data)

    async def finish(self, handle: int) -> None:
        """Release a file's handle when its last descriptor is closed.

        Raises what `save` raises; the handle is released all the same.
        """
        try:
            text = self.written(handle)
            if text is not None:
                await text.finish()
        finally:
            self.close(handle)

    def close(self, handle: int) -> None:
        """Release a file's handle, and send nothing."""
        opened = self._files.pop(handle)
        inode = opened.attributes.inode
        others = self._by_inode[inode]
        others.remove(opened)

        if not others:
            del self._by_inode[inode]

        if not opened.direct:
            # The version may be another one: what was a download may have a checksum by now.
            self._remember_pages(inode, opened.content.version)

        opened.content.close()
        if 0 < opened.reached < WHOLE * opened.content.size:
            self._tell_skimmed(inode)

    def _tell_skimmed(self, number: int) -> None:
        """Let the prefetcher know of a file that was not read to its end."""
        inode = self._node(number)[0]
        if inode.kind not in (NodeKind.IMAGE, NodeKind.ANNOTATION):
            return

        row = self._library.catalog.image(inode.key)
        if row is None:
            return

        if inode.kind is NodeKind.IMAGE:
            self._library.downloads.prefetch.skimmed(row)
        else:
            self._library.annotation_prefetch.skimmed(row)

    def close_all(self) -> None:
        """Release every handle, at the end of the mount."""
        for handle in list(self._files):
            self.close(handle)
        self._folders.clear()

    def space(self) -> tuple[int, int]:
        """Bytes and files of the whole organization, from the catalog alone."""
        return self._library.catalog.counts()[1], self._library.catalog.image_total()

    def _node(self, number: int) -> tuple[Inode, NodeHandler]:
        inode = Inode.of(number)
        if inode is None:
            raise NoSuchEntry("there is no such inode")
        return inode, self._handlers[inode.kind]


def _shown_of(opened: list[OpenFile]) -> Attributes:
    """What stat shows of an open file.

    All readers of an inode see one content, and the kernel must hold its size. The text being
    written shows only if nobody reads the file.
    """
    for each in reversed(opened):
        if not isinstance(each.content, WrittenText):
            return each.attributes

    text = opened[-1].content
    assert isinstance(text, WrittenText)
    return exactly(opened[-1].attributes, text.size)._replace(mtime_ns=text.mtime_ns)
