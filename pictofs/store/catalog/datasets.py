"""Writes to the catalog's table of datasets: the whole list as it was read, or one dataset that was changed here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pictofs.model.inode import Kind, key_of, number
from pictofs.model.moment import time_ns
from pictofs.model.names import entry_name, storable, tagged
from pictofs.model.records import Dataset
from pictofs.store.catalog.rows import RemovedDentry

DATASETS = number(Kind.FIXED, 1)
"""Inode number of `/datasets`."""
DOCUMENT = "dataset.json"
"""The file in a dataset's folder that holds the API's object."""
README = "README.md"
"""The file that holds the dataset's readme, where it has one."""

DUE_MARGIN_S = 2.0
"""Seconds: `Date` and `updated_at` may be cut to whole ones, so that a moment of the server is known this well."""
_UPSERT = (
    "INSERT INTO dataset (key, id, name, entry, image_count, total_size, created_ns, signature, raw)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET name = excluded.name,"
    " entry = excluded.entry, image_count = excluded.image_count, total_size = excluded.total_size,"
    " signature = excluded.signature, raw = excluded.raw"
)


class Observation(NamedTuple):
    """When the server said what is written."""

    at: float
    """Wall-clock seconds here, when its answer was there."""
    ahead: float | None
    """Seconds that its clock is ahead of ours; None where it does not tell."""


class _Named(NamedTuple):
    """What decides on a dataset's entry."""

    identity: str
    """The id in lower case."""
    name: str
    created_ns: int


def put_all(db: sqlite3.Connection, datasets: Iterable[Dataset], heard: Observation) -> list[RemovedDentry]:
    """Make the table equal to `datasets`. Returns the entries that are gone."""
    unique = {dataset.id.lower(): dataset for dataset in datasets}
    entries = _entries(_named(dataset) for dataset in unique.values())
    gone = _give(db, entries)
    for identity, dataset in unique.items():  # the server's order, newest first, is the order of listing
        gone += _put(db, entries[key_of(identity)], dataset)
        note_move(db, dataset, heard)
    return gone


def put_one(db: sqlite3.Connection, dataset: Dataset) -> list[RemovedDentry]:
    """Add a dataset, or change it, as the list will have it. Returns the entries that are gone."""
    key = key_of(dataset.id.lower())
    entries = _entries([*_known(db, without=key), _named(dataset)])
    return _give(db, entries) + _put(db, entries[key], dataset)


def remove_one(db: sqlite3.Connection, key: int) -> list[RemovedDentry]:
    """Remove a dataset with all that is in it. Returns the entries that are gone."""
    return _give(db, _entries(_known(db, without=key)))


def note_move(db: sqlite3.Connection, dataset: Dataset, heard: Observation) -> None:
    """Make the annotation files of a known dataset due where its `updated_at` has moved since it was listed last.

    Not where a dataset is changed from here: the next list tells of that, and of what others changed before.
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
        # What was fetched after the move needs no second fetch. A time in the future is not believed, nor one before
        # the list was read last, which did not show the move.
        moved = moved_ns / 1e9 - heard.ahead + DUE_MARGIN_S
        listed = db.execute("SELECT value FROM meta WHERE name = 'checked_at'").fetchone()
        if due_before is None or moved >= max(due_before, listed[0] if listed else 0.0):
            due = min(due, moved)

    db.execute("UPDATE dataset SET updated_at = ?, annotations_due = ? WHERE key = ?", (updated_at, due, key))


def _named(dataset: Dataset) -> _Named:
    return _Named(dataset.id.lower(), dataset.name, dataset.created_ns)


def _known(db: sqlite3.Connection, *, without: int) -> Iterable[_Named]:
    # Of the API's object: `id` and `name` are kept with their lone surrogates quoted.
    for raw, created_ns in db.execute("SELECT raw, created_ns FROM dataset WHERE key != ?", (without,)):
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
    """Give datasets their entries; those that get none are removed."""
    old: dict[int, str] = dict(db.execute("SELECT key, entry FROM dataset").fetchall())
    gone = []
    for key in old.keys() - entries.keys():
        _delete(db, key)
        gone.append(RemovedDentry(DATASETS, old[key]))
    changed = {key: entry for key, entry in entries.items() if old.get(key, entry) != entry}
    gone += [RemovedDentry(DATASETS, old[key]) for key in changed]
    # Two datasets may have swapped names: clear what is unique before it is set again.
    db.executemany("UPDATE dataset SET entry = ? WHERE key = ?", [(f"/{key}", key) for key in changed])
    db.executemany(
        "UPDATE dataset SET entry = ? WHERE key = ?", [(entry, key) for key, entry in changed.items()]
    )
    return gone


def _put(db: sqlite3.Connection, entry: str, dataset: Dataset) -> list[RemovedDentry]:
    """Write a row. Returns its `dataset.json`, where that was another."""
    key, name, raw = key_of(dataset.id.lower()), storable(dataset.name), json.dumps(dataset.raw).encode()
    old = db.execute("SELECT name, raw FROM dataset WHERE key = ?", (key,)).fetchone()
    if old and old[0] != name:
        # The annotation file names its dataset.
        db.execute("UPDATE image SET annotation_stale = 1 WHERE dataset = ?", (key,))
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
        "INSERT OR IGNORE INTO directory (key, dataset, parent, path, entry, image_count, implied)"
        " VALUES (?, ?, NULL, '/', '', 0, 0)",
        (key_of(dataset.id + ":/"), key),
    )
    return documents(key) if old and old[1] != raw else []


def documents(key: int) -> list[RemovedDentry]:
    """The files that a dataset's object is shown in."""
    return [RemovedDentry(number(Kind.DATASET, key), name) for name in (DOCUMENT, README)]


def _delete(db: sqlite3.Connection, key: int) -> None:
    db.execute("DELETE FROM image WHERE directory IN (SELECT key FROM directory WHERE dataset = ?)", (key,))
    db.execute("DELETE FROM directory WHERE dataset = ?", (key,))
    db.execute("DELETE FROM dataset WHERE key = ?", (key,))
