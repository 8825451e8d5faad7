"""What a person reads when a command fails: what is wrong, what to do, where to read on."""

from __future__ import annotations

import http.server
import os
import pty
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import Serving, inherited
from starting import Pictofs, run_pictofs

from standin import Spec

SMALL = Spec.uniform(images=1, size=10)
KEY = "pk_live_" + "5ec2e7" * 10
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


class Said:
    """The lines of a failed command."""

    def __init__(self, text: str) -> None:
        lines = [line.split(": ", 1) for line in text.splitlines()]
        self.text = text
        self.heads = [head for head, _ in lines]
        told = dict(lines)
        self.error = told.get("error", "")
        self.fix = told.get("  Fix", "")
        self.docs = told.get("  Docs", "")


Fails = Callable[..., Said]


@pytest.fixture
def fails(tmp_path: Path) -> Fails:
    """Run a command that must fail with an exit code, asking a server once."""

    def run(code: int, url: str, *arguments: str | Path, **environ: str) -> Said:
        done = run_pictofs(
            *(arguments or ("dataset", "list")),
            env={
                **inherited(),
                "HOME": str(tmp_path),
                "NO_PROXY": "127.0.0.1",
                "PICTOGRAPH_BASE_URL": url,
                "PICTOGRAPH_API_KEY": KEY,
                "PICTOGRAPH_MAX_RETRIES": "0",
                **environ,
            },
        )
        text = done.stderr.decode()

        assert done.returncode == code, text
        assert KEY not in text
        assert "{" not in text
        assert "GET " not in text

        said = Said(text)

        assert said.heads[0] == "error"
        return said

    return run


