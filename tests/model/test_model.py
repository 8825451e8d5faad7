"""Generated stories against plain dictionaries: see `play`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dimensions import ENABLED
from play import Steps, invented, play
from rig import HandClock

from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from standin import Spec, StandIn

QUIET = 5.0
"""Seconds after which a silent connection is given up."""


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(Spec()) as running:
        yield running


@asynccontextmanager
async def doors(standin: StandIn) -> AsyncIterator[tuple[Api, Storage]]:
    clock, request_stats, key = HandClock(standin), RequestStats(), ApiKey(standin.keys["admin"])
    async with (
        Api(
            standin.api_url,
            key,
            clock=clock,
            request_stats=request_stats,
            timeout=QUIET,
            max_retries=1,
        ) as api,
        Storage(clock=clock, request_stats=request_stats, inactivity_timeout=QUIET) as storage,
    ):
        yield api, storage


async def told(steps: Steps, standin: StandIn, both: tuple[Api, Storage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await play(steps, standin, both, Path(folder))


async def shortened(
    steps: Steps, failure: Exception, standin: StandIn, both: tuple[Api, Storage]
) -> Steps:
    """The steps without those that the failure does not need."""
    place, kind = 0, reason(failure)

    while place < len(steps):
        fewer = steps[:place] + steps[place + 1 :]
        try:
            await told(fewer, standin, both)
        except Exception as other:
            if reason(other) == kind:
                steps = fewer
                continue

        place += 1

    return steps


def innermost(failure: BaseException) -> BaseException:
    """What a group of failures is about."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def reason(failure: BaseException) -> str:
    """What a failure says, but for names and numbers."""
    failure = innermost(failure)
    return " ".join(
        re.findall(r"\b[a-z]{2,}\b", str(failure).partition("\n")[0])[:3] or [repr(failure)]
    )


async def all_told(seeds: range, length: int, dimensions: frozenset[str], standin: StandIn) -> None:
    async with doors(standin) as both:
        for seed in seeds:
            steps = invented(seed, length, dimensions)
            try:
                await told(steps, standin, both)
            except Exception as failure:
                fewer = await shortened(steps, failure, standin, both)
                raise AssertionError(
                    f"seed {seed} fails, and so do {fewer}: {innermost(failure)!r}"
                ) from failure


async def test_short_stories(standin: StandIn) -> None:
    await all_told(range(35), 25, frozenset(), standin)


@pytest.mark.parametrize("part", range(2))
async def test_short_stories_of_a_hostile_world(standin: StandIn, part: int) -> None:
    await all_told(range(1000 * part, 1000 * part + 20), 30, ENABLED, standin)


FOUND: dict[str, Steps] = {
    "a name that was looked up alone, deleted before its folder was listed": [
        ("make_dataset", 8684),
        ("upload", 2273),
        ("read", 3431),
        ("delete", 7884),
    ],
    "an image that was looked up alone and renamed, read by its old name": [
        ("make_dataset", 0),
        ("upload", 1),
        ("upload", 17),
        ("read", 3),
        ("swap", 4735),
        ("read", 2161),
        ("refresh", 0),
    ],
    "a page of HTML in place of an image": [
        ("make_dataset", 0),
        ("upload", 17),
        ("upload", 34),
        ("list", 6777),
        ("fail", 9),
        ("read", 9746),
    ],
    "half an image by the keyed route, and no signed URLs to be had": [
        ("make_dataset", 0),
        ("upload", 1),
        ("upload", 17),
        ("upload", 34),
        ("upload", 1568),
        ("rename_directory", 496),
        ("archive_dataset", 1685),
        ("archive_dataset", 7789),
        ("make_dataset", 5671),
        ("read", 9365),
        ("wait", 8566),
        ("hold", 1693),
        ("archive_dataset", 9432),
        ("make_dataset", 3056),
        ("upload", 9916),
        ("read", 7060),
        ("upload", 5101),
        ("fail", 7352),
        ("read", 9252),
    ],
    "a directory that was renamed, its images listed before the tree was read": [
        ("make_dataset", 0),
        ("upload", 1),
        ("upload", 17),
        ("read", 2314),
        ("rename_directory", 7551),
        ("list", 2372),
        ("wait", 4773),
        ("read", 4332),
    ],
}
"""Stories that went wrong once."""


