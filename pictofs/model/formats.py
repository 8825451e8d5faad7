"""What lies below `formats/` of a dataset: folders and files as trainers read them, and their names.

A format shows the same images as `images/` in another layout. Everything here is the same in every
dataset, but for the virtual directories, the images and the tags in it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pictofs.model.names import NAME_MAX_BYTES, QUOTE, tag_of
from pictofs.model.selection import SPLITS, STATUSES

Format = Literal[
    "yolo", "yolo-segment", "yolo-obb", "yolo-pose", "coco", "voc", "imagefolder", "huggingface"
]
YOLO: tuple[Format, ...] = ("yolo", "yolo-segment", "yolo-obb", "yolo-pose")
FORMATS: tuple[Format, ...] = (*YOLO, "coco", "voc", "imagefolder", "huggingface")
LABELLED: Mapping[Format, str] = {**dict.fromkeys(YOLO, ".txt"), "voc": ".xml"}
"""The formats that have a label file for each image, and its extension."""
FLAT: frozenset[Format] = frozenset({"voc", "imagefolder"})
"""The formats without virtual directories."""

FORMATS_FOLDER = "formats"
REPORT = "report.json"
DATA_YAML = "data.yaml"
METADATA = "metadata.jsonl"

TAG = re.compile(QUOTE + "~([0-9a-f]{16})$")
"""The end of a stem that is tagged."""

BASES: tuple[str | None, ...] = (None, *STATUSES)
"""What `formats/` may lie in: a dataset, or a status of it. The order is part of inode numbers."""

STEM_MAX_BYTES = NAME_MAX_BYTES - 21
"""Bytes of a stem to which any extension can be added."""

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Where `str.splitlines` parts a text."""
BLANKS = "".join(filter(str.isspace, map(chr, range(0x10000))))
"""What `str.strip` takes away, line breaks included."""
_BREAK = re.compile(f"[{LINE_BREAKS}]")


class Role(enum.Enum):
    """What a node of a format is."""

    FOLDER = "folder"
    """A folder of which all entries are nodes or trees."""
    BUILT = "built"
    """A file that is made of every annotation file."""
    README = "readme"
    FLAT_IMAGES = "flat images"
    """A folder of all images, whatever directory they are in."""
    FLAT_LABELS = "flat labels"
    """A folder of the label files of all images."""
    TAGS = "tags"
    """A folder with a folder for each tag."""


class Node(NamedTuple):
    """A folder or file that a format has once in each dataset."""

    path: tuple[str, ...]
    """Below `formats/`."""
    role: Role
    split: str | None = None
    """The split that its entries belong to, if it is one."""

    @property
    def file(self) -> str:
        """Its path in the format's folder."""
        return "/".join(self.path[1:])

    @property
    def format(self) -> Format | None:
        """The format that it belongs to; `formats/` and its README.md belong to none."""
        return next((name for name in FORMATS if self.path[:1] == (name,)), None)


class Tree(NamedTuple):
    """A folder with the dataset's virtual directories in it, as far as they hold a split's images."""

    path: tuple[str, ...]
    """Below `formats/`."""
    format: Format
    split: str
    labels: bool
    """Whether it holds label files, and not images."""


def _nodes() -> tuple[Node, ...]:
    found = [Node((), Role.FOLDER), Node(("README.md",), Role.README)]

    for name in YOLO:
        found += [
            Node((name,), Role.FOLDER),
            Node((name, DATA_YAML), Role.BUILT),
            Node((name, REPORT), Role.BUILT),
            Node((name, "images"), Role.FOLDER),
            Node((name, "labels"), Role.FOLDER),
        ]

    found += [
        Node(("coco",), Role.FOLDER),
        Node(("coco", "annotations"), Role.FOLDER),
        *(Node(("coco", "annotations", f"instances_{split}.json"), Role.BUILT) for split in SPLITS),
        Node(("coco", REPORT), Role.BUILT),
        Node(("coco", "images"), Role.FOLDER),
        Node(("voc",), Role.FOLDER),
        Node(("voc", "JPEGImages"), Role.FLAT_IMAGES),
        Node(("voc", "Annotations"), Role.FLAT_LABELS),
        Node(("voc", "ImageSets"), Role.FOLDER),
        Node(("voc", "ImageSets", "Main"), Role.FOLDER),
        *(Node(("voc", "ImageSets", "Main", f"{split}.txt"), Role.BUILT) for split in SPLITS),
        Node(("voc", REPORT), Role.BUILT),
        Node(("imagefolder",), Role.FOLDER),
        *(Node(("imagefolder", split), Role.TAGS, split) for split in SPLITS),
        Node(("imagefolder", REPORT), Role.BUILT),
        Node(("huggingface",), Role.FOLDER),
        *(Node(("huggingface", split, METADATA), Role.BUILT) for split in SPLITS),
        Node(("huggingface", REPORT), Role.BUILT),
    ]
    return tuple(found)


