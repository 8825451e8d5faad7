"""What the organization is known to hold: point reads inline, writes in threads.

A read costs about 20 us and is made on the event loop. Every method that writes blocks, runs in one
transaction, and belongs in a thread. Methods that change what a folder shows return the entries
that are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pictofs.model.inode import key_of
from pictofs.model.names import entry_name, split_directory, storable
from pictofs.model.records import Dataset, Directory
from pictofs.model.selection import SPLITS, Selection
from pictofs.store.catalog import datasets as datasets_table
from pictofs.store.catalog.database import Database
from pictofs.store.catalog.datasets import Observation
from pictofs.store.catalog.dentries import folder_entries
from pictofs.store.catalog.formats import STEM
from pictofs.store.catalog.images import disambiguate
from pictofs.store.catalog.rows import (
    NOW,
    SELECT,
    DatasetRow,
    DirectoryRow,
    ImageRow,
    RemovedDentry,
)

R = TypeVar("R", bound=NamedTuple)

SCAN = 4096
"""Rows that one call of `selected_after` goes through."""

_SEQ_MAX = 2**63 - 1


class Catalog:
    """The tables of datasets and directories, and all point reads. `ImageTable` writes the
    images."""

    def __init__(self, path: Path) -> None:
        """Open or make the catalog at `path`.

        Raises:
            DiskFull: the folder can't be written.
        """
        self.database = Database(path)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    # Reads: inline.

    def _row(self, kind: type[R], where: str, *values: Any) -> R | None:
        rows = self._rows(kind, where, *values)
        return rows[0] if rows else None

    def _rows(self, kind: type[R], where: str, *values: Any) -> list[R]:
        return list(map(kind._make, self.database.query(SELECT[kind] + where, values)))

    @property
    def version(self) -> int:
        """Another number after each change of the catalog, by whatever process; 3 us."""
        return int(self.database.query("PRAGMA data_version")[0][0])

    def meta(self, name: str) -> Any:
        """A value of `meta`, None if it was never set."""
        rows = self.database.query("SELECT value FROM meta WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def dataset(self, key: int) -> DatasetRow | None:
        """The dataset with that key."""
        return self._row(DatasetRow, "WHERE key = ?", key)

    def annotations_due(self, key: int) -> float:
        """The wall-clock time in seconds; annotation files confirmed before it must be checked
        again.

        5 us.
        """
        rows = self.database.query("SELECT annotations_due FROM dataset WHERE key = ?", (key,))
        return float(rows[0][0] or 0.0) if rows else 0.0

    def dataset_object(self, key: int) -> tuple[dict[str, Any], int]:
        """The API's object of a dataset, as it came, and how often it has changed.

        Empty if there is no such dataset.
        """
        rows = self.database.query("SELECT raw, raw_changes FROM dataset WHERE key = ?", (key,))
        if not rows:
            return {}, 0
        raw, changes = rows[0]
        return json.loads(raw), changes

    def dataset_by_entry(self, entry: str) -> DatasetRow | None:
        """The dataset listed as `entry`."""
        return self._row(DatasetRow, "WHERE entry = ?", entry)

    def datasets_after(self, seq: int, limit: int) -> list[DatasetRow]:
        """Datasets in listing order, after `seq`."""
        return self._rows(DatasetRow, "WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)

    def directory(self, key: int) -> DirectoryRow | None:
        """The directory with that key."""
        return self._row(DirectoryRow, "WHERE key = ?", key)

    def directory_by_path(self, dataset: int, path: str) -> DirectoryRow | None:
        """The directory of a dataset at a canonical path; `/` is its root."""
        return self._row(DirectoryRow, "WHERE dataset = ? AND path = ?", dataset, path)

    def directory_by_entry(self, parent: int, entry: str) -> DirectoryRow | None:
        """The directory listed as `entry` in another one."""
        return self._row(DirectoryRow, "WHERE parent = ? AND entry = ?", parent, entry)

    def directories_after(self, parent: int, seq: int, limit: int) -> list[DirectoryRow]:
        """Directories in a directory, after `seq`."""
        where = "WHERE parent = ? AND seq > ? ORDER BY seq LIMIT ?"
        return self._rows(DirectoryRow, where, parent, seq, limit)

    def directories_of(self, dataset: int) -> list[DirectoryRow]:
        """All directories of a dataset, its root among them."""
        return self._rows(DirectoryRow, "WHERE dataset = ?", dataset)

    def directory_keys(self, dataset: int) -> list[int]:
        """Keys of all directories of a dataset, its root among them."""
        sql = "SELECT key FROM directory WHERE dataset = ? ORDER BY path"
        return [row[0] for row in self.database.query(sql, (dataset,))]

    def image(self, key: int) -> ImageRow | None:
        """The image with that key."""
        return self._row(ImageRow, "WHERE key = ?", key)

    def image_by_entry(self, directory: int, entry: str) -> ImageRow | None:
        """The image listed as `entry` in `images/`."""
        return self._row(ImageRow, "WHERE directory = ? AND entry = ?", directory, entry)

    def image_by_annotation_name(self, directory: int, entry: str) -> ImageRow | None:
        """The image whose annotation file is listed as `entry` in `annotations/`."""
        row: ImageRow | None = None
        if entry.endswith(".json"):
            where = "WHERE directory = ? AND entry = ? AND annotation_entry IS NULL"
            row = self._row(ImageRow, where, directory, entry[:-5])

        # Only a file whose name does not follow from its image's has an entry of its own.
        if row is None:
            where = "WHERE directory = ? AND annotation_entry = ?"
            row = self._row(ImageRow, where, directory, entry)

        return row

    def any_image(self) -> ImageRow | None:
        """The image that was listed last; None if there is none."""
        return self._row(ImageRow, "ORDER BY seq DESC LIMIT 1")

    def images_after(self, directory: int, seq: int, limit: int) -> list[ImageRow]:
        """Images in a directory in listing order, after `seq`."""
        where = "WHERE directory = ? AND seq > ? ORDER BY seq LIMIT ?"
        return self._rows(ImageRow, where, directory, seq, limit)

    def entries_after(self, kind: type[R], directory: int, seq: int, limit: int) -> list[R]:
        """The same images, with the columns that a listing shows."""
        where = "WHERE directory = ? AND seq > ? ORDER BY seq LIMIT ?"
        return self._rows(kind, where, directory, seq, limit)

    def selected_after(
        self, kind: type[R], directory: int, seq: int, selection: Selection, limit: int
    ) -> tuple[list[R], int | None]:
        """The rows of `entries_after` that are in a selection, and the `seq` after which to go on.

        The `seq` is None at the end. There may be no rows before the end: one call looks at no more
        than 4,096, which takes 4 ms.
        """
        where = f"directory = ? AND {selection.axis} IS ?"
        scope = ("directory = ?", (directory,))
        return self._scanned(kind, scope, where, (directory, selection.value), seq, limit)

    def shown_after(
        self,
        kind: type[R],
        seq: int,
        limit: int,
        *,
        dataset: int,
        directory: int | None,
        status: str | None,
        split: str | None,
    ) -> tuple[list[R], int | None]:
        """The images that a format shows after `seq`, and where to go on, as `selected_after` has
        it.

        Args:
            kind: what is wanted of each.
            seq: where to begin; 0 for the first.
            limit: rows at most.
            dataset: its key.
            directory: the key of the one that they are in; None for any.
            status: theirs; None for any.
            split: the one that `split_of` gives for theirs; None for any.
        """
        # No index leads to the images of a dataset in their order: all rows are gone through.
        scope: tuple[str, Sequence[Any]] = ("1", ())
        where = "dataset = ?"
        values: list[Any] = [dataset]
        if directory is not None:
            where = "directory = ?"
            values = [directory]
            scope = (where, (directory,))

        if status is not None:
            where += " AND status = ?"
            values.append(status)
        if split == SPLITS[0]:
            where += " AND (split IS NULL OR split NOT IN (?, ?))"
            values += SPLITS[1:]
        elif split is not None:
            where += " AND split = ?"
            values.append(split)

        return self._scanned(kind, scope, where, values, seq, limit)

    def _scanned(
        self,
        kind: type[R],
        scope: tuple[str, Sequence[Any]],
        where: str,
        values: Sequence[Any],
        seq: int,
        limit: int,
    ) -> tuple[list[R], int | None]:
        """Rows after `seq` that are as `where` says, among the next `SCAN` in `scope`, and the `seq`
        to go on after. Conditions come with their values."""
        sql = f"SELECT seq FROM image WHERE {scope[0]} AND seq > ? ORDER BY seq LIMIT 1 OFFSET ?"
        far = self.database.query(sql, (*scope[1], seq, SCAN - 1))
        last = far[0][0] if far else None

        where = f"WHERE {where} AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        rows = self._rows(kind, where, *values, seq, last or _SEQ_MAX, limit)

        # A full batch ends before the rows looked at do. Of each kind `seq` is the first column.
        return rows, rows[-1][0] if len(rows) == limit else last

    def images_by_entry(self, directory: int, entry: str, limit: int) -> list[ImageRow]:
        """Images in a directory in the order of their entries, after `entry`."""
        where = "WHERE directory = ? AND entry > ? ORDER BY entry LIMIT ?"
        return self._rows(ImageRow, where, directory, entry, limit)

    def images_at(self, seqs: Sequence[int]) -> list[ImageRow]:
        """The images of these `seq`, in order, as far as they are there."""
        marks = ", ".join("?" * len(seqs))
        return self._rows(ImageRow, f"WHERE seq IN ({marks}) ORDER BY seq", *seqs)

    def oldest_with_stem(
        self, stem: str, *, dataset: int, directory: int | None
    ) -> ImageRow | None:
        """The image that has a stem for itself in a directory, or in the whole dataset (None).

        2 us for each directory.
        """
        scope = (
            "= ?" if directory is not None else "IN (SELECT key FROM directory WHERE dataset = ?)"
        )
        row: ImageRow | None = None
        # An index leads to both: the entry that has no extension, and those that go on by a dot.
        for condition, values in (
            ("entry = ? AND instr(entry, '.') = 0", (stem,)),
            (f"entry >= ? AND entry < ? AND {STEM} = ?", (stem + ".", stem + "/", stem)),
        ):
            where = (
                f"WHERE directory {scope} AND {condition} ORDER BY created_ns, lower(id) LIMIT 1"
            )
            found = self._row(ImageRow, where, directory or dataset, *values)
            if found is not None and (row is None or _age(found) < _age(row)):
                row = found

        return row

    def next_images(
        self, row: ImageRow, order: str, limit: int, *, back: bool = False
    ) -> list[ImageRow]:
        """The images that follow one in its directory, ordered by `order`: `seq`, `entry` or `key`.

        `back`: the images that precede it, the nearest first.
        """
        side, way = ("<", "DESC") if back else (">", "ASC")
        where = f"WHERE directory = ? AND {order} {side} ? ORDER BY {order} {way} LIMIT ?"
        return self._rows(ImageRow, where, row.directory, getattr(row, order), limit)

    def directories_with_images(self, dataset: int) -> frozenset[int]:
        """Keys of a dataset's directories in which some image is known."""
        sql = (
            "SELECT key FROM directory WHERE dataset = ?"
            " AND EXISTS (SELECT 1 FROM image WHERE image.directory = directory.key)"
        )
        return frozenset(row[0] for row in self.database.query(sql, (dataset,)))

    def image_key(self, directory: int, entry: str) -> int | None:
        """The key of the image listed as `entry` in `images/`; 5 us, for callers that ask for
        many."""
        sql = "SELECT key FROM image WHERE directory = ? AND entry = ?"
        rows = self.database.query(sql, (directory, entry))
        return int(rows[0][0]) if rows else None

    def had_one_size(self, key: int, size: int) -> bool:
        """Whether no listing and no download ever gave an image another size than `size`; 5 us.

        A listed size of 0 means that there is none, and shows as a placeholder that no kernel
        keeps.
        """
        sql = (
            "SELECT 1 FROM image WHERE key = ?1 AND size IN (0, ?2)"
            " AND coalesce(true_size, ?2) = ?2"
            " AND NOT EXISTS (SELECT 1 FROM former_image WHERE key = ?1)"
        )
        return bool(self.database.query(sql, (key, size)))

    def never_left(self, key: int) -> bool:
        """Whether the row of an image was never removed; 3 us."""
        sql = "SELECT 1 FROM former_image WHERE key = ? AND removed"
        return not self.database.query(sql, (key,))

    def implies(self, parent: int) -> bool:
        """Whether a directory has a subdirectory that is known only from the paths of images."""
        sql = "SELECT EXISTS (SELECT 1 FROM directory WHERE parent = ? AND implicit)"
        return bool(self.database.query(sql, (parent,))[0][0])

    def root_images(self, dataset: int) -> int:
        """Images in no virtual directory, by the server's counts."""
        sql = "SELECT image_count - (SELECT total(image_count) FROM directory WHERE dataset = ?1)"
        rows = self.database.query(sql + " FROM dataset WHERE key = ?1", (dataset,))
        return max(0, _counted(rows[0][0])) if rows else 0

    def counts(self) -> tuple[int, int]:
        """Datasets, and bytes of all their images, by the server's counts; constant time in
        practice."""
        ((datasets, size),) = self.database.query("SELECT count(*), total(total_size) FROM dataset")
        return datasets, _counted(size)

    def image_total(self) -> int:
        """Images of all datasets, as the server counts them."""
        return _counted(self.database.query("SELECT total(image_count) FROM dataset")[0][0])

    # Writes: they block.

    def set_meta(self, name: str, value: Any) -> None:
        """Set a value of `meta`. Blocks."""
        with self.database.write() as db:
            _set_meta(db, name, value)

    @property
    def revision(self) -> int:
        """A number that every change made here raises: a list read across a change may lack it."""
        return int(self.meta("revision") or 0)

    def put_datasets(
        self,
        datasets: Iterable[Dataset],
        checked_at: float,
        revision: int | None = None,
        observation: Observation | None = None,
    ) -> list[RemovedDentry] | None:
        """Make the table of datasets equal to `datasets`, all of the organization's. Blocks.

        Args:
            datasets: the whole list.
            checked_at: wall-clock seconds at which it was asked for.
            revision: what `revision` was before that; None: write in any case.
            heard: when it came; None: at `checked_at`, from a server that does not tell its time.

        Returns:
            The entries that are gone; None, with nothing written, if `revision` has changed.
        """
        with self.database.write() as db:
            if revision is not None and revision != _revision(db):
                return None

            gone = datasets_table.put_all(
                db, datasets, observation or Observation(checked_at, None)
            )
            _set_meta(db, "checked_at", checked_at)

        return gone

    def put_changed(self, dataset: Dataset, at: float) -> list[RemovedDentry]:
        """Write a dataset that this machine has made or changed, at `at` in wall-clock seconds.
        Blocks."""
        with self.database.write() as db:
            _revise(db)

            # Someone else may have archived it meanwhile.
            if dataset.is_archived:
                return datasets_table.remove_one(db, key_of(dataset.id.lower()))

            return datasets_table.put_one(db, dataset, at)

    def drop_dataset(self, key: int) -> list[RemovedDentry]:
        """Remove a dataset that this machine has deleted. Blocks."""
        with self.database.write() as db:
            _revise(db)
            return datasets_table.remove_one(db, key)

    def put_directories(
        self, dataset: int, dataset_id: str, rows: Iterable[Directory], signature: str, at: float
    ) -> list[RemovedDentry]:
        """Make a dataset's directories equal to `rows`, but keep those that images imply. Blocks.

        `signature` is the one that the dataset had when `rows` were asked for; `at` is the time of
        that in wall-clock seconds.
        """
        with self.database.write() as db:
            sql = SELECT[DirectoryRow] + "WHERE dataset = ? AND parent IS NOT NULL"
            old = {row.key: row for row in map(DirectoryRow._make, db.execute(sql, (dataset,)))}
            sql = "SELECT path FROM directory WHERE dataset = ? AND implicit"
            implicit = {path for (path,) in db.execute(sql, (dataset,))}
            sql = "SELECT key FROM directory WHERE dataset != ?"
            elsewhere = {key for (key,) in db.execute(sql, (dataset,))}
            root = key_of(dataset_id + ":/")

            new = _directory_rows(
                dataset_id,
                rows,
                {row.path: row.key for row in old.values() if row.path in implicit},
                elsewhere,
            )

            # Most answers change nothing: then no row is written but the dataset's.
            before = {
                row.key: (row.path, row.image_count, row.path in implicit) for row in old.values()
            }
            after = {key: (path, count, alone) for path, (key, count, alone) in new.items()}
            gone: list[RemovedDentry] = []
            if after != before:
                gone = _replace_directories(db, dataset, root, old, new)
                datasets_table.note_input(db, dataset)

            db.execute(
                "UPDATE dataset SET tree_at = ?, tree_signature = ? WHERE key = ?",
                (at, signature, dataset),
            )

        return gone

    def put_dataset(
        self, dataset: Dataset, observation: Observation, *, known: str
    ) -> list[RemovedDentry]:
        """Write a newer object of a known dataset, but leave its name to `put_datasets`. Blocks.

        `known`: the signature that the row had when the object was asked for. If the row has
        another one by now, nobody can tell which answer is newer, and nothing is written.
        """
        key = key_of(dataset.id.lower())
        raw = json.dumps(dataset.raw).encode()
        with self.database.write() as db:
            before = db.execute("SELECT raw FROM dataset WHERE key = ?", (key,)).fetchone()
            written = db.execute(
                "UPDATE dataset SET image_count = ?, total_size = ?, signature = ?, raw = ?"
                " WHERE key = ? AND signature = ?",
                (
                    dataset.image_count,
                    dataset.total_size,
                    dataset.signature,
                    raw,
                    key,
                    known,
                ),
            ).rowcount
            if not written:
                return []

            datasets_table.note_classes(db, key, before[0], raw, observation.at)
            datasets_table.note_move(db, dataset, observation)

        return datasets_table.documents(key)

    def expire(self, dataset: int | None, *, elsewhere: bool = False) -> None:
        """Forget that a dataset, or with None any of them, was ever checked: the next look asks.
        Blocks.

        `elsewhere`: another node was told to, and what nodes share since then bears another name.
        """
        with self.database.write() as db:
            # A list that is being read just now may be too old.
            if elsewhere:
                _set_meta(db, "revision", _revision(db) + 1)
            else:
                _revise(db)
            _set_meta(db, "checked_at", 0.0)

            only = "" if dataset is None else "WHERE key = ?"
            values = () if dataset is None else (dataset,)
            db.execute(
                "UPDATE dataset SET tree_at = NULL, listed_at = NULL,"
                f" input_changes = input_changes + 1 {only}",
                values,
            )

            only = only.replace("key", "dataset")
            db.execute(f"UPDATE directory SET listed_at = NULL {only}", values)
            since = "max(annotation_stale, 1)" if elsewhere else NOW
            db.execute(f"UPDATE image SET annotation_stale = {since} {only}", values)


