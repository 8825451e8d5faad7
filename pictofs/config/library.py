"""The settings of a library: the server, and the cache."""

# ruff: noqa: RUF009 - `setting` makes a field, which dataclasses take apart

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pictofs.config import values
from pictofs.config.server import ServerSettings
from pictofs.config.setting import setting
from pictofs.config.shared import SharedAddress, argument_address, parse_address, read_address
from pictofs.errors import Invalid

_CACHE = "Cache"
_SHARED = "Sharing among nodes"


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pictofs`; a relative XDG_CACHE_HOME is ignored, as its specification asks.

    Raises Invalid if there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache):
        return Path(cache) / "pictofs"

    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        # In some containers there is neither HOME nor an entry in the list of users.
        raise Invalid(
            "there is no home folder to put the cache in",
            hint="set HOME, or name one by --cache-dir",
        )

    return Path(home) / ".cache/pictofs"


@dataclass(frozen=True, kw_only=True)
class LibrarySettings(ServerSettings):
    """What it takes to use the server and the cache, except the key."""

    cache_dir: Path = setting(
        "Where downloaded bytes and listings are kept. Several mounts may share it.",
        panel=_CACHE,
        parse=values.path,
        metavar="DIR",
        default="$XDG_CACHE_HOME/pictofs or ~/.cache/pictofs",
        make=default_cache_dir,
        env="PICTOFS_CACHE_DIR",
    )

    # A fixed size, so that mounts behave alike everywhere. On a small disk --min-free is the bound.
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

    annotation_ttl: float = setting(
        "How long a cached annotation file counts as right unless the server tells of a change; "
        "then it is asked for again when it is opened. 0: for ever.",
        panel=_CACHE,
        parse=values.seconds,
        metavar="SECONDS",
        default="86400",
        env="PICTOFS_ANNOTATION_TTL",
    )

    shared: SharedAddress | None = setting(
        "The Valkey or Redis by which the nodes of a cluster share what the API says, and take "
        "turns in asking it. Needs the extra pictofs[cluster]. "
        "A URL with a password belongs into the variable, or a file.",
        panel=_SHARED,
        parse=argument_address,
        metavar="URL",
        default="none",
        make=lambda: None,
        env="PICTOFS_SHARED",
        parse_variable=parse_address,
    )
    shared_file: Path | None = setting(
        "Take the URL of --shared from this file.",
        panel=_SHARED,
        parse=values.path,
        metavar="FILE",
        default="none",
        make=lambda: None,
        env="PICTOFS_SHARED_FILE",
    )

    engine: SharedAddress | None = field(init=False, default=None)
    """The shared engine that these name; None: this node is by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared is not None and self.shared_file is not None:
            raise Invalid(
                "there are two URLs of a shared engine, one of them in a file",
                hint="give --shared or --shared-file (PICTOFS_SHARED or PICTOFS_SHARED_FILE)",
            )

        engine = self.shared
        if self.shared_file is not None:
            engine = read_address(self.shared_file)
        # The file is read once, before the mount's process begins.
        object.__setattr__(self, "engine", engine)

    @property
    def blobs_dir(self) -> Path:
        """The folder of the cached contents. The catalog lies next to it."""
        return self.cache_dir / "content"
