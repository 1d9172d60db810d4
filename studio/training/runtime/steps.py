"""What a step of training needs besides a model, as pure functions of (seed, epoch) and (seed, global step).

Nothing here keeps a state, so a resumed run has none to restore: any step can be computed without those before it.
Knows no files and no models.
"""

from __future__ import annotations

import hashlib
import math

import torch


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator for one key in a run, e.g. `generator(seed, "noise", step, sample)`.

    Always on the CPU, so that a run draws the same numbers on every device. Distinct keys are independent (SHA-256).
    """
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def permutation(count: int, seed: int, *key: int | str) -> list[int]:
    """A permutation of `range(count)` that belongs to one key in a run."""
    order: list[int] = torch.randperm(count, generator=generator(seed, *key)).tolist()
    return order


def rows(step: int, size: int, count: int, seed: int) -> list[int]:
    """Which of `count` pictures step `step` (from 0) takes, `size` of them: every pass has an order of its own."""
    positions = range(step * size, (step + 1) * size)
    orders = {epoch: permutation(count, seed, "order", epoch) for epoch in {at // count for at in positions}}
    return [orders[at // count][at % count] for at in positions]


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """Rate of step `step` (from 0) of `total`: linear warm-up over the share `warmup`, then half a cosine to zero.

    A function and no scheduler object: those of diffusers count their own calls, so that a resumed run has one more
    thing to restore, begin with a step at rate 0, and can't be started anew for each phase of a distillation.
    """
    warm = math.ceil(warmup * total)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
