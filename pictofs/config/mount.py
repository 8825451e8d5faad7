"""The settings of a mount."""

# ruff: noqa: RUF009 - `setting` makes a field, which dataclasses take apart

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pictofs.config import values
from pictofs.config.setting import resolve, setting
from pictofs.errors import Invalid

_API, _CACHE, _MOUNT, _LOG = "Pictograph", "Cache", "Mount", "Process and log"


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/pictofs`; a relative XDG_CACHE_HOME is ignored, as its specification asks."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "pictofs"


@dataclass(frozen=True, kw_only=True)
class MountSettings:
    """Everything that a mount needs to know, apart from the key."""

    mountpoint: Path
    """Absolute."""

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

    annotation_sizes: Literal["lazy", "exact"] = setting(
        "lazy: an annotation shows its size once it was opened. exact: stat fetches it, one request each.",
        panel=_MOUNT,
        parse=values.one_of("lazy", "exact"),
        metavar="lazy|exact",
        default="lazy",
    )
    frozen: bool = setting(
        "Never ask again for what is known: an epoch is the same as the one before, whatever others change. "
        "`pictofs refresh` still asks.",
        panel=_CACHE,
    )
    offline: bool = setting("Never use the network: what is cached is there, the rest is not.", panel=_CACHE)
    prefetch: Literal["off", "auto", "all"] = setting(
        "What is fetched before it is read. auto: what follows the reads, within the cache and the request "
        "budget. all: every image of a dataset once one was read.",
        panel=_CACHE,
        parse=values.one_of("off", "auto", "all"),
        metavar="off|auto|all",
        default="auto",
    )

    bulk_annotations: Literal["off", "export"] = setting(
        "export: the third annotation read of a dataset fetches all of them by one export archive, for some ten "
        "requests. Needs the role member.",
        panel=_CACHE,
        parse=values.one_of("off", "export"),
        metavar="off|export",
        default="off",
    )

    allow_other: bool = setting(
        "Let other users in. Needs user_allow_other in /etc/fuse.conf unless root mounts.", panel=_MOUNT
    )
    uid: int = setting(
        "The owner that files show.",
        panel=_MOUNT,
        parse=values.numeric_id,
        metavar="ID",
        default="you",
        make=os.getuid,
    )
    gid: int = setting(
        "The group that files show.",
        panel=_MOUNT,
        parse=values.numeric_id,
        metavar="ID",
        default="yours",
        make=os.getgid,
    )
    umask: int = setting(
        "Permission bits to take away from files and folders.",
        panel=_MOUNT,
        parse=values.octal,
        metavar="OCTAL",
        default="022",
    )

    foreground: bool = setting("Stay in the terminal and log to it; Ctrl-C unmounts.", panel=_LOG)
    log_file: Path | None = setting(
        "Where the mount's process logs.",
        panel=_LOG,
        parse=values.path,
        metavar="FILE",
        default="CACHE_DIR/log/pictofs-<hash of mount point>.log; the terminal with --foreground",
        make=lambda: None,
    )
    log_level: str = setting(
        "How much is logged.",
        panel=_LOG,
        parse=values.one_of("debug", "info", "warning", "error"),
        metavar="debug|info|warning|error",
        default="info",
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

    @classmethod
    def load(
        cls, mountpoint: Path, given: Mapping[str, str | bool | None], environ: Mapping[str, str]
    ) -> Self:
        """Settings from options (by field name, as written), then the environment, then the defaults.

        Raises:
            Invalid: a value can't be understood; the message says what to write.
        """
        return cls(mountpoint=mountpoint, **resolve(cls, given, environ))
