"""A real mount for tests: `pictofs mount` in a process of its own, and what its files must hold."""

from __future__ import annotations

import asyncio
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from starting import Pictofs, run_pictofs

from pictofs.app import mount_table, mounting
from standin import Spec, StandIn
from standin.dataset import Dataset
from standin.exchange import Exchange
from standin.organization import Organization
from standin.records import Export, Image
from standin.routing import PREFIX
from standin.wire import annotation_file, dataset_row

FOREIGN = ("PICTO", "COLUMNS", "LINES")
"""Variables that no command of a test inherits: settings, and the size of a terminal that is not
the test's own."""


def inherited() -> dict[str, str]:
    """The environment that a command of a test begins with."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)
    }


@functools.cache
def no_mount_namespace() -> str | None:
    """Why no mount namespace can be made here, as in a plain chroot; None where one can."""
    if shutil.which("unshare") is None:
        return "needs unshare"
    # With what the tests do there: a namespace is of no use where nothing can be mounted in it.
    script = "mount -t tmpfs pictofs-test /tmp"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True)
    words = done.stderr.decode(errors="replace").strip()
    return f"no mount namespace can be made here: {words}" if done.returncode else None


def _unshares(kind: str) -> bool:
    """Whether a namespace of a kind can be made: not without rights, nor of mounts in a plain
    chroot."""
    try:
        return (
            subprocess.run(["unshare", kind, "--fork", "true"], capture_output=True).returncode == 0
        )
    except OSError:
        return False


needs_mount_namespace = pytest.mark.skipif(
    no_mount_namespace() is not None, reason=str(no_mount_namespace())
)
needs_pid_namespace = pytest.mark.skipif(
    not _unshares("--pid"), reason="no PID namespace can be made here (unshare --pid)"
)


class Mount:
    """`pictofs mount --foreground` at `home/mnt`, with a cache and a home folder of its own."""

    def __init__(
        self,
        server: StandIn,
        home: Path,
        *options: str,
        key: str | None = None,
        cache: Path | None = None,
    ) -> None:
        """Returns once the mount answers."""
        home.mkdir(parents=True, exist_ok=True)
        self.root = home / "mnt"
        self.root.mkdir(exist_ok=True)
        self.datasets = self.root / "datasets"
        self.cache = cache or home / "cache"
        self.key = key or server.keys["viewer"]
        self.expected: list[str] = []
        """What the log may warn of, as regular expressions."""
        self.environ = {
            **inherited(),
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": "",
            "NO_PROXY": "127.0.0.1",
            "PICTOFS_CACHE_DIR": str(self.cache),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": self.key,
        }
        self._log = home / "log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0

        with open(self._log, "ab") as log:
            self._process = Pictofs(
                *("mount", "--foreground", *options, self.root),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

        assert self._process.stdout is not None
        assert self._process.stdout.readline(), self.log()

    @property
    def pid(self) -> int:
        """The process that serves the mount."""
        return self._process.pid

    @property
    def live(self) -> bool:
        """Whether it was not ended yet."""
        return self._process.returncode is None

    def log(self) -> str:
        """What it has logged since it was made."""
        return self._log.read_bytes()[self._log_start :].decode()

    def status(self) -> dict[str, Any]:
        """What `.pictofs/status.json` says now."""
        return self.status_of(self.root)

    @staticmethod
    def status_of(root: Path) -> dict[str, Any]:
        """The same, of any mount."""
        facts: dict[str, Any] = json.loads((root / ".pictofs/status.json").read_bytes())
        return facts

    def wait(self) -> int:
        """Wait until it has ended by itself; its exit code, negative for a signal."""
        return self._process.wait(30)

    def pictofs(self, *arguments: str | Path) -> str:
        """Run another command, which must succeed."""
        done = run_pictofs(*arguments, env=self.environ)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape")

    def unmount(self) -> None:
        """End it in order: no bug was met, nothing was logged that the test did not expect."""
        bugs = self.status()["bugs"]
        self._process.send_signal(signal.SIGTERM)

        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.discard()
            raise AssertionError(f"the mount did not end:\n{self.log()}") from None

        log = self.log()

        assert (bugs, code) == (0, 0), log
        assert mount_table.mount_at(self.root) is None
        assert self.key not in log
        assert self.surprises() == []

    def surprises(self) -> list[str]:
        """The lines of the log that no test expects."""
        lines = [
            line for line in self.log().splitlines() if not re.match(r"\S+ \S+ (INFO|DEBUG) ", line)
        ]
        return [
            line for line in lines if not any(re.search(known, line) for known in self.expected)
        ]

    def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(30)

    def kill(self) -> None:
        """kill -9; the mount point is left broken."""
        self._process.kill()
        self._process.wait(30)

    def discard(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process.poll() is None:
            self.kill()
        while mount_table.mount_at(self.root):
            mounting.detach(self.root, lazy=True)


class Spent:
    """The requests that a stand-in got since this was made."""

    def __init__(self, server: StandIn) -> None:
        self._log, self._before = server.log, len(server.log.requests())

    @property
    def api(self) -> list[str]:
        """The API's, by route and query: something to read in a failed assertion."""
        made = self._log.requests()[self._before :]
        return [f"{each.route}?{each.query}" for each in made if each.host == "api"]

    @property
    def storage(self) -> list[str]:
        """The storage host's, by path."""
        return [
            each.path for each in self._log.requests()[self._before :] if each.host == "storage"
        ]

    @property
    def all(self) -> list[str]:
        """Both."""
        return self.api + self.storage