def openssl(*arguments: str | Path, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of NAME.pem, self-signed, and the one key that they share.

    `good` is for 127.0.0.1, `expired` as well, and `foreign` for another host. `child` is for
    127.0.0.1 by an authority.
    """
    folder = tmp_path_factory.mktemp("certificates")
    config = folder / "ca.cnf"
    config.write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\n"
        "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")

    new = ("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-subj", "/CN=x", "-keyout", "key.pem", "-out", "request.pem", folder=folder)

    sign = ("ca", "-batch", "-config", "ca.cnf", "-keyfile", "key.pem", "-in", "request.pem")
    for name, host, year in (
        ("good", "IP:127.0.0.1", "2049"),
        ("expired", "IP:127.0.0.1", "2020"),
        ("foreign", "DNS:other.example", "2049"),
    ):
        (folder / "ext").write_text(f"subjectAltName={host}\n")
        ends = ("-startdate", "20190101000000Z", "-enddate", f"{year}0101000000Z")
        place = ("-selfsign", "-out", f"{name}.pem", "-extfile", "ext")
        openssl(*sign, *ends, *place, folder=folder)

    authority = (*new, "-x509", "-days", "30", "-subj", "/CN=authority")
    openssl(*authority, "-keyout", "authority-key.pem", "-out", "authority.pem", folder=folder)
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    signing = ("-CA", "authority.pem", "-CAkey", "authority-key.pem", "-CAcreateserial")
    made = ("-in", "request.pem", "-out", "child.pem", "-days", "30", "-extfile", "ext")
    openssl("x509", "-req", *signing, *made, folder=folder)

    return folder


class Answer(http.server.BaseHTTPRequestHandler):
    """An API without a dataset."""

    status = 200
    body = b'{"data": [], "pagination": {"total": 0, "has_more": false}}'
    headers_sent: tuple[tuple[str, str], ...] = ()

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in self.headers_sent:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(
    *,
    status: int = 200,
    body: bytes = Answer.body,
    headers: tuple[tuple[str, str], ...] = (),
    certificate: Path | None = None,
) -> Iterator[str]:
    """A server at the URL that it yields."""
    told = {"status": status, "body": body, "headers_sent": headers}
    handler = type("Told", (Answer,), told)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    scheme = "http"

    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.parent / "key.pem")
        # The handshake belongs to the connection's thread: one that is refused must end nothing.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        scheme = "https"

    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_openssl
@pytest.mark.parametrize(
    ("name", "trusted", "error", "fix"),
    [
        ("good", "authority", "is self-signed", "set SSL_CERT_FILE to a PEM file that has it"),
        ("expired", "expired", "has expired", "check this machine's clock"),
        ("foreign", "foreign", "is for another host", "check --base-url"),
        (
            "child",
            "good",
            "comes from an authority that is not trusted",
            "SSL_CERT_FILE to a PEM file",
        ),
    ],
)
def test_e3_a_certificate_is_named_as_what_it_is(
    fails: Fails, certificates: Path, name: str, trusted: str, error: str, fix: str
) -> None:
    with answering(certificate=certificates / f"{name}.pem") as url:
        said = fails(9, url, SSL_CERT_FILE=str(certificates / f"{trusted}.pem"))

    assert said.error.startswith(f"the certificate of 127.0.0.1 {error}")
    assert fix in said.fix
    assert said.docs == "pictofs help troubleshooting"


@needs_openssl
def test_e3_the_fix_for_a_self_signed_certificate_works(certificates: Path, tmp_path: Path) -> None:
    with answering(certificate=certificates / "good.pem") as url:
        done = run_pictofs(
            *("dataset", "list"),
            env={
                **inherited(),
                "HOME": str(tmp_path),
                "PICTOGRAPH_BASE_URL": url,
                "PICTOGRAPH_API_KEY": KEY,
                "SSL_CERT_FILE": str(certificates / "good.pem"),
            },
        )
    assert done.returncode == 0, done.stderr


def test_e3_a_file_of_certificates_that_is_none(fails: Fails, tmp_path: Path) -> None:
    said = fails(6, "https://127.0.0.1:1", SSL_CERT_FILE=str(tmp_path / "none"))
    assert "SSL_CERT_FILE" in said.error
    assert "PEM" in said.fix


def test_e3_a_server_without_tls(fails: Fails) -> None:
    with answering() as url:
        said = fails(9, url.replace("http:", "https:"))
    assert said.error == "127.0.0.1 does not speak TLS (https)"


def test_e3_a_dead_proxy_is_named_as_a_proxy(fails: Fails) -> None:
    dead = {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}
    said = fails(9, "https://api.example", **dead)
    assert said.error == "the proxy 127.0.0.1:1 can't be reached: Connection refused"
    assert "HTTPS_PROXY" in said.fix
    assert "NO_PROXY" in said.fix


def test_e3_a_host_that_dns_lacks_is_named(fails: Fails) -> None:
    try:
        socket.getaddrinfo("api.invalid", 443)
    except socket.gaierror as error:
        offline = error.errno == socket.EAI_AGAIN
    said = fails(9, "https://api.invalid")
    assert said.error.startswith("api.invalid can't be ")
    assert "DNS" in said.error
    assert ("name server" if offline else "--base-url") in said.fix


@pytest.mark.parametrize("status", [302, 307])
def test_e3_a_captive_portal_that_redirects_is_told_with_its_url(fails: Fails, status: int) -> None:
    portal = "http://login.hotel.example/?from=1"
    with answering(status=status, body=b"<html>", headers=(("Location", portal),)) as url:
        said = fails(1, url)
    assert f"redirects to {portal}" in said.error
    assert f"login page of this network may stand in between: open {portal}" in said.fix


def test_e3_a_network_that_asks_for_a_login_is_told(fails: Fails) -> None:
    with answering(status=511, body=b"<html>") as url:
        said = fails(1, url)
    place = url.removeprefix("http://")
    assert said.error == f"the network asks for a login before it lets {place} through (HTTP 511)"
    assert "in a browser" in said.fix


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><p>Welcome", b"\n \xef\xbb\xbf<html>"])
def test_e3_a_captive_portal_that_answers_is_told_with_its_url(fails: Fails, body: bytes) -> None:
    with answering(body=body, headers=(("Content-Type", "text/html"),)) as url:
        said = fails(1, url)
    assert said.error == f"{url} answers with a web page (HTML) in place of JSON"
    assert f"open {url}" in said.fix


def test_e3_the_item_is_named_and_no_route(fails: Fails, serving: Serving) -> None:
    server = serving(SMALL)
    key = server.keys["viewer"]
    said = fails(4, server.api_url, "dataset", "show", "cars", PICTOGRAPH_API_KEY=key)
    assert said.error.startswith(
        "there is no dataset 'cars', or the API key may not see it (HTTP 404)"
    )


@pytest.mark.parametrize("how", ["variable", "file", "profile", "default"])
def test_e3_the_source_of_a_refused_key_is_told(
    fails: Fails, serving: Serving, tmp_path: Path, how: str
) -> None:
    url = serving(SMALL).api_url
    own = tmp_path / ".pictograph/config.toml"
    own.parent.mkdir()
    own.write_text(f'[default]\napi_key = "{KEY}"\n[lab]\napi_key = "{KEY}"\nbase_url = "{url}"\n')
    own.chmod(0o600)
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o600)

    listing = ("dataset", "list")
    options: tuple[str, ...]
    options, environ, source = {
        "variable": ((), {}, "PICTOGRAPH_API_KEY"),
        "file": (("--api-key-file", str(file)), {}, f"--api-key-file {file}"),
        "profile": (("--profile", "lab"), {}, f"profile 'lab' in {own}"),
        "default": ((), {"PICTOGRAPH_API_KEY": ""}, f"profile 'default' in {own}"),
    }[how]
    said = fails(2, url, *listing, *options, **environ)

    place = url.removeprefix("http://")
    assert said.error.startswith(f"{place} refused the API key from {source} (HTTP 401)")
    assert "make a new key" in said.fix
    assert said.docs == "https://pictograph.io/docs/authentication"


def test_e3_what_is_forbidden_has_the_page_that_tells_more(
    fails: Fails, serving: Serving, tmp_path: Path
) -> None:
    server = serving(SMALL)
    viewer = server.keys["viewer"]
    said = fails(3, server.api_url, "dataset", "create", "new", PICTOGRAPH_API_KEY=viewer)
    assert said.docs == "https://pictograph.io/docs/authentication"

    shared = tmp_path / "shared"
    (shared / "content").mkdir(parents=True)
    (shared / "report.txt").touch()
    shared.chmod(0o777)
    said = fails(3, server.api_url, "cache", "info", "--cache-dir", shared)
    assert "others may write to the cache folder" in said.error
    assert said.docs == "pictofs help other-users"


def test_e3_a_mount_passes_on_what_its_process_says(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    said = fails(9, "http://127.0.0.1:1", "mount", tmp_path / "mnt")
    assert said.error == "127.0.0.1:1 can't be reached: Connection refused"
    assert "check the network" in said.fix
    assert said.docs == "pictofs help troubleshooting"


def test_e3_offline_is_said_as_that(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    said = fails(9, "http://127.0.0.1:1", "mount", "--offline", tmp_path / "mnt")
    assert "--offline" in said.error
    assert "without --offline" in said.fix


@pytest.mark.parametrize("command", ["dataset list", "mount"])
def test_e3_a_retry_is_told_once_and_on_a_terminal_alone(tmp_path: Path, command: str) -> None:
    (tmp_path / "mnt").mkdir()
    arguments = [*command.split(), *([tmp_path / "mnt"] if command == "mount" else [])]
    environ = {
        **inherited(),
        "HOME": str(tmp_path),
        "PICTOGRAPH_BASE_URL": "http://127.0.0.1:1",
        "PICTOGRAPH_API_KEY": KEY,
        "PICTOGRAPH_MAX_RETRIES": "2",
    }
    terminal, end = pty.openpty()
    process = Pictofs(*arguments, env=environ, stdin=end, stdout=end, stderr=end)
    os.close(end)

    shown = b""
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except OSError:
        pass  # the other end is closed
    os.close(terminal)
    cause = "127.0.0.1:1 can't be reached: Connection refused"

    assert process.wait(30) == 9
    assert shown.decode().splitlines()[:2] == [
        f"warning: {cause}; trying again",
        f"error: {cause}",
    ]

    piped = run_pictofs(*arguments, env=environ)
    assert piped.stderr.decode().startswith(f"error: {cause}")


def test_e3_a_url_where_no_api_is_is_told(fails: Fails) -> None:
    with answering(status=404, body=b'{"detail": "Not Found"}') as url:
        said = fails(4, url)
    assert said.error.startswith(f"there is no Pictograph API at {url.removeprefix('http://')}")
    assert "PICTOGRAPH_BASE_URL" in said.fix


def test_e3_a_dataset_that_is_not_there_is_looked_for_in_the_list(fails: Fails) -> None:
    body = b'{"error": {"message": "Dataset \'cars\' not found"}}'
    with answering(status=404, body=body) as url:
        said = fails(4, url, "dataset", "show", "cars")
    assert said.error.startswith("there is no dataset 'cars', or the API key may not see it")
    assert said.fix == "`pictofs dataset list` shows the names"
