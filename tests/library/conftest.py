from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig

from standin import PRESETS, StandIn


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def _no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing here may end in a traceback in the log."""
    yield
    bad = [
        each
        for each in caplog.get_records("call")
        if each.levelno >= logging.ERROR and each.name.startswith("pictofs")
    ]
    assert not bad, bad


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Twelve images of 20,000 bytes in three directories of one dataset, `small`."""
    with StandIn(PRESETS["small"]()) as running:
        yield running


@pytest.fixture
def rig(standin: StandIn, tmp_path: Path) -> Rig:
    return Rig(standin, tmp_path)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole listings and batches of URLs come by 1,000, not by 10,000: a tenth of the images
    crosses the bounds."""
    for name in ("listing.passes.EMBED_PAGE", "content.signed_urls.BATCH", "bulk.inventory.BATCH"):
        monkeypatch.setattr(f"pictofs.library.{name}", 1000)
