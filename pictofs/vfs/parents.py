"""Which folder a node lies in, for a kernel that has a file handle, of an NFS client for example,
and has forgotten the path."""

from __future__ import annotations

from pictofs.errors import NoSuchEntry
from pictofs.model.formats import (
    FLAT,
    NODE_AT,
    NODES,
    TREE_AT,
    TREES,
    base_and_place,
    label_format,
    split_of,
    version_of,
)
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.model.selection import AXES, SELECTIONS, Selection
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow
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
        case NodeKind.EXPORT:
            # No listing leads to `exports/`, so the kernel could not go on from a folder above.
            raise NoSuchEntry("a folder of an export is found by its path only")
        case NodeKind.IMAGE | NodeKind.ANNOTATION:
            return number(_FOLDERS[inode.kind], _image(catalog, inode).directory)
        case NodeKind.FORMAT:
            return _above_format(catalog, inode)
        case NodeKind.FORMAT_FOLDER:
            return _above_format_folder(catalog, inode)
        case NodeKind.LABEL:
            return _above_label(catalog, inode)
        case _:
            return _above_directory(catalog, inode)


def _image(catalog: Catalog, inode: Inode) -> ImageRow:
    image = catalog.image(inode.key)
    if image is None:
        raise NoSuchEntry("the image is gone")
    return image


def _above_format(catalog: Catalog, inode: Inode) -> int:
    """The node above a node of a format; for `formats` the dataset, or the folder of its status."""
    base, place = base_and_place(inode.version)
    path = NODES[place].path
    if path:
        return _format_folder(catalog, inode.key, base, path[:-1])
    if base is None:
        return number(NodeKind.DATASET, inode.key)

    version = next(at for at, each in SELECTIONS.items() if each == Selection("status", base))
    return number(NodeKind.VIEW, inode.key, version)


def _format_folder(catalog: Catalog, dataset: int, base: str | None, path: tuple[str, ...]) -> int:
    """The node or the tree's root at `path` below `formats`."""
    if path in NODE_AT:
        return number(NodeKind.FORMAT, dataset, version_of(base, NODE_AT[path]))

    root = catalog.directory_by_path(dataset, "/")
    if root is None:
        raise NoSuchEntry("the dataset is gone")
    return number(NodeKind.FORMAT_FOLDER, root.key, version_of(base, TREE_AT[path]))


def _above_format_folder(catalog: Catalog, inode: Inode) -> int:
    """The directory above a directory in a format; for the root of them the node above it."""
    base, place = base_and_place(inode.version)
    row = catalog.directory(inode.key)
    # The folder of a tag is no directory.
    if row is None or place >= len(TREES):
        raise NoSuchEntry("the directory is gone")
    if row.parent is not None:
        return number(inode.kind, row.parent, inode.version)

    return _format_folder(catalog, row.dataset, base, TREES[place].path[:-1])


def _above_label(catalog: Catalog, inode: Inode) -> int:
    """The folder that a label file lies in."""
    base, place = base_and_place(inode.version)
    image = _image(catalog, inode)
    format_ = label_format(place)
    if format_ in FLAT:
        return _format_folder(catalog, image.dataset, base, (format_, "Annotations"))

    tree = TREE_AT[format_, "labels", split_of(image.split)]
    return number(NodeKind.FORMAT_FOLDER, image.directory, version_of(base, tree))


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
