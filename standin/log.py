"""The requests to the two hosts, in order; the log may be read from another thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

_KEPT = 500_000


@dataclass(slots=True)
class Request:
    """One request and, once it is answered, its outcome.

    `bytes` is the length of the body that was due, `at` the moment of `time.monotonic`. `has_key`
    counts `Authorization` too at the storage host.
    """

    host: str
    method: str
    path: str
    query: str
    has_key: bool
    range: str | None
    route: str | None = None
    status: int = 0
    bytes: int = 0
    at: float = field(default_factory=time.monotonic)


class Log:
    """The requests to both hosts.

    A request is entered when it arrives; its status is set before the answer is sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[Request] = deque(maxlen=_KEPT)
        self._leaks: list[Request] = []

    def enter(self, request: Request) -> Request:
        """Add a request that arrived."""
        with self._lock:
            self._requests.append(request)

        return request

    def leak(self, request: Request) -> None:
        """Add a request to storage that carried a credential."""
        with self._lock:
            self._leaks.append(request)

    @property
    def key_leaks(self) -> list[Request]:
        """The requests to storage with `X-API-Key` or `Authorization`; there must be none."""
        with self._lock:
            return list(self._leaks)

    def requests(
        self,
        host: str | None = None,
        route: str | None = None,
        method: str | None = None,
        status: int | None = None,
    ) -> list[Request]:
        """The requests that match, oldest first. `route` is a template such as `/images/`."""
        with self._lock:
            kept = list(self._requests)

        return [
            each
            for each in kept
            if (host is None or each.host == host)
            and (route is None or each.route == route)
            and (method is None or each.method == method)
            and (status is None or each.status == status)
        ]

    def count(
        self,
        host: str | None = None,
        route: str | None = None,
        method: str | None = None,
        status: int | None = None,
    ) -> int:
        """How many requests match."""
        return len(self.requests(host, route, method, status))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._requests.clear()
            self._leaks.clear()