class Hold:
    """A fault: holds the answers to requests whose query matches until it is opened."""

    def __init__(self, query: str = "", *, made: bool = False) -> None:
        """`made`: the answer is made before it is held, and so older than what changes
        meanwhile."""
        self._query, self._made = query, made
        self._open = threading.Event()
        self.waiting = threading.Event()
        """Set once a request is held."""

    def open(self) -> None:
        """Let everything pass from now on."""
        self._open.set()

    async def __call__(self, exchange: Exchange) -> None:
        """Wait for `open`."""
        if (
            re.search(self._query, exchange.scope["query_string"].decode())
            and not self._open.is_set()
        ):
            answer = await exchange.collect() if self._made else None
            self.waiting.set()
            await asyncio.to_thread(self._open.wait, 60)

            if answer is not None:
                await exchange.answer(answer)
                return

        await exchange.proceed()


HOSTILE_NAMES = {
    "spaces": "two  words ",
    "a leading dash": "-rf",
    "quotes": 'it\'s "quoted" $(here) `there`',
    "a newline": "first line\nERROR second line",
    "a terminal's codes": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "markup": "[bold]loud[link=x] %s {x}",
    "a backslash": "back\\040slash",
    "bytes that are no text": b"latin-\xe9-\xff".decode("utf-8", "surrogateescape"),
    "a comma and a colon": "a,b:c=d",
    "a long name": "x" * 200,
}
"""Names of folders that programs trip over: in arguments, in messages, in mount options and in
/proc/mounts."""

DECOYS = (
    "msgspec",
    "trio",
    "httpx",
    "pyfuse3",
    "typer",
    "rich",
    "json",
    "logging",
    "pictofs",
    "standin",
    "sitecustomize",
)
"""Modules that pictofs imports, or that Python does by itself."""


class ForeignFolder:
    """A working folder of somebody else's, full of modules that must not be imported: each leaves a
    mark."""

    def __init__(self, path: Path) -> None:
        """`path` must not exist."""
        self.path = path
        path.mkdir()
        self._marks = path / "imported"
        for name in DECOYS:
            mark = f"import os\nos.write(os.open({str(self._marks)!r}, 0o2101), {name + chr(10)!r}.encode())\n"
            (path / f"{name}.py").write_text(
                f"{mark}raise SystemExit('{name} was imported from here')\n"
            )

    @property
    def imported(self) -> list[str]:
        """The modules that some program took from here."""
        return self._marks.read_text().splitlines() if self._marks.exists() else []


