"""A given picture as noise that leads back to it, so that it can be drawn again with another expression.

Edit-friendly inversion (Huberman-Spiegelglas et al., 2304.06140): the picture is noised to every level independently,
and what the model would not have done at a step is kept as that step's residual. With the same text the residuals give
back the picture exactly, whatever the guidance; with another text they keep its structure. The region that the other
text changes is found from the model itself (DiffEdit, 2210.11427). Knows latents and text, no emotion and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from studio.engine.diffusion import parameterization, schedulers
from studio.engine.diffusion.conditioning import Conditioning
from studio.engine.diffusion.denoiser import Denoiser, Guidance
from studio.engine.diffusion.parameterization import PredictionType
from studio.engine.diffusion.sampling import finite

if TYPE_CHECKING:
    from studio.engine.models.components import Components

Box = tuple[float, float, float, float]  # left, top, right, bottom in shares of the picture


@dataclass(frozen=True)
class Inversion:
    """A picture along its way through the noise levels.

    `path[i]` (c, h, w) is the state before step i, `path[-1]` is clean; `residuals[i]` is added after step i.
    `alpha_bar[i]` is that before step i (2006.11239, eq. 4), `alpha_bar[-1]` is 1.
    """

    timesteps: torch.Tensor  # (steps,) descending
    alpha_bar: torch.Tensor  # (steps + 1,) fp32: near 1 half precision has no digits left of 1 - alpha_bar
    path: torch.Tensor  # (steps + 1, c, h, w)
    residuals: torch.Tensor  # (steps, c, h, w)
    prediction: PredictionType


@torch.no_grad()
def invert(
    components: Components,
    clean: torch.Tensor,
    source: Conditioning,
    negative: Conditioning,
    guidance: float | Guidance,
    steps: int,
    strength: float,
    seed: int,
    batch: int = 16,
    on_step: Callable[[int], None] | None = None,
) -> Inversion:
    """Invert `clean` (1, c, h, w), which `source` (one row) describes, over the last `strength` of `steps` steps.

    2304.06140, algorithm 1. All levels are known beforehand, so the model sees them as batches of up to `batch`.
    """
    scheduler = schedulers.make_scheduler("ddim", components.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, steps, strength=strength)
    levels = scheduler.alphas_cumprod[timesteps.long().cpu()].to(clean.device)
    alpha_bar = torch.cat([levels, levels.new_ones(1)])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((len(timesteps), *clean.shape[1:]), generator=generator, dtype=torch.float32).to(clean)
    spread = levels.view(-1, 1, 1, 1)
    noised = parameterization.add_noise(clean, noise, spread.sqrt(), (1 - spread).sqrt())
    path = torch.cat([noised.to(clean), clean])
    prediction = parameterization.prediction_type(scheduler.config)
    denoiser = Denoiser(components.unet, source, negative, guidance)
    outputs = []
    for x, t in zip(path[:-1].split(batch), timesteps.to(clean.device).split(batch), strict=True):
        outputs.append(denoiser(x, t))
        if on_step is not None:
            on_step(len(t))
    mean = posterior_mean(path[:-1], torch.cat(outputs), alpha_bar[:-1], alpha_bar[1:], prediction)
    return Inversion(timesteps.to(clean.device), alpha_bar, path, path[1:] - mean, prediction)


def posterior_mean(
    x: torch.Tensor, output: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_next: torch.Tensor, kind: PredictionType
) -> torch.Tensor:
    """Mean of x at the next level, (n, c, h, w), with the variance of DDPM (DDIM, 2010.02502, eq. 12 and 16, eta = 1).

    `alpha_bar` and `alpha_bar_next` are those before and after the step, (n,) fp32, and so is what is computed; the
    mean has the precision of `x`. Before the last step `alpha_bar_next` is 1 and the mean is the estimate of the clean
    latents.
    """
    a, b = alpha_bar.view(-1, 1, 1, 1), alpha_bar_next.view(-1, 1, 1, 1)
    clean = parameterization.to_x0(output, x, a.sqrt(), (1 - a).sqrt(), kind)
    noise = parameterization.to_epsilon(output, x, a.sqrt(), (1 - a).sqrt(), kind)
    variance = (1 - b) / (1 - a) * (1 - a / b)
    return (b.sqrt() * clean + (1 - b - variance).clamp_min(0).sqrt() * noise).to(x)


@torch.no_grad()
def replay(
    components: Components,
    inversion: Inversion,
    conditioning: Conditioning,
    negative: Conditioning,
    guidance: float | Guidance,
    region: torch.Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Clean latents (n, c, h, w) of the inverted picture, drawn again with each of the n rows of `conditioning`.

    Where `region` (1, 1, h, w) in 0..1 is 0 everything stays on the picture's own path (blended latent diffusion,
    2111.14818).
    """
    count = len(conditioning)
    denoiser = Denoiser(components.unet, conditioning, negative, guidance)
    x = inversion.path[:1].repeat(count, 1, 1, 1)
    for index, t in enumerate(inversion.timesteps):
        output = denoiser(x, t.repeat(count))
        before, after = (inversion.alpha_bar[k].repeat(count) for k in (index, index + 1))
        x = posterior_mean(x, output, before, after, inversion.prediction) + inversion.residuals[index]
        if region is not None:
            x = region * x + (1 - region) * inversion.path[index + 1]
        if on_step is not None:
            on_step(count)
    return finite(x)


@torch.no_grad()
def changed_region(
    components: Components,
    inversion: Inversion,
    source: Conditioning,
    targets: Sequence[Conditioning],
    face: Box | None = None,
    threshold: float = 0.35,
    levels: int = 4,
    batch: int = 16,
) -> torch.Tensor:
    """Where another emotion changes the picture: (1, 1, h, w) in 0..1 with soft edges.

    The difference of what the model predicts with `source` and with each of `targets` (one row each) on the noised
    picture, at `levels` middle noise levels, relative to its largest value (DiffEdit, 2210.11427, section 3.1). Never
    outside `face` by more than a cell, where that is known.
    """
    steps = len(inversion.timesteps)
    chosen = torch.linspace(0.25 * (steps - 1), 0.75 * (steps - 1), min(levels, steps)).round().long()
    x, times = inversion.path[chosen], inversion.timesteps[chosen.to(inversion.timesteps.device)]
    parts = list(zip(x.split(batch), times.split(batch), strict=True))
    predictions = [
        torch.cat([Denoiser(components.unet, text)(part, t) for part, t in parts]) for text in (source, *targets)
    ]
    differences = [(other - predictions[0]).abs().mean((0, 1)) for other in predictions[1:]]
    change = torch.stack(differences).amax(0)[None, None]
    change = F.avg_pool2d(F.pad(change, (1, 1, 1, 1), mode="replicate"), 3, 1)
    # The 98th percentile and not the maximum: one loud cell must not hide a mouth.
    top = change.flatten().float().quantile(0.98).clamp_min(1e-8).to(change)
    mask = (change / top > threshold).to(change)
    mask = F.max_pool2d(mask, 3, 1, 1)
    if face is not None:
        height, width = mask.shape[-2:]
        rows = (torch.arange(height, device=mask.device) + 0.5) / height
        columns = (torch.arange(width, device=mask.device) + 0.5) / width
        inside_y = (rows > face[1] - 1 / height) & (rows < face[3] + 1 / height)
        inside_x = (columns > face[0] - 1 / width) & (columns < face[2] + 1 / width)
        mask = mask * (inside_y[:, None] & inside_x[None]).to(mask)
    return F.avg_pool2d(F.pad(mask, (1, 1, 1, 1), mode="replicate"), 3, 1)
