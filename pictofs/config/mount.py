"""The settings of a mount."""

# ruff: noqa: RUF009 - `setting` makes a field, which dataclasses take apart

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pictofs.config import values
from pictofs.config.library import LibrarySettings
from pictofs.config.setting import resolve, setting
from pictofs.errors import Invalid

_CACHE = "Cache"
_MOUNT = "Mount"
_LOG = "Process and log"


@dataclass(frozen=True, kw_only=True)
class MountSettings(LibrarySettings):
    """All settings of a mount, except the key."""

    mountpoint: Path
    """Absolute."""

    annotation_sizes: Literal["lazy", "exact"] = setting(
        "lazy: an annotation shows its size once it was opened. "
        "exact: stat fetches it, one request each.",
        panel=_MOUNT,
        parse=values.one_of("lazy", "exact"),
        metavar="lazy|exact",
        default="lazy",
    )
    frozen: bool = setting(
        "Never ask again for what is known: an epoch is the same as the one before, "
        "whatever others change. `pictofs refresh` still asks.",
        panel=_CACHE,
    )
    offline: bool = setting(
        "Never use the network: what is cached is there, the rest is not.", panel=_CACHE
    )
    prefetch: Literal["off", "auto", "all"] = setting(
        "What is fetched before it is read. auto: what follows the reads, within the cache "
        "and the request budget. all: every image of a dataset once one was read.",
        panel=_CACHE,
        parse=values.one_of("off", "auto", "all"),
        metavar="off|auto|all",
        default="auto",
    )

    bulk_annotations: Literal["off", "export"] = setting(
        "export: the third annotation read of a dataset fetches all of them "
        "by one export archive, for 6 to 10 requests. Needs the role member.",
        panel=_CACHE,
        parse=values.one_of("off", "export"),
        metavar="off|export",
        default="off",
    )

    wait_for_limit: float = setting(
        "How long opening a file may wait for the hourly limit of requests to be there again. "
        "0: only within --timeout, then it fails with EBUSY.",
        panel=_MOUNT,
        parse=values.seconds,
        metavar="SECONDS",
        default="0",
        env="PICTOFS_WAIT_FOR_LIMIT",
    )
    writable: bool = setting(
        "Let datasets be made, renamed, described and, where empty, removed: "
        "mkdir, mv, setfattr, rmdir; and README.md be written. "
        "Needs the role member, for rmdir admin.",
        panel=_MOUNT,
    )
    allow_other: bool = setting(
        "Let other users in. Needs user_allow_other in /etc/fuse.conf unless root mounts.",
        panel=_MOUNT,
    )
    fuse_fd: int | None = setting(
        "Serve this descriptor: an open /dev/fuse that whoever starts pictofs has mounted at "
        "MOUNTPOINT, as side-cars of Kubernetes get it. That takes no right to mount.",
        panel=_MOUNT,
        parse=values.descriptor,
        metavar="N",
        default="pictofs mounts by itself",
        make=lambda: None,
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

    log_format: Literal["text", "json"] = setting(
        "How logs are written: a line for people, or an object a line for programs.",
        panel=_LOG,
        parse=values.one_of("text", "json"),
        metavar="text|json",
        default="text",
    )
    access_log: Path | None = setting(
        "Log each file operation to this file: time, operation, outcome, latency, bytes, path.",
        panel=_LOG,
        parse=values.path,
        metavar="FILE",
        default="none",
        make=lambda: None,
    )
    metrics_port: int | None = setting(
        "Serve the figures of .pictofs/metrics at this port of 127.0.0.1, "
        "to everybody on this machine.",
        panel=_LOG,
        parse=values.port,
        metavar="PORT",
        default="not served",
        make=lambda: None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for other in ("offline", "frozen"):
            if self.writable and getattr(self, other):
                raise Invalid(
                    f"--writable and --{other} exclude each other: "
                    "a change needs the server, as it is now"
                )

    @classmethod
    def load(
        cls, mountpoint: Path, given: Mapping[str, str | bool | None], environ: Mapping[str, str]
    ) -> Self:
        """Settings from `given` options, then the environment, then the defaults.

        `given`: by field name, as written on the command line.

        Raises:
            Invalid: a value can't be understood; the message says what to write.
        """
        return cls(mountpoint=mountpoint, **resolve(cls, given, environ))