def _counted(total: float) -> int:
    """A sum of the server's figures, which may be absurd: total() gives a float where sum()
    overflows."""
    return int(min(total, _SEQ_MAX))


def _revision(db: Any) -> int:
    row = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
    return int(row[0]) if row else 0


def _revise(db: Any) -> None:
    """Note a change or a refresh made here."""
    _set_meta(db, "revision", _revision(db) + 1)
    db.execute(f"INSERT OR REPLACE INTO meta VALUES ('revised_at', {NOW})")


def _set_meta(db: Any, name: str, value: Any) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _directory_rows(
    dataset_id: str, rows: Iterable[Directory], implicit: dict[str, int], taken: set[int]
) -> dict[str, tuple[int, int, int]]:
    """Path -> (key, image count, implicit) of every directory and all its parents, parents first.

    An id that comes twice, or that another dataset's directory has (`taken`), does not identify a
    directory: its key is then made of its path.
    """
    known = {storable(row.path): row for row in rows if row.path != "/"}
    paths: set[str] = set()
    for path in [*known, *implicit]:
        while path != "/" and path not in paths:
            paths.add(path)
            path = split_directory(path)[0]  # noqa: PLW2901

    result = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        row = known.get(path)
        own = key_of(f"{dataset_id}:{path}")
        if row is not None:
            key = key_of(row.id) if row.id else own
            result[path] = (own if key in taken else key, row.image_count, 0)
        else:
            result[path] = (implicit.get(path) or own, 0, 1)

        taken.add(result[path][0])

    return result


