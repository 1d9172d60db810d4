"""Distribution matching: what a student's pictures lack to be the teacher's, told by two networks.

DMD (2311.18828) and DMD2 (2405.14867): the guided teacher says which way a noised picture becomes more likely to be one
of its own (`pred_real`), a critic that follows the student says which way it becomes more likely to be one of the
student's (`pred_fake`); the student goes along the difference. The student is asked as it is drawn with, from noise
down its few steps (DMD2, sec. 4.4, "backward simulation"), so that it also learns to mend what its own earlier steps
got wrong. No clean latents, but for DMD2's adversary (sec. 4.3, `adversary`): it tells the student's pictures from
those of the data, and so can take the student past its teacher.

Time and notation are those of `consistency`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from studio.engine.diffusion.parameterization import PredictionType, add_noise, from_x0_and_epsilon, to_x0
from studio.training.distill import adversary
from studio.training.distill import consistency as lcd
from studio.training.distill.curve import FAST_STEPS
from studio.training.distill.distillation import Distillation
from studio.training.distill.student import LoraStudent, Student, Text
from studio.training.runtime import steps
from studio.training.runtime.optimizers import adamw

LOWEST, HIGHEST = 150, 980  # times at which pictures are compared: below only grain is left, above nothing
GUIDED = 400  # from this time up the teacher is guided; below, guidance burns colours and texture (2404.07724)
CRITIC_STEPS = 2  # of the critic for one of the student
CRITIC_WARMUP = 50  # first steps at most, in which only the critic learns
STUDENT_RATE, CRITIC_RATE = 0.1, 1.5  # times the run's learning rate: a critic that lags behind burns colours
BETAS = (0.0, 0.99)  # of both optimisers: yesterday's direction is no use against a moving opponent


# --- the loop ---------------------------------------------------------------------------------------------------------


def match_distributions(
    run: Distillation, critic: LoraStudent, critic_optimizer: Any, head: adversary.Head | None = None
) -> None:
    """The last steps of a run, from `phases.dmd_from` on (DMD2, Algorithm 1; without its GAN where there's no head)."""
    runtime, spec, phases, device = run.runtime, run.spec, run.phases, run.runtime.device
    peak = run.optimizer.param_groups[0]["peak"]
    empty = run.data.empty.to(device, runtime.dtype)
    networks = Networks(
        run.student, critic, run.grid, run.kind, student_times(run.grid), empty, runtime.dtype, head,
        spec.adversarial_weight,
    )  # fmt: skip
    shape = run.data.latents.shape[1:]  # (channels, height, width)
    pictures = [range(spec.batch_size)[: run.own.stop - run.own.start]]  # of this process, cut where memory is short
    if run.step == phases.dmd_from and run.step < phases.total:  # what the optimiser remembers is of another loss
        run.optimizer = runtime.accelerator.prepare(adamw(run.student.trainable.values(), peak, BETAS))
        run.checkpointer.state.optimizers["optimizer"] = run.optimizer
        runtime.session.log("From here on pictures are matched to the teacher's: the loss is another one.", note=True)

    def student_backward(rows: Sequence[int]) -> Tensor:
        """2 for some of the pictures: what the student draws goes into `z_0`."""
        where = slice(rows[0], rows[-1] + 1)
        part = noise.part(where, device), text[where], w[where]
        with runtime.autocast():
            if warmup:
                z_0[where] = networks.generate(*part)
                return torch.zeros((), device=device)
            loss, z_0[where] = networks.student_loss(*part)
        return runtime.backward(loss * (len(rows) / spec.batch_size))

    def critic_backward(rows: Sequence[int]) -> Tensor:
        """3 for some of the pictures."""
        where = slice(rows[0], rows[-1] + 1)
        with runtime.autocast():
            part = noise.part(where, device), text[where], w[where]
            loss = networks.critic_loss(k, z_0[where], *part, None if real is None else real[where])
        return runtime.backward(loss * (len(rows) / spec.batch_size))

    while run.step < phases.total and not run.why:
        # 1 prompts, guidance and noise, functions of (seed, step) alone
        text, w = run.text(rows := run.rows()), run.chance()[1][run.own].to(device)
        real = None if head is None else run.data.latents[rows][run.own].to(device)
        noise = step_noise(spec.batch_size, shape, FAST_STEPS, spec.seed, run.step).part(run.own, device)
        z_0 = torch.zeros(len(text), *shape, device=device)
        warmup = run.step < phases.student_from  # only the critic learns

        # 2 the student's pictures, and its step along the difference of pred_real and pred_fake
        loss = runtime.accumulate(run.sizer, pictures, student_backward, run.optimizer)
        learning_rate, student_loss = 0.0, 0.0
        if not warmup:
            since, until = run.step - phases.student_from, phases.total - phases.student_from
            learning_rate = steps.learning_rate(since, until, STUDENT_RATE * peak, 0.0)
            run.optimizer.param_groups[0]["lr"] = learning_rate
            student_loss = runtime.step(run.optimizer, loss, spec.max_grad_norm, run.step + 1)

        # 3 the critic's steps on those pictures, which it learns to denoise
        for k in range(CRITIC_STEPS):  # noqa: B007 - `critic_backward` reads it
            loss = runtime.accumulate(run.sizer, pictures, critic_backward, critic_optimizer)
            critic_loss = runtime.step(critic_optimizer, loss, spec.max_grad_norm, run.step + 1)

        # 4 the running mean, metrics, a checkpoint and a measurement where they are due
        run.step_done(critic_loss if warmup else student_loss, learning_rate, critic=critic_loss)


def student_times(grid: lcd.SolverGrid) -> list[int]:
    """The times at which drawing asks the student: those of LCM's grid, whatever grid it learnt on before."""
    return lcd.SolverGrid.over(grid.schedule, lcd.GRID).inference_times(FAST_STEPS)


# --- chance -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepNoise:
    """Everything random about one step. `last` is how many steps are drawn before the one that learns."""

    last: int
    noise: Tensor  # (batch, steps, channels, height, width): where drawing begins, and what each later step puts back
    t: Tensor  # (batch,): where student and teacher are compared
    epsilon: Tensor  # (batch, channels, height, width)
    critic_t: Tensor  # (batch, CRITIC_STEPS)
    critic_epsilon: Tensor  # (batch, CRITIC_STEPS, channels, height, width)

    def part(self, where: slice, device: torch.device) -> StepNoise:
        """The same for some of the batch's pictures."""
        chosen = {f.name: getattr(self, f.name)[where].to(device) for f in fields(self) if f.name != "last"}
        return StepNoise(self.last, **chosen)


def step_noise(batch: int, shape: torch.Size, count: int, seed: int, step: int) -> StepNoise:
    """Of step `step`, a function of (seed, step) alone; `shape` is (channels, height, width), `count` student steps."""
    generator = steps.generator(seed, "match", step)

    def times(*size: int) -> Tensor:
        return torch.randint(LOWEST, HIGHEST, size, generator=generator)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, *shape, generator=generator)

    return StepNoise(
        last=int(torch.randint(count, (1,), generator=generator)),
        noise=normal(batch, count), t=times(batch), epsilon=normal(batch),
        critic_t=times(batch, CRITIC_STEPS), critic_epsilon=normal(batch, CRITIC_STEPS),
    )  # fmt: skip


