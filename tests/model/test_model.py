"""Generated stories against plain dictionaries: see `play`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from play import Steps, invented, play
from rig import HandClock

from pictofs.api.client import Api
from pictofs.api.key import ApiKey
from pictofs.api.meter import Meter
from pictofs.api.storage import Storage
from standin import Spec, StandIn


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn(Spec()) as running:
        yield running


@asynccontextmanager
async def doors(standin: StandIn) -> AsyncIterator[tuple[Api, Storage]]:
    clock, meter, key = HandClock(standin), Meter(), ApiKey(standin.keys["admin"])
    async with (
        Api(standin.api_url, key, clock=clock, meter=meter, timeout=5, max_retries=1) as api,
        Storage(clock=clock, meter=meter) as storage,
    ):
        yield api, storage


async def told(steps: Steps, standin: StandIn, both: tuple[Api, Storage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await play(steps, standin, both, Path(folder))


async def shortened(steps: Steps, failure: Exception, standin: StandIn, both: tuple[Api, Storage]) -> Steps:
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


def reason(failure: BaseException) -> str:
    """What a failure says, but for names and numbers."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return " ".join(re.findall(r"\b[a-z]{2,}\b", str(failure).partition("\n")[0])[:3] or [repr(failure)])


async def all_told(seeds: range, length: int, standin: StandIn) -> None:
    async with doors(standin) as both:
        for seed in seeds:
            steps = invented(seed, length)
            try:
                await told(steps, standin, both)
            except Exception as failure:
                fewer = await shortened(steps, failure, standin, both)
                raise AssertionError(f"seed {seed} fails, and so do {fewer}: {failure!r}") from failure


async def test_short_stories(standin: StandIn) -> None:
    await all_told(range(110), 25, standin)


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


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
async def test_long_stories(standin: StandIn, part: int) -> None:
    await all_told(range(1000 * (part + 1), 1000 * (part + 1) + 300), 60, standin)
