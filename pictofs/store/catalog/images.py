"""Writes to the catalog's table of images: pages of a listing, sweeps, and what downloads show."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from pictofs.model.inode import key_of
from pictofs.model.names import (
    entry_fits,
    entry_name,
    escape,
    is_plain,
    split_directory,
    storable,
    tagged,
    unescape,
)
from pictofs.model.records import Image
from pictofs.store.catalog.database import Database
from pictofs.store.catalog.datasets import note_input
from pictofs.store.catalog.dentries import folder_entries, image_entries, moved_entries
from pictofs.store.catalog.rows import NOW, SELECT, ImageRow, RemovedDentry

_CHUNK = 1000
"""Rows of one statement: 18,000 of the 32,766 values that SQLite takes. The statement runs without
the interpreter's lock; `executemany` would take it again for each row. If a row clashes, only its
chunk goes through the slow path."""

_COLUMNS = (
    "key, id, dataset, directory, entry, filename, annotation_entry, size, created_ns, status,"
    " split, annotation_count, min_confidence, width, height, content_type, tags, seen"
)
_ROW = f"({', '.join('?' * 18)})"
_UPSERT = f"""
    INSERT INTO image ({_COLUMNS}) VALUES {_ROW}
    ON CONFLICT (key) DO UPDATE SET
        annotation_stale = CASE WHEN annotation_count != excluded.annotation_count
            OR status != excluded.status
            OR min_confidence IS NOT excluded.min_confidence OR directory != excluded.directory
            OR coalesce(filename, entry) != coalesce(excluded.filename, excluded.entry)
            THEN {NOW} ELSE annotation_stale END,
        true_size = CASE WHEN size = excluded.size THEN true_size END,
        dataset = excluded.dataset, directory = excluded.directory, entry = excluded.entry,
        filename = excluded.filename, annotation_entry = excluded.annotation_entry,
        size = excluded.size, created_ns = excluded.created_ns, status = excluded.status,
        split = excluded.split,
        annotation_count = excluded.annotation_count, min_confidence = excluded.min_confidence,
        width = coalesce(excluded.width, width),
        height = coalesce(excluded.height, height), content_type = excluded.content_type,
        tags = excluded.tags, seen = max(seen, excluded.seen)
"""
_UPSERT_CHUNK = _UPSERT.replace(_ROW, ", ".join([_ROW] * _CHUNK))

# Indices into a tuple of values.
_DIRECTORY = 3
_ENTRY = 4
_FILENAME = 5

_IN_DATASET = "directory IN (SELECT key FROM directory WHERE dataset = ?)"


class Learned(NamedTuple):
    """A fetched annotation file: the key of its image, its size in bytes and its checksum."""

    key: int
    size: int
    crc32c: int
    checked: float
    """Wall-clock seconds; the server had this file then or later."""
    revision: int | None = None
    """The catalog's `revision` before it was asked for; None: it does not matter."""


