"""The settings of a library: the server, and the cache."""

# ruff: noqa: RUF009 - `setting` makes a field, which dataclasses take apart

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pictofs.config import values
from pictofs.config.setting import setting
from pictofs.errors import Invalid

_API, _CACHE = "Pictograph", "Cache"


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pictofs`; a relative XDG_CACHE_HOME is ignored, as its specification asks."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "pictofs"


@dataclass(frozen=True, kw_only=True)
class LibrarySettings:
    """What everybody needs to know who asks the server and uses the cache, apart from the key."""

    base_url: str = setting(
        "Where the API is.",
        panel=_API,
        parse=values.url,
        metavar="URL",
        default="https://api.pictograph.io",
        env="PICTOGRAPH_BASE_URL",
    )
    timeout: float = setting(
        "How long a file operation may wait for the server before it fails.",
        panel=_API,
        parse=values.positive_seconds,
        metavar="SECONDS",
        default="30",
        env="PICTOGRAPH_TIMEOUT",
    )
    max_retries: int = setting(
        "How often a failed request is tried again.",
        panel=_API,
        parse=values.count,
        metavar="N",
        default="3",
        env="PICTOGRAPH_MAX_RETRIES",
    )
    allow_plain_http: bool = setting(
        "Send the key over unencrypted http to a host other than this machine.", panel=_API
    )

    cache_dir: Path = setting(
        "Where downloaded bytes and listings are kept. Several mounts may share it.",
        panel=_CACHE,
        parse=values.path,
        metavar="DIR",
        default="$XDG_CACHE_HOME/pictofs or ~/.cache/pictofs",
        make=default_cache_dir,
        env="PICTOFS_CACHE_DIR",
    )
    # A fixed figure, so that a mount behaves alike everywhere; on a small disk --min-free is what bounds it.
    cache_size: int = setting(
        "How large the cache may grow: 20MB, 1.5GiB, or bytes.",
        panel=_CACHE,
        parse=values.cache_size,
        metavar="SIZE",
        default="50GB",
    )
    min_free: values.FreeSpace = setting(
        "How much of the cache's disk stays free: a share of it, or a size.",
        panel=_CACHE,
        parse=values.free_space,
        metavar="SHARE|SIZE",
        default="5%",
    )
    metadata_ttl: float = setting(
        "How long a listing counts as fresh.",
        panel=_CACHE,
        parse=values.seconds,
        metavar="SECONDS",
        default="300",
    )

    def __post_init__(self) -> None:
        plain = self.base_url.startswith("http://") and not values.is_loopback(self.base_url)
        if plain and not self.allow_plain_http:
            raise Invalid(
                f"{self.base_url} would get your key unencrypted: write https://, "
                "or --allow-plain-http if you trust every network on the way"
            )

    @property
    def shelf_dir(self) -> Path:
        """Where the content shelf is; the catalog lies next to it."""
        return self.cache_dir / "content"
