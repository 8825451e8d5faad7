"""From JSON bodies to `pictofs.model` records: the wire's spellings stop here.

Both generations are read: `{"data": ..., "pagination": ...}` and the older envelopes with a key per resource
(`{"images": [...]}`), in both spellings of a field. A value of a wrong type counts as absent; a row without
what makes it a row (id, name) is skipped, counted and logged, and its neighbours are kept.

A page of 10,000 rows takes about 40 ms. What msgspec refuses -- a lone surrogate, broken UTF-8, one row that
is not an object -- goes through the standard library, which takes twice as long and forgives.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from pictofs.api.export import Export
from pictofs.api.signing import Signing
from pictofs.errors import Nonsense
from pictofs.model.moment import time_ns
from pictofs.model.records import Dataset, Directory, Image, Page, SignedUrl, canonical_directory

_log = logging.getLogger(__name__)

T = TypeVar("T")

COUNT_MAX = 2**53
"""A larger size or count is absurd, and no JSON number carries it exactly."""


class _ImageRow(msgspec.Struct):
    """An image as sent. `Any` keeps one odd value from failing the page; `_image` judges each."""

    id: Any = None
    filename: Any = None
    dataset_id: Any = None
    directory_path: Any = None
    virtual_folder_path: Any = None
    folder_path: Any = None
    status: Any = None
    split: Any = None
    annotation_count: Any = None
    min_confidence: Any = None
    file_size: Any = None
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
    """The rows of `GET /datasets/`. Raises `Nonsense`."""
    payload, envelope = _open(body, "datasets")
    rows, received = _rows(payload, dict)
    return _page(_kept("dataset", rows, received, _dataset), received, envelope)


def dataset(body: bytes) -> Dataset:
    """The one row of `GET /datasets/{dataset}` and of the calls that change one. Raises `Nonsense`."""
    payload, _ = _open(body, "dataset", "project")
    row = _dataset(_as(payload, dict))
    if row is None:
        raise Nonsense("the API sent a dataset without id or name")
    return row


def dataset_images(body: bytes) -> tuple[Dataset, Page[Image]]:
    """A dataset with its embedded listing (`include_images=true`). Raises `Nonsense`."""
    payload, _ = _open(body, "dataset")
    fields = _fields(payload)
    embedded = fields.pop("images", None)
    row = _dataset({name: _value(value) for name, value in fields.items()})
    if row is None:
        raise Nonsense("the API sent a dataset without id or name")
    if embedded is None or embedded == msgspec.Raw(b"null"):
        if row.image_count:
            raise Nonsense("the API sent a dataset without the image listing that was asked for")
        return row, Page(rows=[], received=0, total=0)
    rows, received = _rows(embedded, _ImageRow)
    total = row.image_count if "image_count" in fields else None
    return row, Page(rows=_images(rows, received), received=received, total=total)


def images(body: bytes) -> Page[Image]:
    """The rows of `GET /images/`. Raises `Nonsense`."""
    payload, envelope = _open(body, "images")
    rows, received = _rows(payload, _ImageRow)
    return _page(_images(rows, received), received, envelope)


def image(body: bytes) -> Image:
    """The row of `GET /images/{image}/metadata`. Raises `Nonsense`."""
    payload, _ = _open(body, "image")
    rows = _images([_as(payload, _ImageRow)], 1)
    if not rows:
        raise Nonsense("the API sent an image without id or filename")
    return rows[0]


def directories(body: bytes) -> list[Directory]:
    """The nested answer of `GET /directories/{dataset}/tree`, flattened, parents first. Raises `Nonsense`.

    The walk is a loop: the parser bounds the depth, and a path that was seen is not walked again.
    """
    document = _lenient(body)
    if isinstance(document, dict):
        document = document.get("data", document.get("directories", document.get("folders")))
    if not isinstance(document, list):
        raise Nonsense("the API sent a directory tree that is not a list")
    found: dict[str, Directory] = {}
    bad = 0
    pending = [("/", node) for node in reversed(document)]
    while pending:
        parent, node = pending.pop()
        path = _directory_path(parent, node)
        if path is None:
            bad += 1
            continue
        if path in found:
            continue
        if path != "/":
            found[path] = Directory(
                path=path, id=_word(node.get("id")), image_count=_count(node.get("image_count"))
            )
        children = node.get("children")
        if isinstance(children, list):
            pending.extend((path, child) for child in reversed(children))
    _report("directory", bad, len(found) + bad)
    return list(found.values())


def signed_urls(body: bytes, signing: Signing) -> list[SignedUrl]:
    """The items of `GET /datasets/{dataset}/download?mode=images_only` that have a URL. Raises `Nonsense`."""
    payload, envelope = _open(body, "items", "dataset")
    if "items" not in envelope:
        envelope = _fields(payload)
    rows, received = _rows(envelope.get("items"), _ItemRow)

    def item(row: _ItemRow) -> SignedUrl | None:
        if not _word(row.id):
            return None
        url = row.image_url if isinstance(row.image_url, str) else ""
        return SignedUrl(image_id=row.id, url=url, expires_at=signing.expires_at(url))

    # An item without a URL is no fault: it can't be fetched this way, that is all.
    return [row for row in _kept("download item", rows, received, item) if row.url]


def export(body: bytes) -> Export:
    """The row of `GET /exports/{export}` and of its creation. Raises `Nonsense`."""
    payload, _ = _open(body, "export")
    row = _export(_as(payload, dict))
    if row is None:
        raise Nonsense("the API sent an export without name or status")
    return row


def exports(body: bytes) -> Page[Export]:
    """The rows of `GET /exports/`. Raises `Nonsense`."""
    payload, envelope = _open(body, "exports")
    rows, received = _rows(payload, dict)
    return _page(_kept("export", rows, received, _export), received, envelope)


def _export(row: dict[str, Any]) -> Export | None:
    name, status = _word(row.get("name")), _word(row.get("status"))
    if not name or not status:
        return None
    return Export(
        name=name,
        status=status,
        error_message=_word(row.get("error_message")),
        file_size=_count(row.get("file_size")),
        image_count=_count(row.get("image_count")),
        dataset_id=_word(row.get("dataset_id")) or _word(row.get("project_id")),
        dataset_name=_word(row.get("dataset_name")),
        format=_word(row.get("format")),
        # What can't be understood counts as yes: such an export is not used.
        include_images=row.get("include_images") not in (None, False),
        filtered=bool(row.get("class_filter") or row.get("status_filter")),
        created_ns=time_ns(row.get("created_at")),
    )


def download_url(body: bytes) -> str:
    """The signed URL of `GET /exports/{export}/download`. Raises `Nonsense`."""
    payload, envelope = _open(body, "download_url")
    row = envelope if "download_url" in envelope else _fields(payload)
    url = _value(row.get("download_url"))
    if not isinstance(url, str) or not url:
        raise Nonsense("the API sent no download URL")
    return url


def annotation_file(body: bytes) -> bytes:
    """What the vendor's SDK writes to disk for the body of `GET /annotations/{image}/file`. Raises `Nonsense`."""
    return annotation_text(annotation_document(body))


