"""Runs that were deleted: kept for a day below `runs/.deleted/`, so that deleting can be undone."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from studio.core.errors import NotFound
from studio.runs.rundir import RunDir

KEPT = 24 * 3600  # seconds


class Trash:
    """What was deleted from one folder of runs, by time: `TIME-ID`, in nanoseconds since 1970."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self.folder = runs / ".deleted"

    def put(self, run: RunDir) -> None:
        """Take a run out of the list. Raises Busy while it is alive."""
        run.check_idle()
        self.folder.mkdir(exist_ok=True)
        os.rename(run.path, self.folder / f"{time.time_ns()}-{run.id}")  # at once: nobody sees half a run

    def kept(self) -> list[RunDir]:
        """What can be brought back, the last one first."""
        if not self.folder.is_dir():
            return []
        return [RunDir(path) for path in sorted(self.folder.iterdir(), reverse=True)]

    def bring_back(self, owner: str | None = None) -> str:
        """The run that was deleted last, in its place again: its id, which is another where that was given away.

        `owner`: only of this one, or of nobody. Raises NotFound where there is none.
        """
        for run in self.kept():
            if owner is None or run.owner() in ("", owner):
                id = run.id.partition("-")[2]
                target, number = self._runs / id, 2
                while target.exists():
                    target, number = self._runs / f"{id}-{number}", number + 1
                os.rename(run.path, target)
                return target.name
        raise NotFound("There is no deleted run that could be brought back; they are kept for a day.")

    def purge(self, older_than: float = KEPT) -> None:
        """Really remove what was deleted more than `older_than` seconds ago, and what was prepared for it alone."""
        doomed = [run for run in self.kept() if time.time_ns() - _moment(run) > older_than * 1e9]
        prepared = {str(name) for run in doomed if (name := run.status().get("drawings"))}
        for run in doomed:
            shutil.rmtree(run.path, ignore_errors=True)
        if prepared:
            left = [RunDir(path) for path in self._runs.iterdir()] + self.kept()
            for name in prepared - {str(run.status().get("drawings")) for run in left}:
                shutil.rmtree(self._runs / ".drawings" / name, ignore_errors=True)


def _moment(run: RunDir) -> int:
    digits = run.id.partition("-")[0]
    return int(digits) if digits.isdigit() else 0
