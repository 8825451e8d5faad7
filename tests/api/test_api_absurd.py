"""Any value of any type in any field of any route: its neighbours survive, and everything can be
stored.

Values are JSON texts, as they come over the wire: many have no Python value.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pictofs.api import decode as wire
from pictofs.api.url_expiry import UrlExpiry
from pictofs.errors import InvalidResponse
from pictofs.model.inode import key_of
from pictofs.model.names import entry_fits
from pictofs.model.records import Dataset, Directory, Image, SignedUrl, document
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable
from pictofs.vfs import xattrs
from pictofs.vfs.nodes.annotations import PLACEHOLDER, PLACEHOLDER_EACH

DEEP = "/" + "/".join(f"part-{number:04d}" for number in range(1000))
ABSURD = (
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "9" * 5000,
    "-" + "9" * 5000,
    "1e999",
    "-1e999",
    "1e-999",
    "NaN",
    "-Infinity",
    str(2**53 + 1),
    str(2**63),
    str(2**64),
    "-1",
    "0.5",
    "true",
    "null",
    "[]",
    "{}",
    "[" * 2000 + "]" * 2000,
    '{"a":' * 2000 + "1" + "}" * 2000,
    '{"a":[' * 900 + "1" + "]}" * 900,
    "[" * 400 + '"]"' + "]" * 400,
    json.dumps("x" * 300 + ".jpg"),
    json.dumps("y" * 100_000),
    json.dumps("z" * 1_100_000),
    json.dumps(DEEP),
    json.dumps("/" + "/".join("e" * 254 for _ in range(40))),
    json.dumps("/" * 5000),
    json.dumps("/" + "a/" * 50_000),
    '"\\ud83d"',
    '"\\ud83d/\\udc00"',
    '"\\u0000"',
    '"\\u201b~"',
    '"."',
    '".."',
    '"../../etc/passwd"',
    '""',
    '["\\ud83d", "", 1e999, [[]], null]',
    json.dumps(["tag"] * 100_000),
    '"9999-12-31T23:59:59Z"',
    '"0001-01-01T00:00:00+14:00"',
    '{"\\ud83d": "\\ud83d"}',
)

IMAGE = {
    "dataset_id": "6f1c",
    "filename": "a.jpg",
    "directory_path": "/cam1",
    "virtual_folder_path": None,
    "folder_path": None,
    "status": "review",
    "split": "val",
    "annotation_count": 3,
    "min_confidence": 0.71,
    "file_size": 48211,
    "width": 640,
    "height": 480,
    "content_type": "image/jpeg",
    "mime_type": None,
    "tags": ["night"],
    "is_archived": False,
    "image_url": None,
    "annotation_url": None,
    "created_at": "2026-03-01T09:00:00+00:00",
}
DATASET = {
    "organization_id": "org",
    "name": "roads",
    "description": "d",
    "readme": "r",
    "annotation_types": ["bbox"],
    "classes": [{"name": "car", "type": "box"}],
    "image_count": 3,
    "completed_image_count": 1,
    "archived_image_count": 0,
    "total_size": 99,
    "is_public": False,
    "is_archived": False,
    "archived_at": None,
    "storage_class": "standard",
    "created_at": "2026-03-01T09:00:00+00:00",
    "updated_at": "2026-03-02T09:00:00+00:00",
}
NODE = {
    "name": "cam1",
    "full_path": "/cam1",
    "directory_path": None,
    "image_count": 2,
    "children": [],
}
ITEM = {
    "filename": "a.jpg",
    "file_size": 4,
    "image_url": "https://storage.example/a",
    "annotation_url": None,
}


class Route(NamedTuple):
    """A route that sends rows: what a row is like, what is around it, and what reads it."""

    row: dict[str, Any]
    unique: str
    """The field that tells the rows from each other, besides the id."""
    around: str
    """JSON with `ROWS` in it."""
    read: Callable[[bytes], Sequence[Any]]


def _items(body: bytes) -> list[SignedUrl]:
    return wire.signed_urls(body, UrlExpiry(0.0, None))


ROUTES = {
    "datasets": Route(DATASET, "name", '{"data": [ROWS]}', lambda body: wire.datasets(body).rows),
    "older datasets": Route(
        DATASET, "name", '{"datasets": [ROWS]}', lambda body: wire.datasets(body).rows
    ),
    "images": Route(IMAGE, "filename", '{"data": [ROWS]}', lambda body: wire.images(body).rows),
    "older images": Route(
        IMAGE, "filename", '{"images": [ROWS]}', lambda body: wire.images(body).rows
    ),
    "embedded": Route(
        IMAGE,
        "filename",
        '{"data": {"id": "d", "name": "d", "image_count": 3, "images": [ROWS]}}',
        lambda body: wire.dataset_images(body)[1].rows,
    ),
    "tree": Route(NODE, "full_path", "[ROWS]", wire.directories),
    "download": Route(ITEM, "filename", '{"data": {"id": "d", "items": [ROWS]}}', _items),
}
FIELDS = [
    (name, field) for name, route in ROUTES.items() for field in ("id", *route.row, "novelty")
]


def text_of(row: dict[str, Any], field: str | None = None, value: str = "") -> str:
    """A row's JSON, with the text `value` in place of the value of `field`."""
    fields = {name: json.dumps(each) for name, each in row.items()}
    if field is not None:
        fields[field] = value
    return "{" + ", ".join(f'"{name}": {each}' for name, each in fields.items()) + "}"


