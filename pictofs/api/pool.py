"""Connections that are kept between two exchanges."""

from __future__ import annotations

import trio

from pictofs.api.connection import Connection
from pictofs.api.origin import Origin
from pictofs.clock import Clock
from pictofs.errors import ServerFault, TimedOut

IDLE_MAX_S = 30.0
"""Seconds for which an unused connection is kept. Common servers close it after 60.

They count the time that the machine sleeps.
"""


class ConnectionPool:
    """Idle connections by origin.

    A silent one means that the network has changed, so every other one that has been idle since
    before then is closed as well (`drop`).
    """

    def __init__(self, clock: Clock, idle_most: int) -> None:
        """`idle_most`: connections kept for one origin; how many are open is the caller's."""
        self._clock = clock
        self._idle_most = idle_most
        self._idle: dict[Origin, list[Connection]] = {}
        """The most recently used one last."""

    def take(self, origin: Origin) -> Connection | None:
        """The most recently used connection that still seems alive. Dead ones are closed."""
        oldest = self._clock.monotonic() - IDLE_MAX_S
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.idle_since >= oldest and connection.is_quiet:
                return connection
            connection.close()

        return None

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep the connection if it is reusable, and close those that have been idle for long."""
        now = self._clock.monotonic()
        connections = self._idle.setdefault(origin, [])
        while connections and connections[0].idle_since < now - IDLE_MAX_S:
            connections.pop(0).close()

        if connection.reusable and len(connections) < self._idle_most:
            connection.idle_since = now
            connections.append(connection)
        else:
            connection.close()

        if not connections:
            del self._idle[origin]

    async def receive(self, connection: Connection, silence: float, what: str) -> bytes:
        """The next piece of a body, b"" at its end.

        Raises what `Connection.receive` raises; TimedOut, about `what`, if nothing comes for
        `silence` seconds. Either says that the network has changed, but for nonsense.
        """
        asked_at = self._clock.monotonic()
        try:
            # Not trio.move_on_after, whose generator costs 10 us more.
            with trio.CancelScope(relative_deadline=silence):
                return await connection.receive()
        except ServerFault:
            self.drop(asked_at)
            raise

        self.drop(asked_at)
        raise TimedOut(f"{what} stood still for {silence:g} s")

    def drop(self, before: float) -> None:
        """Close connections to any origin that are idle since `before` (monotonic seconds)."""
        for origin, connections in list(self._idle.items()):
            for connection in connections:
                if connection.idle_since <= before:
                    connection.close()

            self._idle[origin] = [each for each in connections if each.idle_since > before]
            if not self._idle[origin]:
                del self._idle[origin]

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        self._idle_most = 0
        for connections in self._idle.values():
            for connection in connections:
                connection.close()

        self._idle.clear()
