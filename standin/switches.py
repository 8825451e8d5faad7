"""Where the vendor's behaviour is unknown or varies by plan: one switch each, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The kinds of changes that may move `Dataset.updated_at`.
Change = Literal["dataset", "images", "metadata", "annotations"]
#: How a client learns where image bytes end: by Content-Length, by the last chunk, or by the end of
#: the connection.
Framing = Literal["length", "chunked", "close"]
#: The headers by which one version of an object is told from another.
Validator = Literal["etag", "weak-etag", "generation", "modified"]


@dataclass(slots=True)
class Switches:
    """How this stand-in behaves. Every field may be changed while it runs.

    The defaults are the pessimistic reading of each open question, so that a client which is right
    against them is right against the kinder readings too.
    """

    #: Seconds slept before each answer, by host.
    api_latency: float = 0.0
    storage_latency: float = 0.0
    #: Whether image bytes of a frozen dataset can be read. The API host refuses with 409
    #: `dataset_cold`.
    cold_reads: bool = False
    #: The changes that move `Dataset.updated_at`. By default, saving annotations does not.
    updated_at_bumps: frozenset[Change] = frozenset({"dataset", "images", "metadata"})
    #: The body of `GET /annotations/{image_id}/file`: the export wrapper, the bare shape of
    #: `GET /annotations/{dataset}/{path}`, or the wrapper inside `{"data": ...}`.
    annotation_file: Literal["export", "bare", "enveloped"] = "export"
    #: Whether `GET /images/{dataset}/{path}` honours `Range`, which nothing documents. If not, it
    #: answers 200 with all bytes.
    api_range: bool = False
    #: Whether the storage host honours `Range` (Google's does).
    storage_range: bool = True
    #: How image bytes are framed, by host. A transcoding storage or a streaming proxy sends no
    #: Content-Length.
    storage_framing: Framing = "length"
    api_framing: Framing = "length"
    #: The validators that the storage host sends; the API's byte route sends none.
    storage_validators: frozenset[Validator] = frozenset({"etag", "generation", "modified"})
    #: Whether a `limit` over the route's cap is refused (422) or cut down.
    over_cap: Literal["refuse", "clamp"] = "refuse"
    #: Whether API answers carry `X-RateLimit-*`.
    rate_headers: bool = True
    #: Whether API answers carry `Date`, by the stand-in's clock, as those of every web server do.
    date_header: bool = True
    #: Requests per sliding hour for the organization; None never refuses.
    hourly_limit: int | None = None
    #: Seconds for which a signed URL is good.
    url_lifetime: int = 900
    #: The status for an expired signature: 403, or 400 as in some of Google's answers.
    expired_status: int = 403
    #: Whether storage answers carry `x-goog-hash: crc32c=...`, and whether an MD5 comes with it.
    hash_header: bool = True
    md5_header: bool = False
    #: The status for a (directory, filename) that exists already: 409, or 400 with the same words.
    duplicate_status: Literal[409, 400] = 409
    #: Whether `include_images=true` gives full image rows, rows without `directory_path` and
    #: `file_size`, the same page whatever `images_offset` says, or no rows at all.
    embedded_listing: Literal["full", "summary", "first_page", "absent"] = "full"
    #: The rows of `GET /images/`: as in the contract, or without `directory_path` and `file_size`.
    listed_rows: Literal["full", "summary"] = "full"
    #: The status of `GET /images/{image_id}`: 404 and 405 mean that there is no such route.
    bytes_by_id: Literal[200, 404, 405] = 200
    #: The same for `GET /images/{image_id}/metadata`.
    metadata_by_id: Literal[200, 404, 405] = 200
    #: Whether `offset` is ignored: every page of datasets and of `GET /images/` is the first.
    repeating_pages: bool = False
    #: A cap of every page of images below that of the contract; larger limits are cut down to it.
    image_page_cap: int | None = None
    #: Whether a dataset's row has its `readme`, and whether a change may set it (if not, 422).
    readme_read: bool = True
    readme_written: bool = True
    #: How many reads find an export unfinished before it is complete.
    export_polls: int = 1
    #: How many reads find a dataset freezing or restoring before it is idle.
    storage_polls: int = 1
    #: What is wrong with the archives of exports that are finished from now on: a name in
    #: `standin/archives.py` (`HOSTILE`). None: nothing.
    export_archive: str | None = None
