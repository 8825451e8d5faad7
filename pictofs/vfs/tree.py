"""The tree: operations by inode number, and the handles of what is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NoReturn

from pictofs.errors import Invalid, NoSuchEntry, NotSupported, ReadOnly
from pictofs.library.content import Content
from pictofs.library.edits import Edits
from pictofs.library.library import Library
from pictofs.model.inode import Inode, Kind
from pictofs.model.inode import number as number_of
from pictofs.store.datasets import DATASETS
from pictofs.store.rows import DatasetRow, Gone
from pictofs.vfs import xattrs
from pictofs.vfs.node import FOREVER, Attributes, Entry, View
from pictofs.vfs.views.annotations import AnnotationsView, AnnotationView, Exact
from pictofs.vfs.views.by_id import LinkView
from pictofs.vfs.views.dataset import DatasetView, DocumentView, dataset_folder
from pictofs.vfs.views.fixed import BY_ID, Documents, FixedView
from pictofs.vfs.views.images import ImagesView, ImageView
from pictofs.vfs.views.readme import ReadmeView
from pictofs.vfs.views.selected import SelectedView, SelectionView

DESCRIPTIONS = (xattrs.PREFIX + "description", xattrs.PREFIX + "readme")
"""The extended attributes of a dataset that can be set: the API's older and newer word for one thing."""
_CHANGING = frozenset({Kind.FIXED, Kind.DOCUMENT, Kind.README})
"""Files whose number does not tell every change: the kernel must keep neither pages nor attributes."""


@dataclass(eq=False)
class OpenFile:
    """An open file."""

    handle: int
    content: Content
    attributes: Attributes
    resized: bool
    """Whether stat showed another size before, and promised to stand by it."""
    live: bool
    """Whether the content is made at open, so that the kernel must keep none of it."""
    keep: bool
    """Whether pages that the kernel may have of earlier reads are right."""


@dataclass
class _OpenFolder:
    inode: Inode
    entries: list[Entry] = field(default_factory=list)
    """What was read ahead of the kernel's small replies, from `start` on."""
    start: int = 0
    """The cookie in front of the first of them."""


