"""The queue: turns, progress, cancel, limits, failures, other processes; with work functions that need no model."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.job_queues import WAIT, House, steps

from studio.core.errors import BadInput, Busy, NotFound
from studio.core.specs import GenerateSpec, Recipe
from studio.core.views import JobView
from studio.engine.progress import Step
from studio.jobs.job import Job
from studio.jobs.queue import FEW, WORKER_NICE


def test_owners_take_turns_and_positions_say_so(house: Callable[..., House]) -> None:
    order: list[str] = []
    gate = threading.Event()

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        if spec.text == "first":
            gate.wait(WAIT)
        order.append(job.owner + spec.text)

    one = house(work)
    first = one.submit("ann", "first")
    while one.jobs.view(first, "ann").state != "running":
        time.sleep(0.01)
    waiting = [(one.submit(owner, str(number)), owner) for owner in ("ann", "bob") for number in range(3)]
    positions = {(owner, k % 3): one.jobs.view(id, owner).position for k, (id, owner) in enumerate(waiting)}
    gate.set()
    for id, owner in waiting:
        one.wait(id, owner)
    assert order[0] == "annfirst"
    assert [name[:3] for name in order[1:]] == ["bob", "ann"] * 3
    actual = {(name[:3], int(name[3:])): place for place, name in enumerate(order[1:], 1)}
    assert positions == actual


def test_a_long_job_lets_others_go_first_at_its_yields(house: Callable[..., House]) -> None:
    order: list[str] = []
    begun = threading.Event()

    def work(engine: object, job: Job, spec: GenerateSpec) -> Iterator[None]:
        for number in range(3 if job.owner == "long" else 1):
            order.append(f"{job.owner}{number}")
            begun.set()
            time.sleep(0.1)
            yield

    one = house(work)
    long = one.submit("long")
    begun.wait(WAIT)
    short = one.submit("short")
    assert one.wait(short, "short").state == "done"
    assert one.wait(long, "long").state == "done"
    assert order.index("short0") < order.index("long2")
    assert [name for name in order if name.startswith("long")] == ["long0", "long1", "long2"]


def test_progress_time_left_and_preview(house: Callable[..., House]) -> None:
    reached, go = threading.Event(), threading.Event()

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        job.begin(40)
        job.stage(20)(Step(10, 10))
        on_step = job.stage(20)
        for done in range(1, 6):
            time.sleep(0.02)
            on_step(Step(done, 10, "picture 2 of 2", Image.new("RGB", (700, 350), "red")))
        reached.set()
        go.wait(WAIT)

    one = house(work)
    id = one.submit()
    reached.wait(WAIT)
    view = one.jobs.view(id, "ann")
    go.set()
    assert (view.done, view.total, view.note) == (30, 40, "picture 2 of 2")
    assert view.fraction == 0.75
    assert view.seconds_left is not None
    # 10 of the 20 units since the clock began took about 0.1 s, and 10 are left
    assert 0.02 < view.seconds_left < 5
    assert view.preview is not None
    assert view.preview[:3] == b"\xff\xd8\xff"
    over = one.wait(id)
    assert (over.fraction, over.preview, over.seconds_left) == (1.0, None, None)


def test_cancel_stops_within_one_step_and_the_worker_goes_on(house: Callable[..., House]) -> None:
    counted: list[int] = []
    unwound = threading.Event()

    def work(engine: object, job: Job, spec: GenerateSpec) -> Iterator[None]:
        job.begin(10_000)
        on_step = job.stage(10_000)
        try:
            for done in range(10_000 if spec.text else 1):
                time.sleep(0.01)
                counted.append(done)
                on_step(Step(done, 10_000))
            yield
        finally:
            unwound.set()

    one = house(work)
    id = one.submit(text="long")
    while len(counted) < 3:
        time.sleep(0.005)
    seen = len(counted)
    one.jobs.cancel(id, "ann")
    view = one.wait(id)
    assert view.state == "cancelled"
    assert len(counted) <= seen + 2
    assert unwound.is_set()
    assert one.wait(one.submit()).state == "done"


def test_a_waiting_job_is_cancelled_at_once(house: Callable[..., House]) -> None:
    gate = threading.Event()
    worked: list[str] = []

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        worked.append(job.id)
        gate.wait(WAIT)

    one = house(work)
    first = one.submit()
    while one.jobs.waiting:
        time.sleep(0.01)
    second = one.submit()
    assert one.jobs.waiting == 1
    assert one.jobs.cancel(second, "ann").state == "cancelled"
    assert one.jobs.waiting == 0
    gate.set()
    assert one.wait(first).state == "done"
    one.wait(one.submit())
    assert second not in worked
    assert one.jobs.cancel(first, "ann").state == "done"  # too late: nothing happens


def test_a_paused_job_is_cancelled_at_once_and_unwound_by_the_worker(house: Callable[..., House]) -> None:
    gates = {"first": threading.Event(), "second": threading.Event()}
    unwound = threading.Event()
    threads: list[int] = []

    def work(engine: object, job: Job, spec: GenerateSpec) -> Iterator[None]:
        threads.append(threading.get_ident())
        if job.owner == "bob":
            gates[spec.text].wait(WAIT)
            return
        try:
            yield
            raise AssertionError("nothing of a cancelled job is worked on")
        finally:
            threads.append(threading.get_ident())
            unwound.set()

    one = house(work)
    first = one.submit("bob", "first")  # keeps the worker until the others are queued
    while one.jobs.view(first, "bob").state != "running":
        time.sleep(0.01)
    paused, later, second = one.submit("ann"), one.submit("ann"), one.submit("bob", "second")
    gates["first"].set()
    while one.jobs.view(second, "bob").state != "running":  # and ann's first has come to its yield
        time.sleep(0.01)
    assert one.jobs.view(paused, "ann").state == "running"
    assert one.jobs.cancel(paused, "ann").state == "cancelled"
    assert one.jobs.cancel(later, "ann").state == "cancelled"
    assert not unwound.is_set(), "its finally blocks belong to the worker's thread"
    gates["second"].set()
    assert one.wait(second, "bob").state == "done"
    assert unwound.wait(WAIT)
    assert len(set(threads)) == 1
    assert one.wait(one.submit("bob", "second"), "bob").state == "done"


def test_a_cancel_that_comes_with_the_last_step_of_a_slice_is_not_left_for_the_next_turn(
    house: Callable[..., House],
) -> None:
    gate = threading.Event()

    def work(engine: object, job: Job, spec: GenerateSpec) -> Iterator[None]:
        if job.owner == "bob":
            gate.wait(WAIT)
            return
        while one.jobs.waiting == 0:  # until bob waits
            time.sleep(0.01)
        job.cancelled.set()
        yield

    one = house(work)
    id = one.submit("ann")
    bob = one.submit("bob")
    assert one.wait(id, "ann").state == "cancelled"
    assert one.jobs.view(bob, "bob").active
    gate.set()
    assert one.wait(bob, "bob").state == "done"


def test_only_its_owner_sees_and_cancels_a_job(house: Callable[..., House]) -> None:
    one = house(lambda engine, job, spec: steps(job, 5, 0.05))
    id = one.submit("ann")
    for act in (one.jobs.view, one.jobs.cancel, one.jobs.spec):
        with pytest.raises(NotFound):
            act(id, "bob")
    assert one.jobs.list("bob") == []
    assert one.wait(id).state == "done"


def test_the_queue_has_a_limit(house: Callable[..., House]) -> None:
    gate = threading.Event()
    one = house(lambda engine, job, spec: gate.wait(WAIT) and None, limit=2)
    ids = [one.submit()]
    while one.jobs.waiting:
        time.sleep(0.01)
    ids += [one.submit(), one.submit("bob")]
    with pytest.raises(Busy, match="2 jobs are waiting"):
        one.submit("cat")
    assert one.jobs.list("cat") == []  # nothing was written down
    gate.set()
    assert one.wait(ids[1]).state == "done"


def test_one_owner_does_not_fill_the_queue(house: Callable[..., House]) -> None:
    gate = threading.Event()
    one = house(lambda engine, job, spec: gate.wait(WAIT) and None, limit=20)
    one.submit("first")
    while one.jobs.waiting:
        time.sleep(0.01)
    for owner, share in (("ann", 10), ("bob", 5), ("cat", FEW), ("dan", 1)):
        for _ in range(share):
            one.submit(owner)
        with pytest.raises(Busy, match="20 jobs are" if owner == "dan" else f"{share} of your jobs"):
            one.submit(owner)
    gate.set()


@pytest.mark.parametrize(
    ("error", "sentence", "bad_input"),
    [
        (BadInput("The LoRA doesn't fit."), "The LoRA doesn't fit.", True),
        (MemoryError(), "The memory didn't suffice", False),
        (OSError(28, "No space left on device", "/x/y"), "The disk is full", False),
        (ZeroDivisionError("secret detail"), "Something went wrong inside the studio (ZeroDivisionError)", False),
    ],
)
def test_a_failure_becomes_a_sentence_and_the_worker_lives(
    house: Callable[..., House], error: Exception, sentence: str, bad_input: bool
) -> None:
    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        if spec.text == "fail":
            raise error

    one = house(work)
    failed = one.wait(one.submit(text="fail"))
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.startswith(sentence)
    assert "secret" not in failed.error
    assert failed.bad_input is bad_input
    assert one.wait(one.submit()).state == "done"


def test_a_log_that_can_not_be_written_does_not_end_the_worker(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = house(lambda engine, job, spec: steps(job, 2))
    write, failures = one.log.write, []

    def locked(view: JobView) -> bool:
        if view.state == "done" and not failures:
            failures.append(view.id)
            raise sqlite3.OperationalError("database is locked")
        return write(view)

    monkeypatch.setattr(one.log, "write", locked)
    first = one.submit()
    assert one.wait(first).state == "done"
    assert one.wait(one.submit()).state == "done"
    assert failures == [first]
    written = one.log.read(first, "ann")  # with the end of the second job
    assert written is not None
    assert written.state == "done"


def test_a_look_at_the_log_that_fails_does_not_fail_the_job(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = house(lambda engine, job, spec: steps(job, 2))

    def locked(id: str) -> bool:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(one.log, "cancel_requested", locked)
    assert one.wait(one.submit()).state == "done"


def test_a_library_that_ends_the_thread_ends_its_job_only(house: Callable[..., House]) -> None:
    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        if spec.text == "exit":
            sys.exit(3)

    one = house(work)
    failed = one.wait(one.submit(text="exit"))
    assert failed.state == "failed"
    assert "SystemExit" in (failed.error or "")
    assert one.wait(one.submit()).state == "done"


def test_a_dead_worker_is_replaced(house: Callable[..., House], monkeypatch: pytest.MonkeyPatch) -> None:
    one = house(lambda engine, job, spec: None)
    both, work, died = threading.Event(), one.jobs._slice, []

    def die(job: Job) -> bool:
        both.wait(WAIT)
        if not died:
            died.append(job.id)
            raise SystemExit
        return work(job)

    monkeypatch.setattr(one.jobs, "_slice", die)
    first, second, third = one.submit("ann"), one.submit("ann"), one.submit("bob")
    both.set()
    failed = one.wait(first)
    assert failed.state == "failed"
    assert "the worker stopped" in (failed.error or "")
    assert one.wait(second).state == "done"
    assert one.wait(third, "bob").state == "done"


@pytest.mark.parametrize("broken", ["the worker", "the system"])
def test_jobs_end_where_no_worker_can_work(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Before its loop, or before it is a thread at all: nobody waits for ever, and the next request tries again."""
    one = house(lambda engine, job, spec: None)

    def fail(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if broken == "the worker":
            patch.setattr(one.jobs, "_give_way", fail)
        else:
            patch.setattr(threading.Thread, "start", fail)
        failed = one.wait(one.submit())
        assert failed.state == "failed"
        assert "the worker stopped" in (failed.error or "")
        assert one.jobs.waiting == 0
    assert one.wait(one.submit()).state == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own elsewhere")
def test_a_priority_that_can_not_be_set_keeps_nobody_from_drawing(
    house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    one = house(lambda engine, job, spec: None)
    assert one.wait(one.submit()).state == "done"


def test_an_engine_that_can_not_start_fails_the_job_and_is_tried_again(house: Callable[..., House]) -> None:
    tries: list[int] = []

    def make_engine() -> object:
        tries.append(1)
        if len(tries) == 1:
            raise BadInput("There is no CUDA device.")
        return object()

    one = house(lambda engine, job, spec: None, make_engine=make_engine)
    assert one.wait(one.submit()).error == "There is no CUDA device."
    assert one.wait(one.submit()).state == "done"


def test_closing_interrupts_and_the_log_says_so(house: Callable[..., House], tmp_path: Path) -> None:
    one = house(lambda engine, job, spec: steps(job, 1000, 0.01))
    running, waiting = one.submit(), one.submit()
    while one.jobs.view(running, "ann").done < 2:
        time.sleep(0.01)
    one.close()
    later = house(lambda engine, job, spec: None)
    for id in (running, waiting):
        view = later.jobs.view(id, "ann")
        assert view.state == "interrupted"
        assert view.error is not None
    assert [view.id for view in later.jobs.list("ann")] == [waiting, running]


def test_another_process_sees_progress_and_cancels(house: Callable[..., House]) -> None:
    one = house(lambda engine, job, spec: steps(job, 3000, 0.01))
    other = house(lambda engine, job, spec: None)  # a second set of objects on the same files, as another process has
    id = one.submit()
    deadline = time.monotonic() + WAIT
    while other.jobs.view(id, "ann").done < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert other.jobs.view(id, "ann").state == "running"
    other.jobs.cancel(id, "ann")
    assert one.wait(id).state == "cancelled"
    assert other.jobs.view(id, "ann").state == "cancelled"


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from support.job_queues import House, steps
house = House(Path({home!r}), lambda engine, job, spec: steps(job, 100000, 0.01))
id = house.submit()
while house.jobs.view(id, "ann").done < 2: time.sleep(0.01)
print(id, flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_an_interrupted_job(house: Callable[..., House], tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parents[1]), home=str(tmp_path / "home"))
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert child.stdout is not None
    with child:
        id = child.stdout.readline().strip()
        one = house(lambda engine, job, spec: None)
        assert one.jobs.view(id, "ann").state == "running"
        child.kill()
    view = one.jobs.view(id, "ann")
    assert view.state == "interrupted"
    assert view.error is not None
    assert list((tmp_path / "home" / "processes").iterdir()) == []  # the look has cleared away what it left


def test_many_threads_submit_at_once(house: Callable[..., House]) -> None:
    done: list[str] = []
    one = house(lambda engine, job, spec: done.append(job.id))
    ids: list[tuple[str, str]] = []

    def many(owner: str) -> None:
        ids.extend((one.submit(owner), owner) for _ in range(8))

    threads = [threading.Thread(target=many, args=(f"owner{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id, owner in ids:
        assert one.wait(id, owner).state == "done"
    assert sorted(done) == sorted(id for id, _ in ids)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_drawing_gives_way_to_pages(house: Callable[..., House]) -> None:
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def work(engine: Any, job: Job, spec: GenerateSpec) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    one = house(work)
    one.wait(one.submit())
    assert found == [max(here, WORKER_NICE)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here


def test_how_often_a_picture_was_drawn_becomes_a_label_of_its_recipe(house: Callable[..., House]) -> None:
    recipe = Recipe(
        model="m", model_hash="h", prompt="p", seed=1, steps=4, guidance=1, sampler="lcm", width=64, height=64
    )

    def work(engine: object, job: Job, spec: GenerateSpec) -> None:
        once, again = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "red")
        again.info["attempts"] = "2"
        job.save(once, recipe)
        job.save(again, recipe.model_copy(update={"seed": 2}))

    one = house(work)
    found = [one.pictures.get(id, "ann").recipe for id in one.wait(one.submit()).pictures]
    assert [r.labels.get("attempts") for r in found if r] == [None, "2"]