def _age(row: ImageRow) -> tuple[int, str]:
    return row.created_ns, row.id.lower()


def _replace_directories(
    db: Any,
    dataset: int,
    root: int,
    old: dict[int, DirectoryRow],
    new: dict[str, tuple[int, int, int]],
) -> list[RemovedDentry]:
    """Write all of a dataset's directories anew: renames may be swaps, so no row can be changed
    alone."""
    by_path = {row.path: row for row in old.values()}
    parents = {"/": root} | {path: key for path, (key, _, _) in new.items()}
    keys = set(parents.values())
    db.execute("DELETE FROM directory WHERE dataset = ? AND parent IS NOT NULL", (dataset,))

    gone: list[RemovedDentry] = []
    kept: dict[int, tuple[int, str]] = {}
    for path, (key, count, implicit) in new.items():
        above, name = split_directory(path)
        parent = parents[above]
        entry = entry_name(name, path)

        # The annotation files say where their images are.
        before = old.get(key)
        if before is not None and before.path != path:
            db.execute(f"UPDATE image SET annotation_stale = {NOW} WHERE directory = ?", (key,))

        # The path was implicit until now: its images move to the server's row.
        there = by_path.get(path)
        if there is not None and there.key not in keys:
            db.execute(
                "UPDATE OR IGNORE image SET directory = ? WHERE directory = ?", (key, there.key)
            )

        db.execute(
            "INSERT INTO directory (seq, key, dataset, parent, path, entry, image_count, implicit,"
            " listed_at, listed_signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                before and before.seq,
                key,
                dataset,
                parent,
                path,
                entry,
                count,
                implicit,
                before and before.listed_at,
                before and before.listed_signature,
            ),
        )
        kept[key] = (parent, entry)
        gone += disambiguate(db, parent, entry)

    for row in old.values():
        if kept.get(row.key) != (row.parent, row.entry):
            gone += folder_entries(row.parent or 0, row.entry)

        if row.key not in kept:
            cursor = db.execute("DELETE FROM image WHERE directory = ?", (row.key,))
            # Its images are elsewhere now, or gone: only a new listing tells.
            if cursor.rowcount:
                db.execute("UPDATE dataset SET listed_at = NULL WHERE key = ?", (dataset,))

    return gone
