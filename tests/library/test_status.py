"""The tree of status.json, which users and programs read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rig import Rig

from pictofs.errors import DiskFull
from pictofs.model.status import ExportStatus, OperationStatus, OrderStatus, Status, to_status

OWN = (
    "version pictofs pid mountpoint base_url started_at control_socket log open_files bugs "
    "operations online offline_since offline_reason requests retries errors bytes waiting cache prefetch "
    "annotations formats server rate shared"
)
TABLES = {
    "requests": "api storage by_route",
    "bytes": "downloaded storage read",
    "waiting": "readers api",
    "cache": "dir hits misses used limit files free",
    "prefetch": "fetched used under_way orders",
    "annotations": "ttl oldest_confirmed_at oldest_age renewals from exports",
    "rate": "limit remaining reset_at reserve spent_until wait",
}


async def test_its_fields_and_their_order(rig: Rig, tmp_path: Path) -> None:
    async with rig.mount() as mount:
        await mount.walk()
        status = Status()
        mount.library.fill_status(status, tmp_path)

    document = msgspec.to_builtins(status)

    assert " ".join(document) == OWN
    assert {name: " ".join(document[name]) for name in TABLES} == TABLES
    assert " ".join(document["annotations"]["renewals"]) == "made held_back"
    assert " ".join(document["annotations"]["from"]) == "requests exports shared"
    assert " ".join(msgspec.to_builtins(OperationStatus())) == "ended failed under_way"
    assert " ".join(msgspec.to_builtins(OrderStatus())) == "images left ahead keeps complete"
    assert " ".join(msgspec.to_builtins(ExportStatus())) == "dataset name created_at files"
    assert to_status(document) == status


async def test_a_cache_whose_disk_fails(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DiskFull("no")

    async with rig.mount() as mount:
        monkeypatch.setattr(mount.library._blob_cache, "usage", fail)
        status = Status()
        mount.library.fill_status(status, tmp_path)

    assert " ".join(msgspec.to_builtins(status.cache)) == "dir hits misses error"
