"""Maps an error answer to one of `pictofs.errors` (the Pictograph API contract, section 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import msgspec

from pictofs.api.key import ApiKey
from pictofs.errors import (
    AUTHENTICATION,
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    NotSupported,
    PictofsError,
    QuotaExceeded,
    ServerFault,
    Throttled,
    TimedOut,
    Unauthorized,
)

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
RETRY_AFTER_MAX_S = 3600.0
"""Seconds: the rate limit's window. A longer Retry-After is cut to this."""
CHECK_NETWORK = "check the network, the proxy (HTTPS_PROXY, NO_PROXY) and --base-url"
MESSAGE_MAX = 200
"""Characters of a server's message that are shown."""

LIST_OF_DATASETS = "GET /datasets/"
_NEW_KEY = "make a new key on the platform's page on API keys, and put it there"
_BY_STATUS: dict[int, tuple[type[PictofsError], str]] = {
    400: (Invalid, "the request was refused"),
    401: (Unauthorized, "the API key was refused"),
    402: (QuotaExceeded, "the plan's credits or limits are used up"),
    403: (Forbidden, "the API key's role does not allow this"),
    404: (NoSuchEntry, "there is no such item, or the API key may not see it"),
    405: (NotSupported, "the server has no such operation"),
    408: (TimedOut, "the server gave up waiting"),
    409: (Conflict, "the item's state forbids this now"),
    410: (NoSuchEntry, "the item is gone"),
    413: (Invalid, "the request is too large"),
    422: (Invalid, "the request was refused"),
    423: (Conflict, "the item is locked"),
    429: (Throttled, "the rate limit is spent"),
}
_HINTS: dict[type[PictofsError], str] = {
    Unauthorized: "make a new key on the platform's page on API keys",
    Forbidden: "use a key with a higher role",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_DUPLICATE = re.compile(r"already (exists|taken|in use)|duplicate", re.IGNORECASE)


def clean(text: str) -> str:
    """A server's message as one printable line of at most MESSAGE_MAX characters."""
    # Cut first: a body may be large.
    line = " ".join(_CONTROL.sub(" ", text[: MESSAGE_MAX * 8]).split())
    if len(line) <= MESSAGE_MAX:
        return line
    return line[: MESSAGE_MAX - 3] + "..."


# All answers of a second have the same Date, of which each is asked twice: 8 us.
@lru_cache(maxsize=16)
def http_date(value: str | None) -> float | None:
    """Unix seconds of an HTTP-date; None if it is missing or malformed."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After`, a number or an HTTP-date, asks for; None if unsent.

    `now`: wall-clock seconds.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), RETRY_AFTER_MAX_S)

    until = http_date(value)
    if until is None:
        return None

    return min(max(0.0, until - now), RETRY_AFTER_MAX_S)


def api_failure(
    call: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    host: str,
    item: str,
    api_key: ApiKey,
    now: float,
) -> PictofsError:
    """The error for an answer that is not 2xx.

    `call` names the request, such as `GET /datasets/`, and `item` what it is about (`item_of`).
    `now`: wall-clock seconds.
    """
    code, words = _server_words(body)
    kind, meaning, hint = _kind(call, status, code, words)
    if kind is Unauthorized:
        source = f" from {api_key.source}" if api_key.source else ""
        meaning = f"{host} refused the API key{source}"
        hint = _NEW_KEY if source else hint
    elif status == 404 and call == LIST_OF_DATASETS:
        meaning = f"there is no Pictograph API at {host}"
        hint = "check --base-url, or PICTOGRAPH_BASE_URL"
    elif kind is AlreadyExists and "/datasets/" in call:
        meaning = "a dataset of that name exists"
        hint = "take another name, or change that one by `pictofs dataset update`"
    elif kind is NoSuchEntry and item:
        meaning = meaning.replace("such item", item).replace("the item", item)
        if item.startswith("dataset "):
            hint = "`pictofs dataset list` shows the names"
    elif 300 <= status < 400:
        place = clean(api_key.scrub(headers.get("location", "")))
        meaning = f"{host} redirects to {place or 'nowhere'}, which no API does"
        hint = _portal_hint(place)
    elif status == 511:
        kind = InvalidResponse
        meaning = f"the network asks for a login before it lets {host} through"
        hint = _portal_hint("")
    # These are remembered, and raised for other items, too (`RequestStats.refused`).
    elif item and kind not in (Unauthorized, QuotaExceeded, Throttled):
        meaning = f"{item}: {meaning}"

    parts = [f"{meaning} (HTTP {status})"]
    if words:
        parts.append(f'the server says "{clean(api_key.scrub(words))}"')

    if request_id := clean(api_key.scrub(headers.get("x-request-id", "")))[:80]:
        parts.append(f"request id {request_id}")

    message = "; ".join(parts)
    if kind is Throttled:
        return Throttled(message, retry_after(headers, now))

    failure = kind(message, hint=hint)
    if kind is Forbidden:
        failure.docs = AUTHENTICATION
    return failure


def web_page(url: str) -> InvalidResponse:
    """The error for a page of HTML that came from `url` where JSON is due."""
    return InvalidResponse(
        f"{url} answers with a web page (HTML) in place of JSON", hint=_portal_hint(url)
    )


def _portal_hint(url: str) -> str:
    return (
        f"a login page of this network may stand in between: open {url or 'any page'} in a "
        "browser; or check --base-url"
    )


def _kind(call: str, status: int, code: str, words: str) -> tuple[type[PictofsError], str, str]:
    """The class, the meaning and the hint of a status."""
    if status == 409 and code == "dataset_cold":
        return Conflict, "the dataset is in cold storage", "restore it first"
    # Depending on the route, a duplicate name is a 409, or a 400 whose message says so.
    if status in (400, 409) and code != "dataset_cold" and _DUPLICATE.search(words):
        return AlreadyExists, "an item of that name exists", ""
    if status == 409 and call.startswith(("POST", "PATCH")):
        return AlreadyExists, "an item of that name exists", ""
    if status >= 500:
        return ServerFault, "the server failed", "try again later"

    kind, meaning = _BY_STATUS.get(status, (InvalidResponse, "an answer outside the contract"))
    return kind, meaning, _HINTS.get(kind, "")


def _server_words(body: bytes) -> tuple[str, str]:
    """The code and the message of an error body, in any of the SDK's shapes; "" if absent.

    A body that is not JSON (a proxy's HTML page) has no message worth showing.
    """
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return "", ""

    if not isinstance(document, dict):
        return "", ""

    error = document.get("error")
    if isinstance(error, dict):
        code = _text(error.get("code"))
        words = _text(error.get("message"))
        details = error.get("details")
        fields = details.get("errors") if isinstance(details, dict) else None
        return code, words + _field_words(fields)

    detail = document.get("detail")
    if isinstance(detail, dict):
        return _text(detail.get("code")), _text(detail.get("message"))
    if isinstance(detail, list):
        return "", _field_words(detail)

    return _text(error), _text(document.get("message")) or _text(detail) or _text(error)


def _field_words(fields: Any) -> str:
    """A list of validation errors in words, such as ` (limit: must be at most 1000)`."""
    if not isinstance(fields, list):
        return ""

    texts = []
    for field in fields[:3]:
        if isinstance(field, dict):
            place = field.get("loc")
            where = "request"
            if isinstance(place, list) and place:
                where = str(place[-1])

            texts.append(f"{where}: {_text(field.get('msg'))}")

    return f" ({', '.join(texts)})" if texts else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
