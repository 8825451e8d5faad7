"""The counters, the rate limit's headers, and the reserve."""

from __future__ import annotations

import pytest

from pictofs.api.stats import RESERVE_LEAST, RequestStats, background
from pictofs.errors import Throttled

NOW = 1_000_000.0


def limits(request_stats: RequestStats, limit: str, remaining: str, reset: str) -> None:
    request_stats.limits(
        {
            "x-ratelimit-limit": limit,
            "x-ratelimit-remaining": remaining,
            "x-ratelimit-reset": reset,
        },
        NOW,
    )


def test_requests_are_counted_by_purpose() -> None:
    request_stats = RequestStats()
    request_stats.sent("api", "GET /datasets/")

    with background():
        request_stats.sent("api", "GET /datasets/")
        request_stats.sent("storage", "GET")

    request_stats.failed(Throttled("x"))
    limits(request_stats, "2000", "1999", str(int(NOW) + 60))

    assert request_stats.requests == {
        ("api", "GET /datasets/", "foreground"): 1,
        ("api", "GET /datasets/", "background"): 1,
        ("storage", "GET", "background"): 1,
    }
    assert request_stats.spent("background") == 1
    assert request_stats.errors == {"Throttled": 1}
    assert (request_stats.limit, request_stats.remaining) == (2000, 1999)
    assert request_stats.reset_at == NOW + 60
    assert request_stats.reserve == 200


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
    request_stats = RequestStats()
    limits(request_stats, limit, remaining, str(int(NOW) + 60))
    request_stats.admit(NOW)

    with background():
        if held:
            with pytest.raises(Throttled) as caught:
                request_stats.admit(NOW)
            assert caught.value.retry_after == 60

        request_stats.admit(NOW + 60)
        if not held:
            request_stats.admit(NOW)


def test_nothing_is_held_back_without_headers() -> None:
    request_stats = RequestStats()
    request_stats.limits({}, NOW)
    with background():
        request_stats.admit(NOW)
    assert request_stats.reserve == RESERVE_LEAST


@pytest.mark.parametrize(
    ("reset", "after"), [("99999999999", 3600.0), ("soon", 60.0), ("", 60.0), ("-1", 60.0)]
)
def test_a_reset_that_can_not_be(reset: str, after: float) -> None:
    request_stats = RequestStats()
    limits(request_stats, "2000", "0", reset)
    assert request_stats.reset_at == NOW + after


@pytest.mark.parametrize("remaining", ["", "-1", "1.5", "x", "9" * 40, "²"])
def test_a_remainder_that_is_none(remaining: str) -> None:
    request_stats = RequestStats()
    limits(request_stats, "2000", remaining, "1")
    assert request_stats.remaining is None


def test_silence_that_the_server_asked_for() -> None:
    request_stats = RequestStats()
    request_stats.throttled(NOW, 10)
    request_stats.throttled(NOW, None)
    request_stats.throttled(NOW, 5)
    with background():
        with pytest.raises(Throttled):
            request_stats.admit(NOW + 9)
        request_stats.admit(NOW + 10)
    assert request_stats.throttles == 3


def test_background_ends_with_its_block() -> None:
    request_stats = RequestStats()
    request_stats.throttled(NOW, 10)
    with background(), background():
        pass
    request_stats.admit(NOW)


def test_an_answer_that_was_overtaken_gives_nothing_back() -> None:
    request_stats = RequestStats()

    def answer(remaining: int, heard: int, now: float = NOW) -> int | None:
        headers = {"x-ratelimit-remaining": str(remaining), "x-ratelimit-reset": str(int(NOW) + 60)}
        request_stats.answered("GET /", 200, headers, now, None, heard)
        return request_stats.remaining

    with request_stats.ask("GET /") as first, request_stats.ask("GET /") as second:
        assert answer(50, second) == 50

    assert answer(51, first) == 50

    with request_stats.ask(
        "GET /"
    ) as third:  # the window has moved on: an older request counts no more
        pass

    assert answer(53, third) == 53
    assert answer(52, first) == 52
    assert answer(60, first, NOW + 61) == 60
