"""Decodes JSON bodies into `pictofs.model` records. The wire's spellings stop here.

Both generations of the API are read: `{"data": ..., "pagination": ...}` and the older envelopes
with a key per resource (`{"images": [...]}`), in both spellings of a field. A value of the wrong
type counts as absent. A row without an id or a name is skipped, counted and logged; the other rows
are kept.

Decoding a page of 10,000 rows takes about 40 ms. What msgspec refuses (a lone surrogate, broken
UTF-8, a row that is not an object, a number out of range) is decoded by the standard library, which
takes twice as long and is more forgiving. A value nested too deeply for either is cut out of the
text first.

Every result fits the catalog and the kernel: whole numbers of at most 53 bits, and text of bounded
length without lone surrogates (except in names, which have an escape for them).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard, TypeVar

import msgspec

from pictofs.api.url_expiry import UrlExpiry
from pictofs.errors import InvalidResponse
from pictofs.model.moment import time_ns
from pictofs.model.names import bounded, storable
from pictofs.model.records import (
    Dataset,
    Directory,
    Export,
    Image,
    Page,
    SignedUrl,
    canonical_directory,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

COUNT_MAX = 2**53
"""A larger count is absurd, and no JSON number carries it exactly."""
SIZE_MAX_BYTES = 2**40
"""Bytes of one file: a tebibyte. A larger size counts as unknown."""
ANNOTATIONS_MAX = 2**24
"""Annotations of one image. The size shown for an unread annotation file grows with each."""
PIXELS_MAX = 2**31
WORD_MAX = 255
"""Characters of an id, a status and the like. A longer one counts as absent."""
TAGS_MAX = 1000
"""Tags of one image, and characters of one tag. Tags beyond that are left out."""
TEXT_MAX = 1 << 20
"""Characters of a text in a dataset's object, such as its readme. A longer one counts as absent."""
URL_MAX = 16_384
DEPTH_MAX = 256
"""Levels of nesting in an answer. A deeper value counts as absent. Python allows 1,000 frames."""
RAW_DEPTH_MAX = 32
"""Levels of nesting in a dataset's object, which normally has three."""
DIGITS_MAX = 400
"""Digits of a whole number; Python refuses from 4,300 on."""
TREE_MAX = 1 << 27
"""Characters in all paths of a directory tree. A long chain of directories repeats its names."""


class _ImageRow(msgspec.Struct):
    """An image as sent. `Any` keeps one odd value from failing the page; `_image` judges each."""

    id: Any = None
    filename: Any = None
    dataset_id: Any = None
    directory_path: Any = msgspec.UNSET
    virtual_folder_path: Any = msgspec.UNSET
    folder_path: Any = msgspec.UNSET
    status: Any = None
    split: Any = None
    annotation_count: Any = None
    min_confidence: Any = None
    file_size: Any = msgspec.UNSET
    width: Any = None
    height: Any = None
    content_type: Any = None
    mime_type: Any = None
    tags: Any = None
    is_archived: Any = None
    created_at: Any = None


class _ItemRow(msgspec.Struct):
    """A row of a batch download listing."""

    id: Any = None
    image_url: Any = None


def datasets(body: bytes) -> Page[Dataset]:
    """The rows of `GET /datasets/`. Raises `InvalidResponse`."""
    payload, envelope = _unwrap(body, "datasets")
    rows, received = _rows(payload, dict)
    return _page(_parse_rows("dataset", rows, received, _dataset), received, envelope)


def dataset(body: bytes) -> Dataset:
    """The row of `GET /datasets/{dataset}` and of calls that change a dataset.

    Raises `InvalidResponse`.
    """
    payload, _ = _unwrap(body, "dataset", "project")
    row = _dataset(_as(payload, dict))
    if row is None:
        raise InvalidResponse("the API sent a dataset without id or name")

    return row


