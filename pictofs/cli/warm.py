"""`pictofs warm`."""

# ruff: noqa: PLC0415 - msgspec is imported when a mount is talked to

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pictofs.app import mount_table, running
from pictofs.cli.formatting import bytes_text, duration_text, say
from pictofs.cli.options import BulkAnnotations, NoWait, ProgressJson, Split, Status
from pictofs.cli.progress import Facts, outcome, requests_text, showing
from pictofs.errors import Invalid
from pictofs.model import shard as shards
from pictofs.model.plural import counted
from pictofs.model.selection import Axis, view_of

if TYPE_CHECKING:
    from pictofs.control.messages import WarmMode
    from pictofs.model.records import FileKind

ANSWER_SECONDS = 60.0
"""How long the mount may say nothing. It tells its progress four times a second."""


@dataclass
class _Wanted:
    """Paths that a mount is asked for at once."""

    mount: Path
    status: str | None
    split: str | None
    named: list[Path] = field(default_factory=list)
    """As they were asked for."""
    below: list[str] = field(default_factory=list)
    """Below the mount point, and outside of views."""

    def add(self, named: Path, below: Path) -> None:
        """Add a path."""
        self.named.append(named)
        self.below.append(str(below))

    @property
    def name(self) -> str:
        """The paths that were asked for, in short."""
        first = str(self.named[0])
        return first if len(self.named) == 1 else f"{first} and {len(self.named) - 1:,} more"


def warm(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            show_default=False,
            parser=Path,  # as in `status`
            help="Datasets, views, folders or files in a mount.",
        ),
    ],
    images: Annotated[bool, typer.Option("--images", metavar="", help="Only images.")] = False,
    annotations: Annotated[
        bool,
        typer.Option("--annotations", metavar="", help="Only annotations: one API request each."),
    ] = False,
    status: Status = None,
    split: Split = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N|auto",
            help="Only this share of the images, and their annotations: I from 0 to N-1. "
            "auto: by RANK and WORLD_SIZE (torchrun), or SLURM_PROCID and SLURM_NTASKS (srun).",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=24, help="Downloads at once.")
    ] = 16,
    bulk_annotations: BulkAnnotations = False,
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
            "--check",
            metavar="",
            help="Fetch nothing; exit with 1 unless there are files and all are cached.",
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
    from pictofs.control.client import stream
    from pictofs.control.messages import WarmRequest

    if dry_run + check + evict > 1:
        raise Invalid("--dry-run, --check and --evict exclude each other")

    share = None if shard is None else shards.parse(shard, os.environ)

    mode: WarmMode = "fetch"
    words = _fetched
    if evict:
        mode = "evict"
        words = _dropped
    elif dry_run or check:
        mode = "look"
        words = _plan if dry_run else _found

    incomplete = False
    for wanted in _wanted(paths, status, split):
        message = WarmRequest(
            wanted.below,
            mode=mode,
            kinds=_kinds(images, annotations),
            status=wanted.status,
            split=wanted.split,
            shard=None if share is None else (share.index, share.count),
            workers=workers,
            bulk=bulk_annotations,
            wait=not no_wait,
        )
        with showing(as_json=as_json, stays=mode == "fetch") as progress:
            for told in stream(
                running.control_socket(wanted.mount), message, Facts, ANSWER_SECONDS
            ):
                if "failures" not in told:
                    progress.show(told)
                    continue

                progress.show(told)
                progress.close()
                incomplete |= not (dry_run or evict) and told["missing"] > 0
                # Of a small dataset a shard may have nothing.
                incomplete |= check and not told["files"] and share is None
                name = wanted.name if share is None else f"{wanted.name} (shard {share})"
                if not as_json:
                    say(*words({**told, "path": name}))

    return int(incomplete)


def _kinds(images: bool, annotations: bool) -> list[FileKind] | None:
    named: dict[FileKind, bool] = {"images": images, "annotations": annotations}
    return [kind for kind, wanted in named.items() if wanted] or None


def _wanted(paths: Iterable[Path], status: str | None, split: str | None) -> list[_Wanted]:
    """What a mount is asked for at once: what lies in one mount, and is of one status and split.

    A path into a view chooses as --status or --split does. Raises Invalid if both are given, and
    choose other images.
    """
    found: dict[tuple[Path, str | None, str | None], _Wanted] = {}
    for each in paths:
        path = mount_table.resolve(each)
        mount = running.mountpoint_of(path)
        below = path.relative_to(mount)

        choice: dict[Axis, str | None] = {"status": status, "split": split}
        if view := view_of(below.parts):
            parts, axis, value = view
            if choice[axis] not in (None, value):
                raise Invalid(f"{path} holds no images of --{axis} {choice[axis]}")

            choice[axis] = value
            below = Path(*parts)

        key = (mount, choice["status"], choice["split"])
        found.setdefault(key, _Wanted(*key)).add(path, below)

    return list(found.values())


def _fetched(result: Facts) -> list[str]:
    """What a run that fetches has to say."""
    return outcome(result, "cached")


def _found(result: Facts) -> list[str]:
    """What `--check` has to say."""
    if not result["files"]:
        return [f"{result['path']}: there are no such files"]
    if not result["missing"]:
        files = f"all {result['files']:,} files are"
        if result["files"] == 1:
            files = "the only file is"
        return [f"{result['path']}: {files} cached"]

    files = counted(result["files"], "file")
    are = "is" if result["missing"] == 1 else "are"
    return [
        f"{result['path']}: {result['missing']:,} of {files} {are} missing",
        *_kind_lines(result),
    ]


def _dropped(result: Facts) -> list[str]:
    """What `--evict` has to say."""
    return [f"{result['path']}: dropped {counted(result['evicted'], 'file')} from the cache"]


def _plan(result: Facts) -> list[str]:
    """What `--dry-run` has to say."""
    requests = result["requests_needed"]
    budget = result["budget"]
    lines = [f"{result['path']}:", *_kind_lines(result)]

    parts = [
        f"{requests['urls']:,} for signed URLs",
        f"{requests['annotations']:,} for annotations",
        f"at most {requests['images']:,} for images without a URL" if requests["images"] else "",
    ]
    lines.append(
        f"  requests: {requests['total']:,} ({', '.join(filter(None, parts))}); "
        f"{requests_text(result['requests'])} went into listing just now"
    )

    seconds = budget["seconds"]
    if budget["remaining"] is not None and budget["limit"] is not None:
        takes = "it allows all of them now"
        if seconds is None:
            takes = "more than it allows"
        elif seconds:
            takes = f"it allows all of them in {duration_text(seconds)}"

        lines.append(
            f"  budget: {budget['remaining']:,} of {budget['limit']:,} an hour left, "
            f"{budget['reserve']:,} are kept for interactive use; {takes}"
        )

    if not result["fits"]:
        # A mount of an older version does not tell more.
        lines.append(f"  {result.get('obstacle') or 'the cache is too small for that'}")

    return lines


def _kind_lines(result: Facts) -> list[str]:
    lines = []
    for kind in ("images", "annotations"):
        count = result[kind]
        if not count["files"]:
            continue

        missing = f"{count['missing']:,} missing"
        if kind == "images":
            missing += f", {bytes_text(count['bytes_missing'])}"
            if count["unsized"]:
                missing += f" and {count['unsized']:,} of unknown size"

        lines.append(f"  {kind}: {counted(count['files'], 'file')}, {missing}")

    return lines
