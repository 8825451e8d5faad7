"""How this server does what the contract leaves open: found out once, kept in the catalog.

Nobody has seen every server. If the usual way turns out to be missing, another one is used from
then on, with a line in the log; `pictofs doctor` and `status.json` report it. After a week the
usual way is tried again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Literal

from pictofs.clock import Clock
from pictofs.errors import DiskFull
from pictofs.store.catalog.catalog import Catalog
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

Trait = Literal["listing", "rows", "bytes", "metadata", "readme"]

WORDS: dict[tuple[str, str], str] = {
    ("listing", "embedded"): (
        "GET /datasets/{dataset}?include_images=true lists images, 10,000 a request"
    ),
    ("listing", "pages"): (
        "GET /images/ lists images, 1,000 a request: there is no whole embedded listing"
    ),
    ("rows", "full"): "image rows tell directory and size",
    ("rows", "summary"): (
        "image rows lack directory_path or file_size: images lie in the root, or have no size"
    ),
    ("bytes", "id"): "GET /images/{image} gives the bytes of an image",
    ("bytes", "path"): "GET /images/{image} is not there: bytes come by signed URL, or by path",
    ("metadata", "id"): "GET /images/{image}/metadata finds an image",
    ("metadata", "absent"): (
        "GET /images/{image}/metadata is not there: by-id/ finds what is listed"
    ),
    ("readme", "readme+description"): "a description is written as readme, and as description",
    ("readme", "readme"): "description is refused: a description is written as readme alone",
    ("readme", "description"): "readme is refused: a description is written as description alone",
}
"""What each choice means, in words for the user."""
USUAL = {
    "listing": "embedded",
    "rows": "full",
    "bytes": "id",
    "metadata": "id",
    "readme": "readme+description",
}
AGAIN_AFTER_S = 7 * 86_400.0
"""Seconds for which the server is assumed not to change."""
PREFIX = "trait:"
"""How the names of traits begin in the catalog's table `meta`."""


class ServerTraits:
    """The choices made for this server. Reads are inline."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._known: dict[str, tuple[str, float]] = {}

    def get(self, trait: Trait) -> str | None:
        """The value of a trait; None if nothing is known of it, or was found out too long ago."""
        known = self._known.get(trait) or _parsed(self._catalog.meta(PREFIX + trait))
        if known is None or not 0 <= self._clock.wall() - known[1] < AGAIN_AFTER_S:
            return None

        self._known[trait] = known
        return known[0]

    async def choose(self, trait: Trait, value: str) -> None:
        """Remember that a trait turned out to be `value`. Does nothing if that is not new."""
        if self.get(trait) == value:
            return

        at = self._clock.wall()
        self._known[trait] = value, at
        if value != USUAL[trait]:
            log.warning("this server differs: %s", WORDS[trait, value])

        # If there is no room on the disk, it will be found out again.
        with suppress(DiskFull):
            await in_thread(self._catalog.set_meta, PREFIX + trait, f"{value} {at}")

    def all(self) -> dict[str, str]:
        """Every trait that is known, with its value."""
        found = {trait: self.get(trait) for trait in USUAL}  # type: ignore[arg-type]
        return {trait: value for trait, value in found.items() if value is not None}


def difference(trait: str, text: str) -> str | None:
    """What an unusual trait means; None if it is usual. `text`: its entry in the catalog."""
    value = text.partition(" ")[0]
    return None if USUAL.get(trait) == value else WORDS.get((trait, value))


def _parsed(text: str | None) -> tuple[str, float] | None:
    value, _, at = (text or "").partition(" ")
    try:
        return (value, float(at)) if value else None
    except ValueError:
        return None
