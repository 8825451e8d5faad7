"""The catalog's SQLite file: opening, rebuilding, connections."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from pictofs.errors import DiskFull
from pictofs.store.catalog.database_state import State, turn, used_by_others

log = logging.getLogger(__name__)

SCHEMA_VERSION = 5
"""`user_version` of the file. A file of another version is put aside: what it holds comes again
from the API."""

WRITE_WAIT_S = 10.0
"""Seconds that a write waits for the writes of other processes: the longest takes a few seconds."""

STUCK_WAIT = 0.25
"""Seconds that a write waits after another has waited in vain, until one succeeds: a stopped
process may hold the lock for ever."""

READ_WAIT_S = 1.0
"""Seconds that a read waits, on the event loop: only for another process that repairs the file
after a crash."""

OPEN_WAIT_S = 20.0
"""Seconds to wait for others who open or close the file; after a crash a million images take 2."""

CLOSE_WAIT = 2.0
"""Seconds to wait for them at the end, when the file can be left as a killed process leaves it."""

NAMES = 5
"""File names that are tried: a file that others have open, and that this version can't use, is left
to them."""

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_FULL_BYTES = 1 << 16
"""Free bytes below which a disk counts as full: SQLite makes a -shm of 32 KiB to open a file."""


class CatalogDamaged(DiskFull):
    """SQLite finds impossible pages. The file is put aside when it is opened the next time."""

    errno = errno.EIO


class Database:
    """One SQLite file in WAL mode: a connection for reads on the loop, one for writes in threads.

    Reads never wait for writes (WAL). Writes of several processes wait up to 10 s for each other.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it. A file not proven to be whole is renamed, and a new one is made.

        If others have open what this version can't use, a file beside it is taken: `path` then
        tells which.

        Raises:
            DiskFull: the folder can't be written, or another process is in the way.
        """
        self.wall: Callable[[], float] = time.time
        """What `wall_clock()` is in SQL: seconds since the epoch."""
        self._lock = threading.Lock()
        self._stuck = False
        self._suspect = False

        for number in range(1, NAMES + 1):
            self.path = path
            if number > 1:
                self.path = path.with_name(f"{path.stem}-{number}{path.suffix}")

            if self._take():
                return

        raise DiskFull(f"the catalog {path} is in use by another version of pictofs: end that one")

    # Opening.

    def _take(self) -> bool:
        """Open the file of this name; False if it must be left to those who have it open.

        Raises DiskFull.
        """
        try:
            with turn(self.path, OPEN_WAIT_S):
                self._state = State(self.path)

                taken = False
                try:
                    taken = self._open_alone() if self._state.alone() else self._join()
                    return taken
                finally:
                    if not taken:
                        self._disconnect()
                        self._state.close()
        except (OSError, sqlite3.Error) as error:
            if self._disk_is_full(error):
                raise self._full() from error
            raise DiskFull(f"no catalog can be made or opened at {self.path}: {error}") from error

    def _open_alone(self) -> bool:
        """Open a file that nobody else has open, nor can open before this ends."""
        if os.path.lexists(self.path):
            if _is_file(self.path) and used_by_others(self.path):
                return False

            reason = self._doubt()
            if reason is not None:
                self._put_aside(reason)

        if not os.path.lexists(self.path):
            self._remove_companions()
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._connect()
            self._make_tables()

        self._state.live()
        self._state.share()
        return True

    def _doubt(self) -> str | None:
        """Why the file can't be used; None if it can be, and it is open then."""
        if not _is_file(self.path):
            return "it is no file"

        reason = self._state.invalidate()
        if reason is not None:
            return reason

        sealed = self._state.was_sealed
        if sealed:
            # After a power cut the -wal may be of a later day than the file itself.
            self._remove_companions()

        try:
            self._connect()
            version = self._version()
            if version != SCHEMA_VERSION:
                reason = f"its version is {version}, not {SCHEMA_VERSION}"
            # Nobody has looked since the disk may have damaged it: 1 s for a million images.
            elif not sealed and self.reader.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                reason = "damaged pages"
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise

            reason = str(error)

        if reason is not None:
            self._disconnect()

        return reason

    def _join(self) -> bool:
        """Open a file that others have open; False if this version can't use it.

        It is sound, unless its name leads to another file by now.
        """
        if not self._state.is_live():
            return False

        self._connect()
        if self._version() != SCHEMA_VERSION:
            return False

        self._state.share()
        return True

    def _version(self) -> int:
        return int(self.reader.execute("PRAGMA user_version").fetchone()[0])

    def _make_tables(self) -> None:
        script = resources.files(__package__).joinpath("schema.sql").read_text()
        with self.write() as db:
            for statement in _statements(script):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _put_aside(self, reason: str) -> None:
        """Rename the file, which nobody has open. Files that were put aside before are removed."""
        for old in self.path.parent.glob(f"{self.path.name}.broken-*"):
            with suppress(OSError):  # a folder
                old.unlink()

        aside = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
        log.warning(
            "the catalog %s can't be used (%s); kept as %s, making a new one",
            self.path,
            reason,
            aside,
        )

        self.path.rename(aside)

    def _remove_companions(self) -> None:
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _connect(self) -> None:
        self._writer = self._connection(WRITE_WAIT_S)
        self.reader = self._connection(READ_WAIT_S)
        self.reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # makes the -wal

    def _connection(self, patience: float) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # A file left by a power cut is not trusted: its content comes again from the API. A
            # kill -9 loses nothing.
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA cache_size = -16384")
            # Whatever `wall` is by then.
            db.create_function("wall_clock", 0, lambda: self.wall())  # noqa: PLW0108
        except BaseException:
            db.close()
            raise

        return db

    # Use.

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a SELECT. Inline.

        Raises:
            CatalogDamaged: SQLite finds impossible pages.
            DiskFull: the disk can't be read.
        """
        try:
            return self.reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._named("read", error) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within the block `query` reads one state, whatever others write meanwhile.

        For processes that do nothing else. Raises CatalogDamaged, DiskFull.
        """
        self.query("BEGIN")
        try:
            yield
        finally:
            self.query("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; blocks, so call it from a thread.

        Raises:
            CatalogDamaged: SQLite finds impossible pages.
            DiskFull: the disk is full or can't be written, or another process is in the way.
        """
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                self._wait_for_others(stuck=False)
                try:
                    yield self._writer
                except BaseException:
                    # SQLite itself has ended the transaction if the disk is full.
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise

                self._writer.execute("COMMIT")
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
                raise  # our own mistakes, not the disk's
            except sqlite3.DatabaseError as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

                self._wait_for_others(stuck=_code(error) in _BUSY)
                raise self._named("written", error) from error

    @contextmanager
    def attached(self, path: Path) -> Iterator[str]:
        """The tables of another database, which this process has open, by the name that is given.

        For a moment before the first write. Raises DiskFull.
        """
        try:
            self._writer.execute("ATTACH ? AS other", (str(path),))
        except sqlite3.Error as error:
            raise self._named("read", error) from error

        try:
            yield "other"
        finally:
            self._writer.execute("DETACH other")

    def _wait_for_others(self, *, stuck: bool) -> None:
        """Set how long writes wait: briefly if one has waited in vain, as each in turn would
        wait."""
        if stuck != self._stuck:
            self._stuck = stuck
            milliseconds = int((STUCK_WAIT if stuck else WRITE_WAIT_S) * 1000)
            self._writer.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def _named(self, doing: str, error: sqlite3.Error) -> DiskFull:
        """The error to raise for one of SQLite's. A damaged file is noted as such."""
        if _code(error) in _DAMAGED:
            # Not at the end: this process may be killed before it closes the file.
            self._suspect = True
            with suppress(OSError):
                self._state.distrust()

            return CatalogDamaged(
                f"the catalog {self.path} is damaged ({error}):"
                " unmount and mount again, and it is made anew"
            )

        if self._disk_is_full(error):
            return self._full()
        return DiskFull(f"the catalog {self.path} can't be {doing}: {error}")

    def _disk_is_full(self, error: OSError | sqlite3.Error) -> bool:
        """Whether that is what `error` comes from: SQLite calls it an I/O error where it maps."""
        if isinstance(error, OSError):
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        if _code(error) == sqlite3.SQLITE_FULL:
            return True
        if _code(error) != sqlite3.SQLITE_IOERR:
            return False

        try:
            disk = os.statvfs(self.path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _FULL_BYTES

    def _full(self) -> DiskFull:
        return DiskFull(
            f"the disk of {self.path.parent} is full",
            hint="make room on it, or name another by --cache-dir",
        )

    # The end.

    def close(self) -> None:
        """Close both connections; the last process proves the file for the next one."""
        try:
            with turn(self.path, CLOSE_WAIT):
                last = self._state.alone() and self._state.is_live() and not self._suspect
                if last:
                    self._state.closing()

                self._disconnect()
                if last:
                    self._state.seal()
        except (OSError, DiskFull) as error:
            # A name that leads nowhere is no fault: the folder was removed under us.
            if os.path.lexists(self.path):
                log.warning("the catalog %s was not closed in order: %s", self.path, error)

            with suppress(OSError):
                if self._state.is_live():
                    self._state.closing()

            self._disconnect()

        self._state.close()

    def _disconnect(self) -> None:
        for name in ("reader", "_writer"):
            connection = self.__dict__.pop(name, None)
            if connection is not None:
                connection.close()


def _is_file(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _code(error: sqlite3.Error) -> int:
    """The kind of an error, without the details that SQLite adds in the upper bits."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; executescript() would commit the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
