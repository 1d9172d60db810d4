"""The maths of one denoising step of training, as pure functions in the papers' names. Knows no model and no run.

With alpha_bar the cumulative product of 1 - beta: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) epsilon
(DDPM, 2006.11239, eq. 4).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from studio.core.errors import BadInput

Prediction = Literal["epsilon", "v_prediction"]


def prediction_of(scheduler_config: dict[str, Any]) -> Prediction:
    """What the UNet was trained to predict. Raises BadInput for what no trainer here knows."""
    kind = scheduler_config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise BadInput(f"The model predicts {kind!r}; LoRA training knows epsilon and v-prediction.")
    return "epsilon" if kind == "epsilon" else "v_prediction"


def _at(alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    return alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)  # (batch, 1, 1, 1)


def add_noise(z_0: Tensor, epsilon: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """z_t for clean latents (batch, c, h, w) and timesteps (batch,) in 0..T-1."""
    alpha_bar = _at(alphas_cumprod, t)
    return alpha_bar.sqrt() * z_0 + (1 - alpha_bar).sqrt() * epsilon


def target(z_0: Tensor, epsilon: Tensor, t: Tensor, alphas_cumprod: Tensor, kind: Prediction) -> Tensor:
    """epsilon, or v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) z_0 (2202.00512, section 4)."""
    if kind == "epsilon":
        return epsilon
    alpha_bar = _at(alphas_cumprod, t)
    return alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * z_0


def min_snr_weights(t: Tensor, alphas_cumprod: Tensor, gamma: float | None, kind: Prediction) -> Tensor:
    """Loss weights (batch,), min(snr, gamma) / snr for epsilon and / (snr + 1) for v (2303.09556, section 3.4).

    Where a schedule ends in pure noise (snr = 0) epsilon's weight is its limit, 1. `gamma` None: all ones.
    """
    if gamma is None:
        return torch.ones(t.shape, device=t.device)
    alpha_bar = alphas_cumprod.to(t.device)[t]
    snr = alpha_bar / (1 - alpha_bar)
    if kind == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return torch.where(snr > 0, snr.clamp(max=gamma) / snr.clamp(min=1e-12), torch.ones_like(snr))
