"""The body of a download, checked against what the head of the answer promises."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

from pictofs.api.failure import http_date
from pictofs.api.retries import Pace
from pictofs.errors import Invalid, InvalidResponse, PictofsError, ServerFault

_STRONG_TAG = re.compile(r'"[!#-~]*"')
_SETTLED_S = 60.0
"""Age in seconds from which a Last-Modified time identifies a version."""
_PAGES = ("text/html", "application/json")
"""Content types that no image has: a captive portal's page, or an error sent with status 200."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Body:
    """The bytes of one answer, to be received in order.

    Made by `Storage.get` and `Api.image_stream`. `pull` returns the next piece as it comes from the
    wire, b"" at the end, and raises the transport's failures. `failed` is called with every
    failure.
    """

    def __init__(
        self,
        pull: Callable[[], Awaitable[bytes]],
        *,
        start: int = 0,
        length: int | None = None,
        total: int | None = None,
        crc32c: int | None = None,
        etag: str | None = None,
        version: str | None = None,
        ranged: bool = False,
        delimited: bool = True,
        failed: Callable[[PictofsError], None] | None = None,
    ) -> None:
        self._pull = pull
        self._failed = failed
        self._pace = Pace()
        self._received = 0
        self._ended = False
        self.start = start
        """Offset in the object of the first byte."""
        self.length = length
        """Bytes of this body; None if unknown."""
        self.total = total
        """Bytes of the whole object; None if unknown."""
        self.crc32c = crc32c
        """CRC-32C of the whole object; None for a partial answer or if unsent."""
        self.etag = etag
        """The strong entity tag with its quotes, as `if_range` takes it; None if unsent or weak."""
        self.version = version
        """Identifies this version of the object: equal versions mean equal bytes.

        None if the server sends nothing that does. A weak tag or the length is not enough.
        """
        self.delimited = delimited
        """Whether the server marks the end, by a length or a last chunk.

        If False, a broken transfer can't be told from the end.
        """
        self.ranged = ranged
        """True: this is the requested range (206). False: this is the whole object (200)."""

    async def receive(self) -> bytes:
        """The next piece, b"" at the end.

        Raises:
            ServerFault: the body ended early, or the connection broke.
            TimedOut: nothing came for too long, or too few bytes a second.
            InvalidResponse: the body is longer than announced, or its framing is broken.
        """
        try:
            return await self._receive()
        except PictofsError as error:
            if self._failed is not None:
                self._failed(error)
            raise

    async def _receive(self) -> bytes:
        if self._ended:
            return b""

        asked_at = trio.current_time()
        piece = await self._pull()
        waited = trio.current_time() - asked_at
        self._received += len(piece)

        if not piece:
            self._ended = True
            if self.length is not None and self._received < self.length:
                raise ServerFault(
                    f"the transfer ended after {self._received} of {self.length} bytes"
                )
        elif self.length is not None and self._received > self.length:
            raise InvalidResponse(
                f"the server sent more than the {self.length} bytes that it announced"
            )
        elif self._received != self.length:
            # Only an unfinished body can be too slow.
            self._pace.came(len(piece), waited)

        return piece


def range_headers(start: int, end: int | None, if_range: str | None) -> dict[str, str]:
    """The request headers for the bytes from `start` up to but not including `end`.

    `end` None: to the end of the object. Empty for the whole object. Raises `Invalid` for an empty
    range.
    """
    if start < 0 or (end is not None and end <= start):
        raise Invalid(f"no byte lies between {start} and {end}")
    if start == 0 and end is None:
        return {}

    last = "" if end is None else end - 1
    headers = {"Range": f"bytes={start}-{last}"}
    if if_range is not None:
        if not _STRONG_TAG.fullmatch(if_range):
            raise Invalid("If-Range takes a strong entity tag with its quotes")
        headers["If-Range"] = if_range

    return headers


def described(
    status: int,
    headers: Mapping[str, str],
    pull: Callable[[], Awaitable[bytes]],
    failed: Callable[[PictofsError], None],
    *,
    start: int,
    end: int | None,
) -> Body:
    """The body of a 200 or 206 answer to a request for the bytes from `start` up to `end`.

    `headers` have lower-case names; repeated ones are joined by commas. Raises `InvalidResponse` if
    the head contradicts itself or the request.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise InvalidResponse("the server sent compressed bytes where plain ones were asked for")
    if headers.get("content-type", "").strip().lower().startswith(_PAGES):
        raise InvalidResponse("a page came in place of the bytes that were asked for")

    length = _content_length(headers.get("content-length"))
    etag = headers.get("etag")
    # A weak tag does not promise equal bytes.
    if etag is not None and not _STRONG_TAG.fullmatch(etag):
        etag = None

    version = _version(headers, etag)

    first = 0
    total = length
    crc32c = None
    if status == 200:
        # A server may ignore the range and send the whole object.
        crc32c = _crc32c(headers)
    elif status == 206 and (start > 0 or end is not None):
        first, last, total = _content_range(headers.get("content-range", ""))
        size = last - first + 1
        if first != start or (end is not None and last >= end) or length not in (None, size):
            raise InvalidResponse(
                f"the server sent another range than the one from {start} to {end} "
                "that was asked for"
            )

        length = size
    else:
        raise InvalidResponse(f"the server answered {status} to a request for the whole object")

    return Body(
        pull,
        start=first,
        length=length,
        total=total,
        crc32c=crc32c,
        etag=etag,
        version=version,
        ranged=status == 206,
        delimited=length is not None or "transfer-encoding" in headers,
        failed=failed,
    )


def _version(headers: Mapping[str, str], etag: str | None) -> str | None:
    """The object's version: its strong tag, Google's generation number or its time of change.

    None if there is no such header, or the change is too recent.
    """
    if etag is not None:
        return f"etag {etag}"
    if generation := headers.get("x-goog-generation", "").strip():
        return f"generation {generation}"

    changed = http_date(headers.get("last-modified"))
    now = http_date(headers.get("date"))
    # The time is in whole seconds, so it does not identify a version that was changed a moment ago
    # (RFC 9110, 8.8.2.2). A minute allows for different clocks where it is stored and answered.
    if changed is not None and now is not None and now - changed >= _SETTLED_S:
        return f"modified {changed}"

    return None


def _content_length(value: str | None) -> int | None:
    if value is None:
        return None

    value = value.strip()
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise InvalidResponse("the server sent a Content-Length that is no length")

    return int(value)


def _content_range(value: str) -> tuple[int, int, int | None]:
    """First and last offset, and the object's size (None if not stated)."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        raise InvalidResponse("the server sent a part without saying which (Content-Range)")

    first = int(match[1])
    last = int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        raise InvalidResponse("the server sent an impossible Content-Range")

    return first, last, total


def _crc32c(headers: Mapping[str, str]) -> int | None:
    """CRC-32C from `x-goog-hash: crc32c=...,md5=...` (base64), None if unsent."""
    # An object that is stored compressed has the hash of the compressed bytes, not of those sent.
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return None

    digest = b""
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "crc32c":
            with suppress(ValueError):
                digest = base64.b64decode(value, validate=True)

    return int.from_bytes(digest, "big") if len(digest) == 4 else None