def dataset_images(body: bytes) -> tuple[Dataset, Page[Image] | None]:
    """A dataset and its embedded listing (`include_images=true`), None if the answer has none.

    Raises `InvalidResponse`.
    """
    payload, _ = _unwrap(body, "dataset")
    fields = _fields(payload)
    embedded = fields.pop("images", None)
    row = _dataset({name: _value(value) for name, value in fields.items()})
    if row is None:
        raise InvalidResponse("the API sent a dataset without id or name")

    total = row.image_count if "image_count" in fields else None
    if embedded is None or embedded == msgspec.Raw(b"null"):
        # A server that counts no images may leave the list out: that is an empty listing.
        if total == 0:
            return row, Page(rows=[], received=0, total=0)
        return row, None

    rows, received = _rows(embedded, _ImageRow)
    page = Page(
        rows=_images(rows, received), received=received, total=total, summary=_is_summary(rows)
    )
    return row, page


def images(body: bytes) -> Page[Image]:
    """The rows of `GET /images/`. Raises `InvalidResponse`."""
    payload, envelope = _unwrap(body, "images")
    rows, received = _rows(payload, _ImageRow)
    return _page(_images(rows, received), received, envelope, summary=_is_summary(rows))


def image(body: bytes) -> Image:
    """The row of `GET /images/{image}/metadata`. Raises `InvalidResponse`."""
    payload, _ = _unwrap(body, "image")
    rows = _images([_as(payload, _ImageRow)], 1)
    if not rows:
        raise InvalidResponse("the API sent an image without id or filename")

    return rows[0]


def directories(body: bytes) -> list[Directory]:
    """The nested answer of `GET /directories/{dataset}/tree`, flattened, parents first.

    Raises `InvalidResponse`.
    """
    document = _lenient(body)
    if isinstance(document, dict):
        document = document.get("data", document.get("directories", document.get("folders")))

    if not isinstance(document, list):
        raise InvalidResponse("the API sent a directory tree that is not a list")

    found: dict[str, Directory] = {}
    bad = size = 0

    # The walk ends: the parser bounds the depth, and a known path is not walked again.
    pending = [("/", node) for node in reversed(document)]
    while pending:
        parent, node = pending.pop()
        path = _directory_path(parent, node)
        if path is None or size + len(path) > TREE_MAX:
            bad += 1
            continue

        if path in found:
            continue

        size += len(path)
        if path != "/":
            found[path] = Directory(
                path=path, id=_text(node.get("id")), image_count=_count(node.get("image_count"))
            )

        # Reversed, so that they are popped in the server's order.
        children = node.get("children")
        if isinstance(children, list):
            pending.extend((path, child) for child in reversed(children))

    _report("directory", bad, len(found) + bad)
    return list(found.values())


def signed_urls(body: bytes, signing: UrlExpiry) -> list[SignedUrl]:
    """The items of `GET /datasets/{dataset}/download?mode=images_only` that have a URL.

    Raises `InvalidResponse`.
    """
    payload, envelope = _unwrap(body, "items", "dataset")
    if "items" not in envelope:
        envelope = _fields(payload)

    rows, received = _rows(envelope.get("items"), _ItemRow)

    def item(row: _ItemRow) -> SignedUrl | None:
        if not _is_id(row.id):
            return None
        url = ""
        if isinstance(row.image_url, str) and len(row.image_url) <= URL_MAX:
            url = row.image_url

        return SignedUrl(image_id=row.id, url=url, expires_at=signing.expires_at(url))

    # An item without a URL is not malformed: it just can't be fetched this way.
    return [row for row in _parse_rows("download item", rows, received, item) if row.url]


def export(body: bytes) -> Export:
    """The row of `GET /exports/{export}` and of its creation. Raises `InvalidResponse`."""
    payload, _ = _unwrap(body, "export")
    row = _export(_as(payload, dict))
    if row is None:
        raise InvalidResponse("the API sent an export without name or status")

    return row


def exports(body: bytes) -> Page[Export]:
    """The rows of `GET /exports/`. Raises `InvalidResponse`."""
    payload, envelope = _unwrap(body, "exports")
    rows, received = _rows(payload, dict)
    return _page(_parse_rows("export", rows, received, _export), received, envelope)


