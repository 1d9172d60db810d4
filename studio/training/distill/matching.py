"""Distribution matching: what a student's pictures lack to be the teacher's, told by two networks.

DMD (2311.18828) and DMD2 (2405.14867): the guided teacher says which way a noised picture becomes more likely to be one
of its own, a critic that follows the student says which way it becomes more likely to be one of the student's; the
student goes along the difference. The student is asked as it is drawn with, from noise down its few steps (DMD2, sec.
4.4, "backward simulation"), so that it also learns to mend what its own earlier steps got wrong. No clean latents.

Knows networks as a `Student` has them; no optimiser, file or run. Time and notation are those of `consistency`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from studio.training.distill import consistency as lcd
from studio.training.distill.student import LoraStudent, Student
from studio.training.runtime import steps

LOWEST, HIGHEST = 150, 980  # times at which pictures are compared: below only grain is left, above nothing
GUIDED = 400  # from this time up the teacher is guided; below, guidance burns colours and texture (2404.07724)
FOLLOWS = 2  # steps of the critic for one of the student
LISTENS = 50  # first steps at most, in which only the critic learns
STUDENT_RATE, CRITIC_RATE = 0.1, 1.5  # times the run's learning rate: a critic that lags behind burns colours
BETAS = (0.0, 0.99)  # of both optimisers: yesterday's direction is no use against a moving opponent


@dataclass(frozen=True)
class Draw:
    """Everything random about one step. `last` is how many steps are drawn before the one that learns."""

    last: int
    noise: Tensor  # (batch, steps, channels, height, width): where drawing begins, and what each later step puts back
    t: Tensor  # (batch,): where student and teacher are compared
    epsilon: Tensor  # (batch, channels, height, width)
    critic_t: Tensor  # (batch, FOLLOWS)
    critic_epsilon: Tensor  # (batch, FOLLOWS, channels, height, width)

    def part(self, where: slice, device: torch.device) -> Draw:
        """The same for some of the batch's pictures."""
        chosen = {f.name: getattr(self, f.name)[where].to(device) for f in fields(self) if f.name != "last"}
        return Draw(self.last, **chosen)


def draw(batch: int, shape: torch.Size, count: int, seed: int, step: int) -> Draw:
    """Of step `step`, a function of (seed, step) alone; `shape` is (channels, height, width), `count` student steps."""
    generator = steps.generator(seed, "match", step)

    def times(*size: int) -> Tensor:
        return torch.randint(LOWEST, HIGHEST, size, generator=generator)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, *shape, generator=generator)

    return Draw(
        last=int(torch.randint(count, (1,), generator=generator)),
        noise=normal(batch, count), t=times(batch), epsilon=normal(batch),
        critic_t=times(batch, FOLLOWS), critic_epsilon=normal(batch, FOLLOWS),
    )  # fmt: skip


def direction(z_0: Tensor, teacher: Tensor, critic: Tensor) -> Tensor:
    """Where the loss falls: (critic - teacher) / mean |z_0 - teacher|, per picture (DMD, eq. 7 and 8, in z_0 form).

    `teacher` and `critic` are both networks' predictions of z_0 from the same noised `z_0`; all (batch, c, h, w).
    """
    distance = (z_0 - teacher).abs().mean(dim=(1, 2, 3), keepdim=True)
    return (critic - teacher) / distance.clamp_min(1e-6)


def make_critic(teacher: UNet2DConditionModel, targets: tuple[str, ...], rank: int) -> LoraStudent:
    """A LoRA of its own on the teacher, whose frozen weights it shares: no second UNet in memory.

    Call it before the student's LoRA is put on `teacher`. Random numbers come from torch's own generator.
    """
    shared = {id(p): p for p in (*teacher.parameters(), *teacher.buffers())}
    critic = LoraStudent(copy.deepcopy(teacher, shared), targets, rank)
    critic.mean = []  # nobody draws with it
    return critic


class Matcher:
    """The losses of student and critic. `times` are those at which drawing asks the student, highest first."""

    def __init__(
        self, student: Student, critic: LoraStudent, grid: lcd.SolverGrid, kind: lcd.Prediction, times: list[int],
        empty: Tensor, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.student, self.critic, self.grid, self.kind = student, critic, grid, kind
        self.times, self.empty, self.dtype = times, empty, dtype

    def _clean(self, said: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        return lcd.split_prediction(said.float(), z_t, t, self.grid, self.kind)[0]

    def _asked(self, z: Tensor, place: int, text: Tensor, w: Tensor) -> Tensor:
        """The student's z_0 at its step number `place`."""
        t = torch.full((len(z),), self.times[place], device=z.device)
        return self._clean(self.student.student(z.to(self.dtype), t, text, w), z, t)

    def _drawn(self, chance: Draw, text: Tensor, w: Tensor) -> Tensor:
        """z at the step that learns, by the student itself: z_0, then noise of the next time, as LCM draws."""
        z = chance.noise[:, 0]
        with torch.no_grad():
            for place in range(chance.last):
                z_0 = self._asked(z, place, text, w)
                t = torch.full((len(z),), self.times[place + 1], device=z.device)
                z = lcd.add_noise(z_0, chance.noise[:, place + 1], t, self.grid)
        return z

    def student_loss(self, chance: Draw, text: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, the student's z_0 without gradient). The loss's gradient at z_0 is `direction` / numel."""
        z = self._drawn(chance, text, w)
        torch.clear_autocast_cache()  # of weights that were cast without a gradient just now
        z_0 = self._asked(z, chance.last, text, w)
        with torch.no_grad():
            z_t = lcd.add_noise(z_0, chance.epsilon, chance.t, self.grid)
            said = self.critic.student(z_t.to(self.dtype), chance.t, text, w)
            both = torch.cat([text, self.empty.expand(len(text), -1, -1).to(text)])
            conditional, unconditional = self.student.teacher(
                torch.cat([z_t, z_t]).to(self.dtype), chance.t.repeat(2), both
            ).float().chunk(2)  # fmt: skip
            w = torch.where(chance.t >= GUIDED, w, 0.0)
            real = self._clean(lcd.guided(conditional, unconditional, w), z_t, chance.t)
            aim = z_0 - direction(z_0, real, self._clean(said, z_t, chance.t))
        return 0.5 * F.mse_loss(z_0, aim), z_0.detach()

    def made(self, chance: Draw, text: Tensor, w: Tensor) -> Tensor:
        """The student's z_0 alone, while it doesn't learn yet."""
        with torch.no_grad():
            return self._asked(self._drawn(chance, text, w), chance.last, text, w)

    def critic_loss(self, k: int, z_0: Tensor, chance: Draw, text: Tensor, w: Tensor) -> Tensor:
        """The denoising loss of the critic's `k`-th step on the student's pictures, in the output that it predicts."""
        t, epsilon = chance.critic_t[:, k], chance.critic_epsilon[:, k]
        z_t = lcd.add_noise(z_0, epsilon, t, self.grid)
        said = self.critic.student(z_t.to(self.dtype), t, text, w).float()
        return F.mse_loss(said, lcd.wanted_output(z_0, epsilon, t, self.grid, self.kind))


def state(critic: LoraStudent) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint needs of a critic, as a group of named tensors."""
    return {"critic": {name: p.detach() for name, p in critic.trainable.items()}}


@torch.no_grad()
def restore(critic: LoraStudent, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Inverse of `state`, in place, so that an optimiser keeps its parameters."""
    for name, parameter in critic.trainable.items():
        parameter.copy_(groups["critic"][name])
