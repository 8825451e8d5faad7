"""How old the labels are that a mount gives: for `status`, metrics, and a warning in the log."""

from __future__ import annotations

import logging
from collections import deque

from pictofs.clock import Clock
from pictofs.model.status import AnnotationsStatus, ExportStatus, OriginStatus, RenewalsStatus

log = logging.getLogger(__name__)

WINDOW_S = 3600.0
"""Seconds for which the oldest given file is reported; it may be for twice as long."""
HELD_MOST = 65_536
"""Files at most that are counted as held back from renewal."""
EXPORTS_TOLD = 8
"""Exports that are remembered by name."""
WARN_EVERY_S = 3600.0
"""Seconds between two warnings of labels older than the user asked for."""


class AnnotationAges:
    """The annotation files that one process has given, and where they came from."""

    def __init__(self, clock: Clock, ttl: float) -> None:
        """`ttl`: seconds after which a file is too old for the user; 0: never."""
        self._clock = clock
        self._ttl = ttl
        self._oldest: float | None = None
        self._oldest_before: float | None = None
        self._turned_at = clock.monotonic()
        self._warn_after = 0.0
        self._held: set[int] = set()
        self._exports: deque[ExportStatus] = deque(maxlen=EXPORTS_TOLD)
        self.singles = 0
        """Files that came by a request of their own."""
        self.shared = 0
        """Files that another node had asked for."""
        self.exported = 0
        """Files that came by an export."""
        self.renewed = 0
        """Old files that were renewed by a request of their own."""

    def given(self, key: int, checked: float | None) -> None:
        """Note that a reader got an image's file. `checked`: when the server had it (wall-clock
        seconds). Takes 2 us."""
        if checked is None:
            return

        self._turn()
        if self._oldest is None or checked < self._oldest:
            self._oldest = checked

        age = self._clock.wall() - checked
        if self._ttl and age > self._ttl and self._clock.monotonic() >= self._warn_after:
            self._warn_after = self._clock.monotonic() + WARN_EVERY_S
            log.warning(
                "annotation files are given that the server confirmed %.1f h ago, "
                "longer than --annotation-ttl "
                "(%g s): they can't be renewed now; `pictofs status` tells more",
                age / 3600,
                self._ttl,
            )

    def held_back(self, key: int) -> None:
        """Note that a reader got an image's old file, because it can't be renewed now."""
        if len(self._held) < HELD_MOST:
            self._held.add(key)

    def came(self, key: int) -> None:
        """Note that an image's file came from the server."""
        self._held.discard(key)

    def came_by_export(self, dataset: str, name: str, made_at: float, files: int) -> None:
        """Note that an export brought files. `made_at`: wall-clock seconds."""
        self.exported += files
        self._exports.append(ExportStatus(dataset, name, made_at, files))

    @property
    def oldest(self) -> float | None:
        """When the server confirmed the oldest file given within `WINDOW_S` (wall-clock seconds).

        None if none was given.
        """
        self._turn()
        found = [each for each in (self._oldest, self._oldest_before) if each is not None]
        return min(found, default=None)

    @property
    def age(self) -> float | None:
        """Seconds since `oldest`."""
        oldest = self.oldest
        return None if oldest is None else max(0.0, self._clock.wall() - oldest)

    @property
    def held(self) -> int:
        """Files that were given although they are due, and have not been renewed since."""
        return len(self._held)

    def status(self) -> AnnotationsStatus:
        """What status.json tells of them."""
        return AnnotationsStatus(
            ttl=self._ttl,
            oldest_confirmed_at=self.oldest,
            oldest_age=self.age,
            renewals=RenewalsStatus(made=self.renewed, held_back=self.held),
            origin=OriginStatus(requests=self.singles, exports=self.exported, shared=self.shared),
            exports=list(self._exports),
        )

    def _turn(self) -> None:
        passed = self._clock.monotonic() - self._turned_at
        if passed < WINDOW_S:
            return

        self._oldest_before = self._oldest if passed < 2 * WINDOW_S else None
        self._oldest = None
        self._turned_at = self._clock.monotonic()
