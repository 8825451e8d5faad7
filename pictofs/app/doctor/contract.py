"""Whether a server is as the contract says.

That takes some 15 read-only requests, and gives a line for each deviation.

The lines are made to be pasted into a report: they name routes, fields, statuses and counts, and
nothing of the user's own, neither key nor name nor id.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import trio

from pictofs.api.address import image_path, path_segment
from pictofs.api.body import range_headers
from pictofs.api.key import ApiKey
from pictofs.api.stats import RequestStats
from pictofs.api.storage import Storage
from pictofs.api.transport import ApiTransport
from pictofs.app.doctor.finding import Finding, ok, warn
from pictofs.clock import SystemClock
from pictofs.config import LibrarySettings
from pictofs.errors import Invalid, NoSuchEntry, PictofsError, Unauthorized
from pictofs.model.plural import counted
from pictofs.model.records import canonical_directory

TIMEOUT_S = 8.0
"""Seconds for one answer."""
SECONDS = 90.0
"""For all."""

DATASET = (
    "id",
    "name",
    "created_at",
    "updated_at",
    "image_count",
    "archived_image_count",
    "total_size",
)
IMAGE = (
    "id",
    "filename",
    "directory_path",
    "file_size",
    "status",
    "split",
    "annotation_count",
    "created_at",
)
PAGING = ("total", "has_more")


def check_contract(settings: LibrarySettings, api_key: str) -> Iterator[Finding]:
    """The deviations, or that there is none."""
    request_stats = RequestStats()
    try:
        check = trio.run(_run, settings, ApiKey(api_key), request_stats)
    except PictofsError as error:
        yield warn("contract", f"could not be looked at: {error}")
        return

    found = [warn("contract", each) for each in dict.fromkeys(check.deviations)]
    number = counted(len(found), "deviation") if found else "no deviation"
    message = f"{counted(check.made, 'request')} compared: {number}"
    if check.left_out:
        message += f"; not looked at: {', '.join(check.left_out)}"

    yield replace(ok("contract", message), requests=request_stats.spent("foreground"))
    yield from found


class _Check:
    """What was asked, and what was not as it should be."""

    def __init__(self, exchange: ApiTransport, storage: Storage) -> None:
        self._exchange = exchange
        self._storage = storage
        self.deviations: list[str] = []
        self.left_out: list[str] = []
        self.made = 0

    def _note(self, route: str, message: str) -> None:
        self.deviations.append(f"{route}: {message}")

    @contextmanager
    def _noting(self, route: str) -> Iterator[None]:
        """A request whose failure is a deviation."""
        self.made += 1
        try:
            yield
        except Unauthorized:
            raise
        except PictofsError as error:
            if status := re.search(r"\(HTTP (\d+)\)", str(error)):
                self._note(route, f"answers {status[1]}")
            else:
                self._note(route, f"fails ({type(error).__name__})")

    async def _get(self, route: str, path: str, **params: Any) -> Any:
        """The answer's JSON; None if there is none, which is noted."""
        with self._noting(f"GET {route}"):
            answer = await self._exchange.call("GET", route, path, params=params or None)
            try:
                return json.loads(answer.body)
            except (ValueError, RecursionError):
                self._note(f"GET {route}", "answers something that is not JSON")
        return None

    def _inside(self, route: str, body: Any, kind: type) -> Any:
        """What is in the envelope; None if that is not of `kind`, which is noted."""
        inner = body.get("data") if isinstance(body, dict) else None
        if body is not None and not isinstance(inner, kind):
            word = "array" if kind is list else "object"
            self._note(f"GET {route}", f'has no {word} in "data" (it is {_kind(body)})')
            return None

        return inner

    def _fields(self, route: str, row: Any, names: Sequence[str]) -> None:
        if not isinstance(row, dict):
            self._note(f"GET {route}", f"has a row that is {_kind(row)}")
            return

        if absent := [name for name in names if name not in row]:
            self._note(f"GET {route}", f"rows lack {', '.join(absent)}")

    async def _page(
        self, route: str, path: str, names: Sequence[str], **params: Any
    ) -> list[dict[str, Any]]:
        """The rows of a page, whose envelope and first row are looked at."""
        body = await self._get(route, path, **params)
        rows = self._inside(route, body, list)
        if rows is None:
            return []

        paging = body.get("pagination")
        if not isinstance(paging, dict):
            self._note(f"GET {route}", "has no pagination")
        else:
            self._fields(f"{route} (pagination)", paging, PAGING)

        if len(rows) > params["limit"]:
            self._note(f"GET {route}", f"sends {len(rows)} rows for a limit of {params['limit']}")
        if rows:
            self._fields(route, rows[0], names)

        return [row for row in rows if isinstance(row, dict)]

    async def run(self) -> None:
        """Ask everything, one after the other: one dataset with images, one image of it."""
        datasets = await self._page("/datasets/", "/datasets/", DATASET, limit=100)
        if len(datasets) > 1:
            second = await self._page("/datasets/", "/datasets/", DATASET, limit=1, offset=1)
            if _ids(second) == _ids(datasets[:1]):
                self._note("GET /datasets/", "ignores offset")
        else:
            self.left_out.append("the second page of datasets")

        unknown = f"/datasets/{uuid.uuid4()}"
        try:
            self.made += 1
            await self._exchange.call("GET", "/datasets/{dataset}", unknown)
            self._note("GET /datasets/{dataset}", "answers 200 for an id that is nobody's")
        except NoSuchEntry:
            pass
        except PictofsError as error:
            self._note(
                "GET /datasets/{dataset}", f"answers an unknown id with {type(error).__name__}"
            )

        await self._page("/exports/", "/exports/", ("id", "name", "status", "format"), limit=1)

        known = [row for row in datasets if isinstance(row.get("id"), str)]
        chosen = max(known, key=_count_of, default=None)
        if chosen is None or not _count_of(chosen):
            self.left_out.append("images: no dataset has any")
            return

        await self._dataset(chosen)

    async def _dataset(self, row: dict[str, Any]) -> None:
        place = f"/datasets/{path_segment(row['id'])}"
        route = "/datasets/{dataset}"

        alone = self._inside(route, await self._get(route, place), dict)
        if alone is not None:
            self._fields(route, alone, DATASET)
            if alone.get("id") != row["id"]:
                self._note(f"GET {route}", "gives another dataset than the one of the id")
            if "readme" not in alone:
                self._note(f"GET {route}", "gives no readme")

        await self._embedded(place, _count_of(row))

        route = "/directories/{dataset}/tree"
        tree = await self._get(route, f"/directories/{path_segment(row['id'])}/tree")
        if tree is not None and not isinstance(tree, list):
            self._note(f"GET {route}", f"is {_kind(tree)} and no array")
        elif tree:
            self._fields(route, tree[0], ("id", "name", "full_path", "children"))

        images = await self._images(row)
        if images:
            await self._image(row, images[0])

    async def _embedded(self, place: str, count: int) -> None:
        route = "/datasets/{dataset}?include_images=true"
        pages = []
        for offset in (0, 2) if count > 2 else (0,):
            params = {"include_images": "true", "images_limit": 2, "images_offset": offset}
            inner = self._inside(route, await self._get(route, place, **params), dict)
            if inner is None:
                return

            rows = inner.get("images")
            if not isinstance(rows, list):
                self._note(f"GET {route}", "has no images")
                return

            if len(rows) > 2:
                self._note(f"GET {route}", f"sends {len(rows)} rows for an images_limit of 2")
            if rows:
                self._fields(route, rows[0], IMAGE)
            pages.append(_ids(rows))

        if len(pages) == 2 and pages[0] == pages[1]:
            self._note(f"GET {route}", "ignores images_offset")

    async def _images(self, dataset: dict[str, Any]) -> list[dict[str, Any]]:
        route = "/images/"
        where = {"dataset": dataset["id"], "limit": 2}
        images = await self._page(route, route, IMAGE, **where)

        if _count_of(dataset) > 2:
            more = await self._page(route, route, IMAGE, **where, offset=2)
            if images and _ids(more) == _ids(images):
                self._note(f"GET {route}", "ignores offset")

        if not images:
            self._note(f"GET {route}", "lists no image of a dataset that has some")

        return [row for row in images if isinstance(row.get("id"), str)]

    async def _image(self, dataset: dict[str, Any], row: dict[str, Any]) -> None:
        directory = canonical_directory(_word(row.get("directory_path")))
        name = _word(row.get("filename"))
        where = {
            "dataset": dataset["id"],
            "limit": 2,
            "directory_path": directory,
            "filename": name,
        }
        route = "/images/?directory_path=&filename="

        named = await self._page(route, "/images/", IMAGE, **where)
        if row["id"] not in _ids(named):
            self._note(f"GET {route}", "does not find an image that is listed")
        elif len(named) > 1:
            self._note(f"GET {route}", "finds more than one image")

        route = "/images/{image}/metadata"
        image = path_segment(row["id"])
        alone = self._inside(route, await self._get(route, f"/images/{image}/metadata"), dict)
        if alone is not None:
            self._fields(route, alone, IMAGE)

        size = row.get("file_size")
        await self._bytes("/images/{image}", f"/images/{image}", size)
        try:
            path = image_path(directory, name)
        except Invalid:
            self.left_out.append("bytes by path: the name of the image has none")
        else:
            place = f"/images/{path_segment(dataset['id'])}/{path}"
            await self._bytes("/images/{dataset}/{path}", place, size)

        route = "/annotations/{image}/file"
        file = await self._get(route, f"/annotations/{image}/file")
        if file is not None:
            self._fields(route, file, ("annotations",))

        await self._signed(dataset, size)

    async def _bytes(self, route: str, path: str, size: Any) -> None:
        """The head of an answer, and its first bytes."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **range_headers(0, None, None)}
        with self._noting(f"GET {route}"):
            async with self._exchange.stream(route, path, headers) as (_, answered, pull):
                await pull()
                self._length(f"GET {route}", answered.get("content-length"), size)

    def _length(self, route: str, sent: str | None, size: Any) -> None:
        if sent is None:
            self._note(route, "tells no Content-Length")
        elif size and sent != str(size):
            self._note(route, "tells another Content-Length than file_size")

    async def _signed(self, dataset: dict[str, Any], size: Any) -> None:
        route = "/datasets/{dataset}/download"
        path = f"/datasets/{path_segment(dataset['id'])}/download"
        inner = self._inside(route, await self._get(route, path, mode="images_only", limit=1), dict)

        items = inner.get("items") if inner is not None else None
        if inner is not None and not (isinstance(items, list) and items):
            self._note(f"GET {route}", "names no item")
        if not isinstance(items, list) or not items:
            return

        self._fields(route, items[0], ("id", "filename", "image_url"))
        url = items[0].get("image_url") if isinstance(items[0], dict) else None
        if not isinstance(url, str) or not url.startswith("http"):
            self._note(f"GET {route}", "names no absolute image_url")
            return

        with self._noting("storage"):
            async with self._storage.get(url, start=1) as body:
                if not body.ranged:
                    self._note("storage", "ignores Range")
                if body.etag is None:
                    self._note("storage", "sends no ETag")

        with self._noting("storage"):
            async with self._storage.get(url) as body:
                if body.length is None:
                    self._note("storage", "tells no Content-Length")
                if body.crc32c is None:
                    self._note("storage", "sends no x-goog-hash with a crc32c")


def _ids(rows: Sequence[Any]) -> list[Any]:
    return [row.get("id") if isinstance(row, dict) else None for row in rows]


def _count_of(row: dict[str, Any]) -> int:
    count = row.get("image_count")
    return count if isinstance(count, int) else 0


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return names.get(type(value), "a number or a boolean")


async def _run(settings: LibrarySettings, api_key: ApiKey, request_stats: RequestStats) -> _Check:
    clock = SystemClock()
    common: dict[str, Any] = {
        "clock": clock,
        "request_stats": request_stats,
        "allow_plain_http": settings.allow_plain_http,
    }
    exchange = ApiTransport(
        settings.base_url,
        api_key,
        timeout=TIMEOUT_S,
        max_retries=0,
        max_wait=0.0,
        transport=None,
        **common,
    )
    storage = Storage(connect_timeout=TIMEOUT_S, inactivity_timeout=TIMEOUT_S, **common)
    check = _Check(exchange, storage)

    with trio.move_on_after(SECONDS) as scope:
        async with exchange, storage:
            await check.run()

    if scope.cancelled_caught:
        check.left_out.append(f"the rest: no end within {SECONDS:g} s")

    return check
