"""Where the vendor's behaviour is unknown or varies by plan: one switch each, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What a change may be, as far as `Dataset.updated_at` is concerned.
Change = Literal["dataset", "images", "metadata", "annotations"]


@dataclass(slots=True)
class Switches:
    """How this stand-in behaves. Every field may be changed while it runs.

    The defaults are the pessimistic reading of each open question, so that a client which is right
    against them is right against the kinder readings too.
    """

    #: Seconds slept before each answer, by host.
    api_latency: float = 0.0
    storage_latency: float = 0.0
    #: Whether image bytes of a frozen dataset can be read; refusals are 409 `dataset_cold` at the API host.
    cold_reads: bool = False
    #: The changes that move `Dataset.updated_at`. Saving annotations does not, by default.
    updated_at_bumps: frozenset[Change] = frozenset({"dataset", "images", "metadata"})
    #: The body of `GET /annotations/{image_id}/file`: the export wrapper, the bare shape of
    #: `GET /annotations/{dataset}/{path}`, or the wrapper inside `{"data": ...}`.
    annotation_file: Literal["export", "bare", "enveloped"] = "export"
    #: Whether `GET /images/{dataset}/{path}` honours `Range`. Off: a whole 200, since nothing documents it.
    api_range: bool = False
    #: Whether the storage host honours `Range` (Google's does).
    storage_range: bool = True
    #: What a `limit` over the route's cap does.
    over_cap: Literal["refuse", "clamp"] = "refuse"
    #: Whether API answers carry `X-RateLimit-*`.
    rate_headers: bool = True
    #: Whether API answers carry `Date`, to the second, by the stand-in's clock, as every web server sends it.
    date_header: bool = True
    #: Requests per sliding hour for the organization; None never refuses.
    hourly_limit: int | None = None
    #: Seconds for which a signed URL is good.
    url_lifetime: int = 900
    #: The status of an expired signature: 403, or 400 as some of Google's answers have it.
    expired_status: int = 403
    #: Whether storage answers carry `x-goog-hash: crc32c=...`, and whether the MD5 rides along.
    hash_header: bool = True
    md5_header: bool = False
    #: The status for a (directory, filename) that exists already: 409, or 400 with the same words.
    duplicate_status: Literal[409, 400] = 409
    #: How many times an export reads as unfinished before it is complete.
    export_polls: int = 1
    #: How many times a dataset reads as freezing or restoring before it is idle.
    storage_polls: int = 1
