"""What one check came to, and how checks are kept from hanging."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from pictofs.app import probe
from pictofs.errors import PictofsError, TimedOut

Outcome = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line."""

    check: str
    outcome: Outcome
    message: str
    advice: str | None = None
    """What to do, if something is to be done."""
    requests: int = 0
    """What it cost."""


def ok(check: str, message: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, "ok", message)


def warn(check: str, message: str, advice: str | None = None) -> Finding:
    """It works, perhaps not as one would like."""
    return Finding(check, "warn", message, advice)


def fail(check: str, message: str, advice: str | None = None) -> Finding:
    """It does not work."""
    return Finding(check, "fail", message, advice)


def failed(check: str, error: PictofsError) -> Finding:
    """It does not work, for the reason `error`."""
    return fail(check, error.message, error.hint or None)


def within(check: str, seconds: float, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of `look`, or that it took too long or failed itself.

    `look` runs in a process of its own.
    """

    def ask() -> bytes:
        try:
            found = list(look())
        except Exception as error:
            found = [
                fail(
                    check,
                    f"this check failed by a bug ({type(error).__name__}: {error})",
                    "please report it",
                )
            ]

        return json.dumps([asdict(each) for each in found]).encode()

    try:
        return [Finding(**each) for each in json.loads(probe.run_in_subprocess(seconds, ask))]
    except TimedOut:
        return [
            fail(
                check,
                f"no answer within {seconds:g} s",
                "something below hangs: a network disk, a proxy",
            )
        ]
    except (OSError, ValueError):
        return [fail(check, "the process that looked died", "look into the system's log")]