class ImageTable:
    """The images of one catalog. Every method blocks and belongs in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_pass(self) -> int:
        """The number of a new listing pass, in the order of all mounts that share the catalog."""
        with self._database.write() as db:
            db.execute(
                "INSERT INTO meta VALUES ('pass', 1)"
                " ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
            return int(db.execute("SELECT value FROM meta WHERE name = 'pass'").fetchone()[0])

    def put(
        self, dataset: int, dataset_id: str, images: Sequence[Image], seen: int, *, moves: bool
    ) -> list[RemovedDentry]:
        """Write rows of a listing.

        Args:
            dataset: key of the dataset.
            dataset_id: its id.
            images: the rows; if an id comes twice, the later row counts.
            seen: number of the pass.
            moves: whether the table may hold these images elsewhere, so that their old entries
                are gone.

        Returns:
            The entries that are gone.
        """
        with self._database.write() as db:
            folders = _Folders(db, dataset, dataset_id)
            unique = {image.id.lower(): image for image in images}

            # All directories first: images give way to them.
            for path in dict.fromkeys(image.directory for image in unique.values()):
                folders.key(path)

            rows = [
                _values(dataset, folders, identity, image, seen)
                for identity, image in unique.items()
            ]

            gone = folders.gone
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                before = _places(db, [row[0] for row in chunk]) if moves else {}
                gone += _write(db, folders, chunk)
                if before:
                    gone += _moved(before, _places(db, list(before)))

            note_input(db, dataset)
            return gone

    def sweep(
        self, dataset: int, seen: int, *, directory: int | None, signature: str, at: float
    ) -> list[RemovedDentry]:
        """End a complete pass over a dataset, or one directory of it: remove what it has not seen.

        Args:
            dataset: key of the dataset.
            seen: number of the pass.
            directory: key of the directory; None for the whole dataset.
            signature: what the dataset or the directory had when the pass began.
            at: wall-clock seconds at which the pass began.

        Returns:
            The entries that are gone.
        """
        with self._database.write() as db:
            scope = "directory = ?" if directory else _IN_DATASET
            values = (directory or dataset, seen)
            where = f"WHERE {scope} AND seen < ?"
            gone = [entry for row in _rows(db, where, *values) for entry in image_entries(row)]
            db.execute(f"DELETE FROM image {where}", values)

            if directory is None:
                gone += _drop_implicit(db, dataset)

            gone += _untag(db, scope, values[0])
            if gone:
                note_input(db, dataset)

            table, key = ("directory", directory) if directory else ("dataset", dataset)
            db.execute(
                f"UPDATE {table} SET listed_at = ?, listed_signature = ? WHERE key = ?",
                (at, signature, key),
            )
            return gone

    def put_answer(
        self,
        dataset: int,
        dataset_id: str,
        directory: int,
        filename: str,
        images: Sequence[Image],
        seen: int,
    ) -> list[RemovedDentry]:
        """Write the server's answer to "which images have this name in this directory", and remove
        others."""
        keys = {key_of(image.id.lower()) for image in images}
        gone: list[RemovedDentry] = []
        with self._database.write() as db:
            for condition, value in (
                ("filename = ?", storable(filename)),
                ("entry = ? AND filename IS NULL", escape(filename)),
            ):
                where = f"WHERE directory = ? AND {condition}"
                for row in list(_rows(db, where, directory, value)):
                    if row.key not in keys:
                        gone += image_entries(row)
                        db.execute("DELETE FROM image WHERE key = ?", (row.key,))

            if gone:
                note_input(db, dataset)

        if images:
            gone += self.put(dataset, dataset_id, images, seen, moves=True)
        return gone

    def learn_size(self, key: int, size: int) -> None:
        """Note that an image has `size` bytes by its download, whatever the listing says."""
        with self._database.write() as db:
            db.execute("UPDATE image SET true_size = ? WHERE key = ?", (size, key))

    def learn_dimensions(self, key: int, width: int, height: int) -> None:
        """Note the pixels of an image of which the listing does not tell them."""
        with self._database.write() as db:
            sql = "UPDATE image SET width = ?, height = ? WHERE key = ? RETURNING dataset"
            for (dataset,) in db.execute(sql, (width, height, key)).fetchall():
                note_input(db, dataset)

    def learn_annotations(
        self, learned: Iterable[Learned], now_ns: int, *, archived: bool = False
    ) -> list[int | None]:
        """Note what fetched annotation files are like.

        Two mounts may do this at once: they must not give one version to two contents.

        Args:
            learned: the files.
            now_ns: when they came, in nanoseconds since the epoch.
            archived: whether they come from an archive. A file that was checked since is left as
                it is.

        Returns:
            The version of each, which grows if the bytes are others; None if the image is gone, or
            was left as it is.
        """
        newer = "AND coalesce(annotation_checked, 0) <= ?5" if archived else ""
        other = "annotation_size IS NOT NULL AND (annotation_size != ?1 OR annotation_crc32c != ?2)"
        # What was said after the file was asked for still counts.
        is_older = f"?6 OR (annotation_stale > ?5 AND annotation_stale <= {NOW})"
        sql = (
            f"UPDATE image SET annotation_ns = CASE WHEN {other} THEN ?3 ELSE annotation_ns END,"
            f" annotation_version = annotation_version + ({other}), annotation_size = ?1,"
            " annotation_crc32c = ?2,"
            f" annotation_stale = CASE WHEN {is_older} THEN annotation_stale ELSE 0 END,"
            f" annotation_checked = ?5 WHERE key = ?4 {newer} RETURNING annotation_version"
        )
        # Most renewals bring what is known.
        changed = (
            "SELECT dataset FROM image WHERE key = ?3 AND (annotation_stale"
            " OR annotation_size IS NOT ?1 OR annotation_crc32c IS NOT ?2)"
        )

        datasets: set[int] = set()
        versions: list[int | None] = []
        with self._database.write() as db:
            found = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
            revision = int(found[0]) if found else 0
            for each in learned:
                found = db.execute(changed, (each.size, each.crc32c, each.key)).fetchone()
                datasets.update(found or ())

                is_revised = each.revision not in (None, revision)
                values = (each.size, each.crc32c, now_ns, each.key, each.checked, is_revised)
                row = db.execute(sql, values).fetchone()
                versions.append(None if row is None else int(row[0]))

            for dataset in datasets:
                note_input(db, dataset)

        return versions

    def seen_in(self, dataset: int, seen: int, directory: int | None) -> int:
        """How many different images a pass has seen so far. Inline it would stall the loop."""
        scope = "directory = ?" if directory else _IN_DATASET

        with self._database.write() as db:
            sql = f"SELECT count(*) FROM image WHERE {scope} AND seen >= ?"
            return int(db.execute(sql, (directory or dataset, seen)).fetchone()[0])

    def entries(self, dataset: int) -> list[RemovedDentry]:
        """All entries of a dataset's images that are known: what the kernel may hold."""
        with self._database.write() as db:
            rows = _rows(db, "WHERE dataset = ?", dataset)
            return [entry for row in rows for entry in image_entries(row)]

    def count_by_status(self, dataset: int) -> dict[str, int]:
        """How many images of a dataset the catalog has, by status."""
        sql = f"SELECT status, count(*) FROM image WHERE {_IN_DATASET} GROUP BY status"
        with self._database.write() as db:
            return dict(db.execute(sql, (dataset,)))

    def occurring(self, dataset: int) -> list[tuple[int, str, str | None]]:
        """Each (directory key, status, split) that some image of the dataset has."""
        sql = f"SELECT DISTINCT directory, status, split FROM image WHERE {_IN_DATASET}"
        with self._database.write() as db:
            return db.execute(sql, (dataset,)).fetchall()


