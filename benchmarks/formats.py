"""What it takes to show a dataset as a trainer reads it, beside the SDK's converters on the same
annotation files."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rig import PICTOFS, Mount, Row, mount, python, scratch, seconds, server

ANNOTATIONS = 3
"""Annotations of each image."""
COMPARED_MAX = 10_000
"""Images up to which the SDK's converter has a turn."""

SDK = """
import json, sys, time
from pathlib import Path
from pictograph.formats import to_coco
from pictograph.models import Annotation
from pydantic import TypeAdapter

adapter = TypeAdapter(list[Annotation])
start = time.perf_counter()
found, sizes = {}, {}
for path in sorted(Path(sys.argv[1]).rglob("*.json")):
    each = json.loads(path.read_bytes())
    found[each["image"]] = adapter.validate_python(each["annotations"])
    sizes[each["image"]] = (640, 480)
text = json.dumps(to_coco(found, image_sizes=sizes))
import resource
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@contextlib.contextmanager
def _peak(m: Mount) -> Iterator[list[float]]:
    """The most MB that a process which the mount starts meanwhile has."""
    found = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for task in Path(f"/proc/{m.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    for child in (task / "children").read_text().split():
                        if b"build_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                            found[0] = max(found[0], _most(child))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _most(process: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return 0.0


def _measured(images: int) -> list[Row]:
    options = ("--images", str(images), "--size", "400", "--annotations", str(ANNOTATIONS))
    with server(*options) as s, mount(s, None, "--prefetch", "off", "--timeout", "600") as m:
        top = m.path / "datasets/dataset-0"
        subprocess.run(
            [*PICTOFS, "warm", str(top), "--annotations", "--bulk-annotations"],
            env=s.environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        before = m.api_requests()
        with _peak(m) as peak:
            first = seconds((top / "formats/coco/annotations/instances_train.json").read_bytes)
        again = seconds((top / "formats/coco/annotations/instances_val.json").read_bytes)
        yolo = seconds((top / "formats/yolo/data.yaml").read_bytes)
        requests = m.api_requests() - before

        theirs: float | None = None
        beside = ""
        # A copy of 100,000 annotation files would take longer than all the rest.
        if images <= COMPARED_MAX:
            with scratch() as folder:
                shutil.copytree(top / "annotations", folder / "annotations")
                theirs, kilobytes = python(SDK, str(folder / "annotations"), env=s.environment)
            beside = f"SDK to_coco {theirs:.2f} s, {kilobytes / 1000:.0f} MB"

    ours = f"{first:.2f} s, {peak[0]:.0f} MB, {requests} API requests"
    work = f"instances_<split>.json of {images:,} images, {ANNOTATIONS} labels each, labels cached"
    return [
        Row(work, ours, beside, theirs and first / theirs, "< 1", theirs and first < theirs),
        Row(
            "  the next split of it / data.yaml of the same",
            f"{again:.2f} s / {yolo:.2f} s",
            "",
            None,
            "",
            None,
        ),
    ]


def formats() -> list[Row]:
    """Small, and as large as most are."""
    return [*_measured(1_000), *_measured(10_000)]


def large() -> list[Row]:
    """As large as some are."""
    return _measured(100_000)
