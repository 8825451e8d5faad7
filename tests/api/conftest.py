from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from api_server import SECRET, FakeClock

from pictofs.api.address import Locality
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def request_stats() -> RequestStats:
    request_stats = RequestStats()
    request_stats.api_locality = Locality.LOOPBACK  # as after an answer of a stand-in
    return request_stats


@pytest.fixture
def key() -> ApiKey:
    return ApiKey(SECRET)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and a client's that trusts it: for 127.0.0.1 and storage.example."""
    folder: Path = tmp_path_factory.mktemp("tls")
    cert, private = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:storage.example",
            "-keyout",
            str(private),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert, private)
    client = ssl.create_default_context(cafile=str(cert))
    return server, client