@pytest.mark.parametrize("name", FOUND)
async def test_a_story_that_went_wrong_once(standin: StandIn, name: str) -> None:
    async with doors(standin) as both:
        await told(FOUND[name], standin, both)


LISTS: Steps = [("list", number) for number in range(8)]
READS: Steps = [("read", number) for number in range(14)]

HOSTILE: dict[str, tuple[set[str], Steps]] = {
    "an annotation file that is damaged in the cache, and came again unchanged": (
        {"sizes"},
        [
            ("mkdir", 9628),
            ("upload_many", 8175),
            ("list", 6455),
            ("read", 3505),
            ("damage", 2372),
            ("refresh", 8411),
            ("archive", 8912),
            ("go_offline", 1045),
            ("read_again", 9317),
        ],
    ),
    "a refresh while the directories are waited for on a silent connection": (
        {"sizes", "silence"},
        [
            ("make_dataset", 0),
            ("upload", 17),
            ("upload_many", 4746),
            ("read", 1791),
            ("upload_many", 3409),
            ("rename_directory", 7382),
            ("mv", 2699),
            ("go_silent", 36),
            ("stat", 5605),
            ("refresh", 9983),
        ],
    ),
    "half of an image whose listed size is 0, where JSON was to be cut": (
        {"sizes"},
        [
            ("make_dataset", 0),
            ("upload", 1),
            ("upload", 17),
            ("upload", 34),
            ("upload_many", 300238),
            ("upload_many", 749),
            ("mkdir", 2899),
            ("list", 4096),
            ("fail", 7928),
            ("read", 1915),
        ],
    ),
    "a size that was listed too small, read ahead of a program's small buffer": (
        {"sizes", "small buffers"},
        [
            ("make_dataset", 0),
            ("upload_many", 4),
            ("walk_on", 6),
            *[("read", number) for number in range(12)],
            *[("walk_on", 1)] * 10,
            *[("read", number) for number in range(12)],
        ],
    ),
    "a size that was listed too small, learned by another mount": (
        {"sizes", "second mount"},
        [
            ("make_dataset", 0),
            ("upload_many", 4),
            *LISTS,
            ("switch", 0),
            *READS,
            ("switch", 0),
            *READS,
        ],
    ),
    "a size that was listed too small, learned by a download": (
        {"sizes", "download"},
        [("make_dataset", 0), ("upload_many", 4), *LISTS, ("download", 0), *READS],
    ),
    "a size that was listed too small, learned by a download of another process": (
        {"sizes", "download", "second mount"},
        [
            *[("switch", 0)] * 2,
            ("make_dataset", 0),
            ("upload_many", 4),
            *LISTS,
            ("download", 0),
            *READS,
        ],
    ),
    "a streamed image that is listed too small, without a length": (
        {"large", "no length"},
        [("make_dataset", 0), ("no_lengths", 12), ("upload_large", 1), ("read", 1)],
    ),
    "a streamed image that is listed too small, without a length or a range": (
        {"large", "no length"},
        [("make_dataset", 0), ("no_lengths", 0), ("upload_large", 8), ("read", 1)],
    ),
    "a streamed image that is listed too large, without a length or a range": (
        {"large", "no length"},
        [("make_dataset", 0), ("no_lengths", 0), ("upload_large", 2), ("read", 1)],
    ),
    "a streamed image that is listed too large, without a length": (
        {"large", "no length"},
        [("make_dataset", 0), ("no_lengths", 5), ("upload_large", 2), ("read", 1)],
    ),
    "a file past the cache that gets other bytes, without entity tags": (
        {"past the cache", "no etag"},
        [
            ("make_dataset", 0),
            ("upload_large", 2),
            ("no_etags", 0),
            ("remount_small", 0),
            ("hold", 1),
            ("replace", 300),
            ("let_go", 0),
        ],
    ),
    "an annotation file that is open while its row goes and comes again": (
        {"second mount"},
        [
            ("make_dataset", 0),
            ("upload", 17),
            ("upload", 34),
            ("upload", 8372),
            ("hold", 3089),
            ("rename_directory", 4615),
            ("archive_dataset", 2006),
            ("switch", 4487),
            ("refresh", 1062),
            ("archive_dataset", 1071),
            ("refresh", 2157),
            ("switch", 6487),
        ],
    ),
    "an absurd number in a page": (
        {"absurd"},
        [("make_dataset", 0), ("upload", 8779), ("absurd", 3374)],
    ),
    "an absurd size of a file that was listed": (
        {"absurd"},
        [("make_dataset", 0), ("upload_many", 43), ("list", 7578), ("absurd", 313)],
    ),
    "an annotation file that is open while its directory goes": (
        {"large", "second mount"},
        [
            ("make_dataset", 0),
            ("upload", 1),
            ("upload", 17),
            ("upload", 34),
            ("upload_large", 357),
            ("make_dataset", 8678),
            ("rename_directory", 4958),
            ("hold", 3178),
            ("remove_directory", 3320),
            ("mkdir", 2828),
        ],
    ),
    "a streamed image that is open, a byte shorter than it is listed": (
        {"large", "no length"},
        [("mkdir", 2028), ("upload_large", 3078), ("no_lengths", 4911), ("hold", 7474)],
    ),
    "connections that go silent, all at once": (
        {"silence", "crowd"},
        [
            ("make_dataset", 0),
            ("upload_many", 6),
            ("upload_many", 7),
            ("crowd", 5),
            ("go_silent", 0),
            *[("read", number) for number in range(6)],
        ],
    ),
    "a limit that is spent for an hour": (
        {"spent"},
        [
            ("make_dataset", 0),
            ("upload_many", 6),
            ("upload_many", 7),
            ("spend", 0),
            *[("epoch", 0)] * 4,
        ],
    ),
    "an image that is open, and gets other bytes under its id": (
        {"sizes", "no etag", "past the cache"},
        [
            ("make_dataset", 0),
            ("upload", 1),
            ("upload", 17),
            ("upload", 34),
            ("upload_many", 30104),
            ("hold", 5412),
            ("upload_large", 5887),
            ("delete", 317),
            ("delete", 7603),
            ("replace", 1702),
            ("evict", 4510),
        ],
    ),
    "an image of wrong size, read by the API's route after the server was away": (
        {"sizes", "small buffers"},
        [
            ("make_dataset", 0),
            ("upload", 17),
            ("upload", 34),
            ("upload_many", 70078),
            ("walk_on", 1758),
            ("go_offline", 8791),
            ("move", 8368),
            ("read_near", 6876),
            ("read_near", 3605),
            ("go_online", 1351),
            ("move", 3700),
            ("read", 8554),
        ],
    ),
    "a dataset that was renamed, of which another mount of the cache learned first": (
        {"second mount"},
        [
            ("make_dataset", 0),
            ("upload", 1),
            ("upload", 17),
            ("upload", 34),
            ("list", 6768),
            ("switch", 342),
            ("upload", 6468),
            ("switch", 8826),
            ("rename_dataset", 6294),
            ("switch", 6792),
            ("refresh", 7270),
            ("switch", 9497),
            ("refresh", 6318),
            ("read", 7116),
        ],
    ),
    "one expired URL in each batch": (
        {"one url"},
        [
            ("make_dataset", 0),
            ("upload_many", 6),
            ("upload_many", 7),
            ("refuse_one", 1),
            ("epoch", 0),
        ],
    ),
}
"""Stories of hostile worlds that went wrong once, and the dimensions that they are of."""


@pytest.mark.parametrize(
    "name", [name for name, (needed, _) in HOSTILE.items() if needed <= ENABLED]
)
async def test_a_hostile_story_that_went_wrong_once(standin: StandIn, name: str) -> None:
    async with doors(standin) as both:
        await told(HOSTILE[name][1], standin, both)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
async def test_long_stories(standin: StandIn, part: int) -> None:
    first = 10_000 * (part + 1)
    await all_told(range(first, first + 200), 60, ENABLED, standin)
    await all_told(range(first, first + 100), 60, frozenset(), standin)
