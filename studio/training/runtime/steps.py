"""What a step of training needs besides a model, as pure functions of (seed, epoch) and (seed, global step).

Nothing here keeps a state, so a resumed run has none to restore: any step can be computed without those before it.
Knows no files and no models.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch

from studio.core.errors import BadInput


def precision(asked: str, cpu: bool) -> tuple[str, torch.dtype]:
    """Name and dtype of the precision to train in; "auto" is the fastest that the device computes with.

    Raises BadInput for half precision on the CPU.
    """
    if asked == "auto":
        asked = "fp32" if cpu else "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if asked == "fp16" and cpu:
        raise BadInput("Half precision (fp16) trains on NVIDIA cards only: choose auto, fp32 or bf16.")
    return asked, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[asked]


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator for one place in a run, e.g. `generator(seed, "noise", step, sample)`.

    Always on the CPU, so that a run draws the same numbers on every device. Distinct places are independent (SHA-256).
    """
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def permutation(count: int, seed: int, *place: int | str) -> list[int]:
    """A permutation of `range(count)` that belongs to one place in a run."""
    order: list[int] = torch.randperm(count, generator=generator(seed, *place)).tolist()
    return order


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up over the share `warmup`, then half a cosine to zero."""
    warm = math.ceil(warmup * total)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@torch.no_grad()
def update_average(average: list[torch.Tensor], current: Iterable[torch.Tensor], decay: float, step: int) -> None:
    """average <- d average + (1 - d) current, in place, with d = min(decay, (1 + step) / (10 + step)).

    The bound lets the average forget the start of the run (as in TensorFlow's ExponentialMovingAverage).
    """
    bounded = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average, current, strict=True):
        mean.lerp_(value.to(mean), 1 - bounded)