def annotation_document(body: bytes) -> dict[str, Any]:
    """The object of an annotation file, as the API or an export archive sends it. Raises `Nonsense`."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Nonsense("the API sent an annotation file that is not JSON") from error
    if not isinstance(document, dict):
        raise Nonsense("the API sent an annotation file that is not an object")
    return document


def annotation_text(document: dict[str, Any]) -> bytes:
    """An annotation file's bytes: `json.dump(document, file, indent=2)`, as the vendor's SDK makes them.

    That is ASCII-escaped, in the server's order, without a final newline. Raises `Nonsense`.
    """
    try:
        text = json.dumps(document).encode("ascii")
        try:
            return msgspec.json.format(
                text, indent=2
            )  # half the time: `indent` takes json's encoder in Python
        except msgspec.DecodeError:  # NaN, a lone surrogate: Python's own
            return json.dumps(document, indent=2).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise Nonsense("the API sent an annotation file that can't be written") from error


def _images(rows: Iterable[_ImageRow], received: int) -> list[Image]:
    directories: dict[str, str] = {}  # a page names few directories many times

    def record(row: _ImageRow) -> Image | None:
        if type(row.id) is not str or not row.id or type(row.filename) is not str:
            return None
        path = _word(row.directory_path) or _word(row.virtual_folder_path) or _word(row.folder_path) or "/"
        directory = directories.get(path)
        if directory is None:
            directory = directories[path] = canonical_directory(path)
        return Image(
            id=row.id,
            dataset_id=_word(row.dataset_id),
            filename=row.filename,
            directory=directory,
            status=_word(row.status) or "new",
            split=_word(row.split),
            annotation_count=_count(row.annotation_count),
            min_confidence=_confidence(row.min_confidence),
            size=_count(row.file_size),
            width=_count(row.width) or None,
            height=_count(row.height) or None,
            content_type=_word(row.content_type) or _word(row.mime_type),
            tags=tuple(tag for tag in row.tags if type(tag) is str) if type(row.tags) is list else (),
            is_archived=row.is_archived is True,
            created_ns=time_ns(row.created_at),
        )

    return _kept("image", rows, received, record)


def _dataset(row: dict[str, Any]) -> Dataset | None:
    identity, name = _word(row.get("id")), row.get("name")
    if not identity or type(name) is not str:
        return None
    archived = row.get("archived_image_count", row.get("archived_images"))
    return Dataset(
        id=identity,
        name=name,
        description=_word(row.get("description")),
        image_count=_count(row.get("image_count")),
        completed_image_count=_count(row.get("completed_image_count")),
        archived_image_count=_count(archived),
        total_size=_count(row.get("total_size")),
        storage_class=_word(row.get("storage_class")) or "standard",
        is_archived=row.get("is_archived") is True,
        created_ns=time_ns(row.get("created_at")),
        updated_at=_word(row.get("updated_at")),
        raw={field: value for field, value in row.items() if field != "images"},
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


def _count(value: Any) -> int:
    """A sane whole number, or 0."""
    return value if type(value) is int and 0 <= value <= COUNT_MAX else 0


def _confidence(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _page(rows: list[T], received: int, envelope: dict[str, Any]) -> Page[T]:
    """A page with the paging facts of its envelope, in either generation."""
    facts = _value(envelope.get("pagination"))
    if type(facts) is not dict:
        facts = {name: _value(envelope.get(name)) for name in ("total", "has_more")}
    total, has_more = facts.get("total"), facts.get("has_more")
    return Page(
        rows=rows,
        received=received,
        total=total if type(total) is int and 0 <= total <= COUNT_MAX else None,
        has_more=has_more if type(has_more) is bool else None,
    )


def _kept(noun: str, rows: Iterable[Any], received: int, record: Callable[[Any], T | None]) -> list[T]:
    """The records of the rows that have one, with one warning for those that have none."""
    kept = [made for row in rows if (made := record(row)) is not None]
    _report(noun, received - len(kept), received)
    return kept


def _report(noun: str, bad: int, received: int) -> None:
    if bad:
        _log.warning("skipped %d malformed %s rows of %d that the API sent", bad, noun, received)


def _open(body: bytes, *keys: str) -> tuple[Any, dict[str, Any]]:
    """The payload of an envelope, under `data` or one of `keys`, and the envelope; undecoded where possible.

    A bare payload is its own envelope.
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
    """The rows of a list as `kind`, and how many were sent. Raises `Nonsense` where it is no list."""
    try:
        if isinstance(payload, msgspec.Raw):
            rows = msgspec.json.decode(payload, type=list[kind])  # type: ignore[valid-type]
            return rows, len(rows)
    except (ValueError, RecursionError):
        payload = _lenient(bytes(payload))
    if not isinstance(payload, list):
        raise Nonsense("the API sent something else where a list of rows is due")
    return [_made(row, kind) for row in payload if isinstance(row, dict)], len(payload)


