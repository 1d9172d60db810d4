"""Saves a run and finds it again: what every trainer does at the same moments in the same way.

Knows the run's state, fingerprint and number of steps; nothing of what is trained.
"""

from __future__ import annotations

import time
from typing import Any

from studio.training.runtime import checkpoints
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.checkpoints import Checkpoint, TrainingState
from studio.training.runtime.resume import diff
from studio.training.runtime.runtime import Runtime


class Checkpointer:
    """The checkpoints of one run, whose epochs have the number of steps that its `fingerprint` says.

    `meta` is what the checkpoint that was resumed from holds beside the state; empty for a new run.
    """

    def __init__(
        self, runtime: Runtime, state: TrainingState, fingerprint: dict[str, Any], sizer: OomBatchSizer
    ) -> None:
        self.runtime, self.session, self.run = runtime, runtime.session, runtime.session.run
        self.state, self.fingerprint, self.sizer = state, fingerprint, sizer
        self.per_epoch = int(fingerprint["per_epoch"])
        self.total = int(fingerprint["spec"]["epochs"]) * self.per_epoch
        self.meta: dict[str, Any] = {}

    def resume(self, latest: tuple[Checkpoint | None, list[str]] | None = None) -> int:
        """Take over the last whole checkpoint, where there is one; how many steps are done.

        `latest`: what `checkpoints.latest_good` says of the run, where that was read already.
        Raises BadInput for one that belongs to another model or another kind of result.
        """
        checkpoint, damaged = checkpoints.latest_good(self.run) if latest is None else latest
        for sentence in damaged:
            self.session.log(sentence, note=True)
        if checkpoint is None:
            return 0
        # "facts" and "micro": so they were called at first; ControlNets had none
        before = checkpoint.meta.get("fingerprint", checkpoint.meta.get("facts", {}))
        for sentence in diff(before, self.fingerprint):
            self.session.log(sentence, note=True)
        self.state.restore(checkpoint)
        at_once = checkpoint.meta.get("micro_batch", checkpoint.meta.get("micro", self.sizer.size))
        self.sizer.size = min(self.sizer.size, at_once)
        self.meta = checkpoint.meta
        # An epoch of another length starts again
        same = before.get("per_epoch", self.per_epoch) == self.per_epoch
        step = checkpoint.step if same else checkpoint.epoch * self.per_epoch
        self.session.log(f"Resumed from {checkpoint.name}: step {step + 1} of {self.total} is next.", note=True)
        return step

    def name(self, step: int) -> str:
        """Of the checkpoint after `step` steps."""
        return checkpoints.name_of(step // self.per_epoch, step, step % self.per_epoch == 0)

    def due(self, step: int) -> bool:
        """Whether the moment after `step` steps is saved however the run goes."""
        epoch, inside = divmod(step, self.per_epoch)
        return (
            step > 0
            and not inside
            and (epoch % self.fingerprint["spec"]["checkpoint_epochs"] == 0 or step == self.total)
        )

    def save(self, step: int, **meta: Any) -> None:
        """A checkpoint of this moment, with further `meta`. All processes come here; one writes."""
        if self.runtime.main:
            started = time.monotonic()
            meta |= {"fingerprint": self.fingerprint, "micro_batch": self.sizer.size}
            keep = self.fingerprint["spec"]["keep_checkpoints"]
            self.state.save(self.run, self.name(step), step, step // self.per_epoch, meta, keep)
            self.session.saved(self.name(step), time.monotonic() - started)
        self.runtime.wait()
