"""What the library knows of the shared engine: six methods, which never fail and never hang.

A *record* is what the server said, by a name that the library chooses: names hold what makes the
record right (an id, a signature, a generation), so that a changed item has another name. A *lease*
on a name is the right to ask the server for it while the other nodes wait. A *count* is a whole
number that all nodes change, one at a time.

The engine is another machine, which may be slow, full, gone, wiped or hostile. Then `get` finds
nothing, `lease` says that the caller may go, `count` says None, and the library does what it does
without an engine. What nodes share is believed only if it was sealed with the same API key for the
same server.

Ages and times to live are told by a clock that the nodes share (the API's), so that a node whose
own clock is wrong neither believes what is old nor makes others believe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """What the server said, by whichever node asked it."""

    value: bytes
    age: float
    """Seconds since the server was asked, 0 or more."""


@dataclass(frozen=True)
class Lease:
    """The right to ask the server for a record."""

    name: str
    token: bytes | None = field(repr=False)
    """What proves the right to the engine; None if the engine does not know of it, because it can't
    be asked: other nodes may ask the server for the same record."""
    found: Record | None = None
    """The record, if it was there when the right was given: another node has just had its turn."""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes wait meanwhile."""
        return self.token is not None


class Waited(Enum):
    """How a wait for another node's turn ended."""

    RECORD = "the record is there: get it"
    FREE = "nobody is at it, and there is no record: lease it"
    HELD = "the time is up, and another node is still at it"
    UNKNOWN = "the engine can't tell: lease it"


class Count(NamedTuple):
    """A number that nodes share."""

    value: int
    changed: bool
    """Whether the change was made; False if the number would have fallen below `keep`."""


class SharedStore(Protocol):
    """The port. No method raises anything but a cancellation."""

    async def get(self, names: Sequence[str]) -> dict[str, Record]:
        """The records of `names` that are there, can be believed, and are within their time.

        Returns within 0.2 s if the engine is silent, and within 3.2 s in any case. Records that are
        asked for together should not have more than 32 MiB together.
        """

    def put(self, name: str, value: bytes, ttl: float, *, age: float = 0.0) -> bool:
        """Share a record for `ttl` seconds from the time when the server was asked.

        `age`: seconds since then. Returns at once whether it will be sent: False if the engine is
        left alone, or if too much waits to be sent, which passes; whoever has thousands tries again
        then. A later `put` or `release` is sent later.
        """

    async def lease(self, name: str, longest: float) -> Lease | None:
        """The right to ask the server for `name`; None if another node has it: `wait` then.

        A node that dies loses it after 10 s, any other after `longest` seconds. If the engine
        can't be asked the right is given after a pause by chance (0.5 s at most), so that nodes that
        waited together do not all go together. Returns within 3.7 s. Every lease is to be released.
        """

    def release(self, lease: Lease) -> None:
        """Give a lease back, and wake those who wait for it.

        What was `put` before is there when they wake. Returns at once. A lease that was lost
        meanwhile, because it took too long, is left to whoever has it now.
        """

    async def wait(self, name: str, timeout: float) -> Waited:
        """Wait until the record is there, or nobody is at it, for `timeout` seconds at most.

        It may give up after three quarters of that, by chance, so that nodes that began together do
        not end together. Returns within `timeout` and 3.2 s.
        """

    async def count(
        self,
        name: str,
        *,
        ttl: float,
        start: int | None = None,
        change: int = 0,
        at_least: int | None = None,
        at_most: int | None = None,
        keep: int | None = None,
        extend: bool = False,
    ) -> Count | None:
        """Read and change a number in one step.

        A number that is not there begins as `start`, and lives for `ttl` seconds from then on;
        `extend`: from now on. It is then raised to `at_least`, lowered to `at_most`, and changed by
        `change`, unless that leaves less than `keep`. Numbers have 53 bits.

        Returns None if the engine can't tell, or if there is no number and no `start`. Returns
        within 3.2 s.
        """
