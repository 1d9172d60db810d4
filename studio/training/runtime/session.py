"""A trainer's side of its run folder: lock, status, log, clock, and how it ends, in words.

`attend` wraps a whole trainer. However the body leaves it (done, stopped, NaN, full disk, deleted folder, out of
memory, a bug), `status.json` says so in one sentence, and the process ends with the command line's exit code.
Knows no models; every trainer uses it.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

from studio.core.errors import BadInput, Cancelled, DiskFull, NotFound, OutOfMemory, StudioError, is_out_of_memory
from studio.core.specs import RUN_KINDS, Spec
from studio.engine import packages
from studio.runs.rundir import RunDir

SMOOTHING = 0.95  # of the shown loss; single steps differ mostly by their timestep


class Diverged(StudioError):
    """The loss is not a number any more; the last good checkpoint is what there is."""


class Session:
    """What a running trainer says and asks. `main` is False in all but one process of a distributed run."""

    def __init__(self, run: RunDir, main: bool = True) -> None:
        self.run = run
        self.main = main
        self.started = time.monotonic()
        self.notes: list[str] = []
        self._durations: deque[float] = deque(maxlen=50)  # seconds, each over what `phases` says of its step
        # (last step, how much longer a step takes than one of the first phase), for each phase of a run
        self.phases: list[tuple[int, float]] = []
        self._step_started = self._last_save = self.started
        self._save_seconds = 0.0
        self._smoothed: float | None = None
        self._step = self._steps = 0
        self.limit_minutes: float | None = None
        self.checkpoint_minutes: float | None = None

    def log(self, text: str, note: bool = False) -> None:
        """A line in the log; as a `note` also on the page, for as long as the run is there."""
        if not self.main:
            return
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        if note and text not in self.notes:
            self.notes.append(text)
            self.run.update(notes=self.notes)

    def stage(self, number: int, text: str) -> None:
        """Say which numbered stage begins."""
        if self.main:
            self.log(f"{number}. {text}")
            self.run.update(state="running", stage=f"{number}. {text}")

    def begin(self, step: int, steps: int, epochs: int) -> None:
        """The loop starts after `step` of `steps` are done: metrics beyond it are forgotten, the clock starts."""
        self._step, self._steps = step, steps
        self._step_started = self._last_save = time.monotonic()
        if self.main:
            self.run.truncate_metrics(step)
            earlier = self.run.metrics()
            self._smoothed = earlier[-1]["smoothed"] if earlier else None
            self.run.update(step=step, steps=steps, epochs=epochs)

    def step_done(self, step: int, epoch: int, loss: float, rate: float, anew: bool = False, **more: float) -> None:
        """Record optimiser step `step` (from 1) of epoch `epoch` (from 1): metrics, status, time left.

        `anew`: from this step on the loss is another one. Raises Diverged when the loss is NaN or infinite.
        """
        self.check_loss(step, loss)
        now = time.monotonic()
        self._step = step
        self._durations.append((now - self._step_started) / self._cost(step))
        self._step_started = now
        if not self.main:
            return
        per_unit = median(self._durations)
        previous = loss if self._smoothed is None or anew else self._smoothed
        self._smoothed = SMOOTHING * previous + (1 - SMOOTHING) * loss
        self.run.append_metric(
            {"step": step, "epoch": epoch, "loss": loss, "smoothed": self._smoothed, "rate": rate, **more}
        )
        self.run.update(
            state="running",
            step=step,
            epoch=epoch,
            loss=loss,
            smoothed=self._smoothed,
            rate=rate,
            seconds_per_step=per_unit * self._cost(step),
            seconds_left=per_unit * self._ahead(step),
            **more,
        )

    def _cost(self, step: int) -> float:
        """Of step `step` (from 1), in steps of the first phase."""
        return next((cost for last, cost in self.phases if step <= last), 1.0)

    def _ahead(self, step: int) -> float:
        """What is left after step `step`, in the same unit."""
        left, begin = 0.0, step
        for last, cost in [*self.phases, (self._steps, 1.0)]:
            end = min(last, self._steps)
            left += max(0, end - begin) * cost
            begin = max(begin, end)
        return left

    def check_loss(self, step: int, loss: float) -> None:
        """Before step `step` (from 1) is made: raises Diverged for a loss that is no number."""
        if not math.isfinite(loss):
            raise Diverged(
                f"The loss became {loss} at step {step}. The last good checkpoint is kept; resume from it with a lower "
                "learning rate."
            )

    def check_gradient(self, step: int, norm: float) -> None:
        """Before step `step` (from 1) is made: raises Diverged for a gradient that would spoil the weights."""
        if not math.isfinite(norm):
            raise Diverged(
                f"The gradient became {norm} at step {step}. The last good checkpoint is kept; resume from it with a "
                "lower learning rate."
            )

    def restart_clock(self) -> None:
        """Work that isn't a step (a checkpoint, samples) ends here: the time left isn't measured by it."""
        self._step_started = time.monotonic()

    def saved(self, name: str, seconds: float) -> None:
        """A checkpoint is on disk; it took `seconds`."""
        self._last_save = time.monotonic()
        self._save_seconds = seconds
        if self.main:
            self.log(f"Saved {name} ({seconds:.1f} s)")
            self.run.update(checkpoint=name)

    def checkpoint_due(self) -> bool:
        """Whether the chosen number of minutes has gone by since the last checkpoint."""
        every = self.checkpoint_minutes
        return every is not None and time.monotonic() - self._last_save >= 60 * every

    def must_stop(self) -> Literal["", "stop", "time"]:
        """Whether to save and end now: somebody asked, or the time limit has no room for a step and a checkpoint."""
        if self.run.stop_requested():
            return "stop"
        if self.limit_minutes is not None:
            needed = max(self._durations, default=0.0) * self._cost(self._step + 1) + 2 * self._save_seconds
            if time.monotonic() + needed - self.started >= 60 * self.limit_minutes:
                return "time"
        return ""

    def check_stop(self) -> None:
        """Between the parts of long work that is no step. Raises Cancelled where the run is to end."""
        if self.must_stop():
            raise Cancelled

    def end_early(self) -> None:
        """The end before a first step, or of one that was to stop: what is there is found by the next start."""
        self.finish("stopped", self.must_stop())

    def finish(self, state: Literal["done", "stopped"], why: str = "", **fields: Any) -> None:
        """The run's last word where nothing went wrong; `why` it ended early, if it did."""
        if self.main:
            if why == "time":
                self.log("The time limit is reached.", note=True)
            self.run.update(state=state, seconds_left=None, error=None, finished=time.time(), **fields)
            self.run.release_reserve()
            stopped = "Stopped and saved; resume goes on exactly here."
            if not self.run.checkpoint_names():
                stopped = "Stopped before a first step was saved."
            self.log("Done." if state == "done" else stopped)


