"""The clock that nodes have in common: never ahead of the server's."""

from __future__ import annotations

from pictofs.api.server_time import WINDOW_S, ServerTime


def test_nothing_is_known_before_an_answer() -> None:
    assert ServerTime().at(5.0) is None


def test_the_latest_of_several_answers_counts() -> None:
    """Each was cut to a second, and some time on its way."""
    time = ServerTime()
    for came, served in ((10.2, 1000.0), (10.9, 1000.0), (13.1, 1003.0), (20.0, 1005.0)):
        time.heard(served, came)
    assert time.at(20.0) == 1003.0 + (20.0 - 13.1)


def test_what_was_heard_long_ago_is_forgotten_once_there_is_something_newer() -> None:
    time = ServerTime()
    time.heard(1000.0, 0.0)
    for number in range(1, 5):
        # The server's clock was set back by a minute.
        now = number * WINDOW_S
        time.heard(940.0 + now, now)
    assert time.at(4 * WINDOW_S) == 940.0 + 4 * WINDOW_S


def test_what_was_heard_last_stays() -> None:
    time = ServerTime()
    time.heard(1000.0, 0.0)
    assert time.at(10 * WINDOW_S) == 1000.0 + 10 * WINDOW_S
    assert time.at(20 * WINDOW_S) == 1000.0 + 20 * WINDOW_S
