"""`pictofs download`."""

# ruff: noqa: PLC0415 - trio and the library are imported when there is work, never for --help

from __future__ import annotations

import logging
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pictofs.api.key import ApiKey
from pictofs.app import cache_folder
from pictofs.cli import completion
from pictofs.cli.failure import warn
from pictofs.cli.formatting import say
from pictofs.cli.options import (
    ApiKeyFile,
    BulkAnnotations,
    NoWait,
    Profile,
    ProgressJson,
    Split,
    Status,
    access_for,
    with_settings,
)
from pictofs.cli.progress import outcome, showing
from pictofs.config import LibrarySettings, resolve
from pictofs.model.formats import FORMATS
from pictofs.store.shared.extra import require_cluster


class Layout(StrEnum):
    """The layouts that trainers read."""

    YOLO = "yolo"
    YOLO_SEGMENT = "yolo-segment"
    YOLO_OBB = "yolo-obb"
    YOLO_POSE = "yolo-pose"
    COCO = "coco"
    VOC = "voc"
    IMAGEFOLDER = "imagefolder"
    HUGGINGFACE = "huggingface"


class Mode(StrEnum):
    """What is downloaded."""

    FULL = "full"
    IMAGES = "images_only"
    ANNOTATIONS = "annotations_only"


@with_settings(LibrarySettings)
def download(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            show_default=False,
            autocompletion=completion.datasets,
            help="The dataset's name, its name in a mount, or its id.",
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="Where to; made if it is missing."),
    ],
    mode: Annotated[
        Mode,
        typer.Option(
            metavar="full|images_only|annotations_only",
            help="Images and annotations, or one of them.",
        ),
    ] = Mode.FULL,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format",
            metavar="|".join(Layout),
            show_default=False,
            help="Write what `formats/` of a mount has for a trainer: images and labels in its "
            "layout, of the whole dataset or of one --status.",
        ),
    ] = None,
    status: Status = None,
    split: Split = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Images fetched at once.")
    ] = 24,
    bulk_annotations: BulkAnnotations = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            metavar="",
            help="Fetch every annotation file anew: edits that keep number, status and confidence "
            "show in no listing.",
        ),
    ] = False,
    no_wait: NoWait = False,
    as_json: ProgressJson = False,
    profile: Profile = None,
    api_key_file: ApiKeyFile = None,
    **given: str | bool | None,
) -> int:
    """Write a dataset to DIR: DIR/images/... and DIR/annotations/..., as `cp -r` from a mount
    would, without a mount; or in the layout of a trainer.

    Goes on where an earlier run ended, fetches only what is missing or has changed, and leaves
    alone what else is in DIR. Exits with 0 only when everything is there.
    """
    from pictofs.app.download import download as run
    from pictofs.library.bulk.download import DownloadRequest
    from pictofs.library.bulk.scope import KINDS, Choice

    access = access_for(profile, api_key_file, given)
    settings = LibrarySettings(**resolve(LibrarySettings, given, os.environ))
    if settings.engine is not None:
        require_cluster()
    cache_folder.claim(settings.cache_dir)
    logging.getLogger("pictofs").addHandler(_Warnings(logging.WARNING))

    kinds = {Mode.FULL: KINDS, Mode.IMAGES: KINDS[:1], Mode.ANNOTATIONS: KINDS[1:]}[mode]
    wanted = DownloadRequest(
        dataset=name,
        choice=Choice(frozenset(kinds), status, split),
        workers=workers,
        bulk=bulk_annotations,
        refresh=refresh,
        wait=not no_wait,
    )

    with showing(as_json=as_json) as progress:
        root = Path(os.path.abspath(os.path.expanduser(folder)))
        format_ = None if layout is None else FORMATS[list(Layout).index(layout)]
        key = ApiKey(access.api_key, access.source)
        ended = run(settings, key, root, wanted, format_, progress.show)

        result = ended.result
        progress.show(result)
        progress.close()
        ended_well = ended.error is None and not ended.interrupted
        if not as_json and (result["files"] or ended_well):
            say(*outcome({**result, "path": result["dir"]}, "right"))
        if ended.interrupted:
            raise KeyboardInterrupt

    if ended.error is not None:
        raise ended.error

    return int(not result["success"])


class _Warnings(logging.Handler):
    """Warnings in the words of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        # What keeps the server from answering is told at the end, and nothing is served from the
        # cache instead.
        if record.name != "pictofs.library.connectivity":
            warn(record.getMessage())