def _export(row: dict[str, Any]) -> Export | None:
    name = _word(row.get("name"))
    status = _text(row.get("status"))
    if not name or not status:
        return None

    return Export(
        name=bounded(name),
        status=status,
        error_message=_text(row.get("error_message"), TEXT_MAX),
        file_size=_count(row.get("file_size")),
        image_count=_count(row.get("image_count")),
        dataset_id=_word(row.get("dataset_id")) or _word(row.get("project_id")),
        dataset_name=_word(row.get("dataset_name")),
        format=_word(row.get("format")),
        # A value that can't be understood counts as true, so that the export is not used.
        include_images=row.get("include_images") not in (None, False),
        filtered=bool(row.get("class_filter") or row.get("status_filter")),
        created_ns=time_ns(row.get("created_at")),
        id=_text(row.get("id")),
        annotation_count=_count(row.get("annotation_count")),
        # Who has the signed URL needs no key.
        raw={field: _plain(value) for field, value in row.items() if field != "download_url"},
    )


def download_url(body: bytes) -> str:
    """The signed URL of `GET /exports/{export}/download`. Raises `InvalidResponse`."""
    payload, envelope = _unwrap(body, "download_url")
    row = envelope if "download_url" in envelope else _fields(payload)
    url = _value(row.get("download_url"))
    if not isinstance(url, str) or not 0 < len(url) <= URL_MAX:
        raise InvalidResponse("the API sent no download URL")

    return url


def annotation_file(body: bytes) -> bytes:
    """What the vendor's SDK writes to disk for the body of `GET /annotations/{image}/file`.

    Raises `InvalidResponse`.
    """
    return annotation_text(annotation_document(body))