def _as(value: Any, kind: type[T]) -> T:
    """One object as `kind`: a Raw is decoded, anything else has been. Raises `Nonsense`."""
    if isinstance(value, msgspec.Raw):
        try:
            return msgspec.json.decode(value, type=kind)
        except (ValueError, RecursionError):
            value = _lenient(bytes(value))
    if not isinstance(value, dict):
        raise Nonsense("the API sent something else where an object is due")
    return _made(value, kind)


def _made(row: dict[str, Any], kind: type[T]) -> T:
    """A decoded object as `kind`. `msgspec.convert` does not take a key with a lone surrogate."""
    if kind is dict:
        return row  # type: ignore[return-value]
    return kind(**{name: row[name] for name in kind.__struct_fields__ if name in row})  # type: ignore[attr-defined]


def _value(value: Any) -> Any:
    """One value, whatever it is. Raises `Nonsense`."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return _lenient(bytes(value))


def _fields(payload: Any) -> dict[str, Any]:
    """The fields of an object, undecoded where possible. Raises `Nonsense`."""
    if isinstance(payload, msgspec.Raw):
        try:
            return msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        except (ValueError, RecursionError):
            payload = _lenient(bytes(payload))
    if not isinstance(payload, dict):
        raise Nonsense("the API sent something else where an object is due")
    return payload


def _lenient(body: bytes) -> Any:
    """`body` by the standard library, whatever bytes its strings hold. Raises `Nonsense`."""
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"), strict=False)
    except (ValueError, RecursionError) as error:
        raise Nonsense("the API sent an answer that is not JSON") from error
