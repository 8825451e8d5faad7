"""The catalog's SQLite file: opening, rebuilding, connections."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from pictofs.errors import DiskFull

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
"""`user_version` of the file. A file of another version is put aside: what it holds comes again from the API."""


class Database:
    """One SQLite file in WAL mode: a connection for reads on the loop, one for writes in threads.

    Reads never wait for writes (WAL). Writes of several processes wait for each other for up to 10 s.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it; a file that can't be used is renamed aside and a new one made.

        Raises:
            DiskFull: the folder can't be written.
        """
        self.path = path
        try:
            self._open()
        except (OSError, sqlite3.DatabaseError, _OtherVersion) as error:
            aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
            log.warning("the catalog %s can't be used (%s); kept as %s, making a new one", path, error, aside)
            try:
                self._put_aside(aside)
                self._open()
            except (OSError, sqlite3.Error) as again:
                raise DiskFull(f"no catalog can be made at {path}: {again}") from again

    def _put_aside(self, aside: Path) -> None:
        if os.path.lexists(self.path):
            self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _open(self) -> None:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._writer = self._connect()
        self._lock = threading.Lock()
        with self.write() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _statements(resources.files(__package__).joinpath("schema.sql").read_text()):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise _OtherVersion(f"its version is {version}, not {SCHEMA_VERSION}")
        self.reader = self._connect()
        # A page that is damaged anywhere would answer wrongly later: 30 ms for 100,000 images.
        if self.reader.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged pages")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        # Rows that a power cut takes with it come again from the API; a kill -9 takes none.
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -16384")
        return db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; blocks, so call it from a thread.

        Raises:
            DiskFull: the disk takes no more, or can't be written.
        """
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                except BaseException:
                    self._writer.execute("ROLLBACK")
                    raise
                self._writer.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise DiskFull(f"the catalog {self.path} can't be written: {error}") from error

    def close(self) -> None:
        """Close both connections."""
        self.reader.close()
        self._writer.close()


class _OtherVersion(Exception):
    pass


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; executescript() would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
