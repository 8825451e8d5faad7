from __future__ import annotations

import pictograph
import pytest
from pictograph.exceptions import (
    ApiError,
    AuthError,
    ConflictError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ValidationError,
)

from standin import PRESETS, Fault, Match, StandIn, faults

NAME = "road signs"


def with_key(standin: StandIn, key: str) -> pictograph.Client:
    return pictograph.Client(key, base_url=standin.api_url, max_retries=0, timeout=5)


def test_401_for_unknown_and_revoked_keys(standin: StandIn) -> None:
    with with_key(standin, "pk_live_nobody") as client, pytest.raises(AuthError) as refused:
        client.datasets.list()
    assert refused.value.code == "unauthorized"
    assert refused.value.request_id
    key = standin.organization.add_key("viewer")
    with with_key(standin, key.secret) as client:
        assert client.datasets.list()
        key.revoked = True
        with pytest.raises(AuthError):
            client.datasets.list()


def test_403_by_role(standin: StandIn) -> None:
    with with_key(standin, standin.keys["viewer"]) as viewer:
        assert viewer.images.list(NAME)

        for attempt in (
            lambda: viewer.datasets.create("x"),
            lambda: viewer.directories.create(NAME, "/x"),
            lambda: viewer.annotations.save(NAME, "cam1/a.jpg", []),
            lambda: viewer.exports.create(NAME, "x", wait=False),
        ):
            with pytest.raises(ForbiddenError):
                attempt()

    with with_key(standin, standin.keys["member"]) as member:
        assert member.datasets.create("x").id

        member.images.delete(NAME, "with space.jpg")

        for attempt in (
            lambda: member.datasets.delete("x"),
            lambda: member.datasets.archive("x"),
            lambda: member.annotations.delete(NAME, "cam1/a.jpg"),
            lambda: member.images.delete(NAME, "cam1/a.jpg", permanent=True),
        ):
            with pytest.raises(ForbiddenError):
                attempt()


def test_404_everywhere(client: pictograph.Client) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for attempt in (
        lambda: client.datasets.get("nope"),
        lambda: client.datasets.get(dataset_id=nobody),
        lambda: client.datasets.get("ROAD SIGNS"),
        lambda: client.images.list("nope"),
        lambda: client.images.get(NAME, nobody),
        lambda: client.annotations.get(NAME, "a.jpg"),
        lambda: client.directories.tree("nope"),
        lambda: client.exports.get(NAME, "nope"),
        lambda: client.jobs.get("nope"),
    ):
        with pytest.raises(NotFoundError):
            attempt()


def test_422_over_the_caps(client: pictograph.Client) -> None:
    for attempt in (
        lambda: client.images.list(NAME, limit=1001),
        lambda: client.datasets.list(limit=1001),
        lambda: client.datasets.get(NAME, include_images=True, images_limit=10_001),
        lambda: client.images.list(NAME, offset=-1),
        lambda: client.notifications.list(limit=101),
    ):
        with pytest.raises(ValidationError) as refused:
            attempt()
        assert refused.value.status_code == 422
        assert refused.value.field_errors


def test_caps_clamp_where_the_switch_says(client: pictograph.Client, standin: StandIn) -> None:
    standin.switches.over_cap = "clamp"
    assert len(client.images.list(NAME, limit=5000)) == 5


def test_409_cold_bytes(client: pictograph.Client, standin: StandIn) -> None:
    standin.organization[NAME].storage_class = "coldline"
    with pytest.raises(ConflictError) as refused:
        client.images.download(NAME, "cam1/a.jpg", "/nonexistent/never")
    assert refused.value.code == "dataset_cold"
    assert client.annotations.get(NAME, "cam1/a.jpg")


def test_429_when_the_hour_is_spent(client: pictograph.Client, standin: StandIn) -> None:
    standin.switches.hourly_limit = 3
    for _ in range(3):
        client.datasets.list()
    with pytest.raises(RateLimitError) as refused:
        client.datasets.list()
    assert 3500 < (refused.value.retry_after or 0) <= 3601
    standin.clock.advance(3601)
    assert client.datasets.list()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_5xx(client: pictograph.Client, standin: StandIn, status: int) -> None:
    standin.faults.add(Fault(Match("api"), faults.error(status), times=1))
    with pytest.raises(ServerError) as refused:
        client.datasets.list()
    assert refused.value.status_code == status
    assert client.datasets.list()


def test_retry_after_in_all_spellings(client: pictograph.Client, standin: StandIn) -> None:
    for sent, parsed in (
        (None, None),
        (7, 7.0),
        (86400, 86400.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 1e9),
    ):
        standin.faults.add(Fault(Match("api"), faults.throttled(sent), times=1))
        with pytest.raises(RateLimitError) as refused:
            client.datasets.list()
        got = refused.value.retry_after

        assert got is parsed if parsed is None else got is not None
        assert got == parsed or (parsed == 1e9 and got is not None and got > 1e9)


def test_broken_answers_are_errors(client: pictograph.Client, standin: StandIn) -> None:
    for action, expected in (
        (faults.Reset(), NetworkError),
        (faults.Reset(after=10), NetworkError),
        (faults.Close(after=10), NetworkError),
        (faults.html(), ServerError),
        (faults.MalformedJson(), ServerError),
        (faults.without("name"), ServerError),
        (faults.with_fields(id=None), ServerError),
        (faults.redirect("http://127.0.0.1:1/"), ApiError),
    ):
        standin.faults.add(Fault(Match("api", "GET", "/datasets/"), action, times=1))
        with pytest.raises(expected):
            client.datasets.list()

    standin.log.clear()


def test_a_hang_is_a_timeout(standin: StandIn) -> None:
    standin.faults.add(Fault(Match("api"), faults.Hang(), times=1))
    made = pictograph.Client(
        standin.keys["viewer"], base_url=standin.api_url, max_retries=0, timeout=0.1
    )
    with made as client, pytest.raises(RequestTimeoutError):
        client.datasets.list()


def test_307_is_never_followed() -> None:
    """The SDK's own routes have the right slashes; a base URL can't change that, so ask by hand."""
    with (
        StandIn(PRESETS["small"]()) as standin,
        with_key(standin, standin.keys["viewer"]) as client,
    ):
        with pytest.raises(ApiError) as refused:
            client._transport.request("GET", "/api/v1/developer/datasets")

        assert refused.value.status_code == 307

        with pytest.raises(ApiError) as refused:
            client._transport.request("GET", "/api/v1/developer/datasets/small/")

        assert refused.value.status_code == 307
