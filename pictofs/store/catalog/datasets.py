"""Writes to the catalog's table of datasets: the whole list as it was read, or one dataset changed
here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pictofs.model.inode import NodeKind, key_of, number
from pictofs.model.moment import time_ns
from pictofs.model.names import entry_name, storable, tagged
from pictofs.model.records import Dataset
from pictofs.store.catalog.rows import NOW, RemovedDentry

DATASETS = number(NodeKind.FIXED, 1)
"""Inode number of `/datasets`."""

DOCUMENT = "dataset.json"
"""The file in a dataset's folder that holds the API's object."""

README = "README.md"
"""The file that holds the dataset's readme, if it has one."""

DUE_MARGIN_S = 2.0
"""Seconds by which a time of the server may be wrong: `Date` and `updated_at` may be cut to whole
seconds."""

_UPSERT = (
    "INSERT INTO dataset"
    " (key, id, name, entry, image_count, total_size, created_ns, signature, raw)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET name = excluded.name,"
    " entry = excluded.entry, image_count = excluded.image_count, total_size = excluded.total_size,"
    " signature = excluded.signature, raw = excluded.raw"
)


class Observation(NamedTuple):
    """When the server gave the answer that is written."""

    at: float
    """Wall-clock seconds, by our clock, when its answer came."""
    ahead: float | None
    """Seconds by which its clock is ahead of ours; None if it does not tell its time."""


class _Named(NamedTuple):
    """What a dataset's entry depends on."""

    identity: str
    """The id in lower case."""
    name: str
    created_ns: int


def put_all(
    db: sqlite3.Connection, datasets: Iterable[Dataset], heard: Observation
) -> list[RemovedDentry]:
    """Make the table equal to `datasets`. Returns the entries that are gone."""
    unique = {dataset.id.lower(): dataset for dataset in datasets}
    entries = _entries(_named(dataset) for dataset in unique.values())
    gone = _give(db, entries)

    # The server's order, newest first, becomes the order of listing.
    for identity, dataset in unique.items():
        gone += _put(db, entries[key_of(identity)], dataset, heard.at)
        note_move(db, dataset, heard)

    return gone


def put_one(db: sqlite3.Connection, dataset: Dataset, at: float) -> list[RemovedDentry]:
    """Add or change one dataset, as `put_all` would, at `at` in wall-clock seconds. Returns the
    entries that are gone."""
    key = key_of(dataset.id.lower())
    entries = _entries([*_known(db, without=key), _named(dataset)])
    return _give(db, entries) + _put(db, entries[key], dataset, at)


def remove_one(db: sqlite3.Connection, key: int) -> list[RemovedDentry]:
    """Remove a dataset with all that is in it. Returns the entries that are gone."""
    return _give(db, _entries(_known(db, without=key)))


def note_move(db: sqlite3.Connection, dataset: Dataset, heard: Observation) -> None:
    """Make a known dataset's annotation files due if its `updated_at` has moved since the last
    list.

    Not called if a dataset is changed from here: the next list tells of that change, and of those
    that others made before.
    """
    key = key_of(dataset.id.lower())
    sql = "SELECT updated_at, annotations_due FROM dataset WHERE key = ?"
    before, due_before = db.execute(sql, (key,)).fetchone() or (None, None)
    updated_at = None if dataset.updated_at is None else storable(dataset.updated_at)
    if updated_at == before:
        return

    due = heard.at
    moved_ns = time_ns(dataset.updated_at)
    if moved_ns and heard.ahead is not None:
        # A file fetched after the move needs no second fetch. A time in the future is not believed,
        # nor one before the last reading of the list, which did not show the move.
        moved = moved_ns / 1e9 - heard.ahead + DUE_MARGIN_S
        listed = db.execute("SELECT value FROM meta WHERE name = 'checked_at'").fetchone()
        if due_before is None or moved >= max(due_before, listed[0] if listed else 0.0):
            due = min(due, moved)

    db.execute(
        "UPDATE dataset SET updated_at = ?, annotations_due = ? WHERE key = ?",
        (updated_at, due, key),
    )


def note_input(db: sqlite3.Connection, key: int) -> None:
    """Note that rows of a dataset's images or directories may have changed: what was made of them
    is to be looked at again, by whatever process made it."""
    db.execute("UPDATE dataset SET input_changes = input_changes + 1 WHERE key = ?", (key,))


