"""Weights of the denoising loss by timestep. What is predicted, and how noise is added: `engine.diffusion`."""

from __future__ import annotations

import torch
from torch import Tensor

from studio.engine.diffusion.parameterization import PredictionType


def min_snr_weights(snr: Tensor, gamma: float | None, kind: PredictionType) -> Tensor:
    """Loss weights (batch,) for signal-to-noise ratios `snr` (batch,) (2303.09556, section 3.4).

    min(snr, gamma), divided by snr for epsilon and by snr + 1 for v. Where a schedule ends in pure noise (snr = 0)
    epsilon's weight is its limit, 1. `gamma` None: all ones.
    """
    if gamma is None:
        return torch.ones_like(snr)
    clipped = snr.clamp(max=gamma)
    if kind == "v_prediction":
        return clipped / (snr + 1)
    if kind == "sample":
        return clipped
    return torch.where(snr > 0, clipped / snr.clamp(min=1e-12), torch.ones_like(snr))
