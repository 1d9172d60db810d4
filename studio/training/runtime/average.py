"""Running means of trained weights (EMA): what pictures are drawn with and results are made of.

diffusers' `EMAModel` counts its own calls, begins with a decay of 0 whatever decay was asked for (so that it can't hold
the constant one of 2310.04378, Algorithm 1) and copies all weights twice to draw with the mean. Here the decay is a
function of the step, so a resumed run has nothing to restore but the means, and drawing exchanges references.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    """mean <- d mean + (1 - d) weight, with d = min(decay, (1 + step) / (10 + step)), or `decay` where `constant`.

    The bound lets the mean forget the start of the run (as in TensorFlow's ExponentialMovingAverage). `tensors` is
    where the means are kept, by the weights' names; made here where it isn't given.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], decay: float, constant: bool = False,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.decay, self.constant = weights, decay, constant
        self.tensors = {name: w.detach().clone() for name, w in weights.items()} if tensors is None else tensors

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step` (from 0)."""
        decay = self.decay if self.constant else min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.tensors.items():
            mean.lerp_(self.weights[name].to(mean), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The means in place of the weights; afterwards they are themselves again, the same tensors."""
        trained = {name: weight.data for name, weight in self.weights.items()}
        try:
            for name, mean in self.tensors.items():
                self.weights[name].data = mean.data
            yield
        finally:
            for name, data in trained.items():
                self.weights[name].data = data
