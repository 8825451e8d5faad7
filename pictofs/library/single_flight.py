"""Single flight: work that several callers want at the same time is done once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import trio

from pictofs.errors import PictofsError

T = TypeVar("T")


class SingleFlight:
    """Work under way, by key.

    It runs in the library's nursery, and goes on if its caller is cancelled.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._in_progress: dict[Hashable, _Call] = {}

    async def share(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of the same key's work that is under way. Raises its error."""
        value: T = await self.launch(key, work).result()
        return value

    def in_progress(self, key: Hashable) -> bool:
        """Whether work for `key` is under way."""
        return key in self._in_progress

    def launch(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> _Call:
        """Begin `work` unless the key's work is under way. Does not wait."""
        flight = self._in_progress.get(key)
        if flight is None:
            flight = self._in_progress[key] = _Call()
            self._nursery.start_soon(self._run, key, flight, work)

        return flight

    def __len__(self) -> int:
        return len(self._in_progress)

    async def _run(self, key: Hashable, flight: _Call, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            flight.value = await work()
        except Exception as error:  # raised in every waiter, never in the nursery
            flight.error = error
        finally:
            del self._in_progress[key]
            flight.done.set()


class _Call:
    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: Any = None
        self.error: Exception | None = None

    async def result(self) -> Any:
        await self.done.wait()
        if isinstance(self.error, PictofsError):
            # Every waiter raises the same error: its traceback must not grow with each of them.
            raise self.error.with_traceback(None)
        if self.error is not None:
            raise self.error

        return self.value