class _Folders:
    """Keys of a dataset's directories by path. Makes a row for a directory that only images
    name."""

    def __init__(self, db: sqlite3.Connection, dataset: int, dataset_id: str) -> None:
        self._db = db
        self._dataset = dataset
        self._id = dataset_id

        sql = "SELECT path, key FROM directory WHERE dataset = ?"
        self._keys: dict[str, int] = dict(db.execute(sql, (dataset,)))
        self._entries: dict[int, set[str]] = {}
        self._places: dict[str, tuple[int, set[str]]] = {}
        self.gone: list[RemovedDentry] = []
        """Entries of images that had to give way to a directory."""

    def key(self, path: str) -> int:
        """The key of a directory. One that is missing is made, with all above it."""
        path = storable(path)
        missing = []
        while path not in self._keys and path != "/":
            above, name = split_directory(path)
            missing.append((path, above, name))
            path = above

        key = self._keys.get(path)
        if key is None:
            key = self._add("/", None, "")

        for below, above, name in reversed(missing):
            key = self._add(below, self._keys[above], entry_name(name, below))

        return key

    def _add(self, path: str, parent: int | None, entry: str) -> int:
        key = key_of(f"{self._id}:{path}")
        self._db.execute(
            "INSERT INTO directory (key, dataset, parent, path, entry, image_count, implicit)"
            " VALUES (?, ?, ?, ?, ?, 0, 1)",
            (key, self._dataset, parent, path, entry),
        )
        self._keys[path] = key
        if parent is not None:
            self._entries.pop(parent, None)
            self.gone += disambiguate(self._db, parent, entry)

        return key

    def place(self, path: str) -> tuple[int, set[str]]:
        """The key of a directory, and what `below` says of it."""
        found = self._places.get(path)
        if found is None:
            key = self.key(path)
            found = self._places[path] = key, self.below(key)

        return found

    def below(self, key: int) -> set[str]:
        """Entries of the directories in a directory: images give way to them."""
        if key not in self._entries:
            rows = self._db.execute("SELECT entry FROM directory WHERE parent = ?", (key,))
            self._entries[key] = {row[0] for row in rows}
        return self._entries[key]


