"""What stays of a picture while the rest of it is sampled anew. Knows latents and a mask, no picture file.

Any model can do it: before each step the latents that are to stay are put back, as noisy as the step expects them
(Blended Diffusion, 2111.14818; so does `StableDiffusionInpaintPipeline` with a UNet of four channels). With a soft
mask a place is put back until the share of the steps that is left is its own (Differential Diffusion, 2306.00950,
algorithm 1). A UNet that was taught to inpaint is told the mask instead (`inpainting_channels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from studio.engine.diffusion import latents
from studio.engine.diffusion.pixels import mask_tensor, to_images, to_tensor

if TYPE_CHECKING:
    from studio.engine.models.components import Components


@dataclass(frozen=True, eq=False)
class Kept:
    """Latents that are put back between the steps.

    `clean` and `noise` (pictures, channels, h, w): of the picture, and what the sampling began from. `change`
    (1, 1, h, w) in 0..1: which share of the steps a place is free in; 0 stays as it is, 1 is drawn by all of them.
    """

    clean: Tensor
    noise: Tensor
    change: Tensor

    def before(self, scheduler: Any, x: Tensor, index: int, timesteps: Tensor) -> Tensor:
        """`x` (pictures, channels, h, w) as step `index` of `timesteps` has to begin: with what isn't free yet."""
        if index == 0:
            return x
        noisy = scheduler.add_noise(self.clean, self.noise, timesteps[index : index + 1].repeat(len(x)))
        return torch.where(self._free(index, len(timesteps)), x, noisy)

    def after(self, x: Tensor, count: int) -> Tensor:
        """Clean latents of all `count` steps, with what was never free exactly as it was."""
        return torch.where(self._free(count - 1, count), x, self.clean)

    def _free(self, index: int, count: int) -> Tensor:
        return self.change * count >= count - index - 1e-3


def change_map(mask: Image.Image, components: Components) -> Tensor:
    """How much each latent cell may change, (1, 1, h, w) in 0..1, from a mask (L) of whole cells.

    It is how much the mask says where it covers the cell, less where that is less than half of it: cells are coarse,
    and with the mean of the mask alone an old colour would stay along its whole edge.
    """
    whole = mask_tensor(mask).to(components.device)
    covered = F.avg_pool2d((whole > 0).float(), components.factor)
    mean = F.avg_pool2d(whole, components.factor) / covered.clamp_min(1e-6)
    return (mean * (2 * covered).clamp(max=1)).to(components.dtype)


@torch.no_grad()
def inpainting_channels(components: Components, picture: Image.Image, mask: Image.Image) -> Tensor:
    """What an inpainting UNet reads beside the latents, (1, 1 + channels, h, w): the mask, and the picture without it.

    As `StableDiffusionInpaintPipeline` prepares them: a mask of 0 and 1, grey where the picture is to be filled.
    """
    hard = (mask_tensor(mask) >= 0.5).float()
    [hollow] = to_images(to_tensor([picture]) * (hard < 0.5))
    cells = F.interpolate(hard, scale_factor=1 / components.factor).to(components.device, components.dtype)
    return torch.cat([cells, latents.encode(components, [hollow])], dim=1)
