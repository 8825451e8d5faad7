"""`pictofs warm`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pictofs.app import mount_table
from pictofs.cli.formatting import say
from pictofs.cli.options import NoWait, ProgressJson, Split, Status
from pictofs.cli.progress import Facts, outcome, progress_of
from pictofs.cli.refresh import control_socket
from pictofs.cli.warm_words import dropped, found, plan
from pictofs.control.client import request
from pictofs.errors import Invalid, NoSuchEntry

ANSWER_SECONDS = 60.0
"""How long the mount may say nothing. It tells its progress four times a second."""


def warm(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", show_default=False, help="Datasets, folders or files in a mount."
        ),
    ],
    images: Annotated[bool, typer.Option("--images", metavar="", help="Only images.")] = False,
    annotations: Annotated[
        bool,
        typer.Option("--annotations", metavar="", help="Only annotations: one API request each."),
    ] = False,
    status: Status = None,
    split: Split = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=24, help="Downloads at once.")
    ] = 16,
    bulk_annotations: Annotated[
        bool,
        typer.Option(
            "--bulk-annotations",
            metavar="",
            help="Fetch annotations by one export archive of each dataset. Needs the role member.",
        ),
    ] = False,
    no_wait: NoWait = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", metavar="", help="List, and say what would be fetched and what it costs."
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", metavar="", help="Fetch nothing; exit with 1 unless everything is cached."
        ),
    ] = False,
    evict: Annotated[
        bool, typer.Option("--evict", metavar="", help="Drop it from the cache instead.")
    ] = False,
    as_json: ProgressJson = False,
) -> int:
    """Fetch everything below PATH into the cache, so that reading it needs no server.

    Goes on where an earlier run ended. Ctrl-C ends it and keeps what has come. Programs that read
    meanwhile go first. Exits with 0 only when everything is there.
    """
    if dry_run + check + evict > 1:
        raise Invalid("--dry-run, --check and --evict exclude each other")

    mode = "fetch"
    if evict:
        mode = "evict"
    elif dry_run or check:
        mode = "look"

    message: Facts = {
        "op": "warm",
        "mode": mode,
        "kinds": _kinds(images, annotations),
        "status": status,
        "split": split,
        "workers": workers,
        "bulk": bulk_annotations,
        "wait": not no_wait,
    }

    incomplete = False
    for mount, below in _by_mount(paths).items():
        progress = progress_of(as_json=as_json)
        answers = request(control_socket(mount), {**message, "paths": below}, ANSWER_SECONDS)

        try:
            for result in answers:
                if "failures" not in result:
                    if not result.get("done"):
                        progress.show(result)
                    continue

                progress.close()
                incomplete |= mode != "evict" and not dry_run and result["missing"] > 0
                if as_json:
                    progress.show(result)
                    continue

                words = outcome
                if dry_run:
                    words = plan
                elif check:
                    words = found
                elif evict:
                    words = dropped
                say(*words({**result, "path": str(mount)}))
        except KeyboardInterrupt:
            progress.close()
            print(
                "stopped: what has come stays, and the same command goes on from there",
                file=sys.stderr,
            )
            raise
        finally:
            progress.close()

    return int(incomplete)


def _kinds(images: bool, annotations: bool) -> list[str] | None:
    named = {"images": images, "annotations": annotations}
    return [kind for kind, wanted in named.items() if wanted] or None


def _by_mount(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """The paths below each mount point."""
    found: dict[Path, list[str]] = {}
    for each in paths:
        path = mount_table.resolve(each)
        mount = mount_table.mount_of(path)
        if mount is None or not mount.ours:
            raise NoSuchEntry(f"{path} lies in no pictofs mount")

        found.setdefault(mount.path, []).append(str(path.relative_to(mount.path)))
    return found
