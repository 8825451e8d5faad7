"""Listing large folders: time to the first name, to the last, after a remount, and the memory it
takes."""

from __future__ import annotations

import statistics

from benchmarks.rig import Row, mount, python, scratch, server

RUNS = 3
MANY = 100_000

SCAN = """
import json, os, sys, time
start = time.perf_counter()
entries = os.scandir(sys.argv[1])
next(entries)
first = time.perf_counter() - start
count = 1 + sum(1 for _ in entries)
print(json.dumps([first, time.perf_counter() - start, count]))
"""
SDK_ITER = """
import json, sys, time
from pictograph import Client
client = Client()
start = time.perf_counter()
count = sum(1 for _ in client.images.iter(sys.argv[1], page_size=1000))
print(json.dumps([time.perf_counter() - start, count]))
"""


def scan() -> list[Row]:
    """A complete `os.scandir` of 100,000 images in one folder, at 30 ms, against the SDK's
    iterator."""
    first, whole, again, theirs, rss = [], [], [], [], []

    with server("--images", str(MANY), "--latency", "0.03") as s:
        for _ in range(RUNS):
            took, count = python(SDK_ITER, "dataset-0", env=s.environment)
            assert count == MANY

            theirs.append(took)

            with scratch() as cache:
                for times in (whole, again):
                    with mount(s, cache) as m:
                        one, took, count = python(
                            SCAN, f"{m.path}/datasets/dataset-0/images", env=s.environment
                        )
                        assert count == MANY

                        times.append(took)

                        if times is whole:
                            first.append(one)
                            rss.append(m.rss())

    a, b, c, d, e = (statistics.median(values) for values in (whole, theirs, first, again, rss))
    return [
        Row(
            "os.scandir of 100,000 images, 30 ms",
            f"{a:.2f} s",
            f"SDK images.iter {b:.2f} s",
            a / b,
            "<= 0.5 (0.35)",
            a / b <= 0.5,
        ),
        Row("  its first name", f"{c:.2f} s", "", c, "<= 0.3 s", c <= 0.3),
        Row("  the same after a remount", f"{d:.2f} s", "", d, "<= 0.7 s (0.5)", d <= 0.7),
        Row("  daemon RSS", f"{e:.0f} MB", "", e, "<= 120 MB", e <= 120),
    ]


def million() -> list[Row]:
    """The daemon's memory after a million images."""
    with server("--images", "1000000") as s, mount(s, None, "--timeout", "300") as m:
        _, _, count = python(SCAN, f"{m.path}/datasets/dataset-0/images", env=s.environment)
        assert count == 1_000_000
        rss = m.rss()

    return [
        Row(
            "daemon RSS after listing 1,000,000 images",
            f"{rss:.0f} MB",
            "",
            rss,
            "<= 300 MB",
            rss <= 300,
        )
    ]
