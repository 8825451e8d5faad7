"""What the measurements stand on: a stand-in in its own process, mounts, the vendor's SDK,
medians."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTHON = sys.executable
PICTOFS = [PYTHON, "-m", "pictofs"]


@dataclass
class Row:
    """One line of the table: what was done, the two sides, and what was aimed at."""

    work: str
    ours: str
    theirs: str
    ratio: float | None
    target: str
    met: bool | None


@dataclass
class Server:
    """A stand-in in its own process."""

    api: str
    storage: str
    key: str

    @property
    def environment(self) -> dict[str, str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("PICTO")
        }
        return clean | {
            "PICTOGRAPH_API_KEY": self.key,
            "PICTOGRAPH_BASE_URL": self.api,
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.getcwd(),
        }


@contextmanager
def server(*arguments: str) -> Iterator[Server]:
    """A stand-in, for example with `--images 1500 --latency 0.02`."""
    process = subprocess.Popen(
        [PYTHON, "-m", "standin", *arguments], stdout=subprocess.PIPE, text=True
    )

    assert process.stdout is not None

    try:
        line = json.loads(process.stdout.readline())
        yield Server(line["api"], line["storage"], line["keys"]["member"])
    finally:
        process.terminate()
        process.wait()


@dataclass
class Mount:
    """A mount in its own process, with a cache of its own."""

    path: Path
    cache: Path
    server: Server

    def status(self) -> dict[str, Any]:
        return json.loads((self.path / ".pictofs/status.json").read_text())

    @property
    def pid(self) -> int:
        return self.status()["pid"]

    def cpu_seconds(self) -> tuple[float, float]:
        """User and system time that the mount's process has used, and the one that fetches
        ahead."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
        return _cpu_seconds(self.pid), sum(map(_cpu_seconds, children))

    def rss(self) -> float:
        """Resident MB of the daemon."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1000
        raise AssertionError

    def api_requests(self) -> int:
        return self.status()["requests"]["api"]


def _cpu_seconds(process: int | str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def mount(
    of: Server, cache: Path | None = None, *options: str, at: Path | None = None
) -> Iterator[Mount]:
    """A mount in `mnt` of a folder, a new one unless `at`; without `cache` its cache is new."""
    folder = at or new_folder()
    point = folder / "mnt"
    point.mkdir()
    where = cache or folder / "cache"
    subprocess.run(
        [*PICTOFS, "mount", str(point), "--cache-dir", str(where), *options],
        env=of.environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )

    try:
        yield Mount(point, where, of)
    finally:
        subprocess.run([*PICTOFS, "unmount", str(point)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def bare(files: int, size: int) -> Iterator[Path]:
    """A pyfuse3 file system that does nothing, with so many files of `size` bytes."""
    command = [PYTHON, "-m", "benchmarks.bare", "{}", str(files), str(size)]
    with _served(command) as folder:
        yield folder


@contextmanager
def peers(copy: Path) -> Iterator[dict[str, Path]]:
    """Other file systems that serve the folder `copy`, by name; those that are installed."""
    with ExitStack() as stack:
        found = {}
        if shutil.which("bindfs"):
            command = ["bindfs", "-f", "--no-allow-other", str(copy), "{}"]
            found["bindfs"] = stack.enter_context(_served(command))

        if shutil.which("squashfuse_ll") and shutil.which("mksquashfs"):
            image = copy.with_suffix(".squashfs")
            subprocess.run(
                ["mksquashfs", str(copy), str(image), "-noI", "-noD", "-quiet"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            command = ["squashfuse_ll", "-f", str(image), "{}"]
            found["squashfuse_ll"] = stack.enter_context(_served(command))

        if shutil.which("rclone"):
            command = ["rclone", "mount", str(copy), "{}", "--vfs-cache-mode", "full"]
            command += ["--read-only", "--cache-dir", str(copy.with_suffix(".rclone"))]
            found["rclone"] = stack.enter_context(_served(command))

        yield found


@contextmanager
def _served(command: list[str]) -> Iterator[Path]:
    """The folder at which `command`, which stays in the foreground, mounts in place of `{}`."""
    with scratch() as folder:
        filled = [str(folder) if word == "{}" else word for word in command]
        with subprocess.Popen(filled) as process:
            try:
                while not os.path.ismount(folder):
                    if process.poll() is not None:
                        raise RuntimeError(f"{filled[0]} did not mount")
                    time.sleep(0.05)

                yield folder
            finally:
                subprocess.run(["fusermount3", "-u", str(folder)], check=True)
                process.wait()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is made inside."""
    yield new_folder()


def new_folder() -> Path:
    """A folder that goes when everything is measured, and not before.

    For minutes after a file is deleted, ext4 looks at its inode again whenever it makes another
    one. That took a third of the CPU of a mount whose predecessor's cache had just been removed.
    """
    folder = Path(tempfile.mkdtemp(prefix="pictofs-bench-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def python(code: str, *arguments: str, env: dict[str, str]) -> Any:
    """What a program prints last, as JSON; it runs in a process of its own, as a user's would."""
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", code, *arguments],
        env=env,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


SDK_DOWNLOAD = """
import json, sys, time
from pictograph import Client
client = Client()
start = time.perf_counter()
report = client.datasets.download(sys.argv[1], sys.argv[2], mode=sys.argv[3])
print(json.dumps(time.perf_counter() - start))
"""


def sdk_download(of: Server, dataset: str, mode: str = "images_only") -> float:
    """Seconds of the vendor's bulk download into a new folder."""
    with scratch() as folder:
        return python(SDK_DOWNLOAD, dataset, str(folder), mode, env=of.environment)


def median(runs: int, once: Callable[[], float]) -> float:
    """The median of several runs."""
    return statistics.median(once() for _ in range(runs))
