"""How often work is retried and how long it waits; when a connection or a body is too slow.

`API_CALL`, `DATASET_REMOVAL`, `DOWNLOAD` and `EXPORT_POLL` are all the work that is repeated while
its caller waits. Which errors it is repeated after is said where it is done. An error that is
`final` has been through that: no retry around it repeats the work again. For how long something
that failed is left alone (`RETRY_AFTER_S`) is said where that is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf

import trio

from pictofs.clock import Clock
from pictofs.errors import PictofsError, TimedOut

JITTER = 0.25
"""The share by which chance makes a wait shorter or longer, so that clients do not come together."""
SLOWER = 3.0
"""A kept connection may take this many times as long as the slowest of the last answers."""
FORGET = 0.9
"""The time of the slowest answer is multiplied by this with each further answer."""
WINDOW_S = 30.0
"""Seconds of waiting over which the speed of a body is measured."""
SLOWEST_BYTES = 1024.0
"""Bytes a second. A body that is slower for a whole window is given up."""


_tell: ContextVar[Callable[[PictofsError], None] | None] = ContextVar("tell", default=None)


@contextmanager
def telling(tell: Callable[[PictofsError], None]) -> Iterator[None]:
    """Call `tell` with each error inside, of child tasks too, after which the API is asked again."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The retries of one kind of work. All times are in seconds."""

    first_wait: float
    """The wait before the first retry, give or take `JITTER`. It doubles with each further one."""
    longest_wait: float
    """What a wait may grow to, unless a Retry-After asks for more."""
    longest_asked: float = inf
    """The longest Retry-After that is waited for. After a longer one, nothing is retried."""
    total_wait: float = inf
    """What all waits together may take."""
    max_retries: float = 3
    """Attempts after the first one. The user's `--max-retries` replaces it; inf: any number."""


API_CALL = RetryPolicy(first_wait=1.0, longest_wait=30.0, total_wait=20.0)
"""A call of the API that may be repeated (`ApiTransport`)."""
DATASET_REMOVAL = RetryPolicy(first_wait=1.0, longest_wait=30.0, total_wait=20.0)
"""The removal of an empty dataset, each attempt with the check that it is empty (`Edits`)."""
DOWNLOAD = RetryPolicy(first_wait=0.5, longest_wait=8.0, longest_asked=20.0)
"""The bytes of an image or an export, and an export's removal (`Source`)."""
EXPORT_POLL = RetryPolicy(first_wait=0.5, longest_wait=45.0, total_wait=1800.0, max_retries=inf)
"""The looks at an export that is being made (`Exports`)."""


class Retries:
    """The retries that one piece of work has left, in number and in seconds of waiting."""

    def __init__(self, clock: Clock, policy: RetryPolicy) -> None:
        self._clock = clock
        self._policy = policy
        self._backoff = policy.first_wait
        self._budget = policy.total_wait
        self.made = 0
        """Attempts after the first one."""

    @property
    def left(self) -> float:
        """Seconds that may still be waited: the budget, or less if the deadline is nearer."""
        return min(self._budget, trio.current_effective_deadline() - trio.current_time())

    def next_wait(self, asked: float | None = None, *, at_once: bool = False) -> float | None:
        """Seconds to wait before the next attempt, which counts as made; None if there is none.

        `asked` is the server's Retry-After in seconds. It never shortens the backoff: a server that
        says 0 would be hammered. `at_once`: this attempt needs no wait.
        """
        if self.made >= self._policy.max_retries:
            return None
        if asked is not None and asked > self._policy.longest_asked:
            return None

        wait = 0.0
        if not at_once:
            jitter = 1.0 + JITTER * (2.0 * self._clock.chance() - 1.0)
            wait = max(self._backoff * jitter, asked or 0.0)
        if wait > self.left:
            return None

        self.made += 1
        self._backoff = min(2.0 * self._backoff, self._policy.longest_wait)
        self._budget -= wait
        return wait

    async def wait(self, asked: float | None = None, error: PictofsError | None = None) -> bool:
        """Sleep for `next_wait`. Returns False at once if there is no further attempt.

        `error`: what `telling` is told before.
        """
        wait = self.next_wait(asked)
        if wait is None:
            return False

        tell = _tell.get()
        if tell is not None and error is not None:
            tell(error)

        await self._clock.sleep(wait)
        return True


class ReusedConnectionTimeout:
    """How long a kept connection may be silent before a new one is tried.

    An idle connection may have died without a sign (sleep, another network, a relay that forgot
    it). A slow server must not get every request twice, so the limit follows its last answers.
    """

    def __init__(self, least: float, most: float) -> None:
        """`least`, `most`: the bounds, in seconds. A new connection gets `most`."""
        self._least = min(least, most / 2)
        self._most = most
        self._slowest = 0.0

    @property
    def seconds(self) -> float:
        """The present limit."""
        return min(self._most, max(self._least, SLOWER * self._slowest))

    def took(self, seconds: float) -> None:
        """Note an answer that began after `seconds`."""
        self._slowest = max(seconds, self._slowest * FORGET)


class Pace:
    """Detects a body that trickles, so that nobody waits days for its end."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._received = 0

    def came(self, size: int, waited: float) -> None:
        """Note `size` bytes that came after `waited` seconds. Raises `TimedOut` if too slow."""
        self._received += size
        self._waited += waited
        if self._waited < WINDOW_S:
            return
        if self._received < SLOWEST_BYTES * self._waited:
            raise TimedOut(f"{self._received} bytes came in {self._waited:.0f} s: too slow")

        self._waited = 0.0
        self._received = 0