class Tree:
    """A file system without a kernel: `pictofs.fuse` puts it below one."""

    def __init__(
        self,
        library: Library,
        *,
        documents: Documents,
        exact_annotation_sizes: bool,
        started_ns: int,
    ) -> None:
        self._library = library
        exact = Exact(library, exact_annotation_sizes)
        links, views = LinkView(library), SelectionView(library)
        images, annotations = ImagesView(library), AnnotationsView(library, exact)
        objects, readme = DocumentView(library), ReadmeView(library)
        self._views: Mapping[Kind, View] = {
            Kind.FIXED: FixedView(library, documents, links, started_ns),
            Kind.LINK: links,
            Kind.DATASET: DatasetView(library, objects, readme, views),
            Kind.VIEW: views,
            Kind.VIEW_IMAGES: SelectedView(library, Kind.VIEW_IMAGES, images),
            Kind.VIEW_ANNOTATIONS: SelectedView(library, Kind.VIEW_ANNOTATIONS, annotations),
            Kind.DOCUMENT: objects,
            Kind.README: readme,
            Kind.IMAGES: images,
            Kind.ANNOTATIONS: annotations,
            Kind.IMAGE: ImageView(library),
            Kind.ANNOTATION: AnnotationView(library, exact),
        }
        self._numbers: Iterator[int] = count(1)
        self._files: dict[int, OpenFile] = {}
        self._folders: dict[int, _OpenFolder] = {}
        self._by_inode: dict[int, list[OpenFile]] = {}
        # Files of which bytes were given before their checksum could be known, and it was not right until now.
        self._doubtful: set[int] = set()

    @property
    def open_files(self) -> int:
        """How many file handles there are."""
        return len(self._files)

    def inode_of(self, handle: int) -> int:
        """The inode number of what is open as `handle`; 0 where nothing is."""
        if handle in self._files:
            return self._files[handle].attributes.inode
        folder = self._folders.get(handle)
        return number_of(*folder.inode) if folder else 0

    async def attributes(self, number: int) -> Attributes:
        """What stat shows; of an open file what it showed when it was opened, whatever came later."""
        opened = self._by_inode.get(number)
        if opened:
            return opened[-1].attributes
        inode, view = self._node(number)
        return await view.attributes(inode)

    async def lookup(self, parent: int, name: str) -> Attributes:
        """The entry `name` of a folder."""
        inode, view = self._node(parent)
        return await view.lookup(inode, name)

    async def xattrs(self, number: int) -> Mapping[str, bytes]:
        """Extended attributes by name."""
        inode, view = self._node(number)
        return await view.xattrs(inode)

    async def make_folder(self, parent: int, name: str) -> Attributes:
        """`mkdir`: a new dataset, in `datasets/`. Raises AlreadyExists; elsewhere ReadOnly."""
        row = await self._edits(parent).create(name)
        made = dataset_folder(row, self._library, self._library.listing.fresh_for)
        # A server may keep a name in another form than it was given.
        return made if row.entry == name else made._replace(keep_entry=0.0)

    async def remove_folder(self, parent: int, name: str) -> None:
        """`rmdir`: a dataset that holds nothing. Raises NotEmpty, NoSuchEntry; elsewhere ReadOnly."""
        self._forget_link(await self._edits(parent).remove(name))

    async def rename(self, parent: int, name: str, to: int, new_name: str) -> None:
        """`mv` of a dataset within `datasets/`, which replaces nothing.

        Raises AlreadyExists, NoSuchEntry; NotSupported for another folder, ReadOnly for anything but a dataset.
        """
        edits = self._edits(parent)
        if to != DATASETS:
            raise NotSupported(
                f"the dataset {name!r} can't be moved into another folder: it can be renamed only"
            )
        self._forget_link(await edits.rename(name, new_name))

    def _forget_link(self, row: DatasetRow) -> None:
        """Have the kernel look anew where the link by id leads, and how long that is."""
        self._library.changes.tell([Gone(number_of(Kind.FIXED, BY_ID), row.id.lower())])

    async def set_xattr(self, number: int, name: str, value: bytes) -> None:
        """`setfattr`: a dataset's description.

        Raises Invalid where it is no UTF-8, NotSupported for another name, ReadOnly for anything but a dataset.
        """
        inode, _ = self._node(number)
        edits = self._library.edits
        if edits is None or inode.kind is not Kind.DATASET:
            self.refuse()
        if name not in DESCRIPTIONS:
            raise NotSupported(f"{name!r} can't be set: of a dataset only {DESCRIPTIONS[0]} can")
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise Invalid("a description is text in UTF-8") from None
        await edits.describe(inode.key, text)

    def refuse(self) -> NoReturn:
        """Any other change."""
        raise ReadOnly("only datasets can be made, renamed, described and removed")

    def _edits(self, parent: int) -> Edits:
        edits = self._library.edits
        if edits is None or parent != DATASETS:
            self.refuse()
        return edits

    async def target(self, number: int) -> str:
        """Where a symbolic link leads."""
        inode, view = self._node(number)
        return await view.target(inode)

    def open_folder(self, number: int) -> int:
        """A handle for reading a folder."""
        handle = next(self._numbers)
        self._folders[handle] = _OpenFolder(self._node(number)[0])
        return handle

    async def read_folder(self, handle: int, cookie: int) -> list[Entry]:
        """Some entries from behind `cookie`, 0 for the first; none at the end.

        Waits where the next page is on its way, and raises what kept it from coming.
        """
        folder = self._folders[handle]
        if folder.start == cookie and folder.entries:
            return folder.entries
        for place, entry in enumerate(folder.entries):
            if entry.cookie == cookie:
                folder.entries, folder.start = folder.entries[place + 1 :], cookie
                break
        else:
            folder.entries = []
        if not folder.entries:
            folder.entries, folder.start = await self._more(folder.inode, cookie), cookie
        return folder.entries

    async def _more(self, inode: Inode, cookie: int) -> list[Entry]:
        view = self._views[inode.kind]
        while True:
            batch = await view.entries(inode, cookie)
            if batch.entries or batch.filling is None:
                return batch.entries
            await batch.filling.more()
            if batch.filling.finished.is_set():
                if batch.filling.error is not None:
                    raise batch.filling.error  # another look would begin another pass
                return (await view.entries(inode, cookie)).entries

    def close_folder(self, handle: int) -> None:
        """Give a folder's handle back."""
        del self._folders[handle]

    async def open(self, number: int) -> OpenFile:
        """A handle for reading a file, whose size is exact. Raises Stale: look the path up again."""
        inode, view = self._node(number)
        before, content = await view.open(inode)
        changing = inode.kind in _CHANGING
        size = content.size
        opened = OpenFile(
            handle=next(self._numbers),
            content=content,
            attributes=before._replace(size=size, blocks=-(-size // 512), keep=0.0 if changing else FOREVER),
            resized=bool(before.keep) and before.size != size,
            live=inode.kind is Kind.FIXED,
            keep=not changing and before.inode not in self._doubtful,
        )
        if not content.proven:
            self._doubtful.add(before.inode)
        self._files[opened.handle] = opened
        self._by_inode.setdefault(before.inode, []).append(opened)
        return opened

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        """Bytes of an open file, fewer than `length` only at its end."""
        data = await self._files[handle].content.read(offset, length)
        self._library.tally.bytes_read += len(data)
        return data

    def close(self, handle: int) -> None:
        """Give a file's handle back."""
        opened = self._files.pop(handle)
        inode = opened.attributes.inode
        others = self._by_inode[inode]
        others.remove(opened)
        if not others:
            del self._by_inode[inode]
        if opened.content.proven:
            self._doubtful.discard(inode)
        else:
            self._doubtful.add(inode)
        opened.content.close()

    def close_all(self) -> None:
        """Give every handle back, at the end of the mount."""
        for handle in list(self._files):
            self.close(handle)
        self._folders.clear()

    def space(self) -> tuple[int, int]:
        """Bytes and files of the whole organization, from the catalog alone."""
        return self._library.catalog.counts()[1], self._library.catalog.image_total()

    def _node(self, number: int) -> tuple[Inode, View]:
        inode = Inode.of(number)
        if inode is None:
            raise NoSuchEntry("there is no such inode")
        return inode, self._views[inode.kind]
