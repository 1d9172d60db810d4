"""The log of jobs: what was asked, how it stands, how it ended; and which processes are alive.

Every process that works holds a lock on a file of its own; a job that is "running" in a process whose lock is free
was interrupted, whatever happened to that process. Doesn't know how a job is worked on.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from studio.core import locks
from studio.core.views import ACTIVE, JobView
from studio.store.database import Database
from studio.store.pictures import write_error

KEEP_SECONDS = 30 * 24 * 3600
INTERRUPTED = "The studio was stopped before this was done; start it again and what is finished is taken over."


class Processes:
    """Who is alive, by file locks, which the system frees however a process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.own = uuid.uuid4().hex
        self._lock: locks.Lock | None = None

    def enter(self) -> None:
        """Hold this process's lock until `leave` or the end of the process."""
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Before any job names this process: nobody can take one that is just starting for a dead one.
            self._lock = locks.take(self._path(self.own))
        except OSError as error:
            raise write_error(error, self._folder) from error

    def leave(self) -> None:
        if self._lock is not None:
            self._lock.close()  # first: Windows deletes no open file
            self._lock = None
            locks.remove(self._path(self.own))

    def alive(self, name: str) -> bool:
        if name == self.own:
            return self._lock is not None
        if locks.held(self._path(name)):
            return True
        locks.remove(self._path(name))
        return False

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"


class JobLog:
    """Jobs of all processes on one folder, as last written by the process that works on them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.processes = Processes(folder)

    def write(self, view: JobView, owner: str, spec: str | None = None) -> None:
        """Insert (with `spec`, as JSON) or bring up to date. Raises `StudioError`."""
        self.processes.enter()
        text = view.model_dump_json()
        with self._database.transaction() as connection:
            if spec is None:
                connection.execute("UPDATE jobs SET state = ?, view = ? WHERE id = ?", (view.state, text, view.id))
            else:
                connection.execute(
                    "INSERT INTO jobs (id, owner, process, state, created, spec, view) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (view.id, owner, self.processes.own, view.state, view.created, spec, text),
                )

    def read(self, id: str, owner: str) -> JobView | None:
        rows = self._database.rows("SELECT view, state, process FROM jobs WHERE id = ? AND owner = ?", id, owner)
        return self._view(rows[0]["view"], rows[0]["state"], rows[0]["process"]) if rows else None

    def spec(self, id: str, owner: str) -> str | None:
        rows = self._database.rows("SELECT spec FROM jobs WHERE id = ? AND owner = ?", id, owner)
        return str(rows[0]["spec"]) if rows else None

    def list(self, owner: str, limit: int) -> list[JobView]:
        rows = self._database.rows(
            "SELECT view, state, process FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ?", owner, limit
        )
        return [self._view(row["view"], row["state"], row["process"]) for row in rows]

    def request_cancel(self, id: str, owner: str) -> None:
        """For a job that another process works on: it looks twice a second."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND owner = ?", (id, owner))

    def cancel_requested(self, id: str) -> bool:
        return bool(self._database.rows("SELECT 1 FROM jobs WHERE id = ? AND cancel = 1", id))

    def forget(self, older_than: float = KEEP_SECONDS) -> None:
        """Drop what nobody will ask for any more."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM jobs WHERE created < ? AND state NOT IN ('queued', 'running')", (time.time() - older_than,)
            )

    def _view(self, text: str, state: str, process: str) -> JobView:
        view = JobView.model_validate_json(text)
        if state in ACTIVE and not self.processes.alive(process):
            return view.model_copy(
                update={"state": "interrupted", "error": INTERRUPTED, "seconds_left": None, "position": 0}
            )
        return view