def _trees() -> tuple[Tree, ...]:
    yolo = [
        Tree((name, part, split), name, split, part == "labels")
        for name in YOLO
        for part in ("images", "labels")
        for split in SPLITS
    ]
    coco = [Tree(("coco", "images", split), "coco", split, False) for split in SPLITS]
    huggingface = [Tree(("huggingface", split), "huggingface", split, False) for split in SPLITS]
    return (*yolo, *coco, *huggingface)


NODES = _nodes()
"""The order is part of inode numbers."""
TREES = _trees()
"""The order is part of inode numbers."""
NODE_AT: Mapping[tuple[str, ...], int] = {node.path: at for at, node in enumerate(NODES)}
TREE_AT: Mapping[tuple[str, ...], int] = {tree.path: at for at, tree in enumerate(TREES)}

_EACH = 51
"""Places for each base in the 8 bits that an inode number has for them."""
_TAGS_FROM = 40
"""The first place of folders that are named after a tag, one for each split."""
LABEL_VERSIONS = 10
"""Versions of a label file that have places of their own."""
REVISION_PLACE = 48
"""The place of files of a whole dataset in a later content than the first
(library/formats/revisions.py)."""


def version_of(base: str | None, place: int) -> int:
    """The version bits of an inode number: what `formats/` lies in, and a place below it."""
    return BASES.index(base) * _EACH + place


def base_and_place(version: int) -> tuple[str | None, int]:
    """What `version_of` was made of. Raises IndexError if there is no such base."""
    base, place = divmod(version, _EACH)
    return BASES[base], place


def tag_place(split: str) -> int:
    """The place of a folder of `imagefolder/<split>/`, which is named after a tag."""
    return _TAGS_FROM + SPLITS.index(split)


def tag_split(place: int) -> str | None:
    """The split that the place of a tag's folder belongs to; None for the place of a tree."""
    at = place - _TAGS_FROM
    return SPLITS[at] if 0 <= at < len(SPLITS) else None


def label_place(format_: Format, version: int) -> int:
    """The place of a label file of a format in inode numbers. None is 0: nor is any number.

    `version`: that of its content, of which the place holds the remainder by `LABEL_VERSIONS`.
    """
    return list(LABELLED).index(format_) + 1 + version % LABEL_VERSIONS * len(LABELLED)


def label_format(place: int) -> Format:
    """The format of that place. Raises IndexError."""
    if not 1 <= place <= LABEL_VERSIONS * len(LABELLED):
        raise IndexError(place)
    return list(LABELLED)[(place - 1) % len(LABELLED)]


def split_of(split: str | None) -> str:
    """The split that a format shows an image in: without a known one in train, as exports do."""
    return split if split in SPLITS else SPLITS[0]


def below(path: tuple[str, ...]) -> list[str]:
    """The names of the nodes and trees right below the node at `path`."""
    paths = [*NODE_AT, *TREE_AT]
    depth = len(path)
    names = [each[depth] for each in paths if len(each) > depth and each[:depth] == path]
    return list(dict.fromkeys(names))


# Names of images.


def split_name(entry: str) -> tuple[str, str]:
    """Stem and extension, with its dot, as ultralytics parts them: at the last dot."""
    stem, dot, extension = entry.rpartition(".")
    return (stem, dot + extension) if dot else (entry, "")


def own_stem(entry: str, identity: str, *, is_twin: bool) -> tuple[str, str]:
    """The stem that an image has in a format, and its extension.

    `is_twin`: whether an older image has the same one, or a list of names can't hold it. Then, and
    if it is too long for another extension, it has a tag as N3 has it, and no line breaks, nor
    white space at its beginning.
    """
    stem, extension = split_name(entry)
    if not is_twin and len(stem.encode()) <= STEM_MAX_BYTES:
        return stem, extension

    stem = _BREAK.sub(" ", stem).lstrip()
    tag = tag_of(identity)
    room = STEM_MAX_BYTES - len(tag.encode())
    front = stem.encode()[:room].decode("utf-8", "ignore")
    if (len(front) - len(front.rstrip(QUOTE))) % 2:
        front = front[:-1]  # never cut a quoted pair in two

    return front + tag, extension


def own_folder(entry: str, format_: Format, *, is_top: bool) -> str:
    """The name of a virtual directory in a format. `is_top`: whether the tree's root holds it.

    ultralytics takes the last `/images/` of a path for the place of labels, and `metadata.jsonl`
    is a file of Hugging Face's.
    """
    if format_ in YOLO and entry == "images":
        return QUOTE + entry
    if format_ == "huggingface" and is_top and entry == METADATA:
        return QUOTE + entry
    return entry


def format_folders(entries: Sequence[str], format_: Format) -> tuple[str, ...]:
    """The names in a format of the folders that lead to a directory, by those in `images/`."""
    if format_ in FLAT:
        return ()
    return tuple(
        own_folder(entry, format_, is_top=not depth) for depth, entry in enumerate(entries)
    )


def listed_folder(name: str, format_: Format, *, is_top: bool) -> str | None:
    """The entry in `images/` of the directory that `own_folder` calls `name`; None: of none."""
    entry = name.removeprefix(QUOTE) if name in (QUOTE + "images", QUOTE + METADATA) else name
    return entry if own_folder(entry, format_, is_top=is_top) == name else None
