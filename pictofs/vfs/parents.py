"""Which folder a node lies in, for a kernel that has a file handle, of an NFS client for example,
and has forgotten the path."""

from __future__ import annotations

from pictofs.errors import NoSuchEntry
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.model.selection import AXES, SELECTIONS
from pictofs.store.catalog.catalog import Catalog
from pictofs.vfs.nodes.fixed import BY_ID, DATASETS, fixed_parent

_FOLDERS = {NodeKind.IMAGE: NodeKind.IMAGES, NodeKind.ANNOTATION: NodeKind.ANNOTATIONS}
"""The kind of the folder that a file lies in, by the kind of the file."""


def parent_of(catalog: Catalog, inode: Inode) -> int:
    """The inode number of the folder that a node lies in; the root's own for the root.

    Raises NoSuchEntry if the catalog no longer has the node.
    """
    match inode.kind:
        case NodeKind.FIXED:
            return number(NodeKind.FIXED, fixed_parent(inode.key))
        case NodeKind.LINK:
            return number(NodeKind.FIXED, BY_ID)
        case NodeKind.DATASET:
            return number(NodeKind.FIXED, DATASETS)
        case NodeKind.DOCUMENT | NodeKind.README:
            return number(NodeKind.DATASET, inode.key)
        case NodeKind.VIEW:
            return _above_view(inode)
        case NodeKind.IMAGE | NodeKind.ANNOTATION:
            image = catalog.image(inode.key)
            if image is None:
                raise NoSuchEntry("the image is gone")

            return number(_FOLDERS[inode.kind], image.directory)
        case _:
            return _above_directory(catalog, inode)


def _above_view(inode: Inode) -> int:
    """The dataset for `by-status`; the folder `by-status` for `by-status/new`."""
    if inode.version in AXES:
        return number(NodeKind.DATASET, inode.key)

    selection = SELECTIONS.get(inode.version)
    if selection is None:
        raise NoSuchEntry("there is no such view")

    axis = next(version for version, name in AXES.items() if name == selection.axis)
    return number(NodeKind.VIEW, inode.key, axis)


def _above_directory(catalog: Catalog, inode: Inode) -> int:
    """The directory above a virtual directory; for the root of them the folder that contains
    `images/` and `annotations/`."""
    row = catalog.directory(inode.key)
    if row is None:
        raise NoSuchEntry("the directory is gone")
    if row.parent is not None:
        return number(inode.kind, row.parent, inode.version)
    if inode.kind in (NodeKind.VIEW_IMAGES, NodeKind.VIEW_ANNOTATIONS):
        return number(NodeKind.VIEW, row.dataset, inode.version)

    return number(NodeKind.DATASET, row.dataset)
