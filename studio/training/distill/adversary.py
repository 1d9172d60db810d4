"""DMD2's adversary (2405.14867, section 4.3): a head on the critic's features that tells real latents from drawn ones.

Distribution matching alone can't take a student past its teacher; real pictures can. The head reads the middle of the
critic's UNet at noised latents, so that it needs no network of its own and sees what the critic has learnt. Its loss is
the non-saturating one (1406.2661, section 3). The student's loss has weight 3e-3 beside distribution matching in the
paper's ImageNet runs and 1e-3 in those of SD 1.5 (`LcmSpec.adversarial_weight`).
Knows networks as a `LoraStudent` has them; no optimiser, file or run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.training.distill.student import LoraStudent, Text

HEAD_WEIGHT = 1e-2  # beside the critic's denoising (DMD2)


class _Enough(Exception):
    """The features are there: the rest of the UNet needn't run."""


class Head(nn.Module):
    """One score per place of a map of features: (batch, channels, h, w) to (batch, 1, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, 1, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features.float())


def make_head(critic: LoraStudent) -> Head:
    """A head for the middle of this critic's UNet, on its device. Random numbers come from torch's own generator."""
    return Head(critic.unet.config.block_out_channels[-1]).to(next(critic.unet.parameters()).device)


def features(critic: LoraStudent, z_t: Tensor, t: Tensor, text: Text, w: Tensor) -> Tensor:
    """What the middle of the critic's UNet makes of noised latents, (batch, channels, h, w); gradients flow."""
    outputs: list[Tensor] = []

    def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
        outputs.append(output)
        raise _Enough

    handle = critic.unet.mid_block.register_forward_hook(stop)
    try:
        critic.student(z_t, t, text, w)
    except _Enough:
        pass
    finally:
        handle.remove()
    return outputs[0]


def head_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """What the head gets wrong: softplus of -score for real latents, of +score for drawn ones."""
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


@contextmanager
def frozen(critic: LoraStudent, head: Head) -> Iterator[None]:
    """Critic and head as they are, for a loss that teaches only what was drawn."""
    learning = [*critic.trainable.values(), *head.parameters()]
    for parameter in learning:
        parameter.requires_grad_(False)
    torch.clear_autocast_cache()  # of weights that were cast with, or without, a gradient
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        torch.clear_autocast_cache()


def student_loss(drawn: Tensor) -> Tensor:
    """How far the head is from taking drawn latents for real ones."""
    return F.softplus(-drawn).mean()
