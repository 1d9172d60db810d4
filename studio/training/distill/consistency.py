"""The mathematics of latent consistency distillation, with the papers' names, as pure functions.

LCM: Latent Consistency Models (2310.04378). CM: Consistency Models (2303.01469). LCM-LoRA: 2311.05556. TCD: Trajectory
Consistency Distillation (2402.19159). PCM: Phased Consistency Models (2405.18407). DDIM: 2010.02502. v-prediction:
Progressive Distillation (2202.00512).

Knows no network, optimiser, file or device: networks come in as their outputs, times as indices of the schedule.
Every tensor that belongs to a time has shape (batch,) and is spread over latents (batch, channels, height, width).

Notation: alpha_t, sigma_t and what a network predicts are those of `engine.diffusion.parameterization`, z_t is its x_t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from studio.engine.diffusion.parameterization import NoiseSchedule, PredictionType, add_noise, to_epsilon, to_x0

GRID = 50  # jumps of the teacher's solver: k = 20 of 1000 (LCM, sec. 4.3)
# Phases end where DDIM's steps do ("trailing": 999, 749, 499, 249), which LCM's grid misses.
PHASED_GRID = 40
SIGMA_DATA = 0.5  # CM, appendix C; kept by LCM although latents have another deviation
TIMESTEP_SCALING = 10.0  # the s of LCM's c_skip(t), c_out(t) and of diffusers' LCMScheduler


def spread(values: Tensor, like: Tensor) -> Tensor:
    """(batch,) -> (batch, 1, 1, 1), so that one number per sample multiplies a latent."""
    return values.view(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True)
class SolverGrid:
    """The times between which the teacher's ODE solver jumps, k = T / N schedule steps apart (LCM, sec. 4.3).

    `times[n]`, n = 0..N: 0, k-1, 2k-1, ... T-1. A training pair is (t, s) = (times[n+1], times[n]) for n in 0..N-1:
    the paper's (t_{n+k}, t_n). `schedule` has alpha and sigma of every time.
    The lowest time is index 0 of the schedule and not a noiseless one: there c_skip = 1 makes f the identity.
    """

    times: Tensor
    schedule: NoiseSchedule

    @classmethod
    def over(cls, schedule: NoiseSchedule, points: int = GRID) -> SolverGrid:
        """Grid of `points` jumps over a schedule of T times. T must be a multiple of `points`."""
        total = len(schedule)
        if points < 1 or total % points:
            raise ValueError(f"a schedule of {total} times can't be cut into {points} equal jumps")
        k = total // points
        times = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, points + 1) * k - 1])
        return cls(times.to(schedule.alpha.device), schedule)

    def to(self, device: torch.device) -> SolverGrid:
        return SolverGrid(self.times.to(device), self.schedule.to(device))

    @property
    def points(self) -> int:
        return len(self.times) - 1

    def inference_times(self, steps: int) -> list[int]:
        """The times at which a student is asked when drawing in `steps` steps, highest first.

        Every student time is one that training visited: 4 of 50 gives [999, 759, 499, 259].
        """
        if not 1 <= steps <= self.points:
            raise ValueError(f"a grid of {self.points} times has no schedule of {steps} steps")
        known = self.times[1:].tolist()[::-1]
        return [known[math.floor(i * self.points / steps)] for i in range(steps)]


def phase_end(n: Tensor, grid: SolverGrid, phases: int) -> Tensor:
    """The lower end, as an index of `grid.times`, of the phase in which the jump from times[n+1] to times[n] lies.

    PCM (2405.18407, sec. 3.2) cuts the way from noise to picture into `phases` equal ones, each with a boundary
    condition of its own: as a trajectory function, the student only ever jumps to the end of the phase that it is in.
    `phases` divides the grid's points.
    """
    if grid.points % phases:
        raise ValueError(f"a grid of {grid.points} jumps can't be cut into {phases} equal phases")
    each = grid.points // phases
    return n // each * each


def drawn_from(n: Tensor, grid: SolverGrid, phases: int) -> Tensor:
    """Every `n` moved within its phase, so that times[n+1] is a time at which drawing asks the student.

    That is the top of the phase (in `phases` steps), for three in ten its middle (in twice as many).
    """
    each = grid.points // phases
    middle = n % each < round(0.3 * each)
    return n // each * each + torch.where(middle, each // 2, each) - 1


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip(t), c_out(t), (batch,) each (CM, appendix C; LCM, sec. 4.1, timestep scaling 10).

    c_skip(0) = 1 and c_out(0) = 0 exactly, the boundary condition f(z, 0) = z (CM, eq. 5). From t = 19 on, c_skip is
    below 1e-5: f is then the prediction of z_0.
    """
    tau = t.double() * TIMESTEP_SCALING
    return (
        (SIGMA_DATA**2 / (tau**2 + SIGMA_DATA**2)).float(),
        (tau / (tau**2 + SIGMA_DATA**2).sqrt()).float(),
    )


