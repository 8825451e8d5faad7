"""`python -m benchmarks [NAME ...]`: measure, and print each figure beside its target."""

from __future__ import annotations

import os
import platform
import sys
import time

from rich.console import Console
from rich.table import Table

from benchmarks import download, formats, listing, order, reading, share
from benchmarks.rig import Row

ALL = {
    "epoch": reading.cold_epoch,
    "annotations": reading.cold_annotations,
    "first": reading.first_sample,
    "batch": reading.first_batch,
    "copy": reading.cold_copy,
    "large": reading.large_file,
    "warm": reading.warm,
    "opens": reading.opens,
    "scan": listing.scan,
    "million": listing.million,
    "order": order.told_order,
    "download": download.download,
    "formats": formats.formats,
    "formats-large": formats.large,
    "responsive": reading.responsive,
    "share": share.share,
}


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        sys.exit(f"no measurement called {', '.join(unknown)}; there are {', '.join(ALL)}")
    console = Console(width=150)
    console.print(
        f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores; medians"
    )
    rows: list[Row] = []

    for name in names:
        start = time.perf_counter()
        rows += ALL[name]()
        console.print(f"[dim]{name}: {time.perf_counter() - start:.0f} s[/dim]")

    table = Table("work", "pictofs", "beside", "ratio", "target", "met")

    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = {True: "yes", False: "[bold]no[/bold]", None: ""}[row.met]
        table.add_row(row.work, row.ours, row.theirs, ratio, row.target, met)

    console.print(table)


main()
