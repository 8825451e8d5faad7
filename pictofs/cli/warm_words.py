"""What `pictofs warm` has to say in the end."""

from __future__ import annotations

from pictofs.cli.formatting import bytes_text, duration_text
from pictofs.cli.progress import Facts, requests_text


def found(result: Facts) -> list[str]:
    """What `--check` has to say."""
    if not result["missing"]:
        return [f"{result['path']}: all {result['files']:,} files are cached"]
    return [
        f"{result['path']}: {result['missing']:,} of {result['files']:,} files are missing",
        *_kinds(result),
    ]


def dropped(result: Facts) -> list[str]:
    """What `--evict` has to say."""
    return [f"{result['path']}: dropped {result['evicted']:,} files from the cache"]


def plan(result: Facts) -> list[str]:
    """What `--dry-run` has to say."""
    requests = result["requests_needed"]
    budget = result["budget"]
    lines = [f"{result['path']}:", *_kinds(result)]

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
        lines.append(
            "  the cache is too small for that: name less, or mount with a larger --cache-size"
        )

    return lines


def _kinds(result: Facts) -> list[str]:
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

        lines.append(f"  {kind}: {count['files']:,} files, {missing}")

    return lines