def _values(
    dataset: int, folders: _Folders, identity: str, image: Image, seen: int
) -> tuple[Any, ...]:
    """The values of an image's row, in the order of `_COLUMNS`."""
    directory, taken = folders.place(image.directory)
    entry = name = image.filename
    filename = None
    note = None

    if taken or not is_plain(name):
        entry = entry_name(name, identity)
        if entry in taken:
            entry = tagged(name, identity)

        filename = None if entry == name else storable(name)
        note = _annotation_name(name, identity, entry, taken)

    return (
        key_of(identity),
        image.id,
        dataset,
        directory,
        entry,
        filename,
        note,
        image.size,
        image.created_ns,
        image.status,
        image.split,
        image.annotation_count,
        image.min_confidence,
        image.width,
        image.height,
        image.content_type,
        msgspec.json.encode(image.tags).decode() if image.tags else None,
        seen,
    )


def _annotation_name(filename: str, identity: str, entry: str, taken: Container[str]) -> str | None:
    """The annotation file's entry if it is not the image's entry followed by `.json`, else None."""
    plain = entry + ".json"
    if entry_fits(plain) and plain not in taken:
        return None
    return tagged(filename + ".json", identity)


def _write(
    db: sqlite3.Connection, folders: _Folders, rows: list[tuple[Any, ...]]
) -> list[RemovedDentry]:
    """Write a chunk of rows, in one statement if none of them clashes. Returns the entries that are
    gone."""
    db.execute("SAVEPOINT chunk")
    try:
        if len(rows) == _CHUNK:
            cursor = db.execute(_UPSERT_CHUNK, list(chain.from_iterable(rows)))
        else:
            cursor = db.executemany(_UPSERT, rows)

        # `rowcount` leaves out what triggers have written.
        if cursor.rowcount == len(rows):
            db.execute("RELEASE chunk")
            return []
    except (sqlite3.IntegrityError, UnicodeEncodeError):
        pass

    db.execute("ROLLBACK TO chunk")
    db.execute("RELEASE chunk")

    gone: list[RemovedDentry] = []
    for row in rows:
        values = tuple(storable(value) if isinstance(value, str) else value for value in row)
        gone += _write_one(db, folders, values)

    return gone


def _write_one(
    db: sqlite3.Connection, folders: _Folders, row: tuple[Any, ...]
) -> list[RemovedDentry]:
    """Write a row whose entry another image may have: the older of the two keeps the plain name.

    Returns the entries of the other image if it gave way.
    """
    where = "WHERE directory = ? AND entry = ?"
    holder = next(_rows(db, where, row[_DIRECTORY], row[_ENTRY]), None)

    gone: list[RemovedDentry] = []
    if holder is not None and holder.key != row[0]:
        if (holder.created_ns, holder.id.lower()) > (row[8], row[1].lower()):
            gone += _tag(db, holder, folders.below(row[_DIRECTORY]))
        else:
            name = row[_ENTRY] if row[_FILENAME] is None else row[_FILENAME]
            identity = row[1].lower()
            entry = tagged(name, identity)
            note = _annotation_name(name, identity, entry, folders.below(row[_DIRECTORY]))
            row = (*row[:_ENTRY], entry, name, note, *row[7:])

    db.execute(_UPSERT, row)
    return gone


