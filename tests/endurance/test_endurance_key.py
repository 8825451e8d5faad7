"""The key on a real mount: nowhere but in the requests to the API's host; everything private is
private."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, files_below, run, walk

from pictofs.app import mount_table, mounting
from standin import PRESETS, StandIn
from standin.faults import Fault, Match, Respond, redirect, with_fields

NOBODY = 65534
as_nobody = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="needs root and setpriv, to be another user",
)


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(PRESETS["small"]())


@pytest.fixture
def open_home() -> Iterator[str]:
    """A folder that another user may enter: not below pytest's, which is closed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield folder


class Elsewhere:
    """A host that is neither the API nor storage; keeps the head of every request that it gets."""

    def __init__(self) -> None:
        heads: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heads.append(f"{self.requestline}\n{self.headers}")
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.heads = heads
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/elsewhere"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    threading.Thread(target=made.http.serve_forever, daemon=True).start()
    yield made
    made.http.shutdown()
    made.http.server_close()


def secret_of(mount: Mount) -> bytes:
    return mount.key.removeprefix("pk_live_").encode()[:16]


def fails(mount: Mount, *arguments: str | Path, **environ: str) -> str:
    """What a command that must fail has to say."""
    command = [sys.executable, "-m", "pictofs", *map(str, arguments)]
    done = subprocess.run(
        command, env=mount.environ | environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_k2_the_key_of_a_background_mount_is_nowhere(mounted: Mounting, server: StandIn) -> None:
    lent = mounted(server)
    secret = secret_of(lent)
    place = lent.root.parent / "daemon"
    place.mkdir()
    lent.pictofs("mount", "--log-level", "debug", "--metadata-ttl", "0", place)

    try:
        files_below(place / "datasets")
        # A server that repeats what it was sent.
        echo = Respond(
            401, b'{"error":{"code":"x","message":"no such key: %b"}}' % lent.key.encode()
        )
        server.faults.add(Fault(on=Match(host="api"), do=echo))
        said = fails(lent, "refresh", place)
        said += fails(lent, "mount", "--cache-dir", lent.cache / "new", place.parent / "none")
        said += fails(lent, "mount", "--cache-dir", lent.cache / "new", lent.root.parent)
        os.mkdir(place.parent / "free")

        for options in (["--foreground"], []):
            said += fails(
                lent, "mount", "--cache-dir", lent.cache / "new", *options, place.parent / "free"
            )

        said += lent.pictofs("status") + lent.pictofs("status", "--json")

        assert secret not in said.encode()
        assert secret not in (place / ".pictofs/status.json").read_bytes()

        cmdlines = [path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit()]

        assert not [path for path in cmdlines if path.exists() and secret in _read(path)]

        server.faults.clear()
    finally:
        lent.pictofs("unmount", place)

    logs = [path for path in walk(lent.cache / "log") if path.stat().st_size]

    assert logs

    holders = [
        path for path in walk(lent.root.parent) if lent.root not in path.parents and path.is_file()
    ]

    assert not [path for path in holders if secret in path.read_bytes() or secret in bytes(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


@pytest.mark.parametrize("host", ["api", "storage"])
def test_k1_no_redirect_is_followed(
    mounted: Mounting, server: StandIn, elsewhere: Elsewhere, host: str
) -> None:
    mount = mounted(server, "--max-retries", "0", "--prefetch", "off", "--metadata-ttl", "0")
    mount.expected += ["redirect", "serving from the cache alone", "no signed URLs", "could not be"]
    known = sorted(walk(mount.datasets / "small"))
    server.faults.add(Fault(on=Match(host=host), do=redirect(elsewhere.url)))
    for path in known:
        with suppress(OSError):
            path.read_bytes()
    assert elsewhere.heads == []


def test_k1_hosts_that_the_server_names_get_no_key(
    mounted: Mounting, server: StandIn, elsewhere: Elsewhere
) -> None:
    mount = mounted(server, "--max-retries", "0")
    urls = dict.fromkeys(
        ("image_url", "annotation_url", "download_url", "thumbnail_url"), elsewhere.url
    )
    server.faults.add(Fault(on=Match(path="/datasets/{dataset}/download"), do=with_fields(**urls)))
    mount.expected += ["there is none", "no such", "404"]

    for path in walk(mount.datasets / "small"):
        with suppress(OSError):  # they are not there, of course
            path.read_bytes()

    assert elsewhere.heads
    assert not [
        head for head in elsewhere.heads if secret_of(mount).decode() in head or "-Key" in head
    ]


def test_k3_plain_http_to_another_machine_is_refused(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    free = mount.root.parent / "free"
    free.mkdir()
    near = "http://127.0.0.1.example.com"
    for options, environ in (
        (["--base-url", "http://192.0.2.1:80"], {}),
        ([], {"PICTOGRAPH_BASE_URL": near}),
    ):
        said = fails(mount, "mount", *options, free, **environ)
        assert "would get your key unencrypted\n  Fix: write https://" in said


def test_k4_everything_is_closed_to_others(mounted: Mounting, server: StandIn) -> None:
    lent = mounted(server)
    place, cache = lent.root.parent / "daemon", lent.root.parent / "other cache"
    place.mkdir()
    lent.pictofs("mount", "--cache-dir", cache, place)

    try:
        files_below(place / "datasets/small")
        for base, folders, names in os.walk(cache):
            assert {name: mode(Path(base, name)) for name in folders} == dict.fromkeys(
                folders, 0o700
            )
            assert {name: mode(Path(base, name)) for name in names} == dict.fromkeys(names, 0o600)

        assert mode(cache) == 0o700

        socket = Path(json.loads((place / ".pictofs/status.json").read_bytes())["control_socket"])

        assert socket.is_socket()
        assert (mode(socket.parent), mode(socket)) == (0o700, 0o600)
    finally:
        lent.pictofs("unmount", place)


def refused(mount: Mount, cache: Path) -> str:
    """What is said instead of mounting with a cache folder that is not to be trusted."""
    free = mount.root.parent / "free"
    free.mkdir()
    try:
        return fails(mount, "mount", "--cache-dir", cache, free)
    finally:
        if mount_table.mount_at(free):
            mounting.detach(free, lazy=True)


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


@pytest.mark.parametrize("name", ["content", "catalog", "run", "log"])
def test_k4_a_link_in_the_place_of_a_private_folder_is_refused(
    mounted: Mounting, server: StandIn, name: str
) -> None:
    mount = mounted(server)
    home = mount.root.parent
    trap, cache = home / "trap", home / "planted"
    for folder in (trap, cache):
        folder.mkdir(mode=0o755)
    (cache / name).symlink_to(trap)

    assert "link" in refused(mount, cache)
    assert os.listdir(trap) == []
    assert mode(trap) == 0o755


@as_nobody
def test_k4_a_cache_folder_of_another_user_is_refused(mounted: Mounting, server: StandIn) -> None:
    mount = mounted(server)
    cache = mount.root.parent / "theirs"
    cache.mkdir()
    os.chown(cache, NOBODY, NOBODY)
    assert "belongs to the user nobody" in refused(mount, cache)
    assert os.listdir(cache) == []


@as_nobody
@pytest.mark.parametrize("option", [None, "--allow-other"])
def test_k5_another_user_reads_nothing(
    open_home: str, mounted: Mounting, server: StandIn, option: str | None
) -> None:
    mount = mounted(server, *([option] if option else []), home=open_home)
    path = next(walk(mount.datasets / "small/images"))
    data = path.read_bytes()
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    if option:
        assert run(*nobody, "cksum", path) == run("cksum", path)
    else:
        for command in (["ls", mount.root], ["cat", path], ["stat", mount.datasets]):
            done = subprocess.run([*nobody, *command], capture_output=True)
            assert done.returncode != 0
            assert b"Permission denied" in done.stderr
            assert data not in done.stdout

    for closed in ("content", "catalog", "run"):
        assert (
            subprocess.run([*nobody, "ls", mount.cache / closed], capture_output=True).returncode
            != 0
        )
