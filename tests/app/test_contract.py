"""`pictofs doctor --contract` against the stand-in in each of its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pictofs.app.doctor import contract
from pictofs.app.doctor.finding import Finding
from pictofs.config import LibrarySettings, resolve
from standin import Fault, Match, Spec, StandIn
from standin.faults import error, html, without

MOST = 25
"""Requests that a look may cost."""
EMBEDDED = "GET /datasets/{dataset}?include_images=true"
VARIANTS: list[tuple[dict[str, Any], str]] = [
    ({"embedded_listing": "absent"}, f"{EMBEDDED}: has no images"),
    ({"embedded_listing": "summary"}, f"{EMBEDDED}: rows lack directory_path, file_size"),
    ({"embedded_listing": "first_page"}, f"{EMBEDDED}: ignores images_offset"),
    ({"listed_rows": "summary"}, "GET /images/: rows lack directory_path, file_size"),
    ({"bytes_by_id": 404}, "GET /images/{image}: answers 404"),
    ({"bytes_by_id": 405}, "GET /images/{image}: answers 405"),
    ({"metadata_by_id": 404}, "GET /images/{image}/metadata: answers 404"),
    ({"metadata_by_id": 405}, "GET /images/{image}/metadata: answers 405"),
    ({"repeating_pages": True}, "GET /datasets/: ignores offset"),
    ({"readme_read": False}, "GET /datasets/{dataset}: gives no readme"),
    ({"storage_range": False}, "storage: ignores Range"),
    ({"hash_header": False}, "storage: sends no x-goog-hash with a crc32c"),
]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def look(server: StandIn, folder: Path) -> list[Finding]:
    given = {"base_url": server.api_url, "cache_dir": str(folder)}
    settings = LibrarySettings(**resolve(LibrarySettings, given, {}))
    found = list(contract.check_contract(settings, server.keys["viewer"]))
    assert len(server.log.requests("api")) <= MOST
    assert {each.method for each in server.log.requests()} == {"GET"}
    assert not list(folder.iterdir())
    dataset = next(iter(server.organization.datasets.values()))
    private = [server.keys["viewer"], dataset.name, dataset.id, *list(dataset.images)[:3], ".jpg"]
    assert not [each for each in found for word in private if word in each.message]
    return found


def spec() -> Spec:
    return Spec.uniform(2, 12, 2000, directories=3)


def test_j5_a_server_of_the_contract_has_no_deviation(tmp_path: Path) -> None:
    with StandIn(spec()) as server:
        (found,) = look(server, tmp_path)
    assert found.outcome == "ok"
    assert "no deviation" in found.message


@pytest.mark.parametrize(("switches", "message"), VARIANTS, ids=[str(each[0]) for each in VARIANTS])
def test_j5_each_deviation_is_a_line(
    tmp_path: Path, switches: dict[str, Any], message: str
) -> None:
    with StandIn(spec(), **switches) as server:
        found = look(server, tmp_path)
    assert message in [each.message for each in found if each.outcome == "warn"]


@pytest.mark.parametrize("do", [error(503), error(404), html(), without("id", "filename", "name")])
def test_j5_whatever_answers_there_is_a_list_of_deviations(tmp_path: Path, do: Any) -> None:
    with StandIn(spec()) as server:
        server.faults.add(Fault(Match("api", "GET", ".(datasets|images)/$"), do))
        found = look(server, tmp_path)
    assert found[0].outcome == "ok"
    assert len(found) > 1


@pytest.mark.parametrize("made", [Spec(), Spec.uniform(1, 0)])
def test_j5_without_images_it_says_what_it_did_not_look_at(tmp_path: Path, made: Spec) -> None:
    with StandIn(made) as server:
        given = {"base_url": server.api_url, "cache_dir": str(tmp_path)}
        settings = LibrarySettings(**resolve(LibrarySettings, given, {}))
        found = list(contract.check_contract(settings, server.keys["viewer"]))
    assert "no dataset has any" in found[0].message


def test_j5_a_refused_key_is_said(tmp_path: Path) -> None:
    with StandIn(spec()) as server:
        given = {"base_url": server.api_url, "cache_dir": str(tmp_path)}
        settings = LibrarySettings(**resolve(LibrarySettings, given, {}))
        (found,) = contract.check_contract(settings, "pk_live_nobody")
    assert found.outcome == "warn"
    assert "refused the API key" in found.message
