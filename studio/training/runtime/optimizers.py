"""Optimisers. Knows parameters and rates, no schedule and no loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from studio.core.errors import BadInput
from studio.core.specs import LoraSpec


def adamw(parameters: Iterable[Tensor], rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """AdamW without weight decay, whose group has `rate` as its `peak`: what a distillation's networks learn with."""
    return torch.optim.AdamW([{"params": list(parameters), "lr": rate, "peak": rate}], betas=betas, weight_decay=0.0)


def make_optimizer(spec: LoraSpec, parameters: Mapping[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser over `parameters` (named `unet....` and `text_encoder....`); each group has its `peak` rate.

    Raises BadInput, with what to install, where the optional package isn't there.
    """
    text = [p for name, p in parameters.items() if name.startswith(("text_encoder.", "text_encoder_2."))]
    unet = [p for name, p in parameters.items() if name.startswith("unet.")]
    groups: list[dict[str, Any]] = [{"params": unet, "lr": spec.learning_rate, "peak": spec.learning_rate}]
    if text:
        groups.append({"params": text, "lr": spec.text_encoder_lr, "peak": spec.text_encoder_lr})
    if spec.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise BadInput("8-bit Adam needs `pip install bitsandbytes` and an NVIDIA card; or choose adamw.") from None
        return AdamW8bit(groups)
    if spec.optimizer == "prodigy":
        try:
            from prodigyopt import Prodigy
        except ImportError:
            raise BadInput("Prodigy needs `pip install prodigyopt`; or choose adamw.") from None
        # It finds the rate by itself (2306.06101); what is left to set is a factor of 1, for all layers alike.
        everything = [{"params": unet + text, "lr": 1.0, "peak": 1.0}]
        return Prodigy(everything, weight_decay=0.01, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
