"""The files that a format has of a whole dataset, written image by image."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import ExitStack

from pictofs.formats import coco, huggingface, imagefolder, voc, yolo
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample
from pictofs.model.formats import DATA_YAML, METADATA, REPORT, YOLO, Format
from pictofs.model.selection import SPLITS
from pictofs.store.blobs.cache import BlobCache, PartialBlob

PIECE_BYTES = 1 << 20
"""Bytes that are gathered before they are written."""
TASKS: dict[Format, yolo.Task] = {
    "yolo": "detect",
    "yolo-segment": "segment",
    "yolo-obb": "obb",
    "yolo-pose": "pose",
}


class Output:
    """A file on its way into the cache."""

    def __init__(self, partial_blob: PartialBlob) -> None:
        self._partial_blob = partial_blob
        self._gathered = bytearray()
        self._written = 0

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._written + len(self._gathered)

    def write(self, data: bytes) -> None:
        """Append bytes. Raises DiskFull, CacheUnusable."""
        self._gathered += data
        if len(self._gathered) >= PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._partial_blob.write(self._written, bytes(self._gathered))
        self._written += len(self._gathered)
        self._gathered.clear()

    def append(self, other: Output) -> None:
        """Append all of another file."""
        other._flush()
        at = 0
        while piece := other._partial_blob.pread(at, PIECE_BYTES):
            self.write(piece)
            at += len(piece)

    def commit(self) -> None:
        """Make a blob of it. Raises DiskFull, CacheUnusable."""
        self._flush()
        self._partial_blob.commit(self._written, None).close()


class Outputs:
    """Opens files on their way, which are dropped unless they are committed."""

    def __init__(self, cache: BlobCache, prefix: str, stack: ExitStack) -> None:
        """`prefix`: what the names of their blobs begin with."""
        self._cache = cache
        self._prefix = prefix
        self._stack = stack
        self.named: dict[str, Output] = {}
        """By the name of the file."""

    def blob_name(self, name: str) -> str:
        """The name of the blob of a file."""
        return f"{self._prefix}.{name}"

    def named_file(self, name: str) -> Output:
        """A file that will be kept."""
        output = self.named[name] = self._open(name)
        return output

    def scratch(self) -> Output:
        """A file for the while, so that no list grows with the dataset."""
        return self._open(f"scratch{len(self.named)}")

    def _open(self, name: str) -> Output:
        partial_blob = self._cache.open_private_partial(self.blob_name(name), 0)
        self._stack.callback(partial_blob.abandon)
        return Output(partial_blob)


class Writer(ABC):
    """Writes the files of one format."""

    def __init__(
        self, format_: Format, outputs: Outputs, classes: Classes, losses: Losses, description: str
    ) -> None:
        """`description`: what the files are of."""
        self._format = format_
        self._outputs = outputs
        self._classes = classes
        self._losses = losses
        self._description = description

    @abstractmethod
    def add(self, sample: Sample, split: str) -> None:
        """Take in an image."""

    def end(self) -> None:
        """Finish the files."""
        report = json.dumps(self._losses.report(self._format), indent=2)
        self._outputs.named_file(REPORT).write(report.encode() + b"\n")


class YoloWriter(Writer):
    """`data.yaml`; label files are made one by one elsewhere, and counted here."""

    _splits: frozenset[str] = frozenset()

    def add(self, sample: Sample, split: str) -> None:
        """See `Writer`."""
        self._splits |= {split}
        yolo.label(sample, self._classes, TASKS[self._format], self._losses)

    def end(self) -> None:
        """See `Writer`."""
        text = yolo.data_yaml(self._classes, TASKS[self._format], self._splits)
        self._outputs.named_file(DATA_YAML).write(text.encode())
        super().end()


class CocoWriter(Writer):
    """`instances_<split>.json`."""

    def __init__(
        self, format_: Format, outputs: Outputs, classes: Classes, losses: Losses, description: str
    ) -> None:
        super().__init__(format_, outputs, classes, losses, description)
        self._ids = coco.Ids()
        self._images = {
            split: outputs.named_file(f"annotations/instances_{split}.json") for split in SPLITS
        }
        self._rows = {split: outputs.scratch() for split in SPLITS}

        begin = coco.head(classes, description)
        for output in self._images.values():
            output.write(begin)
        self._is_first = dict.fromkeys(SPLITS, True)

    def add(self, sample: Sample, split: str) -> None:
        """See `Writer`."""
        if not self._is_first[split]:
            self._images[split].write(b",\n")
        self._is_first[split] = False
        self._images[split].write(coco.image_row(sample))

        rows = self._rows[split]
        for row in coco.annotation_rows(sample, self._classes, self._ids, self._losses):
            if rows.size:
                rows.write(b",\n")
            rows.write(row)

    def end(self) -> None:
        """See `Writer`."""
        for split, output in self._images.items():
            output.write(coco.MIDDLE)
            output.append(self._rows[split])
            output.write(coco.TAIL)
        super().end()


class VocWriter(Writer):
    """`ImageSets/Main/<split>.txt`."""

    def __init__(
        self, format_: Format, outputs: Outputs, classes: Classes, losses: Losses, description: str
    ) -> None:
        super().__init__(format_, outputs, classes, losses, description)
        self._sets = {split: outputs.named_file(f"ImageSets/Main/{split}.txt") for split in SPLITS}

    def add(self, sample: Sample, split: str) -> None:
        """See `Writer`."""
        voc.document(sample, self._losses)
        self._sets[split].write(sample.file_name.removesuffix(".jpg").encode() + b"\n")


class ImageFolderWriter(Writer):
    """Nothing but the report: tags are folders."""

    def add(self, sample: Sample, split: str) -> None:
        """See `Writer`."""
        imagefolder.count(sample, self._losses)


class HuggingFaceWriter(Writer):
    """`<split>/metadata.jsonl`. A row with objects comes first: `datasets` takes the types from
    the first rows."""

    def __init__(
        self, format_: Format, outputs: Outputs, classes: Classes, losses: Losses, description: str
    ) -> None:
        super().__init__(format_, outputs, classes, losses, description)
        self._ids = coco.Ids()
        self._files = {split: outputs.named_file(f"{split}/{METADATA}") for split in SPLITS}
        self._rows = {split: outputs.scratch() for split in SPLITS}

    def add(self, sample: Sample, split: str) -> None:
        """See `Writer`."""
        before = self._losses.labels
        row = huggingface.row(sample, self._classes, self._ids, self._losses)
        has_objects = self._losses.labels > before
        is_first = has_objects and not self._files[split].size
        (self._files if is_first else self._rows)[split].write(row)

    def end(self) -> None:
        """See `Writer`."""
        for split, output in self._files.items():
            output.append(self._rows[split])
        super().end()


WRITERS: dict[Format, type[Writer]] = {
    **dict.fromkeys(YOLO, YoloWriter),
    "coco": CocoWriter,
    "voc": VocWriter,
    "imagefolder": ImageFolderWriter,
    "huggingface": HuggingFaceWriter,
}