@contextmanager
def attend(path: Path, main: bool = True) -> Iterator[Session]:
    """Hold the run's lock around a trainer's body; an exception becomes the status `failed` and an exit code.

    Raises SystemExit: 2 for a request that can't be met, 1 for what went wrong on the way.
    """
    run = RunDir(path.resolve())
    session = Session(run, main)
    try:
        if not main:
            yield session
            return
        with run.lock():
            try:
                run.set_reserve()
                run.update(state="starting", error=None, notes=[], finished=None, started=time.time())
                yield session
            except Exception as error:
                run.release_reserve()
                sentence = explain(error, run)
                print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)
                if run.path.exists():
                    run.update(state="failed", error=sentence, seconds_left=None, finished=time.time())
                raise
    except Exception as error:
        if not isinstance(error, StudioError):
            traceback.print_exc()
        sys.exit(2 if isinstance(error, BadInput) else 1)


def run_trainer(path: Path, kind: type[Spec], train: Callable[[Session, Any], None]) -> None:
    """Carry out the request of `kind` in the run folder `path` with `train`, in this process; see `attend`.

    Under `accelerate launch --cpu --num_processes N`, `torchrun` and the like it is one of several that share the work.
    """
    with attend(path, main=int(os.environ.get("RANK", "0")) == 0) as session:
        spec = session.run.spec()
        if not isinstance(spec, kind):
            raise NotFound(f"Run {session.run.id} is of another kind ({spec.kind}): this trainer can't carry it out.")
        if RUN_KINDS[spec.kind].makes_lora and (trouble := packages.torchao()):
            raise StudioError(str(trouble))
        session.limit_minutes, session.checkpoint_minutes = spec.time_limit_minutes, spec.checkpoint_minutes
        try:
            train(session, spec)
        except Cancelled:
            session.end_early()


def explain(error: Exception, run: RunDir) -> str:
    """One sentence for a person: what went wrong and what to do."""
    if isinstance(error, StudioError):
        return str(error)
    if not run.path.exists():
        return f"The run's folder {run.path} was deleted while it was training; nothing more is written."
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return str(DiskFull("The disk is full. The last good checkpoint is intact: make room and resume the run."))
    if is_out_of_memory(error):
        return str(OutOfMemory(RUN_KINDS.get(run.raw_spec().get("kind", ""), RUN_KINDS["lora"]).too_large))
    return f"Something went wrong inside the studio ({type(error).__name__}); the log has the details."