def note_classes(db: sqlite3.Connection, key: int, before: bytes, raw: bytes, at: float) -> None:
    """Note that a dataset's classes are others since `at`, in wall-clock seconds, if they are.

    `before`, `raw`: the API's objects, in JSON.
    """
    if _classes(before) == _classes(raw):
        return

    db.execute(
        "UPDATE dataset SET classes_changes = classes_changes + 1, classes_ns = ? WHERE key = ?",
        (int(at * 1e9), key),
    )


def _classes(raw: bytes) -> str:
    # As text: the order counts, and in Python 1 is True.
    return json.dumps(json.loads(raw).get("classes"))


def _named(dataset: Dataset) -> _Named:
    return _Named(dataset.id.lower(), dataset.name, dataset.created_ns)


def _known(db: sqlite3.Connection, *, without: int) -> Iterable[_Named]:
    # From the API's object: in the columns `id` and `name` lone surrogates are quoted.
    for raw, created_ns in db.execute(
        "SELECT raw, created_ns FROM dataset WHERE key != ?", (without,)
    ):
        fields = json.loads(raw)
        yield _Named(fields["id"].lower(), fields["name"], created_ns)


def _entries(datasets: Iterable[_Named]) -> dict[int, str]:
    """An entry for each dataset, by its key; the oldest of a name keeps the plain one."""
    taken: set[str] = set()
    entries = {}
    for each in sorted(datasets, key=lambda each: (each.created_ns, each.identity)):
        entry = entry_name(each.name, each.identity)
        if entry in taken:
            entry = tagged(each.name, each.identity)

        taken.add(entry)
        entries[key_of(each.identity)] = entry

    return entries


def _give(db: sqlite3.Connection, entries: Mapping[int, str]) -> list[RemovedDentry]:
    """Give datasets their entries, and remove those that get none. Returns the entries that are
    gone."""
    old: dict[int, str] = dict(db.execute("SELECT key, entry FROM dataset").fetchall())

    gone = []
    for key in old.keys() - entries.keys():
        _delete(db, key)
        gone.append(RemovedDentry(DATASETS, old[key]))

    changed = {key: entry for key, entry in entries.items() if old.get(key, entry) != entry}
    gone += [RemovedDentry(DATASETS, old[key]) for key in changed]

    # Two datasets may have swapped names: clear the unique entries before they are set again.
    db.executemany(
        "UPDATE dataset SET entry = ? WHERE key = ?", [(f"/{key}", key) for key in changed]
    )
    db.executemany(
        "UPDATE dataset SET entry = ? WHERE key = ?",
        [(entry, key) for key, entry in changed.items()],
    )
    return gone


def _put(db: sqlite3.Connection, entry: str, dataset: Dataset, at: float) -> list[RemovedDentry]:
    """Write a row. Returns the files made of the dataset's object if there was another object."""
    key = key_of(dataset.id.lower())
    name = storable(dataset.name)
    raw = json.dumps(dataset.raw).encode()

    old = db.execute("SELECT name, raw FROM dataset WHERE key = ?", (key,)).fetchone()
    # Each annotation file names its dataset.
    if old and old[0] != name:
        db.execute(f"UPDATE image SET annotation_stale = {NOW} WHERE dataset = ?", (key,))
        note_input(db, key)

    db.execute(
        _UPSERT,
        (
            key,
            storable(dataset.id),
            name,
            entry,
            dataset.image_count,
            dataset.total_size,
            dataset.created_ns,
            dataset.signature,
            raw,
        ),
    )
    db.execute(
        "INSERT OR IGNORE INTO directory (key, dataset, parent, path, entry, image_count, implicit)"
        " VALUES (?, ?, NULL, '/', '', 0, 0)",
        (key_of(dataset.id + ":/"), key),
    )
    if not old or old[1] == raw:
        return []

    note_classes(db, key, old[1], raw, at)
    return documents(key)


def documents(key: int) -> list[RemovedDentry]:
    """The files that a dataset's object is shown in."""
    return [RemovedDentry(number(NodeKind.DATASET, key), name) for name in (DOCUMENT, README)]


def _delete(db: sqlite3.Connection, key: int) -> None:
    db.execute(
        "DELETE FROM image WHERE directory IN (SELECT key FROM directory WHERE dataset = ?)", (key,)
    )
    db.execute("DELETE FROM directory WHERE dataset = ?", (key,))
    db.execute("DELETE FROM dataset WHERE key = ?", (key,))
