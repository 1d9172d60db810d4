"""What the worker does between two jobs: load a model as soon as a page is opened, free it for a training run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.job_queues import WAIT
from support.training_sets import write_run

from studio.core import locks
from studio.core.settings import Settings
from studio.core.specs import LoraSpec
from studio.service import Studio
from studio.service.runs import LEFT_THE_CARD, TrainingRuns


def work(engine: Any, job: Any, spec: Any) -> Iterator[None]:
    engine.drawn.append(spec.text)
    yield
    engine.drawn.append(f"{spec.text} again")


def test_the_engine_starts_before_the_first_job_which_says_what_it_waits_for(house) -> None:
    started, go = threading.Event(), threading.Event()

    def make() -> SimpleNamespace:
        started.set()
        assert go.wait(WAIT)
        return SimpleNamespace(drawn=["loaded"])

    home = house(work, make_engine=make)
    home.jobs.between_turns(lambda engine: engine.drawn.append("warm"), start=True)
    assert started.wait(WAIT)
    job = home.submit(text="first")
    assert home.jobs.view(job, "ann").note == "Starting the engine"
    go.set()
    assert home.wait(job).state == "done"
    assert home.jobs.engine.drawn == ["loaded", "warm", "first", "first again"]


def test_it_is_done_behind_the_turn_and_before_the_next_and_its_failure_is_nobodys(house) -> None:
    running, go = threading.Event(), threading.Event()

    def slow(engine: Any, job: Any, spec: Any) -> Iterator[None]:
        running.set()
        assert go.wait(WAIT)
        yield from work(engine, job, spec)

    def fail(engine: Any) -> None:
        engine.drawn.append("freed")
        raise RuntimeError("the card is gone")

    home = house(slow, make_engine=lambda: SimpleNamespace(drawn=[]))
    home.jobs.between_turns(fail)  # nothing is loaded: nothing is done
    job = home.submit(text="first")
    assert running.wait(WAIT)
    home.jobs.between_turns(fail)
    go.set()
    assert home.wait(job).state == "done"
    assert home.jobs.engine.drawn == ["first", "freed", "first again"]


def test_a_page_loads_the_model_that_is_here_and_downloads_none(tmp_path: Path, monkeypatch) -> None:
    loaded: list[str] = []
    done = threading.Event()
    engine = SimpleNamespace(components=loaded.append)
    for model, on, expected in (("embedded", True, ["embedded"]), ("some/model", True, []), ("embedded", False, [])):
        loaded.clear()
        studio = Studio(Settings(home=tmp_path / model.replace("/", "-") / str(on), model=model, warm_up=on))
        monkeypatch.setattr(studio._jobs, "_make_engine", lambda: engine)
        studio.warm_up()
        studio._jobs.between_turns(lambda engine: done.set(), start=True)
        assert done.wait(WAIT)
        done.clear()
        assert loaded == expected
        studio.close()


@pytest.mark.parametrize(("device", "leaves"), [("cuda:0", True), ("mps", True), ("cpu", False)])
def test_the_model_leaves_the_card_for_a_run(tmp_path: Path, monkeypatch, device: str, leaves: bool) -> None:
    freed = threading.Event()
    engine = SimpleNamespace(status=lambda: {"loaded": True, "device": device}, free=freed.set)
    studio = Studio(Settings(home=tmp_path, device="cpu"))
    monkeypatch.setattr(studio._jobs, "_make_engine", lambda: engine)
    assert not studio._leave_the_card(), "nothing was loaded yet"
    ready = threading.Event()
    studio._jobs.between_turns(lambda engine: ready.set(), start=True)
    assert ready.wait(WAIT)
    assert studio._leave_the_card() == leaves
    if leaves:
        assert freed.wait(WAIT)
    studio.close()


def test_a_run_says_so_for_as_long_as_it_trains(tmp_path: Path) -> None:
    here = Settings(home=tmp_path)
    run = write_run(here.runs_dir.parent, "mine", LoraSpec(data=str(tmp_path)))
    run.update(state="running")
    left, stayed = TrainingRuns(here, lambda: True), TrainingRuns(here)
    with locks.take(run.lock_file) or pytest.fail("it is free"):
        assert left._with_the_card(run.id).notes == left.get(run.id).notes == (LEFT_THE_CARD,)
        assert stayed._with_the_card(run.id).notes == ()
        run.update(state="done")
    assert left.get(run.id).notes == ()