def around(route: Route, field: str, value: str) -> tuple[list[Any], list[Any]]:
    """The rows that are read where an absurd one stands between two good ones, and the good ones
    alone."""
    first, last = (
        route.row | {"id": f"good-{number}", route.unique: f"{route.row[route.unique]}-{number}"}
        for number in (1, 2)
    )
    bad = text_of({"id": "bad"} | route.row, field, value)
    good = [text_of(first), text_of(last)]

    def read(rows: Iterable[str]) -> list[Any]:
        return list(route.read(route.around.replace("ROWS", ", ".join(rows)).encode()))

    return read([good[0], bad, good[1]]), read(good)


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_l4_an_absurd_value_hides_no_neighbour(name: str, field: str) -> None:
    """And what is read of it can be stored and shown: the rows of all values together, each with
    its own id."""
    rows: dict[str, Any] = {}

    for number, value in enumerate(ABSURD):
        found, good = around(ROUTES[name], field, value)
        assert [row for row in found if row in good] == good, value[:40]

        for row in found:
            if row not in good and getattr(row, "id", None) == "bad":
                row = msgspec.structs.replace(row, id=f"bad-{number}")  # noqa: PLW2901
            rows[getattr(row, "id", None) or str(number)] = row

    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(Path(folder, "catalog.db"))
        try:
            store_and_show(catalog, list(rows.values()))
        finally:
            catalog.close()


def store_and_show(catalog: Catalog, rows: Sequence[Any]) -> None:
    """Put rows into a catalog as a listing does, and make of them what the kernel is shown."""
    dataset = Dataset(id="d", name="d", image_count=3)
    listed = [row for row in rows if isinstance(row, Dataset)]

    assert catalog.put_datasets([dataset, *listed], 1.0) is not None

    tree = [row for row in rows if isinstance(row, Directory)]
    catalog.put_directories(key_of("d"), "d", tree, "s", 1.0)
    images = [row for row in rows if isinstance(row, Image)]
    ImageTable(catalog.database).put(key_of("d"), "d", images, 1, moves=True)

    for row in catalog.datasets_after(0, 999):
        assert entry_fits(row.entry)
        assert 0 <= row.created_ns < 2**63
        raw, _ = catalog.dataset_object(row.key)
        json.loads(document(raw), parse_constant=pytest.fail)
        assert all(len(value) <= 1 << 16 for value in xattrs.of_dataset(raw).values())

    assert 0 <= catalog.counts()[1] < 2**63
    assert 0 <= catalog.root_images(key_of("d")) < 2**63

    shown = catalog.datasets_after(0, 99)[0]
    known = set()

    for directory in catalog.directories_of(key_of("d")):
        assert depth_of(catalog, directory.key) <= 129

        for image in catalog.images_after(directory.key, 0, 999):
            known.add(image.key)
            assert entry_fits(image.entry)
            assert entry_fits(image.annotation_name)
            assert PLACEHOLDER + PLACEHOLDER_EACH * image.annotation_count < 2**62
            assert (image.known_size or 0) < 2**62
            assert xattrs.of_image(image, shown, directory)

    assert {key_of(image.id.lower()) for image in images} <= known


