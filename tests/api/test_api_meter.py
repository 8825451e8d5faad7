"""The counters, the rate limit's headers, and the reserve."""

from __future__ import annotations

import json

import pytest

from pictofs.api.stats import RESERVE_LEAST, Meter, background
from pictofs.errors import Throttled

NOW = 1_000_000.0


def limits(meter: Meter, limit: str, remaining: str, reset: str) -> None:
    meter.limits(
        {"x-ratelimit-limit": limit, "x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset}, NOW
    )


def test_snapshot_is_json() -> None:
    meter = Meter()
    meter.sent("api", "GET /datasets/")
    with background():
        meter.sent("api", "GET /datasets/")
        meter.sent("storage", "GET")
    meter.bytes_in["storage"] += 7
    meter.failed(Throttled("x"))
    limits(meter, "2000", "1999", str(int(NOW) + 60))
    shown = json.loads(json.dumps(meter.snapshot()))
    assert shown["requests"] == [
        {"host": "api", "route": "GET /datasets/", "purpose": "background", "count": 1},
        {"host": "api", "route": "GET /datasets/", "purpose": "foreground", "count": 1},
        {"host": "storage", "route": "GET", "purpose": "background", "count": 1},
    ]
    assert shown["bytes_in"] == {"storage": 7}
    assert shown["errors"] == {"Throttled": 1}
    assert shown["rate_limit"] == {"limit": 2000, "remaining": 1999, "reset_at": NOW + 60, "reserve": 200}


@pytest.mark.parametrize(
    ("limit", "remaining", "held"),
    [
        ("2000", "200", True),
        ("2000", "201", False),
        ("100", "50", True),
        ("100", "51", False),
        ("x", "50", True),
    ],
)
def test_the_reserve(limit: str, remaining: str, held: bool) -> None:
    meter = Meter()
    limits(meter, limit, remaining, str(int(NOW) + 60))
    meter.admit(NOW)
    with background():
        if held:
            with pytest.raises(Throttled) as caught:
                meter.admit(NOW)
            assert caught.value.retry_after == 60
        meter.admit(NOW + 60)
        if not held:
            meter.admit(NOW)


def test_nothing_is_held_back_without_headers() -> None:
    meter = Meter()
    meter.limits({}, NOW)
    with background():
        meter.admit(NOW)
    assert meter.reserve == RESERVE_LEAST


@pytest.mark.parametrize(
    ("reset", "after"), [("99999999999", 3600.0), ("soon", 60.0), ("", 60.0), ("-1", 60.0)]
)
def test_a_reset_that_can_not_be(reset: str, after: float) -> None:
    meter = Meter()
    limits(meter, "2000", "0", reset)
    assert meter.reset_at == NOW + after


@pytest.mark.parametrize("remaining", ["", "-1", "1.5", "x", "9" * 40, "²"])
def test_a_remainder_that_is_none(remaining: str) -> None:
    meter = Meter()
    limits(meter, "2000", remaining, "1")
    assert meter.remaining is None


def test_silence_that_the_server_asked_for() -> None:
    meter = Meter()
    meter.throttled(NOW, 10)
    meter.throttled(NOW, None)
    meter.throttled(NOW, 5)
    with background():
        with pytest.raises(Throttled):
            meter.admit(NOW + 9)
        meter.admit(NOW + 10)
    assert meter.throttles == 3


def test_background_ends_with_its_block() -> None:
    meter = Meter()
    meter.throttled(NOW, 10)
    with background(), background():
        pass
    meter.admit(NOW)


def test_an_answer_that_was_overtaken_gives_nothing_back() -> None:
    meter = Meter()

    def answer(remaining: int, heard: int, now: float = NOW) -> int | None:
        headers = {"x-ratelimit-remaining": str(remaining), "x-ratelimit-reset": str(int(NOW) + 60)}
        meter.answered("GET /", 200, headers, now, None, heard)
        return meter.remaining

    with meter.ask("GET /") as first, meter.ask("GET /") as second:
        assert answer(50, second) == 50
    assert answer(51, first) == 50
    with meter.ask("GET /") as third:  # the window has moved on: an older request counts no more
        pass
    assert answer(53, third) == 53
    assert answer(52, first) == 52
    assert answer(60, first, NOW + 61) == 60
