"""Files that did not come: told one by one, until the server or the disk counts as gone."""

from __future__ import annotations

from typing import Any

from pictofs.errors import Conflict, DiskFull, Forbidden, PictofsError, Throttled
from pictofs.library.connectivity import UNAVAILABLE

AWAY_MOST = 20
"""Files in a row after which the server counts as gone or closed.

It did not answer for them, or refused them.
"""
TOLD = 1000
"""Failures that are told one by one."""


class Failures:
    """Those of one run."""

    def __init__(self) -> None:
        self.count = 0
        self.told: list[dict[str, Any]] = []
        """JSON-ready."""
        self._away = 0

    def progressed(self) -> None:
        """A file came."""
        self._away = 0

    def ends(self, error: PictofsError) -> bool:
        """Whether a failure concerns every other file, too, so that the run ends by it."""
        if isinstance(error, (*UNAVAILABLE, Conflict, Forbidden)):
            self._away += 1
        else:
            self._away = 0
        return isinstance(error, (DiskFull, Throttled)) or self._away >= AWAY_MOST

    def add(self, path: str, error: PictofsError, **facts: str) -> None:
        """Note the failure of one file."""
        self.count += 1
        if len(self.told) < TOLD:
            self.told.append({"path": path, "error": str(error), **facts})
