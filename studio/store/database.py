"""One SQLite file, shared by threads and by processes: schema, transactions, and what a full disk looks like.

Write-ahead logging, on a disk of this machine, lets a page read while the worker writes; `BEGIN IMMEDIATE` makes a
transaction wait for its turn at the start and not fail at the end. Doesn't know what the rows mean.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.core.errors import DiskFull, StudioError
from studio.core.files import on_a_local_disk
from studio.store.identity import Identity

log = logging.getLogger(__name__)

RESERVE = 256 * 1024  # bytes
WAIT = 20.0  # seconds for the others who write
SCHEMA = """
CREATE TABLE pictures (
    number INTEGER PRIMARY KEY,   -- rowid, in order of creation; ties the search table to this one
    id TEXT NOT NULL,             -- content key: one file, however many owners
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    recipe TEXT,
    details TEXT NOT NULL,
    job TEXT,
    suffix TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    created REAL NOT NULL,
    favourite INTEGER NOT NULL DEFAULT 0,
    deleted REAL,                 -- when; rows deleted together share the value, which makes one undo
    UNIQUE (id, owner)
);
CREATE INDEX pictures_of_owner ON pictures (owner, deleted, created);
CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2');
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    process TEXT NOT NULL,        -- who works on it; see `jobs.log.Processes`
    state TEXT NOT NULL,
    cancel INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    spec TEXT NOT NULL,
    view TEXT NOT NULL
);
CREATE INDEX jobs_of_owner ON jobs (owner, created);
CREATE INDEX jobs_by_state ON jobs (state);
"""
CHANGES = (  # to the schema, in order: the first makes version 2 of 1, and so on
    """
-- kept: another process takes it up when this one is gone; deaths: processes that went while they worked on it
ALTER TABLE jobs ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
CREATE TABLE leases (
    process TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    expires REAL NOT NULL         -- seconds since 1970; renewed while the process lives
);
""",
    """
CREATE TABLE keys (
    digest TEXT PRIMARY KEY,      -- of the key, which is not kept
    name TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    revoked REAL
);
""",
    """
-- asked: pictures that are to be drawn, for quotas; digest: of the request, where its sender named it to send it again
ALTER TABLE jobs ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN digest TEXT NOT NULL DEFAULT '';
-- per_minute: requests; per_day: pictures; NULL: as the settings say, 0: any number
ALTER TABLE keys ADD COLUMN per_minute INTEGER;
ALTER TABLE keys ADD COLUMN per_day INTEGER;
""",
)
VERSION = 1 + len(CHANGES)
FULL = "The disk is full: this couldn't be written, and nothing that was there is lost; free some space and try again."
REPLACED = (
    "{path} was replaced or removed while the studio was running, so nothing is read from it or written to it; start "
    "the studio again."
)


class Database:
    """A connection that any thread may use; statements of different threads wait for each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserve = path.with_name(path.name + ".reserve")
        self._lock = threading.RLock()
        self._gone = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, check_same_thread=False, timeout=WAIT, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._log_ahead()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA wal_autocheckpoint = 250")  # pages: about a megabyte of log
            self._create()
            self._identity = Identity(path, self._connection.execute("PRAGMA application_id").fetchone()[0])
            self.set_reserve()
        except sqlite3.DatabaseError as error:
            raise _translated(error, path) from error
        except OSError as error:
            raise StudioError(
                f"The studio can't write to {path.parent} ({error.strerror}); set STUDIO_HOME to another folder."
            ) from error

    def _log_ahead(self) -> None:
        """Write ahead on a disk of this machine. On a network folder or a mounted cloud drive, which takes the log
        and then loses pages of it, there is SQLite's rollback journal."""
        mode = "WAL" if on_a_local_disk(self.path.parent) else "DELETE"
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self._connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
                return
            except sqlite3.OperationalError as error:
                # For this statement SQLite doesn't wait by itself: of several who open a new file, one changes it.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _create(self) -> None:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")  # of two processes that start together, one creates
            try:
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                if version > VERSION:
                    raise StudioError(f"{self.path} was written by a newer version of the studio; update this one.")
                for script in (SCHEMA, *CHANGES)[version:]:
                    for statement in script.split(";\n"):
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
                if not self._connection.execute("PRAGMA application_id").fetchone()[0]:
                    self._connection.execute(f"PRAGMA application_id = {secrets.randbelow(2**31 - 1) + 1}")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a SELECT. Raises `StudioError`."""
        try:
            with self._lock:
                self._check()
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _translated(error, self.path) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, alone among all threads and processes.

        Raises `DiskFull`, or another `StudioError`, with everything rolled back.
        """
        with self._lock:
            self._check()
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:  # SQLite rolls back by itself on a full disk
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise _translated(error, self.path) from error

    def _check(self) -> None:
        if self._gone or self._identity.replaced():
            self._gone = True
            raise StudioError(REPLACED.format(path=self.path))

    def set_reserve(self) -> None:
        """Set some disk aside, without which nothing could be deleted from a full one. No room for it: no error."""
        if not self._reserve.exists():
            try:
                self._reserve.write_bytes(os.urandom(RESERVE))  # random: no file system compresses it away
            except OSError:
                self._reserve.unlink(missing_ok=True)

    def release_reserve(self) -> None:
        """Give the reserve back to the disk, for a transaction that makes room."""
        self._reserve.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._identity.close()  # after SQLite: see there


def _translated(error: sqlite3.DatabaseError, path: Path) -> StudioError:
    """What SQLite says, as a sentence: callers know `StudioError` and nothing of SQLite."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE")):
        return DiskFull(FULL)
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StudioError(f"{path} is damaged or not the studio's; move it away and the studio starts a new one.")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return StudioError(f"The studio can't write to {path}; set STUDIO_HOME to a folder that it may write to.")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StudioError(f"{path} is in use by another program; try again when it is free.")
    log.error("%s couldn't be used (%s)", path, name or type(error).__name__, exc_info=error)
    return StudioError(f"{path} couldn't be used ({error}); try again, and look at the log if it stays so.")
