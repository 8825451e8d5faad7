"""`pictofs download` against the SDK's: whole processes, from their start to their end, and the CPU
they take."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rig import PICTOFS, PYTHON, Row, Server, scratch, server

RUNS = 3
FILES, SIZE = 1500, 102_400
LATENCY = 0.02

SDK = """
import sys
from pictograph import Client
assert Client().datasets.download("dataset-0", sys.argv[1], mode=sys.argv[2]).success
"""


@dataclass
class Spent:
    """What a process took, in seconds."""

    wall: float
    cpu: float


def _spent(command: list[str], of: Server, cache: Path) -> Spent:
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=of.environment | {"PICTOFS_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)

    assert process.returncode == 0

    return Spent(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def _ours(of: Server, out: Path, cache: Path, mode: str) -> Spent:
    return _spent([*PICTOFS, "download", "dataset-0", str(out), "--mode", mode], of, cache)


def _row(work: str, ours: list[Spent], theirs: list[Spent]) -> Row:
    """Medians."""
    a, b = (statistics.median(each.wall for each in side) for side in (ours, theirs))
    c, d = (statistics.median(each.cpu for each in side) for side in (ours, theirs))
    return Row(
        work, f"{a:.2f} s, CPU {c:.2f} s", f"SDK {b:.2f} s, CPU {d:.2f} s", a / b, "< 1", a / b < 1
    )


def download() -> list[Row]:
    """Into new folders, and once more into one where everything is; by turns."""
    rows = []

    for latency, mode in ((LATENCY, "images_only"), (0.0, "images_only"), (LATENCY, "full")):
        ours, theirs, again = [], [], []
        options = ("--images", str(FILES), "--size", str(SIZE), "--latency", str(latency))

        with server(*options) as s:
            for _ in range(RUNS):
                with scratch() as folder:
                    theirs.append(_spent([PYTHON, "-c", SDK, str(folder / "sdk"), mode], s, folder))
                with scratch() as folder:
                    ours.append(_ours(s, folder / "out", folder / "cache", mode))
                    again.append(_ours(s, folder / "out", folder / "cache", mode))

        where = f"{latency * 1000:.0f} ms" if latency else "no latency"
        rows.append(_row(f"download of {FILES} x 100 KiB, {mode}, {where}", ours, theirs))
        rows.append(_row("  once more, with all of it there", again, theirs))

    return rows
