"""The stand-in by bare HTTP: what the vendor's client cannot show."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from standin import PRESETS, StandIn

API = "/api/v1/developer"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Twelve images of 20,000 bytes in three directories."""
    with StandIn(PRESETS["small"]()) as running:
        yield running


@pytest.fixture
def api(standin: StandIn) -> Iterator[httpx.Client]:
    """A client of the API host with an admin's key."""
    headers = {"X-API-Key": standin.keys["admin"]}
    with httpx.Client(base_url=standin.api_url + API, headers=headers, timeout=5) as client:
        yield client


@pytest.fixture
def storage() -> Iterator[httpx.Client]:
    """A client of the storage host, without a key."""
    with httpx.Client(timeout=5) as client:
        yield client


@pytest.fixture
def signed(api: httpx.Client) -> dict[str, str]:
    """Image id to its signed URL."""
    items = api.get("/datasets/small/download").json()["data"]["items"]
    return {item["id"]: item["image_url"] for item in items}
