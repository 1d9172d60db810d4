"""A queue with its log and pictures over one folder, and work that only counts. The fixture `house` closes them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.core.specs import GenerateSpec
from studio.engine.progress import Step
from studio.jobs.job import Job
from studio.jobs.log import JobLog
from studio.jobs.queue import Jobs, Work
from studio.store.database import Database
from studio.store.pictures import Pictures

WAIT = 20  # seconds


class House:
    """Queue, log and pictures over one folder."""

    def __init__(self, folder: Path, work: Work, limit: int = 64, make_engine: Callable[[], Any] = object) -> None:
        self.database = Database(folder / "studio.db")
        self.pictures = Pictures(self.database, folder / "images")
        self.log = JobLog(self.database, folder / "processes")
        self.jobs = Jobs(self.log, {"generate": work}, make_engine, limit)

    def submit(self, owner: str = "ann", text: str = "") -> str:
        return self.jobs.submit(Job(GenerateSpec(text=text, seed=1), owner, pictures=self.pictures)).id

    def wait(self, id: str, owner: str = "ann") -> Any:
        view = self.jobs.wait(id, owner, WAIT)
        assert not view.active
        return view

    def close(self) -> None:
        self.jobs.close()
        self.database.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(work: Work, folder: str = "home", **options: Any) -> House:
        made.append(House(tmp_path / folder, work, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def steps(job: Job, count: int, seconds: float = 0.0) -> None:
    job.begin(count)
    on_step = job.stage(count)
    for done in range(1, count + 1):
        time.sleep(seconds)
        on_step(Step(done, count, "drawing"))