def depth_of(catalog: Catalog, key: int) -> int:
    """How many folders deep a directory is; a path to it, and to a file in it, is one that Linux
    takes."""
    depth, size = 0, 0
    directory = catalog.directory(key)

    while directory is not None and directory.parent is not None:
        depth += 1
        assert entry_fits(directory.entry)
        assert directory.entry
        size += 1 + len(directory.entry.encode())
        directory = catalog.directory(directory.parent)

    assert size <= 2048 + 256

    return depth


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.sampled_from(FIELDS), value=_json)
def test_l4_any_value_at_all_hides_no_neighbour(where: tuple[str, str], value: Any) -> None:
    found, good = around(ROUTES[where[0]], where[1], json.dumps(value))
    assert [row for row in found if row in good] == good
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(Path(folder, "catalog.db"))
        try:
            store_and_show(catalog, found)
        finally:
            catalog.close()


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (wire.image, '{"data": ROW}'),
        (wire.dataset, '{"data": ROW}'),
        (wire.export, '{"data": ROW}'),
        (wire.annotation_file, "ROW"),
        (wire.download_url, '{"data": ROW}'),
    ],
)
def test_a_single_row_is_read_or_refused(read: Callable[[bytes], Any], body: str) -> None:
    row = {
        "id": "i",
        "filename": "f",
        "name": "n",
        "status": "s",
        "download_url": "https://x",
        "novelty": 1,
    }
    for field in row:
        for value in ABSURD:
            try:
                read(body.replace("ROW", text_of(row, field, value)).encode())
            except InvalidResponse:
                continue


@pytest.mark.parametrize("read", [each.read for each in ROUTES.values()])
@pytest.mark.parametrize(
    "value", ["[" * 5000, '"' * 3001, '{"a":' * 3000, '[{"id": "\\', "9" * 5000, ""]
)
def test_what_is_no_answer_is_nonsense(read: Callable[[bytes], Any], value: str) -> None:
    with pytest.raises(InvalidResponse):
        read(value.encode())


def test_the_paging_facts_may_be_absurd() -> None:
    for value in ABSURD:
        body = f'{{"data": [], "pagination": {{"total": {value}, "has_more": {value}}}}}'
        page = wire.images(body.encode())
        assert page.total is None or 0 <= page.total <= 2**53


def test_s7_sizes_of_many_datasets_add_up(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog.db")
    try:
        datasets = [
            Dataset(id=f"d{number}", name=f"d{number}", total_size=2**53, image_count=2**53)
            for number in range(1025)
        ]
        catalog.put_datasets(datasets, 1.0)

        assert catalog.counts() == (1025, 2**63 - 1)
        assert catalog.image_total() == 2**63 - 1
    finally:
        catalog.close()


def test_n6_a_directory_that_is_too_deep_is_folded_and_comes_back(tmp_path: Path) -> None:
    """Whether the tree or an image names it, and whatever else lies on its way."""
    parts = DEEP[1:].split("/")
    paths = ["/" + "/".join(parts[:depth]) for depth in (1, 50, 127, 128, 129, 500, 1000)]
    catalog = Catalog(tmp_path / "catalog.db")

    try:
        catalog.put_datasets([Dataset(id="d", name="d")], 1.0)
        images = [
            Image(id=f"i{number}", filename="a.jpg", directory=path)
            for number, path in enumerate(paths)
        ]
        ImageTable(catalog.database).put(key_of("d"), "d", images, 1, moves=False)
        implied = {row.path: (row.parent, row.entry) for row in catalog.directories_of(key_of("d"))}
        catalog.put_directories(
            key_of("d"), "d", [Directory(path=path) for path in reversed(paths)], "s", 1.0
        )

        assert {
            row.path: (row.parent, row.entry) for row in catalog.directories_of(key_of("d"))
        } == implied
        assert set(paths) <= implied.keys()

        entries = [each for path, each in implied.items() if path != "/"]

        assert len(set(entries)) == len(entries)
    except sqlite3.Error as error:
        pytest.fail(str(error))
    finally:
        catalog.close()