# --- the losses -------------------------------------------------------------------------------------------------------


def direction(z_0: Tensor, pred_real: Tensor, pred_fake: Tensor) -> Tensor:
    """Where the loss falls: (pred_fake - pred_real) / mean |z_0 - pred_real|, per picture (DMD, eq. 7 and 8, for z_0).

    `pred_real` and `pred_fake` are teacher's and critic's predictions of z_0 from the same noised `z_0`; all
    (batch, c, h, w).
    """
    distance = (z_0 - pred_real).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (pred_fake - pred_real) / distance.clamp_min(1e-6)


def make_critic(teacher: UNet2DConditionModel, targets: tuple[str, ...], rank: int) -> LoraStudent:
    """A LoRA of its own on the teacher, whose frozen weights it shares: no second UNet in memory.

    Call it before the student's LoRA is put on `teacher`. Random numbers come from torch's own generator.
    """
    shared = {id(p): p for p in (*teacher.parameters(), *teacher.buffers())}
    return LoraStudent(copy.deepcopy(teacher, shared), targets, rank, averaged=False)


class Networks:
    """Teacher, student and critic. `times` are those at which drawing asks the student, highest first."""

    def __init__(
        self, student: Student, critic: LoraStudent, grid: lcd.SolverGrid, kind: PredictionType, times: list[int],
        empty: Text, dtype: torch.dtype, head: adversary.Head | None = None, adversarial_weight: float = 0.0,
    ) -> None:  # fmt: skip
        self.head, self.adversarial_weight = head, adversarial_weight
        self.student, self.critic, self.grid, self.kind = student, critic, grid, kind
        self.times, self.empty, self.dtype = times, empty, dtype

    def _x0(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        return to_x0(output.float(), z_t, *self.grid.schedule.at(t), self.kind)

    def _ask(self, z: Tensor, index: int, text: Text, w: Tensor) -> Tensor:
        """The student's z_0 at its step number `place`."""
        t = torch.full((len(z),), self.times[index], device=z.device)
        return self._x0(self.student.student(z.to(self.dtype), t, text, w), z, t)

    @torch.no_grad()
    def _simulate(self, noise: StepNoise, text: Text, w: Tensor) -> Tensor:
        """z at the step that learns, by the student itself: z_0, then noise of the next time, as LCM draws."""
        z = noise.noise[:, 0]
        for index in range(noise.last):
            z_0 = self._ask(z, index, text, w)
            t = torch.full((len(z),), self.times[index + 1], device=z.device)
            z = add_noise(z_0, noise.noise[:, index + 1], *self.grid.schedule.at(t))
        return z

    @torch.no_grad()
    def generate(self, noise: StepNoise, text: Text, w: Tensor) -> Tensor:
        """The student's z_0 alone, while it doesn't learn yet."""
        return self._ask(self._simulate(noise, text, w), noise.last, text, w)

    def student_loss(self, noise: StepNoise, text: Text, w: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, the student's z_0 without gradient). The loss's gradient at z_0 is `direction` / numel, and with an
        adversary what makes it take the noised z_0 for real."""
        z = self._simulate(noise, text, w)
        torch.clear_autocast_cache()  # of weights that were cast without a gradient just now
        z_0 = self._ask(z, noise.last, text, w)
        drawn = add_noise(z_0, noise.epsilon, *self.grid.schedule.at(noise.t))
        with torch.no_grad():
            z_t = drawn.detach()
            pred_fake = self._x0(self.critic.student(z_t.to(self.dtype), noise.t, text, w), z_t, noise.t)
            branches = self.student.teacher(z_t.to(self.dtype), noise.t, text, self.empty)
            unconditional, conditional = (branch.float() for branch in branches)
            guidance = torch.where(noise.t >= GUIDED, w, 0.0)
            pred_real = self._x0(lcd.guided(conditional, unconditional, guidance), z_t, noise.t)
            target = z_0 - direction(z_0, pred_real, pred_fake)
        loss = 0.5 * F.mse_loss(z_0, target)
        if self.head is not None:
            with adversary.frozen(self.critic, self.head):
                seen = adversary.features(self.critic, drawn.to(self.dtype), noise.t, text, w)
                loss = loss + self.adversarial_weight * adversary.student_loss(self.head(seen))
        return loss, z_0.detach()

    def critic_loss(
        self, k: int, z_0: Tensor, noise: StepNoise, text: Text, w: Tensor, real: Tensor | None = None
    ) -> Tensor:
        """The denoising loss of the critic's `k`-th step on the student's pictures, in the output that it predicts.

        With an adversary its head's loss too, between those and the `real` latents of the same prompts.
        """
        t, epsilon = noise.critic_t[:, k], noise.critic_epsilon[:, k]
        alpha, sigma = self.grid.schedule.at(t)
        drawn = add_noise(z_0, epsilon, alpha, sigma).to(self.dtype)
        prediction = self.critic.student(drawn, t, text, w).float()
        loss = F.mse_loss(prediction, from_x0_and_epsilon(z_0, epsilon, alpha, sigma, self.kind))
        if self.head is None or real is None:
            return loss
        noised = add_noise(real, epsilon, alpha, sigma).to(self.dtype)
        scores = [self.head(adversary.features(self.critic, z_t, t, text, w)) for z_t in (noised, drawn)]
        return loss + adversary.HEAD_WEIGHT * adversary.head_loss(*scores)
