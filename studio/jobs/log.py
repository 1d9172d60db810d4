"""The log of jobs: what was asked, how it stands, how it ended; and which processes are alive.

Every process that works holds a lock on a file of its own, and a lease in the database that it renews. Of a process on
the same computer the lock tells at once whether it lives, whatever happened to it; of one elsewhere (a store that
several computers share) the lease does, when it has run out. What a dead process was to do and was accepted for good
(`kept`) is taken up by another one; the rest was interrupted. Doesn't know how a job is worked on.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from studio.core import locks
from studio.core.errors import Busy, StudioError
from studio.core.views import ACTIVE, JobView
from studio.store.database import Database
from studio.store.pictures import write_error

log = logging.getLogger(__name__)

KEEP_SECONDS = 30 * 24 * 3600
INTERRUPTED = "The studio was stopped before this was done; start it again and what is finished is taken over."
LEASE = 20.0  # seconds that a process counts as alive after it was heard of last, on another computer
RENEW = LEASE / 4
QUOTA = (
    "This key may have {quota} pictures drawn in 24 hours; {drawn} were, or are going to be, and {asked} more are "
    "asked for."
)


def _host() -> str:
    """This computer since it was started: two of the same name differ, and so does one that was started again."""
    with suppress(OSError):
        return f"{platform.node()} {Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()}"
    return platform.node()


class Processes:
    """Who is alive, by file locks, which the system frees however a process ends, and by leases."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self.own = uuid.uuid4().hex
        self.host = _host()
        self._lock: locks.Lock | None = None
        self._gone = threading.Event()

    def enter(self) -> None:
        """Hold this process's lock and lease until `leave` or the end of the process."""
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Before any job names this process: nobody can take one that is just starting for a dead one.
            self._lock = locks.take(self._path(self.own))
        except OSError as error:
            raise write_error(error, self._folder) from error
        self.renew()
        try:
            threading.Thread(target=self._renew_on, name="studio-lease", daemon=True).start()
        except RuntimeError as error:  # the system gives out no more threads; on this computer the lock says enough
            log.warning("the lease of this process can't be renewed: %s", error)

    def renew(self) -> None:
        """Say that this process lives. Raises `StudioError`."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO leases (process, host, expires) VALUES (?, ?, ?) "
                "ON CONFLICT (process) DO UPDATE SET expires = excluded.expires",
                (self.own, self.host, time.time() + LEASE),
            )

    def _renew_on(self) -> None:
        while not self._gone.wait(RENEW):
            try:
                self.renew()
            except Exception as error:  # the disk is full, or the database is gone: the lock on the file still holds
                log.warning("the lease of this process couldn't be renewed: %s", error)

    def leave(self) -> None:
        self._gone.set()
        if self._lock is not None:
            self._lock.close()  # first: Windows deletes no open file
            self._lock = None
            locks.remove(self._path(self.own))
            self._forget(self.own)

    def alive(self, name: str) -> bool:
        if name == self.own:
            return self._lock is not None
        rows = self._database.rows("SELECT host, expires FROM leases WHERE process = ?", name)
        if rows and rows[0]["host"] != self.host:
            return bool(rows[0]["expires"] > time.time())
        if locks.is_locked(self._path(name)):
            return True
        locks.remove(self._path(name))
        if rows:
            self._forget(name)
        return False

    def _forget(self, name: str) -> None:
        with suppress(StudioError):
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM leases WHERE process = ?", (name,))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


@dataclass(frozen=True)
class Terms:
    """What is written down with a new job besides itself.

    `to_draw`: pictures to draw; `quota`: how many its owner may have in a day (0: any number); `digest`: of the request
    as it was sent, where its sender may send it again (the id is made of their name for it).
    """

    to_draw: int = 0
    quota: int = 0
    digest: str = ""


PLAIN = Terms()


@dataclass(frozen=True)
class Orphan:
    """An accepted job whose process is gone. `deaths`: of how many while they worked on it."""

    view: JobView
    owner: str
    spec: str  # JSON
    process: str
    deaths: int
    cancelled: bool


class JobLog:
    """Jobs of all processes on one folder, as last written by the process that works on them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.processes = Processes(database, folder)

    def add(self, view: JobView, owner: str, spec: str, kept: bool = False, terms: Terms = PLAIN) -> bool:
        """Write a new job down, `spec` as JSON. `kept`: others take it up when this process is gone.

        False where there is a job of this id already, and nothing was written. Raises `Busy` beyond the quota.
        """
        self.processes.enter()
        with self._database.transaction() as connection:
            if terms.quota and (drawn := self._drawn(connection, owner)) + terms.to_draw > terms.quota:
                raise Busy(QUOTA.format(quota=terms.quota, drawn=drawn, asked=terms.to_draw))
            added = connection.execute(
                "INSERT INTO jobs (id, owner, process, state, created, spec, view, kept, asked, digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (view.id, owner, self.processes.own, view.state, view.created, spec, view.model_dump_json(), kept,
                 terms.to_draw, terms.digest),
            )  # fmt: skip
        return added.rowcount > 0

    def digest(self, id: str, owner: str) -> str | None:
        """What `Terms.digest` said of a job; None where there is none of this id."""
        rows = self._database.rows("SELECT digest FROM jobs WHERE id = ? AND owner = ?", id, owner)
        return str(rows[0]["digest"]) if rows else None

    def cache_figures(self) -> tuple[int, int]:
        """Pictures of all jobs that are kept here, and how many of them were there already."""
        [row] = self._database.rows(
            "SELECT SUM(json_array_length(view, '$.pictures')) AS asked, "
            "SUM(json_array_length(view, '$.cached')) AS found FROM jobs"
        )
        return int(row["asked"] or 0), int(row["found"] or 0)

    def _drawn(self, connection: Connection, owner: str) -> int:
        """Pictures that were drawn for an owner in the last 24 hours, and those that are going to be."""
        drawn = "json_array_length(view, '$.pictures') - json_array_length(view, '$.cached')"
        [row] = connection.execute(
            f"SELECT SUM(CASE WHEN state IN ('queued', 'running') THEN MAX(asked, {drawn}) ELSE {drawn} END) "
            "FROM jobs WHERE owner = ? AND created > ?",
            (owner, time.time() - 24 * 3600),
        )
        return int(row[0] or 0)

    def write(self, view: JobView) -> bool:
        """Bring a job up to date; False where another process has it by now, and nothing was written."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = ?, view = ? WHERE id = ? AND process = ?",
                (view.state, view.model_dump_json(), view.id, self.processes.own),
            )
        return changed.rowcount > 0

    def read(self, id: str, owner: str) -> JobView | None:
        rows = self._database.rows("SELECT * FROM jobs WHERE id = ? AND owner = ?", id, owner)
        return self._view(rows[0]) if rows else None

    def spec(self, id: str, owner: str) -> str | None:
        rows = self._database.rows("SELECT spec FROM jobs WHERE id = ? AND owner = ?", id, owner)
        return str(rows[0]["spec"]) if rows else None

    def list(self, owner: str, limit: int) -> list[JobView]:
        rows = self._database.rows("SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ?", owner, limit)
        return [self._view(row) for row in rows]

    def request_cancel(self, id: str, owner: str) -> None:
        """For a job that another process works on: it looks twice a second, and before it begins."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND owner = ?", (id, owner))

    def cancel_requested(self, id: str) -> bool:
        return bool(self._database.rows("SELECT 1 FROM jobs WHERE id = ? AND cancel = 1", id))

    def orphans(self) -> tuple[Orphan, ...]:
        """Kept jobs of processes that are gone, the oldest first."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE state IN ('queued', 'running') AND kept = 1 AND process != ? ORDER BY created",
            self.processes.own,
        )
        alive = {name: self.processes.alive(name) for name in {row["process"] for row in rows}}
        return tuple(
            Orphan(
                JobView.model_validate_json(row["view"]),
                row["owner"],
                row["spec"],
                row["process"],
                row["deaths"] + (row["state"] == "running"),
                bool(row["cancel"]),
            )
            for row in rows
            if not alive[row["process"]]
        )

    def take(self, orphan: Orphan) -> bool:
        """Make an orphan this process's own; False where another one was first."""
        self.processes.enter()
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE jobs SET process = ?, deaths = ? "
                "WHERE id = ? AND process = ? AND state IN ('queued', 'running')",
                (self.processes.own, orphan.deaths, orphan.view.id, orphan.process),
            )
        return changed.rowcount > 0

    def forget(self, older_than: float = KEEP_SECONDS) -> None:
        """Drop what nobody will ask for any more."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM jobs WHERE created < ? AND state NOT IN ('queued', 'running')", (time.time() - older_than,)
            )
            connection.execute("DELETE FROM leases WHERE expires < ?", (time.time() - older_than,))

    def _view(self, row: Any) -> JobView:
        view = JobView.model_validate_json(row["view"])
        if row["state"] not in ACTIVE:
            return view
        over = {"seconds_left": None, "position": 0}
        dead = not self.processes.alive(row["process"])
        if row["cancel"] and (dead or row["state"] == "queued"):  # whoever comes to it doesn't begin
            return view.model_copy(update=over | {"state": "cancelled"})
        if dead and row["kept"]:
            return view.model_copy(update=over | {"state": "queued", "note": ""})
        if dead:
            return view.model_copy(update=over | {"state": "interrupted", "error": INTERRUPTED})
        return view
