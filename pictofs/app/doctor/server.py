"""Whether the API answers, and takes the key: one request."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import trio

from pictofs.api.client import Api
from pictofs.api.failure import CHECK_NETWORK
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.app.doctor.finding import Finding, fail, ok, warn
from pictofs.app.library import catalog_path
from pictofs.clock import SystemClock
from pictofs.config import LibrarySettings
from pictofs.errors import (
    Forbidden,
    InvalidResponse,
    PictofsError,
    ServerUnreachable,
    Throttled,
    TimedOut,
    Unauthorized,
)
from pictofs.library.server_traits import PREFIX, difference
from pictofs.model.plural import counted

ANSWER_SECONDS = 8.0
"""Of an answer; name lookup and connection may take as long again."""
SKEW_S = 60.0
"""Seconds that the clocks may differ.

Signed URLs are reckoned on the server's clock, so they stand more.
"""


def check_server(settings: LibrarySettings, api_key: str) -> Iterator[Finding]:
    """Reach, key, budget and clocks, as one listing of a single dataset shows them."""
    request_stats = RequestStats()
    first, *others = _answer(settings, api_key, request_stats)
    yield replace(first, requests=request_stats.spent("foreground"))
    yield from others

    if request_stats.contact_at:
        yield _budget(request_stats)
        yield _clock(request_stats)


def _answer(
    settings: LibrarySettings, api_key: str, request_stats: RequestStats
) -> Iterator[Finding]:
    try:
        took, datasets = trio.run(_ask, settings, ApiKey(api_key), request_stats)
    except Unauthorized as error:
        yield fail("API", f"{settings.base_url} refuses the key: {error.message}", error.hint)
    except Forbidden as error:
        yield fail(
            "API",
            f"{settings.base_url} forbids this key to list datasets: {error.message}",
            "ask for the role viewer",
        )
    except Throttled as error:
        yield warn("API", f"{settings.base_url} answers, and the request budget is spent: {error}")
    except (ServerUnreachable, TimedOut) as error:
        yield fail("API", error.message, error.hint or CHECK_NETWORK)
    except InvalidResponse as error:
        yield fail(
            "API",
            error.message,
            error.hint or "something else answers there: look at --base-url, and for a login page",
        )
    except PictofsError as error:
        yield fail("API", error.message, "try again later; if it lasts, ask the platform's support")
    else:
        secure = " over TLS" if settings.base_url.startswith("https://") else ""
        sees = f" and sees {counted(datasets, 'dataset')}" if datasets is not None else ""

        yield ok(
            "API",
            f"{settings.base_url} answers{secure} in {1000 * took:.0f} ms, takes the key{sees}",
        )
        yield ok("role", "viewer at least: what else the key may do shows when it is tried")


async def _ask(
    settings: LibrarySettings, api_key: ApiKey, request_stats: RequestStats
) -> tuple[float, int | None]:
    """Seconds that the answer took, and how many datasets there are."""
    api = Api(
        settings.base_url,
        api_key,
        clock=SystemClock(),
        request_stats=request_stats,
        timeout=ANSWER_SECONDS,
        max_retries=0,
        allow_plain_http=settings.allow_plain_http,
    )

    started = time.monotonic()
    with trio.move_on_after(2 * ANSWER_SECONDS):
        async with api:
            page = await api.datasets(limit=1)
            return time.monotonic() - started, page.total

    raise TimedOut(f"{settings.base_url}: no answer within {2 * ANSWER_SECONDS:g} s")


def traits(settings: LibrarySettings, api_key: str) -> Iterator[Finding]:
    """What mounts of this server have found out about it; nothing if it is as the contract says."""
    path = catalog_path(settings, ApiKey(api_key))
    if not path.exists():
        return

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as db:
            rows = db.execute(
                "SELECT name, value FROM meta WHERE name LIKE ?", (PREFIX + "%",)
            ).fetchall()
    except sqlite3.Error:
        # Whether the catalog is sound is another check's matter.
        return

    for name, value in rows:
        message = difference(name.removeprefix(PREFIX), str(value))
        if message is not None:
            yield ok("server", f"differs: {message}")


def _budget(request_stats: RequestStats) -> Finding:
    if request_stats.remaining is None:
        return ok("budget", "the server does not tell what is left of the hourly limit")

    limit = f" of {request_stats.limit:,}" if request_stats.limit else ""
    message = f"{request_stats.remaining:,}{limit} requests left"
    if request_stats.remaining <= request_stats.reserve:
        when = time.strftime("%H:%M", time.localtime(request_stats.reset_at))
        return warn(
            "budget",
            f"{message}: nothing is fetched ahead before {when}",
            "wait, or ask for a larger plan",
        )

    return ok("budget", message)


def _clock(request_stats: RequestStats) -> Finding:
    if request_stats.offset is None:
        return ok("clock", "the server tells no time to compare with")

    side = "behind" if request_stats.offset > 0 else "ahead of"
    message = f"{abs(request_stats.offset):.0f} s {side} the server's"
    if abs(request_stats.offset) > SKEW_S:
        return warn(
            "clock",
            f"{message}: times and waits will be wrong by as much",
            "timedatectl set-ntp true, or set the clock",
        )

    return ok("clock", message)
