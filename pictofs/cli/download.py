"""`pictofs download`."""

# ruff: noqa: PLC0415 - trio and the library are imported when there is work, never for --help

from __future__ import annotations

import json
import logging
import os
import sys
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
    NoWait,
    Profile,
    ProgressJson,
    Split,
    Status,
    access_for,
    with_settings,
)
from pictofs.cli.progress import outcome, progress_of
from pictofs.config import LibrarySettings, resolve


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
    status: Status = None,
    split: Split = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Images fetched at once.")
    ] = 24,
    bulk_annotations: Annotated[
        bool,
        typer.Option(
            "--bulk-annotations",
            metavar="",
            help="Fetch annotations by one export archive. Needs the role member.",
        ),
    ] = False,
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
    would, without a mount.

    Goes on where an earlier run ended, fetches only what is missing or has changed, and leaves
    alone what else is in DIR. Exits with 0 only when everything is there.
    """
    from pictofs.app.download import download as run
    from pictofs.library.bulk.download import DownloadRequest
    from pictofs.library.bulk.scope import KINDS, Choice

    access = access_for(profile, api_key_file, given)
    settings = LibrarySettings(**resolve(LibrarySettings, given, os.environ))
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

    progress = progress_of(as_json=as_json)
    try:
        ended = run(
            settings,
            ApiKey(access.api_key),
            Path(os.path.abspath(os.path.expanduser(folder))),
            wanted,
            progress.show,
        )
    finally:
        progress.close()

    result = ended.result
    if as_json:
        print(json.dumps(result), flush=True)
    elif result["files"] or ended.error is None:
        say(*outcome({**result, "path": result["dir"]}))

    if ended.interrupted:
        print(
            "stopped: what has come stays, and the same command goes on from there", file=sys.stderr
        )
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