def annotation_document(body: bytes) -> dict[str, Any]:
    """The object of an annotation file, as the API or an export archive sends it.

    Raises `InvalidResponse`.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidResponse("the API sent an annotation file that is not JSON") from error

    if not isinstance(document, dict):
        raise InvalidResponse("the API sent an annotation file that is not an object")

    return document


def annotation_text(document: dict[str, Any]) -> bytes:
    """An annotation file's bytes, as the vendor's SDK writes them (`json.dump` with `indent=2`).

    They are ASCII-escaped, in the server's order, without a final newline. Raises
    `InvalidResponse`.
    """
    try:
        text = json.dumps(document).encode("ascii")

        # Twice as fast as `json.dumps` with `indent`, which does not use json's C encoder.
        try:
            return msgspec.json.format(text, indent=2)
        except msgspec.DecodeError:  # NaN or a lone surrogate, which only Python takes
            return json.dumps(document, indent=2).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise InvalidResponse("the API sent an annotation file that can't be written") from error


def _images(rows: Iterable[_ImageRow], received: int) -> list[Image]:
    directories: dict[str, str] = {}  # a page names a few directories many times

    def record(row: _ImageRow) -> Image | None:
        if not _is_id(row.id) or type(row.filename) is not str:
            return None

        path = (
            _word(row.directory_path)
            or _word(row.virtual_folder_path)
            or _word(row.folder_path)
            or "/"
        )
        directory = directories.get(path)
        if directory is None:
            directory = directories[path] = canonical_directory(path)

        return Image(
            id=row.id,
            dataset_id=_text(row.dataset_id),
            filename=bounded(row.filename),
            directory=directory,
            status=_text(row.status) or "new",
            split=_text(row.split),
            annotation_count=_count(row.annotation_count, ANNOTATIONS_MAX),
            min_confidence=_confidence(row.min_confidence),
            size=_count(row.file_size, SIZE_MAX_BYTES),
            width=_count(row.width, PIXELS_MAX) or None,
            height=_count(row.height, PIXELS_MAX) or None,
            content_type=_text(row.content_type) or _text(row.mime_type),
            tags=_tags(row.tags) if row.tags else (),
            is_archived=row.is_archived is True,
            created_ns=time_ns(row.created_at),
        )

    return _parse_rows("image", rows, received, record)


def _is_summary(rows: Sequence[_ImageRow]) -> bool:
    """Whether all rows lack the directory, or all lack the size. Null does not count as lacking."""

    def lack(*names: str) -> bool:
        return all(getattr(row, name) is msgspec.UNSET for row in rows for name in names)

    return bool(rows) and (
        lack("directory_path", "virtual_folder_path", "folder_path") or lack("file_size")
    )


def _dataset(row: dict[str, Any]) -> Dataset | None:
    identity = row.get("id")
    name = row.get("name")
    if not _is_id(identity) or type(name) is not str:
        return None

    archived = row.get("archived_image_count", row.get("archived_images"))
    raw = {field: _plain(value) for field, value in row.items() if field != "images"}
    raw["name"] = bounded(name)
    return Dataset(
        id=identity,
        name=bounded(name),
        description=_text(row.get("description"), TEXT_MAX),
        image_count=_count(row.get("image_count")),
        completed_image_count=_count(row.get("completed_image_count")),
        archived_image_count=_count(archived),
        total_size=_count(row.get("total_size")),
        storage_class=_text(row.get("storage_class")) or "standard",
        is_archived=row.get("is_archived") is True,
        created_ns=time_ns(row.get("created_at")),
        updated_at=_text(row.get("updated_at")),
        raw=raw,
    )


def _directory_path(parent: str, node: Any) -> str | None:
    if type(node) is not dict:
        return None

    path = _word(node.get("full_path")) or _word(node.get("directory_path"))
    if path:
        return canonical_directory(path)

    name = _word(node.get("name"))
    return canonical_directory(f"{parent}/{name}") if name else None


def _word(value: Any) -> str | None:
    """A non-empty string, or None."""
    return value if type(value) is str and value else None


def _is_id(value: Any) -> TypeGuard[str]:
    """Whether `value` can be an id."""
    return type(value) is str and 0 < len(value) <= WORD_MAX


def _text(value: Any, most: int = WORD_MAX) -> str | None:
    """A text of 1 to `most` characters, made storable, or None."""
    if type(value) is str and 0 < len(value) <= most:
        return storable(value)
    return None


def _tags(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        return ()
    tags = [tag for tag in value[:TAGS_MAX] if type(tag) is str and len(tag) <= TAGS_MAX]
    return tuple(map(storable, tags))


def _count(value: Any, most: int = COUNT_MAX) -> int:
    """A whole number of 0 to `most`, or 0."""
    # Not `isinstance`, which takes True for 1.
    return value if type(value) is int and 0 <= value <= most else 0


def _confidence(value: Any) -> float | None:
    # A whole number can be too large for a float. No confidence is anywhere near that.
    if type(value) in (int, float) and -COUNT_MAX < value < COUNT_MAX:
        return float(value)
    return None


def _plain(value: Any, depth: int = 1) -> Any:
    """`value` as every JSON reader takes it, with None in place of what is absurd."""
    kind = type(value)
    if kind is str:
        return value if len(value) <= TEXT_MAX else None
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is int:
        return value if value.bit_length() <= 1024 else None

    if kind is list or kind is dict:
        if depth == RAW_DEPTH_MAX:
            return None
        if kind is list:
            return [_plain(each, depth + 1) for each in value]

        return {name: _plain(each, depth + 1) for name, each in value.items()}

    return value


def _page(
    rows: list[T], received: int, envelope: dict[str, Any], *, summary: bool = False
) -> Page[T]:
    """A page of `rows` with the paging facts of its envelope, in either generation."""
    facts = _value(envelope.get("pagination"))
    if type(facts) is not dict:
        facts = {name: _value(envelope.get(name)) for name in ("total", "has_more")}

    total = facts.get("total")
    has_more = facts.get("has_more")
    is_count = type(total) is int and 0 <= total <= COUNT_MAX
    return Page(
        rows=rows,
        received=received,
        total=total if is_count else None,
        has_more=has_more if type(has_more) is bool else None,
        summary=summary,
    )


def _parse_rows(
    noun: str, rows: Iterable[Any], received: int, record: Callable[[Any], T | None]
) -> list[T]:
    """The records of the well-formed rows. Logs one warning for all malformed ones."""
    kept = [made for made in map(record, rows) if made is not None]
    _report(noun, received - len(kept), received)
    return kept


def _report(noun: str, bad: int, received: int) -> None:
    if bad:
        _log.warning("skipped %d malformed %s rows of %d that the API sent", bad, noun, received)


def _unwrap(body: bytes, *keys: str) -> tuple[Any, dict[str, Any]]:
    """The payload of an envelope, under `data` or one of `keys`, and the envelope itself.

    Both are left undecoded where possible. A bare payload is its own envelope.
    """
    envelope: Any
    try:
        envelope = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        envelope = _lenient(body)

    if not isinstance(envelope, dict):
        return envelope, {}

    for key in ("data", *keys):
        if key in envelope:
            return envelope[key], envelope

    return envelope, envelope


def _rows(payload: Any, kind: type[T]) -> tuple[list[T], int]:
    """The rows of a list as `kind`, and how many were sent.

    Raises `InvalidResponse` if it is not a list.
    """
    try:
        if isinstance(payload, msgspec.Raw):
            rows = msgspec.json.decode(payload, type=list[kind])  # type: ignore[valid-type]
            return rows, len(rows)
    except (ValueError, RecursionError):
        payload = _lenient(bytes(payload))

    if not isinstance(payload, list):
        raise InvalidResponse("the API sent something else where a list of rows is due")

    objects = [_to_struct(row, kind) for row in payload if isinstance(row, dict)]
    return objects, len(payload)


def _as(value: Any, kind: type[T]) -> T:
    """One object, decoded already or not, as `kind`. Raises `InvalidResponse`."""
    if isinstance(value, msgspec.Raw):
        try:
            return msgspec.json.decode(value, type=kind)
        except (ValueError, RecursionError):
            value = _lenient(bytes(value))

    if not isinstance(value, dict):
        raise InvalidResponse("the API sent something else where an object is due")

    return _to_struct(value, kind)


def _to_struct(row: dict[str, Any], kind: type[T]) -> T:
    """A decoded object as `kind`. `msgspec.convert` does not take a key with a lone surrogate."""
    if kind is dict:
        return row  # type: ignore[return-value]
    fields = kind.__struct_fields__  # type: ignore[attr-defined]
    return kind(**{name: row[name] for name in fields if name in row})


def _value(value: Any) -> Any:
    """A value of any type, decoded. Raises `InvalidResponse`."""
    if not isinstance(value, msgspec.Raw):
        return value

    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return _lenient(bytes(value))


def _fields(payload: Any) -> dict[str, Any]:
    """The fields of an object, undecoded where possible. Raises `InvalidResponse`."""
    if isinstance(payload, msgspec.Raw):
        try:
            return msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        except (ValueError, RecursionError):
            payload = _lenient(bytes(payload))

    if not isinstance(payload, dict):
        raise InvalidResponse("the API sent something else where an object is due")

    return payload


def _lenient(body: bytes) -> Any:
    """`body` decoded by the standard library, whatever bytes its strings and numbers hold.

    Raises `InvalidResponse`.
    """
    text = body.decode("utf-8", "surrogateescape")

    try:
        try:
            return _loads(text)
        except RecursionError:
            return _loads(_shallow(text))
    except (ValueError, RecursionError) as error:
        raise InvalidResponse("the API sent an answer that is not JSON") from error


def _loads(text: str) -> Any:
    return json.loads(
        text, strict=False, parse_int=_whole, parse_float=_finite, parse_constant=lambda _: None
    )


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= DIGITS_MAX else None


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


# Strings are matched in order to skip them. An unterminated one extends to the end of the text, so
# that no character is looked at twice.
_MARKS = re.compile(r'"(?>[^"\\]+|\\.)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


def _shallow(text: str) -> str:
    """JSON text with `null` in place of what is nested deeper than DEPTH_MAX."""
    kept: list[str] = []
    depth = start = 0
    for mark in _MARKS.finditer(text):
        char = text[mark.start()]
        if char in "[{":
            depth += 1
            if depth == DEPTH_MAX + 1:
                kept += [text[start : mark.start()], "null"]
        elif char in "]}":
            if depth == DEPTH_MAX + 1:
                start = mark.end()
            depth -= 1

    return "".join([*kept, text[start:] if depth <= DEPTH_MAX else ""])
