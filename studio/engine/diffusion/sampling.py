"""From noise to clean latents: the sampling loop, and all that stands around it. Knows no picture file and no recipe.

The loop is our own so that progress, cancelling, per-picture noise and ControlNet need no callbacks into somebody
else's pipeline; from the same latents it gives the same bits as `StableDiffusionPipeline` (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from studio.core.errors import StudioError
from studio.engine.diffusion import latents, schedulers, text
from studio.engine.diffusion.control import Control
from studio.engine.diffusion.denoiser import Denoiser
from studio.engine.diffusion.masking import Kept, change_map

if TYPE_CHECKING:
    from studio.engine.models.components import Components

# done steps, total steps, and a function that gives the present estimate of the clean latents. It may raise.
StepCallback = Callable[[int, int, Callable[[], torch.Tensor]], None]


def generators(seeds: Sequence[int] | Sequence[torch.Generator]) -> list[torch.Generator]:
    """One generator per seed, on the CPU whatever the device: the same seed gives the same noise everywhere."""
    return [torch.Generator("cpu").manual_seed(seed) if isinstance(seed, int) else seed for seed in seeds]


def noise(components: Components, generators: Sequence[torch.Generator], width: int, height: int) -> torch.Tensor:
    """Unit noise (pictures, channels, height / factor, width / factor); picture k's depends on its generator only."""
    shape = (1, components.channels, height // components.factor, width // components.factor)
    drawn = [torch.randn(shape, generator=generator, dtype=components.dtype) for generator in generators]
    return torch.cat(drawn).to(components.device)


@torch.no_grad()
def sample_latents(
    components: Components,
    prompts: Sequence[str],
    seeds: Sequence[int] | Sequence[torch.Generator],
    *,
    sampler: str,
    steps: int,
    guidance: float,
    size: tuple[int, int],
    negatives: Sequence[str] | None = None,
    control: Control | None = None,
    source: Image.Image | None = None,
    strength: float = 1.0,
    on_step: StepCallback | None = None,
) -> torch.Tensor:
    """Clean latents (prompts, channels, height / factor, width / factor) of one picture per prompt and seed.

    `guidance`: the pipelines' scale; up to 1 there is none. `size`: width and height in pixels, multiples of
    `components.factor`. `negatives`: one per prompt; None: empty ones. The rest is as for `sample_denoiser`.
    """
    positive, negative = text.encode_pair(components, prompts, negatives or [""] * len(prompts), size)
    denoiser = Denoiser(components.unet, positive, negative, guidance, control)
    return sample_denoiser(
        components, denoiser, seeds, sampler=sampler, steps=steps, size=size, source=source, strength=strength,
        on_step=on_step,
    )  # fmt: skip


@torch.no_grad()
def sample_denoiser(
    components: Components,
    denoiser: Denoiser,
    seeds: Sequence[int] | Sequence[torch.Generator],
    *,
    sampler: str,
    steps: int,
    size: tuple[int, int],
    source: Image.Image | None = None,
    strength: float = 1.0,
    mask: Image.Image | None = None,
    on_step: StepCallback | None = None,
) -> torch.Tensor:
    """Clean latents of one picture per seed (or generator on the CPU), by whatever `denoiser` was told.

    `sampler`: a name of `core.samplers.SAMPLERS`. `source`: begin with this picture (RGB, of `size`) and
    `strength` (0..1] of the noise, instead of noise alone. `mask` (L, of `size`): how much of `source` may change where
    (see `masking.Kept`); at a strength of 1 nothing of the picture shows through inside. `on_step` may raise. Raises
    BadInput for another sampler.
    """
    each = generators(seeds)
    scheduler = schedulers.make_scheduler(sampler, components.scheduler_config)
    timesteps = schedulers.set_timesteps(scheduler, steps, components.device, None if source is None else strength)
    clean = None if source is None else latents.encode(components, [source], each)
    unit = noise(components, each, *size)
    kept = None if mask is None or clean is None else Kept(clean, unit, change_map(mask, components))
    x = schedulers.start_latents(scheduler, unit, timesteps, None if kept and strength == 1 else clean)
    return sample(denoiser, scheduler, x, timesteps, each, on_step, kept)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    scheduler: Any,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    generators: Sequence[torch.Generator],
    on_step: StepCallback | None = None,
    kept: Kept | None = None,
) -> torch.Tensor:
    """Clean latents from `x` (see `schedulers.start_latents`), both (pictures, channels, h, w).

    `timesteps` is what `schedulers.set_timesteps` gave for this scheduler; `generators`, one per picture, are for
    samplers that put noise back. `kept`: what is put back between the steps.
    """
    own, count = schedulers.step_arguments(scheduler, generators), len(timesteps)
    for index, t in enumerate(timesteps):
        if kept is not None:
            x = kept.before(scheduler, x, index, timesteps)
        output = denoiser.at_step(index, count)(scheduler.scale_model_input(x, t), t)
        before, x = x, scheduler.step(output, t, x, return_dict=False, **own)[0]
        if on_step is not None:
            on_step(index + 1, count, partial(schedulers.estimate_x0, scheduler, output, t, before))
    return x if kept is None else kept.after(x, count)


def finite(x: torch.Tensor) -> torch.Tensor:
    """`x` as it is. Raises StudioError when latents overflowed or aren't numbers: decoded they would be grey."""
    if not torch.isfinite(x).all():
        raise StudioError(
            "The model's numbers overflowed, so there is no picture; lower the guidance or a LoRA's weight, "
            "or choose another sampler or model."
        )
    return x
