"""How long a distillation takes, before it begins: what one call of the UNet takes here, times the calls that it makes.

Coding, checkpoints and the measurements of quality aren't counted. Knows no data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

from studio.core.specs import LcmSpec
from studio.engine.diffusion.conditioning import blank
from studio.engine.diffusion.denoiser import Denoiser
from studio.training.distill import dmd
from studio.training.distill.distillation import Phases

# Calls of a UNet for one picture of a step of LCM's kind: both branches of the teacher, the target, and the student,
# whose backward pass takes as long as two calls
STEP_CALLS = 6
EXACT_COST, DMD_COST = 2.2, 3.0  # how much longer a step takes with exact targets, and one that matches distributions


@dataclass(frozen=True)
class Duration:
    """Seconds: of the pictures that the teacher draws before the first step, and of all steps."""

    latents: float
    steps: float

    @property
    def sentence(self) -> str:
        first = f", of which {_words(self.latents)} go by before the first step" if self.latents else ""
        return f"This run takes about {_words(self.latents + self.steps)}{first}, measuring left out."


def duration(spec: LcmSpec, teacher_steps: int, guidance: float, seconds_per_call: float) -> Duration:
    """Of a run of `spec` from its beginning. Its teacher draws in `teacher_steps` steps at this guidance."""
    drawn = 0 if spec.data is not None else spec.latents * teacher_steps * (2 if guidance > 1 else 1)
    phases = phases_of(spec, 0, None)
    exact, dmd_steps = phases.dmd_from - phases.exact_from, phases.total - phases.dmd_from
    units = phases.exact_from + EXACT_COST * exact + DMD_COST * dmd_steps
    calls = STEP_CALLS + 1 if spec.gradient_checkpointing else STEP_CALLS
    return Duration(drawn * seconds_per_call, units * spec.batch_size * calls * seconds_per_call)


@torch.no_grad()
def seconds_per_call(unet: UNet2DConditionModel, side: int, tokens: int) -> float:
    """Of one picture, where the UNet is and in its precision; the first call, which is slower, isn't counted.

    `side` is the latents', `tokens` the length of a prompt.
    """
    parameter = next(unet.parameters())
    x = torch.zeros(1, unet.config.in_channels, side, side, device=parameter.device, dtype=parameter.dtype)
    denoiser = Denoiser(unet, blank(unet.config, tokens).to(parameter.device, parameter.dtype))
    t = torch.zeros(1, dtype=torch.long, device=parameter.device)
    for _ in range(2):
        started = time.perf_counter()
        float(denoiser(x, t).sum())  # reading a number waits for the card
    return time.perf_counter() - started


def phases_of(spec: LcmSpec, step: int, dmd_from: int | None) -> Phases:
    """When each part of a run begins, of which `step` steps are done.

    `dmd_from`: when DMD began, or was to begin, by the checkpoint that the run goes on from. With another number of
    epochs now a run that was matching goes on with that; any other begins it now at the earliest.
    """
    total = spec.epochs * spec.steps_per_epoch
    if spec.objective not in ("pcm", "dmd"):
        return Phases(total, total, total, total)
    begins = total - round(spec.dmd_share * total) if spec.objective == "dmd" else total
    if step and spec.objective == "dmd":
        begins = dmd_from if dmd_from is not None and dmd_from < step else max(begins, step)
    exact_from = max(0, begins - round(spec.exact_target_share * total))
    student_from = begins + min(dmd.CRITIC_WARMUP, (total - begins) // 3)
    return Phases(exact_from, begins, student_from, total)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
