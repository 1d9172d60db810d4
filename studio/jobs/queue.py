"""One worker, a fair queue, progress, cancel: how requests wait for the device without anybody waiting for them.

The worker is a thread of this process; it makes the engine inside itself, at the first job, so that a page is on the
screen before torch is loaded. Owners take turns; a long job whose function is a generator lets others go first at each
`yield`. Doesn't know what a job does: that is the table in `studio.features.registry`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from studio.core.errors import BadInput, Busy, Cancelled, DiskFull, NotFound
from studio.core.views import JobState, JobView
from studio.jobs.job import Job
from studio.jobs.log import INTERRUPTED, PLAIN, JobLog, Orphan, Terms
from studio.jobs.sentences import DEADLY, STOPPED, sentence_for
from studio.jobs.total import Total

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0  # progress goes to the disk at most this often: other processes read it there
LOOK_SECONDS = 0.5  # and so often the worker looks for a cancel from another process
WORKER_NICE = 5  # drawing on all cores must not keep a page from opening
INHERIT_SECONDS = 2.0  # between looks for jobs whose process is gone
MOST_DEATHS = 3  # of processes, while they worked on one job: it isn't begun once more
STARTING = "Starting the engine"
KEEP_FINISHED = 200  # jobs whose last state is answered from memory
FEW = 4  # jobs that an owner may have waiting however much the others have, as long as the queue isn't full

Work = Callable[[Any, Job, Any], "Iterator[None] | None"]


class Jobs:
    """The queue and its worker. Thread-safe; nothing here blocks on the model but `wait`."""

    def __init__(
        self, log: JobLog, kinds: Mapping[str, Work], make_engine: Callable[[], Any], queue_limit: int = 64
    ) -> None:
        self._log = log
        self._kinds = kinds
        self._make_engine = make_engine
        self._limit = queue_limit
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self.totals: dict[tuple[str, str], Total] = {}  # by kind and state
        self._heir: threading.Thread | None = None  # looks for what dead processes have left
        self._looked = False
        self._turns: deque[str] = deque()  # owners who have something to do, the next one first
        self._queues: dict[str, deque[Job]] = {}
        self._jobs: dict[str, Job] = {}
        self._running: Job | None = None
        self._left: list[Iterator[None]] = []  # generators of jobs that ended while they were paused, to be unwound
        self._unwritten: dict[str, Job] = {}  # jobs whose end couldn't be written down yet
        self._engine: Any = None
        self._thread: threading.Thread | None = None
        self._chores: deque[Callable[[Any], object]] = deque()  # what the worker does between two turns
        self._starting = False  # the engine, for a chore
        self._taken = 0  # turns, by all workers so far
        self._closing = False

    def submit(self, job: Job, terms: Terms = PLAIN) -> JobView:
        """Queue the job, unless there is one of its id. Raises `Busy`, or another `StudioError` if it can't be written.

        An owner may take half of the places that the others leave: there is always room for one more owner, until
        owners are so many that `FEW` jobs of each fill the queue.
        """
        with self._changed:
            if self._closing:
                raise Busy("The studio is shutting down.")
            waiting, own = self.waiting, self._waiting(job.owner)
            if waiting >= self._limit:
                raise Busy(f"{waiting} jobs are waiting already; try again when some are done.")
            if own >= max(FEW, (self._limit - (waiting - own)) // 2):
                raise Busy(f"{own} of your jobs are waiting already; try again when some are done.")
            if not self._log.add(job.view(), job.owner, job.spec.model_dump_json(), self._heir is not None, terms):
                return self.view(job.id, job.owner)
            return self._enqueue(job)

    def _enqueue(self, job: Job) -> JobView:
        job.changed = self._progress
        self._jobs[job.id] = job
        self._queues.setdefault(job.owner, deque()).append(job)
        if job.owner not in self._turns:
            self._turns.append(job.owner)
        if self._starting:
            job.say(STARTING)
        self._start()
        self._forget()
        self._changed.notify_all()
        return job.view(self._position(job))

    def between_turns(self, chore: Callable[[Any], object], start: bool = False) -> None:
        """Have the worker call `chore` with its engine before its next turn, behind what it works on now.

        `start`: start the engine for it; otherwise, where there is none yet, nothing happens. What it raises is logged.
        """
        with self._changed:
            if self._closing or (self._engine is None and not start):
                return
            self._chores.append(chore)
            self._start()
            self._changed.notify_all()

    def _do_chores(self) -> None:
        while self._chores and not self._closing:
            chore = self._chores.popleft()
            try:
                if self._engine is None:
                    self._starting = True
                    self._engine = self._make_engine()
                chore(self._engine)
            except Exception as error:  # the next job meets it too, and says it to somebody
                log.warning("between two jobs: %s", error)
            finally:
                self._starting = False

    def finished(self, job: Job, terms: Terms = PLAIN) -> JobView:
        """Write down a job that needed no work: all its pictures were there."""
        job.started = job.created
        job.end("done")
        self._count(job)
        added = self._log.add(job.view(), job.owner, job.spec.model_dump_json(), terms=terms)
        return job.view() if added else self.view(job.id, job.owner)

    def take_over(self, revive: Callable[[Orphan], Job]) -> None:
        """From now on, jobs are accepted for good: one that outlives its process is taken up by another that does this.

        `revive` makes the job of an orphan, with what it has drawn already; it raises `StudioError` where it can't.
        """
        with self._changed:
            if self._heir is None:
                self._heir = threading.Thread(target=self._inherit, args=(revive,), name="studio-heir", daemon=True)
                self._heir.start()

    def _inherit(self, revive: Callable[[Orphan], Job]) -> None:
        while not self._ended.wait(INHERIT_SECONDS if self._looked else 0):
            self._looked = True
            try:
                for orphan in self._log.orphans():
                    self._adopt(orphan, revive)
            except Exception as error:  # the disk is full, or the database is gone: it looks again soon
                log.warning("jobs of other processes couldn't be looked at: %s", error)

    def _adopt(self, orphan: Orphan, revive: Callable[[Orphan], Job]) -> None:
        if self._closing or not self._log.take(orphan):
            return
        state: JobState = "cancelled"
        error: str | None = None
        if not orphan.cancelled:
            state = "failed"
            try:
                if orphan.deaths < MOST_DEATHS:
                    job = revive(orphan)
                    log.warning("job %s is taken up: its process is gone", job.id)
                    with self._changed:
                        self._enqueue(job)
                    return
                error = DEADLY.format(orphan.deaths)
            except Exception as problem:
                error = sentence_for(problem)
        self._log.write(orphan.view.model_copy(update={"state": state, "error": error, "finished": time.time()}))

    def view(self, id: str, owner: str) -> JobView:
        """Raises `NotFound`, also when the job is somebody else's."""
        with self._changed:
            job = self._jobs.get(id)
            if job is not None and job.owner == owner:
                return job.view(self._position(job))
        view = self._log.read(id, owner)
        if view is None:
            raise NotFound("There is no such job here.")
        return view

    def list(self, owner: str, limit: int = 20) -> list[JobView]:
        """This owner's jobs, newest first; those of other processes too."""
        return [self.view(view.id, owner) if view.id in self._jobs else view for view in self._log.list(owner, limit)]

    def spec(self, id: str, owner: str) -> str:
        """The job's request as JSON, as it was resolved. Raises `NotFound`."""
        text = self._log.spec(id, owner)
        if text is None:
            raise NotFound("There is no such job here.")
        return text

    def cancel(self, id: str, owner: str) -> JobView:
        """Stop the job: at once when it waits for a turn, the first or another, within one sampling step when it runs.

        Only its owner can.
        """
        view = self.view(id, owner)
        if not view.active:
            return view
        with self._changed:
            job = self._jobs.get(id)
            if job is None:
                self._log.request_cancel(id, owner)
                return self.view(id, owner)
            job.cancelled.set()
            if job is not self._running and job.finished is None:
                self._queues[owner].remove(job)
                if not self._queues[owner] and owner in self._turns:
                    self._turns.remove(owner)
                self._leave(job)
            return job.view()

    def wait(self, id: str, owner: str, timeout: float | None = None) -> JobView:
        """Block until the job is over or `timeout` seconds have passed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            view = self.view(id, owner)
            left = None if deadline is None else deadline - time.monotonic()
            if not view.active or (left is not None and left <= 0):
                return view
            with self._changed:
                self._changed.wait(0.3 if left is None else min(0.3, left))

    @property
    def waiting(self) -> int:
        """Jobs that wait for their turn."""
        with self._changed:
            return sum(self._waiting(owner) for owner in self._queues)

    def _waiting(self, owner: str) -> int:
        return sum(job.state == "queued" for job in self._queues.get(owner, ()))

    @property
    def running(self) -> int:
        with self._changed:
            return sum(job.state == "running" for job in self._jobs.values())

    @property
    def engine(self) -> Any:
        """The worker's engine for reading its status, or None before the first job."""
        return self._engine

    def close(self, timeout: float = 10) -> None:
        """Stop the worker within one step.

        What was accepted for good waits for another process; everything else reads as interrupted afterwards.
        """
        self._ended.set()
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                if job.state in ("queued", "running"):
                    job.cancelled.set()
            self._changed.notify_all()
            thread = self._thread
        for one in (thread, self._heir):
            if one is not None:
                one.join(timeout)
        self._log.processes.leave()

    # --- the worker -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """See to it that the worker lives. What a dead one was working on has failed; the others get their turns."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._bury()
        self._turns.extend(owner for owner, queue in self._queues.items() if queue and owner not in self._turns)
        self._thread = threading.Thread(target=self._work, name="studio-worker", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system gives out no more threads
            self._thread = None
            log.error("no worker could be started: %s", error)
            self._abandon()

    def _bury(self) -> None:
        """What a worker that is gone was working on has failed."""
        if self._running is not None:
            job, self._running = self._running, None
            if job.finished is None:
                self._leave(job, "failed", STOPPED)

    def _abandon(self) -> None:
        """End whatever waits: there is no worker for it. The next request tries to start one again."""
        queues, self._queues = self._queues, {}
        self._turns.clear()
        for queue in queues.values():
            for job in queue:
                if self._closing:
                    self._put_back(job)
                else:
                    self._leave(job, "failed", STOPPED)

    def _work(self) -> None:
        before = self._taken
        try:
            self._give_way()
            self._serve()
        except BaseException as error:
            log.error("the worker ended", exc_info=error)
            with self._changed:
                self._thread = None
                self._bury()
                # One that never came to a turn wouldn't the next time either; each turn ends a job, so that this ends.
                if self._taken == before or self._closing:
                    self._abandon()
                elif any(self._queues.values()):
                    self._start()

    def _give_way(self) -> None:
        """Lower this thread's priority, where it has one of its own; the threads of its maths inherit it."""
        if sys.platform == "linux":
            with suppress(OSError):
                nice = max(WORKER_NICE, os.getpriority(os.PRIO_PROCESS, 0))
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._turns and not self._left and not self._closing and not self._chores:
                    self._changed.wait()
                left, self._left = self._left, []
            self._do_chores()
            for runner in left:
                self._unwind(runner)
            with self._changed:
                if self._closing:
                    for queue in self._queues.values():
                        for job in queue:
                            self._drop(job)
                            self._put_back(job)
                    return
                if not self._turns:
                    continue
                owner = self._turns.popleft()
                job = self._queues[owner].popleft()
                self._running = job
                self._taken += 1
                if job.state == "queued":
                    job.state, job.started = "running", time.time()
            over = self._slice(job)
            with self._changed:
                self._running = None
                if not over and job.cancelled.is_set() and not self._closing:
                    self._leave(job)  # between its last step and here
                elif not over:
                    self._queues[owner].appendleft(job)
                if self._queues[owner]:
                    if owner in self._turns:  # joined again while this one was working
                        self._turns.remove(owner)
                    self._turns.append(owner)
                else:
                    del self._queues[owner]
                self._changed.notify_all()

    def _slice(self, job: Job) -> bool:
        """Work on the job up to its next `yield`. True when it is over, however."""
        try:
            if job.runner is None:
                if self._cancel_requested(job):  # through another process, while it waited
                    raise Cancelled
                self._write(job)
                if self._engine is None:
                    job.say(STARTING)
                    self._engine = self._make_engine()
                job.say("")
                job.runner = self._kinds[job.spec.kind](self._engine, job, job.spec) or iter(())
            job.check()
            next(job.runner)
            return False
        except StopIteration:
            self._end(job, "done")
        except Cancelled:
            self._drop(job)
            if job.lost:
                self._forsake(job)
            elif self._closing:
                self._put_back(job)
            else:
                self._end(job, "cancelled")
        except BaseException as error:  # a library that calls sys.exit ends its job, not the worker
            self._drop(job)
            sentence = sentence_for(error)
            if isinstance(error, DiskFull) and job.ids:
                sentence += f" {len(job.ids)} of this job's pictures are kept; the same request draws the others."
            self._end(job, "failed", sentence, isinstance(error, BadInput))
        return True

    def _drop(self, job: Job) -> None:
        """Unwind a job's generator: its `finally` blocks run in this thread."""
        if job.runner is not None:
            self._unwind(job.runner)

    def _unwind(self, runner: Iterator[None]) -> None:
        close = getattr(runner, "close", None)
        if close is not None:
            try:
                close()
            except BaseException:
                log.exception("a job didn't unwind cleanly")

    def _leave(self, job: Job, state: JobState = "cancelled", error: str | None = None) -> None:
        """End a job that is not being worked on, from any thread. Its generator is the worker's to unwind."""
        if job.runner is not None:
            self._left.append(job.runner)
        self._end(job, state, error)

    def _end(self, job: Job, state: JobState, error: str | None = None, bad_input: bool = False) -> None:
        with self._changed:
            job.end(state, error, bad_input)
            self._count(job)
            self._write(job)
            self._changed.notify_all()

    def _count(self, job: Job) -> None:
        total = self.totals.setdefault((job.spec.kind, job.state), Total())
        total.jobs += 1
        total.seconds += (job.finished or 0.0) - (job.started or job.finished or 0.0)
        total.cached += len(job.view().cached)

    @property
    def works(self) -> bool:
        """Whether what is submitted now gets its turn."""
        thread = self._thread
        return not self._closing and (thread is None or thread.is_alive())

    def _put_back(self, job: Job) -> None:
        """The studio closes: another process goes on with it, if it was accepted for good."""
        if self._heir is None:
            self._end(job, "interrupted", INTERRUPTED)
            return
        job.state = "queued"
        self._write(job)
        self._forsake(job)

    def _forsake(self, job: Job) -> None:
        """It is another process's now, which tells how it stands; in this one it is over without a word."""
        with self._changed:
            job.end("interrupted", INTERRUPTED)
            self._jobs.pop(job.id, None)
            self._changed.notify_all()

    def _progress(self, job: Job) -> None:
        now = time.monotonic()
        if now - job.looked > LOOK_SECONDS:
            job.looked = now
            if self._cancel_requested(job):
                job.cancelled.set()
        if now - job.wrote > WRITE_SECONDS:
            self._write(job)
        with self._changed:
            self._changed.notify_all()

    def _cancel_requested(self, job: Job) -> bool:
        try:
            return self._log.cancel_requested(job.id)
        except Exception as error:  # it looks again soon; a job doesn't fail because of a look
            log.warning("job %s: the log couldn't be read: %s", job.id, error)
            return False

    def _write(self, job: Job) -> None:
        """Bring the log up to date. Never raises: the worker has to live, whatever becomes of the disk.

        The state in memory is right. Progress is written again with the next change, an end with the next of any job.
        """
        job.wrote = time.monotonic()
        late = [other for other in self._unwritten.copy().values() if other is not job]
        if job.finished is not None:
            self._unwritten[job.id] = job
        try:
            for one in (job, *late):
                if not self._log.write(one.view()):  # another process took this one for dead
                    one.lost = True
                    one.cancelled.set()
                self._unwritten.pop(one.id, None)
        except Exception as error:
            log.warning("job %s: its state couldn't be written: %s", job.id, error)

    def _position(self, job: Job) -> int:
        """How many jobs go first: owners take turns in the order of `_turns`."""
        if job.state != "queued":
            return 0
        served = self._running.owner if self._running is not None else None
        turns = [owner for owner in self._turns if owner != served]
        if served is not None:
            turns.append(served)  # at the end of the line as soon as the running job lets go
        depth = self._queues[job.owner].index(job)  # rounds that this owner needs before
        turn = turns.index(job.owner)
        first = depth + (served is not None)
        for index, owner in enumerate(turns):
            if owner != job.owner:
                first += min(len(self._queues.get(owner, ())), depth + (index < turn))
        return first

    def _forget(self) -> None:
        finished = [job.id for job in self._jobs.values() if job.finished is not None]
        for id in finished[:-KEEP_FINISHED]:
            del self._jobs[id]
