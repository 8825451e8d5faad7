"""Where an inode lies in the tree, for the readers of a log. Takes reads of the catalog, and no
requests."""

from __future__ import annotations

from typing import Literal

from pictofs.library.bulk.scope import Choice, Item, Scope
from pictofs.library.library import Library
from pictofs.model.inode import Inode, NodeKind
from pictofs.store.catalog.datasets import DOCUMENT, README
from pictofs.vfs.nodes.dataset import PARTS
from pictofs.vfs.nodes.fixed import fixed_path

UNKNOWN = "?"
"""Stands for what the catalog no longer has."""

_PART = {kind: name for name, kind in PARTS.items()}


class Places:
    """Paths by inode number, from the root of the mount: `/datasets/signs/images/a.jpg`."""

    def __init__(self, library: Library) -> None:
        self._catalog = library.catalog
        self._scope = Scope(library.catalog, Choice())

    def path(self, number: int) -> str:
        """The path of inode `number` as the catalog has it now: two reads of 20 us."""
        inode = Inode.of(number)
        match inode:
            case Inode(NodeKind.FIXED, key):
                return fixed_path(key) or UNKNOWN
            case Inode(NodeKind.DATASET, key):
                return self._dataset(key)
            case Inode(NodeKind.DOCUMENT, key):
                return f"{self._dataset(key)}/{DOCUMENT}"
            case Inode(NodeKind.README, key):
                return f"{self._dataset(key)}/{README}"
            case Inode(NodeKind.IMAGES | NodeKind.ANNOTATIONS as kind, key):
                return self._directory(key, _PART[kind])
            case Inode(NodeKind.IMAGE, key):
                return self._file(key, "images")
            case Inode(NodeKind.ANNOTATION, key):
                return self._file(key, "annotations")
            case Inode(NodeKind.LINK, key, kind):
                return self._link(key, kind)

        return UNKNOWN

    def entry(self, parent: int, name: bytes) -> str:
        """The path of the entry `name` of folder `parent`; it need not exist."""
        return f"{self.path(parent).rstrip('/')}/{name.decode(errors='backslashreplace')}"

    def _dataset(self, key: int) -> str:
        row = self._catalog.dataset(key)
        return f"/datasets/{row.entry if row else UNKNOWN}"

    def _directory(self, key: int, part: str) -> str:
        row = self._catalog.directory(key)
        if row is None:
            return UNKNOWN
        return "/".join([self._dataset(row.dataset), part, *self._scope.folder_parts(key)])

    def _file(self, key: int, part: Literal["images", "annotations"]) -> str:
        row = self._catalog.image(key)
        return UNKNOWN if row is None else f"/{self._scope.path_of(Item(part, row))}"

    def _link(self, key: int, kind: int) -> str:
        row = self._catalog.dataset(key) if kind == NodeKind.DATASET else self._catalog.image(key)
        ending = ".json" if kind == NodeKind.ANNOTATION else ""
        return f"/by-id/{row.id.lower() if row else UNKNOWN}{ending}"