def _tag(db: sqlite3.Connection, row: ImageRow, taken: Container[str]) -> Iterable[RemovedDentry]:
    """Give an image its tagged name. Returns the entries that it had."""
    return _rename(db, row, tagged(row.name, row.id.lower()), taken)


def _rename(
    db: sqlite3.Connection, row: ImageRow, entry: str, taken: Container[str]
) -> Iterable[RemovedDentry]:
    note = _annotation_name(row.name, row.id.lower(), entry, taken)
    db.execute(
        "UPDATE image SET entry = ?, filename = ?, annotation_entry = ? WHERE key = ?",
        (entry, None if entry == row.name else row.name, note, row.key),
    )
    return image_entries(row)


def disambiguate(db: sqlite3.Connection, directory: int, entry: str) -> list[RemovedDentry]:
    """Give a tag to the image and the annotation file called `entry`, the name of a directory now.

    Returns the entries that they had.
    """
    gone: list[RemovedDentry] = []
    where = "WHERE directory = ? AND entry = ?"
    for row in list(_rows(db, where, directory, entry)):
        gone += _tag(db, row, ())

    if entry.endswith(".json"):
        where += " AND annotation_entry IS NULL"
        for row in list(_rows(db, where, directory, entry[:-5])):
            gone += _rename(db, row, row.entry, (entry,))

    return gone


def _untag(db: sqlite3.Connection, scope: str, value: int) -> list[RemovedDentry]:
    """Give back the plain name to images that need no tag any more, the oldest first.

    Returns the entries that they had.
    """
    gone: list[RemovedDentry] = []
    where = f"WHERE {scope} AND filename IS NOT NULL ORDER BY created_ns, lower(id)"
    for row in list(_rows(db, where, value)):
        plain = entry_name(row.name, row.id.lower())
        # An entry that `unescape` can read has no tag.
        if plain == row.entry or unescape(row.entry) is not None:
            continue

        taken = {
            found[0]
            for found in db.execute(
                "SELECT entry FROM image WHERE directory = ?1 AND entry = ?2"
                " UNION ALL SELECT entry FROM directory WHERE parent = ?1 AND entry IN (?2, ?3)",
                (row.directory, plain, plain + ".json"),
            )
        }
        if plain not in taken:
            gone += _rename(db, row, plain, taken)

    return gone


def _rows(db: sqlite3.Connection, where: str, *values: Any) -> Iterator[ImageRow]:
    """Rows, read as they are asked for: make a list of them before the table is changed."""
    return map(ImageRow._make, db.execute(SELECT[ImageRow] + where, values))


def _places(db: sqlite3.Connection, keys: list[int]) -> dict[int, ImageRow]:
    marks = ", ".join("?" * len(keys))
    return {row.key: row for row in _rows(db, f"WHERE key IN ({marks})", *keys)}


def _moved(before: dict[int, ImageRow], after: dict[int, ImageRow]) -> list[RemovedDentry]:
    return [gone for key, old in before.items() for gone in moved_entries(old, after.get(key))]


def _drop_implicit(db: sqlite3.Connection, dataset: int) -> list[RemovedDentry]:
    """Remove directories that only images named, now that no image does; the innermost first."""
    gone: list[RemovedDentry] = []
    sql = (
        "SELECT key, parent, entry FROM directory WHERE dataset = ? AND implicit"
        " AND NOT EXISTS (SELECT 1 FROM image WHERE image.directory = directory.key)"
        " AND NOT EXISTS (SELECT 1 FROM directory AS child WHERE child.parent = directory.key)"
    )
    while rows := db.execute(sql, (dataset,)).fetchall():
        for key, parent, entry in rows:
            gone += folder_entries(parent, entry)
            db.execute("DELETE FROM directory WHERE key = ?", (key,))

    return gone
