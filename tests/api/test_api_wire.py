"""The decoder: both generations, odd values, broken rows, and no surprise for any bytes at all."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.api import decode as wire
from pictofs.api.url_expiry import DEFAULT_LIFE_S, LONGEST_LIFE_S, MARGIN_S, UrlExpiry
from pictofs.errors import InvalidResponse, PictofsError
from pictofs.model.moment import time_ns
from pictofs.model.records import Image

NINE = 1772355600 * 10**9
"""2026-03-01T09:00:00Z"""
ROW: dict[str, Any] = {
    "id": "9a0e",
    "dataset_id": "6f1c",
    "filename": "a.jpg",
    "directory_path": "/cam1",
    "status": "review",
    "split": "val",
    "annotation_count": 3,
    "min_confidence": 0.71,
    "file_size": 48211,
    "width": 640,
    "height": 480,
    "content_type": "image/jpeg",
    "tags": ["night"],
    "is_archived": False,
    "image_url": "https://api/x",
    "thumbnail_url": None,
    "created_at": "2026-03-01T09:00:00+00:00",
    "novelty": {"deep": [1]},
}
IMAGE = Image(
    id="9a0e",
    dataset_id="6f1c",
    filename="a.jpg",
    directory="/cam1",
    status="review",
    split="val",
    annotation_count=3,
    min_confidence=0.71,
    size=48211,
    width=640,
    height=480,
    content_type="image/jpeg",
    tags=("night",),
    created_ns=NINE,
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def one(row: dict[str, Any]) -> Image:
    return wire.images(encoded({"data": [row]})).rows[0]


class TestImages:
    def test_the_current_generation(self) -> None:
        page = wire.images(
            encoded({"data": [ROW], "pagination": {"total": 9, "has_more": True, "limit": 1}})
        )
        assert (page.rows, page.received, page.total, page.has_more) == ([IMAGE], 1, 9, True)
        assert wire.image(encoded({"data": ROW})) == IMAGE

    def test_the_older_one(self) -> None:
        old = {**ROW, "folder_path": "cam1/", "mime_type": "image/jpeg"}
        del old["directory_path"], old["content_type"]
        page = wire.images(encoded({"images": [old], "total": 4}))
        assert (page.rows, page.total, page.has_more) == ([IMAGE], 4, None)
        old["virtual_folder_path"] = old.pop("folder_path")
        assert wire.image(encoded({"image": old})) == IMAGE

    @pytest.mark.parametrize(
        "size", [None, -1, 1.5, 2.0, "7", True, 2**60, 10**30, [], {}, float("nan")]
    )
    def test_a_size_that_is_none(self, size: Any) -> None:
        assert one({**ROW, "file_size": size}).size == 0

    def test_everything_optional_null_or_absent_or_odd(self) -> None:
        bare = Image(id="i", filename="f")
        assert one({"id": "i", "filename": "f"}) == bare
        for odd in (None, {}, [1]):
            row = {name: odd for name in ROW if name not in ("id", "filename")}
            assert one({**row, "id": "i", "filename": "f"}) == bare

    def test_unknown_words_are_kept(self) -> None:
        row = one({**ROW, "status": "in_progress", "split": "holdout", "tags": ["a", 7, None]})
        assert (row.status, row.split, row.tags) == ("in_progress", "holdout", ("a",))

    @pytest.mark.parametrize(
        ("text", "ns"),
        [
            ("2026-03-01T09:00:00Z", NINE),
            ("2026-03-01T09:00:00", NINE),
            ("2026-03-01 09:00:00.000001+00:00", NINE + 1000),
            ("2026-03-01T10:00:00+01:00", NINE),
            ("2026-03-01T09:00:00.123456789Z", NINE + 123456000),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-01-01T00:00:00Z", 0),
            ("9999-01-01T00:00:00Z", 0),
            ("0001-01-01T00:00:00+23:59", 0),
            ("yesterday", 0),
            ("", 0),
            (1772355600, 0),
            (None, 0),
        ],
    )
    def test_times(self, text: Any, ns: int) -> None:
        assert time_ns(text) == ns

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            7,
            "row",
            [],
            {},
            {"id": "x"},
            {"filename": "f"},
            {"id": 7, "filename": "f"},
            {"id": "", "filename": "f"},
        ],
    )
    def test_a_bad_row_hides_no_neighbour(self, bad: Any, caplog: pytest.LogCaptureFixture) -> None:
        rows = [ROW, bad, {**ROW, "id": "2"}, bad]
        for body in ({"data": rows}, {"images": rows}):
            caplog.clear()
            page = wire.images(encoded(body))

            assert [row.id for row in page.rows] == ["9a0e", "2"]
            assert page.received == 4

            (record,) = caplog.records

            assert (record.levelno, record.getMessage()) == (
                logging.WARNING,
                "skipped 2 malformed image rows of 4 that the API sent",
            )

        _, page = wire.dataset_images(encoded({"data": {"id": "d", "name": "n", "images": rows}}))

        assert len(page.rows) == 2

    @pytest.mark.parametrize(
        ("literal", "name"),
        [
            (b"\\ud800x", "\ud800x"),
            (b"\xff.jpg", "\udcff.jpg"),
            (b"a\x01b", "a\x01b"),
            (b"\\u0000", "\x00"),
        ],
    )
    def test_strings_that_msgspec_refuses(self, literal: bytes, name: str) -> None:
        row = b'{"id": "1", "filename": "%s", "file_size": 7}' % literal
        page = wire.images(b'{"data": [%s, {"id": "2", "filename": "g"}]}' % row)

        assert [(item.id, item.filename, item.size) for item in page.rows] == [
            ("1", name, 7),
            ("2", "g", 0),
        ]

        _, page = wire.dataset_images(
            b'{"data": {"id": "d", "name": "%s", "images": [%s]}}' % (literal, row)
        )

        assert page.rows[0].filename == name
        assert wire.image(b'{"data": %s}' % row).filename == name

    def test_numbers_that_msgspec_refuses(self) -> None:
        for literal in (b"1e999", b"NaN", b"1" * 5000):
            body = b'{"data": [{"id": "1", "filename": "f", "file_size": %s}]}' % literal
            try:
                assert wire.images(body).rows[0].size == 0
            except InvalidResponse:
                assert literal[0:1] == b"1"  # Python refuses integers of 4,300 digits and more


class TestDatasets:
    ROW = {  # noqa: RUF012
        "id": "6f1c",
        "name": "d",
        "description": "words",
        "image_count": 5,
        "completed_image_count": 2,
        "archived_image_count": 1,
        "total_size": 99,
        "storage_class": "coldline",
        "is_archived": True,
        "created_at": "2026-03-01T09:00:00Z",
        "updated_at": "whenever",
        "classes": [{"name": "c"}],
    }

    def test_all_fields_and_the_raw_object(self) -> None:
        row = wire.dataset(encoded({"data": {**self.ROW, "images": [1]}}))
        assert (row.image_count, row.completed_image_count, row.archived_image_count) == (5, 2, 1)
        assert (row.total_size, row.storage_class, row.is_archived) == (99, "coldline", True)
        assert (row.created_ns, row.updated_at, row.description) == (NINE, "whenever", "words")
        assert row.raw == self.ROW
        (listed,) = wire.datasets(encoded({"data": [self.ROW]})).rows
        embedded, _ = wire.dataset_images(encoded({"data": {**self.ROW, "images": []}}))
        assert row == listed == embedded

    def test_the_older_generation(self) -> None:
        old = {"id": "6f1c", "name": "d", "archived_images": 3}
        for key in ("dataset", "project"):
            assert wire.dataset(encoded({key: old})).archived_image_count == 3
        assert wire.datasets(encoded({"datasets": [old]})).rows[0].archived_image_count == 3
        _, page = wire.dataset_images(encoded({"dataset": {**old, "images": [ROW]}}))
        assert page.rows == [IMAGE]

    def test_the_embedded_listing(self) -> None:
        _, page = wire.dataset_images(encoded({"data": {**self.ROW, "images": [ROW]}}))
        assert (page.rows, page.received, page.total, page.has_more) == ([IMAGE], 1, 5, None)
        for empty in ({}, {"images": None}):
            bare = {"id": "i", "name": "n", **empty}
            _, page = wire.dataset_images(encoded({"data": {**bare, "image_count": 0}}))
            assert page is not None
            assert page.rows == []
            for row in (bare, {**self.ROW, **empty}):
                assert wire.dataset_images(encoded({"data": row}))[1] is None

    def test_l6_rows_without_directory_or_size_are_a_summary(self) -> None:
        for name in ("directory_path", "file_size"):
            lacking = {key: value for key, value in ROW.items() if key != name}
            for rows, summary in ([lacking, lacking], True), ([lacking, ROW], False), ([], False):
                _, page = wire.dataset_images(encoded({"data": {**self.ROW, "images": rows}}))
                assert page is not None
                assert page.summary is summary
                assert wire.images(encoded({"data": rows})).summary is summary
            null = wire.images(encoded({"data": [{**ROW, name: None}]}))
            assert not null.summary

    def test_a_bad_row(self) -> None:
        page = wire.datasets(encoded({"data": [self.ROW, {"id": "x"}, 7]}))
        assert (len(page.rows), page.received) == (1, 3)


class TestDirectories:
    def test_the_tree_flattened(self) -> None:
        tree = [
            {
                "id": "1",
                "name": "a",
                "full_path": "/a",
                "image_count": 2,
                "children": [
                    {"id": "2", "name": "b", "children": []},
                    {"id": "3", "name": "c", "directory_path": "a/c/", "children": None},
                ],
            },
            {"id": "4", "name": "d"},
        ]
        for body in (tree, {"data": tree}, {"folders": tree}):
            rows = wire.directories(encoded(body))
            assert [(row.path, row.id, row.image_count) for row in rows] == [
                ("/a", "1", 2),
                ("/a/b", "2", 0),
                ("/a/c", "3", 0),
                ("/d", "4", 0),
            ]

    def test_the_root_and_repeats_and_rubbish(self, caplog: pytest.LogCaptureFixture) -> None:
        inner = {
            "full_path": "/a",
            "children": [{"full_path": "/a", "children": [{"full_path": "/a/b"}]}, 7, {}],
        }
        rows = wire.directories(encoded([{"full_path": "/", "children": [inner]}, None]))
        assert [row.path for row in rows] == ["/a"]
        assert "3 malformed directory rows" in caplog.text

    def test_a_tree_of_any_depth(self) -> None:
        deep = b'[{"name":"a","children":' * 100_000 + b"[]" + b"}]" * 100_000
        rows = wire.directories(deep)  # what is nested too deeply is cut out
        assert len(rows) == len({row.path for row in rows}) >= 100
        with pytest.raises(InvalidResponse):
            wire.directories(deep[:-1])
        deep = b'[{"name":"a","children":' * 200 + b"[]" + b"}]" * 200
        assert len(wire.directories(deep)) == 200


class TestSignedUrls:
    NOW = 1_772_355_600.0

    def url(self, now: float, served: float | None, query: str) -> float:
        item = {"id": "i", "filename": "f", "image_url": f"https://s/o?{query}"}
        (row,) = wire.signed_urls(encoded({"data": {"items": [item]}}), UrlExpiry(now, served))
        return row.expires_at - now

    def test_google_style(self) -> None:
        query = "X-Goog-Date=20260301T090000Z&X-Goog-Expires=900&X-Goog-Signature=x"
        assert self.url(self.NOW, None, query) == 900 - MARGIN_S
        assert self.url(self.NOW + 100, self.NOW + 100, query) == 800 - MARGIN_S

    def test_a_local_clock_that_is_off(self) -> None:
        query = "X-Goog-Date=20260301T090000Z&X-Goog-Expires=900"
        for skew in (-5000, 5000):
            assert self.url(self.NOW + skew, self.NOW, query) == 900 - MARGIN_S

    def test_other_styles(self) -> None:
        assert self.url(self.NOW, None, f"a=b&Expires={int(self.NOW) + 60}") == 45.0
        assert self.url(self.NOW, None, "X-Amz-Date=20260301T090000Z&X-Amz-Expires=100") == 75.0
        assert self.url(self.NOW, None, "sig=x") == DEFAULT_LIFE_S - MARGIN_S
        assert (
            self.url(self.NOW, None, "X-Goog-Date=20269901T090000Z&X-Goog-Expires=900")
            == 900 - MARGIN_S
        )
        assert (
            self.url(self.NOW, None, "X-Goog-Date=20260301T090000Z&X-Goog-Expires=9999999")
            == LONGEST_LIFE_S - MARGIN_S
        )

    def test_a_url_that_comes_expired(self) -> None:
        query = "X-Goog-Date=20260301T080000Z&X-Goog-Expires=900"
        assert self.url(self.NOW, self.NOW, query) == -2700
        # Without the server's time it may be the local clock that is off, ahead or behind.
        for skew in (-7200, 0, 7200):
            assert self.url(self.NOW + skew, None, query) == 900 - MARGIN_S

    def test_envelopes_and_rows_without(self) -> None:
        items = [
            {"id": "1", "image_url": "https://s/1"},
            {"id": "2"},
            {"id": "3", "image_url": None},
            {"filename": "f"},
        ]
        for body in (
            {"data": {"items": items}},
            {"items": items, "dataset_id": "x"},
            {"dataset": {"items": items}},
        ):
            rows = wire.signed_urls(encoded(body), UrlExpiry(0, None))
            assert [(row.image_id, row.url) for row in rows] == [("1", "https://s/1")]


class TestAnnotationFile:
    @pytest.mark.parametrize(
        "body",
        [
            {
                "image": "é.jpg",
                "annotations": [{"id": "b", "x": 1.0, "y": 1e-7, "z": [], "w": {}}],
                "n": None,
            },
            {},
            {"\ud800": "\x7f</script>", "big": 10**40, "inf": float("inf"), "e": 1e22},
        ],
    )
    def test_is_what_the_sdk_writes(self, body: Any, tmp_path: Path) -> None:
        from pictograph.resources.datasets import _fetch_annotation_to_file

        sent = json.dumps(body).encode()

        class Transport:
            def request(self, _method: str, _url: str) -> Any:
                return httpx.Response(200, content=sent).json()

        _fetch_annotation_to_file(Transport(), "/x", tmp_path / "a.json")
        assert wire.annotation_file(sent) == (tmp_path / "a.json").read_bytes()

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"null", b"{", b"\xff", b'{"a":' + b"[" * 9999, b'{"a": \xff}']
    )
    def test_nonsense(self, body: bytes) -> None:
        with pytest.raises(InvalidResponse):
            wire.annotation_file(body)


NAMES = [
    "data",
    "pagination",
    "images",
    "datasets",
    "dataset",
    "items",
    "image",
    "name",
    "children",
    "total",
]
NAMES += [
    "full_path",
    "has_more",
    "image_count",
    "download_url",
    "export",
    "raw",
    "folders",
    "directories",
]
KEYS = st.sampled_from([*ROW, *NAMES])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
TEXT = st.text(st.characters(codec=None), max_size=5)


@given(st.dictionaries(TEXT, JSON, max_size=6))
def test_an_annotation_file_is_as_json_writes_it(document: dict[str, Any]) -> None:
    assert wire.annotation_text(document) == json.dumps(document, indent=2).encode()


DECODERS = [
    wire.datasets,
    wire.dataset,
    wire.dataset_images,
    wire.images,
    wire.image,
    wire.directories,
    lambda body: wire.signed_urls(body, UrlExpiry(0, None)),
    wire.export,
    wire.download_url,
    wire.annotation_file,
]


class TestAnything:
    @given(st.dictionaries(KEYS, JSON, max_size=4) | JSON)
    def test_any_json(self, value: Any) -> None:
        self.check(json.dumps(value).encode())

    @given(st.binary(max_size=60))
    def test_any_bytes(self, body: bytes) -> None:
        self.check(body)

    @given(st.data())
    def test_a_good_page_with_damage(self, data: st.DataObject) -> None:
        body = bytearray(
            encoded({"data": {"id": "d", "name": "n", "images": [ROW], "items": [ROW]}})
        )
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        self.check(bytes(body))

    def check(self, body: bytes) -> None:
        for decode in DECODERS:
            with contextlib.suppress(PictofsError):
                decode(body)
