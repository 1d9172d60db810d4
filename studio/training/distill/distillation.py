"""What both loops of a distillation share: networks, data, chance, and what is done after each step.

Knows no loss: the consistency objectives are in `train`, distribution matching in `dmd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.core.errors import Cancelled
from studio.core.specs import LcmSpec
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.parameterization import PredictionType
from studio.training.distill.consistency import SolverGrid
from studio.training.distill.history import QualityHistory
from studio.training.distill.latent_dataset import LatentDataset
from studio.training.distill.student import Student
from studio.training.runtime import steps
from studio.training.runtime.batch_sizer import OomBatchSizer
from studio.training.runtime.checkpointer import Checkpointer
from studio.training.runtime.runtime import Runtime


@dataclass(frozen=True)
class Phases:
    """After how many steps each part of a run begins: the exact targets of PCM, DMD, and DMD's learning student.

    Where an objective has no such part it begins with the run's end.
    """

    exact_from: int
    dmd_from: int
    student_from: int
    total: int


@dataclass
class Distillation:
    """A run between two steps. `step` is how many are done, `why` the reason for which it ends early."""

    runtime: Runtime
    spec: LcmSpec
    data: LatentDataset
    student: Student
    grid: SolverGrid
    kind: PredictionType
    guidance: tuple[float, float]  # w_min, w_max
    optimizer: Any
    sizer: OomBatchSizer
    checkpointer: Checkpointer
    history: QualityHistory
    phases: Phases
    own: slice  # this process's pictures of each batch
    step: int = 0
    why: str = field(default="", init=False)

    def rows(self) -> list[int]:
        """The pictures of the next step: in every pass through the data another order."""
        return steps.rows(self.step, self.spec.batch_size, len(self.data), self.spec.seed)

    def text(self, rows: Sequence[int]) -> Conditioning:
        """What the UNet is told of this process's pictures."""
        text = self.data.text[self.data.row[list(rows)]][self.own]
        return text.to(self.runtime.device, self.runtime.dtype)

    def chance(self) -> tuple[Tensor, Tensor, torch.Generator]:
        """Of the next step: n in 0..N-1, w in its range, (batch,) each, and the generator that goes on from there."""
        generator = steps.generator(self.spec.seed, "step", self.step)
        n = torch.randint(self.grid.points, (self.spec.batch_size,), generator=generator)
        w_min, w_max = self.guidance
        w = w_min + (w_max - w_min) * torch.rand(self.spec.batch_size, generator=generator)
        return n, w, generator

    def step_done(self, loss: float, learning_rate: float, **more: float) -> None:
        """After a step: the running mean, metrics, a checkpoint and a measurement where they are due, and a stop."""
        session, phases = self.runtime.session, self.phases
        self.student.average.update(self.step)
        another_loss = self.step in (phases.exact_from, phases.dmd_from, phases.student_from)
        self.step += 1
        epoch, inside = divmod(self.step, self.spec.steps_per_epoch)
        session.step_done(self.step, epoch + bool(inside), loss, learning_rate, another_loss, **more)
        if not inside:
            session.log(f"Epoch {epoch} of {self.spec.epochs}, step {self.step}: loss {loss:.5f}")
        self.why, save = self.runtime.stop_or_save()
        due = self.checkpointer.due(self.step)
        if due or save or self.why:
            self.checkpointer.save(self.step, dmd_from=phases.dmd_from)
            if due and not self.why:
                self.measure()
            session.restart_clock()

    def measure_missing(self) -> None:
        """What an earlier process was ended before it had measured, or before it had ended the run itself."""
        ended = self.runtime.session.run.status().get("ended") == self.step
        if self.runtime.agreed(self.runtime.main and self.checkpointer.due(self.step) and not ended):
            self.measure()

    def measure(self) -> None:
        """Draw with the checkpoint of this moment, unless that was done before; the run may end for what is seen."""
        session, history, name = self.runtime.session, self.history, self.checkpointer.name(self.step)
        session.stage(8, f"Distill: measure {name}")
        end = ""
        try:
            if history.missing(self.step):
                history.measure(name, self.step)
            too_early = self.spec.objective == "dmd" and self.step <= self.phases.dmd_from  # what makes it good comes
            if history.fallen >= self.spec.patience and self.step < self.phases.total and not too_early:
                end = "quality"
                session.log(f"Quality has fallen for {history.fallen} checkpoints: the best one is kept.", note=True)
        except Cancelled:
            end = session.must_stop() or "stop"
        self.why = self.runtime.from_main(end)
        session.stage(8, "Distill")
        session.restart_clock()
