"""What a network predicts (epsilon, v or x_0) and how the three turn into each other. Knows no network and no sampler.

The forward process is x_t = alpha_t x_0 + sigma_t epsilon with alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t) and
abar_t the cumulative product of 1 - beta (DDPM, 2006.11239, eq. 4), so alpha^2 + sigma^2 = 1 (variance preserving).
v = alpha epsilon - sigma x_0 (Salimans & Ho, 2202.00512, section 4 and appendix D).

In every function `x_0`, `x_t`, `epsilon` and `output` are (batch, channels, h, w), and `alpha` and `sigma` broadcast
over them: numbers, 0-dimensional tensors or (batch, 1, 1, 1), as `NoiseSchedule.at` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from studio.core.errors import BadInput

PredictionType = Literal["epsilon", "v_prediction", "sample"]  # diffusers' names; "sample" is x_0


def prediction_type(scheduler_config: Mapping[str, Any]) -> PredictionType:
    """What the UNet beside a `scheduler_config.json` was trained to predict; epsilon where it doesn't say.

    Raises BadInput for anything else than the three.
    """
    given = scheduler_config.get("prediction_type") or "epsilon"
    for kind in get_args(PredictionType):
        if given == kind:
            return kind
    raise BadInput(f"The model predicts {given!r}; the studio knows {', '.join(get_args(PredictionType))}.")


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_t and sigma_t of every training timestep, (T,) fp32 each, computed in fp64, where 1 - abar is exact."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> NoiseSchedule:
        """The schedule with abar = `alphas_cumprod` (T,), as every scheduler of diffusers has it."""
        abar = alphas_cumprod.double()
        return cls(abar.sqrt().float(), (1 - abar).sqrt().float())

    @classmethod
    def from_config(cls, scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule that a model was trained with, from its `scheduler_config.json`."""
        from diffusers import DDPMScheduler

        return cls.from_alphas_cumprod(DDPMScheduler.from_config(dict(scheduler_config)).alphas_cumprod)

    def __len__(self) -> int:
        return len(self.alpha)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        return NoiseSchedule(self.alpha.to(device), self.sigma.to(device))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t), (batch, 1, 1, 1) each, of integer timesteps `t` (batch,) on the schedule's device."""
        return self.alpha[t].view(-1, 1, 1, 1), self.sigma[t].view(-1, 1, 1, 1)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2, (batch,) (2303.09556, section 2)."""
        return (self.alpha[t] / self.sigma[t]).square()


def add_noise(x_0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma epsilon (2006.11239, eq. 4)."""
    return alpha * x_0 + sigma * epsilon


def to_x0(output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """The x_0 that a network means by `output` at x_t.

    epsilon: (x_t - sigma epsilon) / alpha, which needs alpha > 0; v: alpha x_t - sigma v.
    """
    if kind == "epsilon":
        return (x_t - sigma * output) / alpha
    if kind == "v_prediction":
        return alpha * x_t - sigma * output
    return output


def to_epsilon(output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """The epsilon that a network means by `output` at x_t.

    v: alpha v + sigma x_t; x_0: (x_t - alpha x_0) / sigma, which needs sigma > 0.
    """
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * x_t
    return (x_t - alpha * output) / sigma


def from_x0_and_epsilon(x_0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """What a perfect network outputs at x_t = alpha x_0 + sigma epsilon: the target of training."""
    if kind == "epsilon":
        return epsilon
    if kind == "v_prediction":
        return alpha * epsilon - sigma * x_0
    return x_0