def run(*command: str | Path, input: bytes | None = None, **options: Any) -> str:
    """Run a program that must succeed; its output."""
    done = subprocess.run(
        [*map(str, command)], input=input, capture_output=True, timeout=100, **options
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "surrogateescape")


@contextmanager
def refused(code: int) -> Iterator[None]:
    """What is done in the block must fail with the errno `code`."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def eventually(look: Callable[[], object], wanted: object) -> None:
    """Look, until a TTL has passed, for what must be there then."""
    end = time.monotonic() + 20
    while (seen := look()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert seen == wanted


def image_bytes(image: Image) -> bytes:
    """What the image's file must hold."""
    body = image.body()
    return body.read(0, body.size)


def annotation_bytes(server: StandIn, image: Image) -> bytes:
    """What the image's annotation file must hold: what the vendor's client writes."""
    found = annotation_file(image, server.organization, _base(server))
    return json.dumps(found, indent=2).encode()


def document_bytes(server: StandIn, dataset: Dataset) -> bytes:
    """What `dataset.json` must hold: the API's object."""
    return json.dumps(dataset_row(dataset, server.organization), indent=2).encode() + b"\n"


def _base(server: StandIn) -> str:
    return f"{server.api_url}/api/v1/developer"


def expected(server: StandIn, dataset: Dataset) -> dict[str, bytes]:
    """Every file of a dataset whose names need no escaping, by its path below the dataset's
    folder."""
    own = {"dataset.json": document_bytes(server, dataset)}
    readme = dataset_row(dataset, server.organization).get("readme")
    if readme:
        own["README.md"] = readme.encode()
    return own | images_and_notes(server, dataset)


def images_and_notes(server: StandIn, dataset: Dataset) -> dict[str, bytes]:
    """The same, without what a download leaves out."""
    files = {}
    for image in active(dataset):
        place = f"{image.directory_path.strip('/')}/{image.filename}".lstrip("/")
        files[f"images/{place}"] = image_bytes(image)
        files[f"annotations/{place}.json"] = annotation_bytes(server, image)
    return files


def active(dataset: Dataset) -> list[Image]:
    """The images that are shown."""
    return [image for image in dataset.images.values() if not image.is_archived]


def files_below(folder: Path) -> dict[str, bytes]:
    """What is read from every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in walk(folder)}


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder."""
    for base, _, names in os.walk(folder, onerror=_fail):
        yield from (Path(base, name) for name in names)


def _fail(error: OSError) -> None:
    raise error


def finished_export(server: StandIn, dataset: str, name: str, **fields: Any) -> Export:
    """An export that somebody with the role member has made, as far as its archive. Not in the
    log."""
    headers = {"X-API-Key": server.keys["member"]}
    body = {"dataset_name": dataset, "name": name, "format": "pictograph", **fields}

    with httpx.Client(base_url=server.api_url + PREFIX, headers=headers, trust_env=False) as client:
        client.post("/exports/", json=body).raise_for_status()
        for _ in range(server.switches.export_polls + 1):
            client.get(f"/exports/{name}", params={"dataset": dataset}).raise_for_status()

    server.log.clear()
    made = next(each for each in server.organization.exports.values() if each.name == name)

    assert made.status == "completed"

    return made


def all_images(organization: Organization) -> list[Image]:
    """The images of every dataset that is shown."""
    shown = [dataset for dataset in organization.datasets.values() if not dataset.is_archived]
    return [image for dataset in shown for image in active(dataset)]


class Serving(Protocol):
    """Starts stand-ins: `serving(spec, storage_latency=0.02)`."""

    def __call__(self, made_of: Organization | Spec, **switches: Any) -> StandIn: ...


class Mounting(Protocol):
    """Makes mounts: `mounted(server, "--metadata-ttl", "1")`."""

    def __call__(self, server: StandIn, *options: str, **settings: Any) -> Mount: ...
