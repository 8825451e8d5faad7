"""The API's connections: an httpx transport whose kept connections can be dropped all at once.

httpx can't be told to stop using its connections, so there are generations of them. Requests go to
the youngest. An older one is closed once the last answer that comes through it has been read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import httpx

from pictofs.clock import Clock


class _Generation:
    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.users = 0
        self.current = True

    async def leave(self) -> None:
        """An answer has been read or given up."""
        self.users -= 1
        await self.close_if_done()

    async def close_if_done(self) -> None:
        if not self.current and self.users == 0:
            await self.transport.aclose()


class _Stream(httpx.AsyncByteStream):
    """The body of an answer. It keeps its generation open until it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, generation: _Generation) -> None:
        self._stream = stream
        self._generation: _Generation | None = generation

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        # A stream that is closed twice leaves its generation once.
        generation = self._generation
        self._generation = None
        try:
            await self._stream.aclose()
        finally:
            if generation is not None:
                await generation.leave()


class Pool(httpx.AsyncBaseTransport):
    """Keeps idle connections for `idle_max` seconds, counting the time that the machine sleeps."""

    def __init__(
        self, make: Callable[[], httpx.AsyncBaseTransport], clock: Clock, *, idle_max: float
    ) -> None:
        self._make = make
        self._clock = clock
        self._idle_max = idle_max
        self._generation = _Generation(make())
        self._used_at = clock.monotonic()
        self.number = 0
        """The generation that requests go to now."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the youngest generation. Older ones close with their last answer."""
        self._generation.current = False
        await self._generation.transport.aclose()

    async def drop(self, number: int) -> None:
        """Stop using the connections of generation `number`. Does nothing for an older one."""
        if number != self.number:
            return

        self.number += 1
        old = self._generation
        self._generation = _Generation(self._make())
        old.current = False
        await old.close_if_done()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection of the youngest generation."""
        now = self._clock.monotonic()
        if now - self._used_at > self._idle_max:
            await self.drop(self.number)

        self._used_at = now
        generation = self._generation
        generation.users += 1
        try:
            response = await generation.transport.handle_async_request(request)
        except BaseException:
            await generation.leave()
            raise

        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Stream(response.stream, generation)

        return response


class NoNetwork(httpx.AsyncBaseTransport):
    """Replaces the network. Storage is never asked either, because its URLs come from the API."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raise `httpx.ConnectError`."""
        raise httpx.ConnectError("the mount is offline by its own option", request=request)
