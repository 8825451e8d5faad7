"""Scans of a dataset's images for the views that trainers read. Every one blocks and belongs in a
thread."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable

from pictofs.formats.imagefolder import UNTAGGED, folders
from pictofs.model.formats import BLANKS, LINE_BREAKS, STEM_MAX_BYTES
from pictofs.model.names import tag_digest
from pictofs.store.catalog.database import Database

STEM = (
    "CASE instr(entry, '.') WHEN 0 THEN entry"
    " ELSE substr(entry, 1, length(rtrim(entry, replace(entry, '.', ''))) - 1) END"
)
"""`split_name` of an entry, its first part, in SQL: what stands before the last dot."""

_IN_DATASET = "directory IN (SELECT key FROM directory WHERE dataset = ?)"


class Twins:
    """The images of which an older one has the stem, or whose stem can't stay: 24 bytes each."""

    def __init__(self, rows: Iterable[tuple[int, str]]) -> None:
        """`rows`: keys and ids."""
        pairs = sorted((tag_digest(identity.lower()), key) for key, identity in rows)
        self._digests = array("Q", (digest for digest, _ in pairs))
        self._keys_by_digest = array("Q", (key for _, key in pairs))
        self._keys = array("Q", sorted(self._keys_by_digest))

    def __contains__(self, key: int) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key

    def __len__(self) -> int:
        return len(self._keys)

    def tagged(self, digest: int) -> int | None:
        """The key of the image whose id has that digest; None if it is no twin."""
        at = bisect_left(self._digests, digest)
        if at == len(self._digests) or self._digests[at] != digest:
            return None
        return self._keys_by_digest[at]


class FormatScans:
    """What is asked of all images of a dataset at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def twins(self, dataset: int, *, flat: bool) -> Twins:
        """The images that can't have their stem for themselves.

        `flat`: in one folder for the whole dataset, else in the directory of each. 5 us an image.
        """
        with self._database.write() as db:
            return Twins(db.execute(self._twins_sql(flat), (dataset,)))

    def twins_of_snapshot(self, dataset: int, *, flat: bool) -> Twins:
        """The same, in the state that `Database.snapshot` has fixed."""
        return Twins(self._database.query(self._twins_sql(flat), (dataset,)))

    def _twins_sql(self, flat: bool) -> str:
        place = "" if flat else "directory, "
        # Readers of VOC's lists part them at line breaks, and strip each line.
        unlisted = f" OR stem GLOB '*[{LINE_BREAKS}]*' OR stem GLOB '[{BLANKS}]*'"
        unlisted += f" OR stem GLOB '*[{BLANKS}]'"
        return (
            f"SELECT key, id FROM (SELECT key, id, stem, row_number() OVER"
            f" (PARTITION BY {place}stem ORDER BY created_ns, lower(id)) AS place"
            f" FROM (SELECT key, id, directory, created_ns, {STEM} AS stem"
            f" FROM image WHERE {_IN_DATASET}))"
            f" WHERE place > 1 OR length(CAST(stem AS BLOB)) > {STEM_MAX_BYTES}"
            f"{unlisted if flat else ''}"
        )

    def tags(self, dataset: int) -> dict[str, array[int]]:
        """By the name of a tag's folder the `seq` of each image in it, in order: 8 bytes each."""
        found: dict[str, array[int]] = {}
        sql = f"SELECT seq, tags FROM image WHERE {_IN_DATASET} ORDER BY seq"
        with self._database.write() as db:
            for seq, tags in db.execute(sql, (dataset,)):
                listed = folders(tuple(json.loads(tags))) if tags else (UNTAGGED,)
                for name in listed:
                    found.setdefault(name, array("Q")).append(seq)

        return found
