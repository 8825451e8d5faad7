"""Taking over what another catalog of the same organization knows, as after a key was changed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pictofs.store.catalog.catalog import Catalog

SIBLINGS = 8
"""Catalogs that are looked at, those used last first."""

_TABLES = ("meta", "dataset", "directory", "image", "former_image", "sqlite_sequence")
_NAME = re.compile(r"(?P<server>[0-9a-f]+)-[0-9a-f]+(?P<version>\.v\d+)\.db")


def is_unused(catalog: Catalog) -> bool:
    """Whether nothing was ever listed in it."""
    return catalog.meta("checked_at") is None


def siblings(path: Path) -> list[Path]:
    """Catalogs of the same server and version as the one at `path`, those used last first."""
    own = _NAME.fullmatch(path.name)
    if own is None:
        return []

    found = []
    for entry in os.scandir(path.parent):
        name = _NAME.fullmatch(entry.name)
        if name is None or entry.name == path.name:
            continue

        if name.group("server", "version") == own.group("server", "version"):
            found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))

    return [each for _, each in sorted(found, reverse=True)[:SIBLINGS]]


def inherit(catalog: Catalog, source: Path, organization: str) -> bool:
    """Fill `catalog`, which is unused, with what the one at `source` knows, if that is of
    `organization`. Blocks.

    What was listed counts as never checked: another key may see less. Annotation files that were
    fetched stay known.

    Returns: whether it was of that organization.

    Raises:
        DiskFull: one of the two can't be read or written.
    """
    # By the rules for opening: what is not proven to be whole is not believed here, either.
    other = Catalog(source)
    try:
        if organization not in _organizations(other):
            return False

        with catalog.database.attached(other.database.path) as name, catalog.database.write() as db:
            # Another mount with the same key may have been faster.
            if is_unused(catalog):
                for table in _TABLES:
                    db.execute(f"DELETE FROM main.{table}")
                    db.execute(f"INSERT INTO main.{table} SELECT * FROM {name}.{table}")

                db.execute("UPDATE meta SET value = 0.0 WHERE name = 'checked_at'")
                db.execute("UPDATE dataset SET tree_at = NULL, listed_at = NULL")
                db.execute("UPDATE directory SET listed_at = NULL")
    finally:
        other.close()

    return True


def _organizations(catalog: Catalog) -> set[str]:
    """Those that the datasets name; one, as far as the server tells."""
    rows = catalog.database.query("SELECT raw FROM dataset LIMIT 1000")
    named = (json.loads(raw).get("organization_id") for (raw,) in rows)
    return {each for each in named if isinstance(each, str)}
