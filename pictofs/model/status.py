"""The tree of status.json: a mount builds it, commands read it.

Users read the file, too: no field is renamed, and none moves. A command may meet a mount of another
version, so every field has a default, which stands for what that mount does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec


class OperationStatus(msgspec.Struct):
    """Requests of the kernel, of one kind."""

    ended: int = 0
    failed: int = 0
    under_way: int = 0


class RequestsStatus(msgspec.Struct):
    """Requests that were sent, by host."""

    api: int = 0
    storage: int = 0
    by_route: dict[str, int] = {}
    """Those to the API."""


class BytesStatus(msgspec.Struct):
    """Bytes that moved."""

    downloaded: int = 0
    storage: int = 0
    """Of the downloaded ones, those from storage."""
    read: int = 0
    """Given to readers."""


class WaitingStatus(msgspec.Struct):
    """Who waits for the server now."""

    readers: int = 0
    api: int = 0
    """Requests to the API under way."""


class CacheStatus(msgspec.Struct, omit_defaults=True):
    """The cache. What its disk does not tell is left out, and `error` says why."""

    dir: str | None = None
    hits: int | None = None
    misses: int | None = None
    used: int | None = None
    limit: int | None = None
    files: int | None = None
    free: int | None = None
    """Bytes, as `used` and `limit`."""
    error: str | None = None


class OrderStatus(msgspec.Struct):
    """An order that a program declared, in images."""

    images: int = 0
    left: int = 0
    """Not fetched yet."""
    ahead: int = 0
    keeps: int = 0
    """Fetched ahead of the reader now, and at most."""
    complete: bool = False


class PrefetchStatus(msgspec.Struct):
    """Images that are fetched before they are read."""

    fetched: int = 0
    used: int = 0
    under_way: int = 0
    orders: list[OrderStatus] = []


class RenewalsStatus(msgspec.Struct):
    """Renewals of annotation files."""

    made: int = 0
    held_back: int = 0


class OriginStatus(msgspec.Struct):
    """Annotation files by what they came by."""

    requests: int = 0
    exports: int = 0
    shared: int = 0
    """By requests of other nodes."""


class ExportStatus(msgspec.Struct):
    """An export whose files were taken. `created_at`: seconds since the epoch."""

    dataset: str = ""
    name: str = ""
    created_at: float | None = None
    files: int = 0


class AnnotationsStatus(msgspec.Struct):
    """How old annotation files are, and where they came from; times in seconds."""

    ttl: float = 0.0
    oldest_confirmed_at: float | None = None
    oldest_age: float | None = None
    """Of those that were given lately."""
    renewals: RenewalsStatus = msgspec.field(default_factory=RenewalsStatus)
    origin: OriginStatus = msgspec.field(name="from", default_factory=OriginStatus)
    exports: list[ExportStatus] = []


class FormatStatus(msgspec.Struct):
    """A format whose files were made. `of_status`: the status of its images; None: any."""

    dataset: str = ""
    of_status: str | None = None
    format: str = ""
    images: int = 0
    labels: int = 0
    left_out: dict[str, int] = {}
    """What the format can't hold, by the words of its report.json."""


class RateStatus(msgspec.Struct):
    """The request budget. `reset_at`: seconds since the epoch."""

    limit: int | None = None
    remaining: int | None = None
    reset_at: float | None = None
    reserve: int = 0
    """Requests that are left to readers."""
    spent_until: float | None = None
    """When the API answers again; None while it does."""
    wait: float = 0.0
    """Seconds that an open waits for that."""


class SharedStatus(msgspec.Struct):
    """The shared engine, and what this node has asked of it."""

    engine: str = ""
    """Its URL, without a user and a password."""
    state: str = ""
    """`closed`: it answers; `open`: it is left alone; `connecting`, `probing`."""
    reason: str | None = None
    """Why it is left alone."""
    hits: int = 0
    misses: int = 0
    unusable: int = 0
    """Records that this key did not seal, and those that were too old; misses, too."""
    puts: int = 0
    dropped: int = 0
    """Records that were not taken."""
    turns: int = 0
    """Questions to the API for which other nodes waited."""
    errors: int = 0
    """Calls without an answer in time, or refused."""
    opened: int = 0
    """How often it was left alone."""
    calls: int = 0
    seconds: float = 0.0
    """That these took together."""


class Status(msgspec.Struct):
    """status.json. Times are seconds since the epoch."""

    version: int | None = None
    """Of this tree."""
    pictofs: str | None = None
    pid: int | None = None
    mountpoint: str | None = None
    base_url: str | None = None
    started_at: float | None = None
    control_socket: str | None = None
    log: str | None = None
    """The file that it logs to; None for a terminal."""
    open_files: int | None = None
    bugs: int = 0
    operations: dict[str, OperationStatus] = {}
    """By kind."""
    online: bool | None = None
    offline_since: float | None = None
    offline_reason: str | None = None
    requests: RequestsStatus | None = None
    retries: int = 0
    errors: dict[str, int] = {}
    """By kind, of requests."""
    bytes: BytesStatus | None = None
    waiting: WaitingStatus = msgspec.field(default_factory=WaitingStatus)
    cache: CacheStatus | None = None
    prefetch: PrefetchStatus = msgspec.field(default_factory=PrefetchStatus)
    annotations: AnnotationsStatus = msgspec.field(default_factory=AnnotationsStatus)
    formats: list[FormatStatus] = []
    server: dict[str, str] = {}
    """Where this server differs, by trait."""
    rate: RateStatus = msgspec.field(default_factory=RateStatus)
    shared: SharedStatus | None = None
    """None: this node is by itself."""


def to_status(document: Mapping[str, Any]) -> Status:
    """The tree of a parsed status.json. What it lacks, or has in another shape, is the default."""
    status = Status()
    for field in msgspec.structs.fields(Status):
        with suppress(KeyError, UnicodeError, msgspec.ValidationError):
            value = msgspec.convert(document[field.name], field.type)
            setattr(status, field.name, value)

    return status
