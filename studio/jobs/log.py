"""The log of jobs: what was asked, how it stands, how it ended; and which processes are alive.

Every process that works holds a lock on a file of its own; a job that is "running" in a process whose lock is free
was interrupted, whatever happened to that process. Doesn't know how a job is worked on.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import IO

from studio.core.views import ACTIVE, JobView
from studio.store.database import Database
from studio.store.pictures import write_error

try:
    import fcntl
except ImportError:  # Windows: a job of another process reads as interrupted there, all else works
    fcntl = None  # type: ignore[assignment]

KEEP_SECONDS = 30 * 24 * 3600
INTERRUPTED = "The studio was stopped before this was done; start it again and what is finished is taken over."


class Processes:
    """Who is alive, by file locks: the kernel frees them however a process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.own = uuid.uuid4().hex
        self._file: IO[str] | None = None

    def enter(self) -> None:
        """Hold this process's lock until `leave` or the end of the process."""
        if self._file is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = open(self._folder / f"{self.own}.new", "w")  # noqa: SIM115 - held open for life
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            # Locked before it can be seen: nobody may take a process that is just starting for a dead one.
            (self._folder / f"{self.own}.new").rename(self._folder / f"{self.own}.lock")
        except OSError as error:
            raise write_error(error, self._folder) from error
        self._file = file

    def leave(self) -> None:
        if self._file is not None:
            (self._folder / f"{self.own}.lock").unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def alive(self, name: str) -> bool:
        if name == self.own or fcntl is None:
            return name == self.own and self._file is not None
        try:
            with open(self._folder / f"{name}.lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        (self._folder / f"{name}.lock").unlink(missing_ok=True)
        return False


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