def consistency_function(output: Tensor, z_t: Tensor, t: Tensor, grid: SolverGrid, kind: PredictionType) -> Tensor:
    """f_theta(z_t, t) = c_skip(t) z_t + c_out(t) z_0-hat (LCM, eq. 9); at t = 0 it is z_t, whatever is said."""
    z_0 = to_x0(output, z_t, *grid.schedule.at(t), kind)
    c_skip, c_out = boundary_scalings(t)
    return spread(c_skip, z_t).to(z_t) * z_t + spread(c_out, z_t).to(z_t) * z_0


def guided(conditional: Tensor, unconditional: Tensor, w: Tensor) -> Tensor:
    """c + w (c - u): classifier-free guidance in the form of LCM, eq. 12; w = 0 is no guidance.

    A pipeline's `guidance_scale` g is this w + 1 (u + g (c - u), 2207.12598 as Imagen writes it).
    """
    return conditional + spread(w, conditional) * (conditional - unconditional)


def ddim_jump(z_0: Tensor, noise: Tensor, to: Tensor, grid: SolverGrid) -> Tensor:
    """z_to = alpha_to z_0-hat + sigma_to epsilon-hat: the deterministic DDIM step (DDIM, eq. 12 with sigma = 0)."""
    return add_noise(z_0, noise, *grid.schedule.at(to))


def teacher_step(
    conditional: Tensor,
    unconditional: Tensor,
    z_t: Tensor,
    t: Tensor,
    s: Tensor,
    w: Tensor,
    grid: SolverGrid,
    kind: PredictionType,
) -> Tensor:
    """z_s-hat: one step of the guided teacher from t down to s (LCM, eq. 17 with Psi = DDIM).

    Guidance acts on both predictions, of z_0 and of epsilon; both are linear in the network's output, so that guiding
    the output itself gives the same.
    """
    return trajectory_function(guided(conditional, unconditional, w), z_t, t, s, grid, kind)


def trajectory_function(
    output: Tensor, z_t: Tensor, t: Tensor, e: Tensor, grid: SolverGrid, kind: PredictionType
) -> Tensor:
    """g_theta(z_t, t -> e) of TCD (2402.19159, sec. 4.1, first order), which jumps to time e <= t instead of to z_0.

    Written there as (sigma_e / sigma_t) z_t - alpha_e (exp(-h) - 1) z_0-hat with h = lambda_e - lambda_t; that is a
    DDIM jump. For e = t it is z_t: TCD's boundary condition, met without c_skip and c_out.
    """
    alpha, sigma = grid.schedule.at(t)
    return ddim_jump(to_x0(output, z_t, alpha, sigma, kind), to_epsilon(output, z_t, alpha, sigma, kind), e, grid)


def distance(a: Tensor, b: Tensor, kind: Literal["l2", "huber"], c: float = 1e-3) -> Tensor:
    """d(a, b) of LCM, eq. 16, a scalar: mean squared difference, or pseudo-Huber (2310.14189, sec. 3.3).

    Pseudo-Huber is mean(sqrt((a - b)^2 + c^2) - c): square below c, absolute above it.
    """
    difference = a.float() - b.float()
    if kind == "l2":
        return difference.square().mean()
    return ((difference.square() + c * c).sqrt() - c).mean()
