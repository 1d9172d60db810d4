"""One call of a UNet, with everything that it is told. Knows no schedule, no sampler and no loss.

Sampling, frames, inversion, previews and training all go through `Denoiser`: another input of a model (a second text
encoder, sizes, a guidance embedding, a mask) is added here and in `conditioning`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.control import Control

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Guidance:
    """How classifier-free guidance (2207.12598) is done: g in u + g (c - u), and how much of the contrast that it adds
    is taken back (phi in 2305.08891, section 3.4: 0 nothing, 1 all of it)."""

    scale: float | Tensor = 1.0
    rescale: float = 0.0


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A UNet together with what it is told: `denoiser(x, t)` is its output, with guidance applied.

    The output is what the model was trained to predict; `parameterization` turns it into x_0 or epsilon. Gradients
    flow through whatever requires them.

    - `unet`: of diffusers, bare or wrapped (compiled, distributed), on the device and in the precision of `x`.
    - `conditioning`: one row per picture, or one for all.
    - `negative`: likewise, for classifier-free guidance; None: none is done.
    - `guidance`: the pipelines' scale g in u + g (c - u) (2207.12598); (pictures,) or one for all; or a `Guidance`. A
      number up to 1 means none. A UNet that has an input for the scale is told w = g - 1 instead (2310.04378, section
      4.3).
    - `control`: a drawing that steers. Every call is steered; a sampler asks `at_step` for what its step needs.
    - `extra_channels` (1 or pictures, k, h, w): what a UNet reads beside the latents, such as the mask and the masked
      picture of an inpainting model.

    In training: `Denoiser(unet, conditioning)(z_t, t)`; a ControlNet's is `Denoiser(unet, conditioning,
    control=Control(net, lines))`; a teacher's two halves are `Denoiser(unet, conditioning, empty).branches(z_t, t)`.
    """

    unet: UNet2DConditionModel | torch.nn.Module
    conditioning: Conditioning
    negative: Conditioning | None = None
    guidance: float | Tensor | Guidance = 1.0
    control: Control | None = None
    extra_channels: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The output (pictures, channels, h, w) for `x`, of the same shape and scaled as the UNet reads it.

        `t`: timesteps (pictures,), or one for all.
        """
        if not self.guided:
            return self._predict(x, t, self.conditioning.expand(len(x)), guided=False)
        unconditional, conditional = self.branches(x, t)
        scale = self._scale.view(-1, 1, 1, 1) if isinstance(self._scale, Tensor) else self._scale
        output = unconditional + scale * (conditional - unconditional)
        if not isinstance(self.guidance, Guidance) or self.guidance.rescale == 0:
            return output
        return rescale_guided(output, conditional, self.guidance.rescale)

    @property
    def _scale(self) -> float | Tensor:
        return self.guidance.scale if isinstance(self.guidance, Guidance) else self.guidance

    def branches(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(unconditional, conditional) output, (pictures, channels, h, w) each, from one call; `negative` is needed."""
        assert self.negative is not None, "guidance needs a negative conditioning"
        count = len(x)
        both = Conditioning.cat([self.negative.expand(count), self.conditioning.expand(count)])
        unconditional, conditional = self._predict(
            torch.cat([x, x]), t.repeat(2) if t.ndim else t, both, guided=True
        ).chunk(2)
        return unconditional, conditional

    @cached_property
    def guided(self) -> bool:
        """Whether a call computes both branches."""
        if self.negative is None or self._guidance_dim is not None:
            return False
        return isinstance(self._scale, Tensor) or self._scale > 1

    def at_step(self, index: int, count: int) -> Denoiser:
        """This denoiser as step `index` of `count` needs it: without control where that sets in later or has ended."""
        if self.control is None or index in self.control.steps(count):
            return self
        return self._uncontrolled

    @cached_property
    def _uncontrolled(self) -> Denoiser:
        return replace(self, control=None)

    @property
    def _guidance_dim(self) -> int | None:
        return getattr(self.unet, "module", self.unet).config.time_cond_proj_dim

    def _predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, guided: bool) -> Tensor:
        more: dict[str, Any] = {}
        if self.control is not None:
            down, middle = self.control.residuals(x, t, conditioning, guided)
            more |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if self._guidance_dim is not None:
            w = torch.as_tensor(self._scale - 1, dtype=torch.float32, device=x.device).expand(len(x))
            more["timestep_cond"] = embed_guidance(w, self._guidance_dim).to(x.dtype)
        if self.extra_channels is not None:
            extra = self.extra_channels.expand(len(x) // (2 if guided else 1), -1, -1, -1)
            x = torch.cat([x, torch.cat([extra, extra]) if guided else extra], dim=1)
        return self.unet(
            x,
            t,
            encoder_hidden_states=conditioning.embeddings,
            added_cond_kwargs=conditioning.added_cond_kwargs,
            return_dict=False,
            **more,
        )[0]


def rescale_guided(output: Tensor, conditional: Tensor, share: float) -> Tensor:
    """`output` (pictures, c, h, w) of guidance with the deviation that the `conditional` one has, `share` of the way.

    2305.08891, section 3.4, eq. 15 and 16.
    """
    sides = list(range(1, output.ndim))
    rescaled = output * (conditional.std(dim=sides, keepdim=True) / output.std(dim=sides, keepdim=True))
    return share * rescaled + (1 - share) * output


def embed_guidance(scale: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (pictures, dim) of guidance scales (pictures,), times 1000, as LCM's UNets read it."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (scale.float() * 1000.0)[:, None] * frequencies.to(scale.device)[None]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(embedding, (0, dim % 2))
