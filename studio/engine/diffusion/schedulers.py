"""Samplers as diffusers' schedulers: made anew for each picture, cut for image-to-image, stepped with given noise.

Knows latents and a network's output; neither the network nor what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import torch
from diffusers import EulerAncestralDiscreteScheduler, LCMScheduler, TCDScheduler

from studio.core.errors import BadInput
from studio.core.samplers import FEW_STEP_SAMPLERS, SAMPLERS
from studio.core.specs.base import Prediction
from studio.engine.diffusion import parameterization

# What every scheduler takes over from the model: the noise schedule and what its UNet predicts.
FROM_MODEL = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
TCD_ETA = 0.3  # "gamma" in 2402.19159: how much noise a step puts back
STOCHASTIC = (EulerAncestralDiscreteScheduler, LCMScheduler, TCDScheduler)
# schedules on the distillation grid; `strength` has to be part of `set_timesteps` there
CONSISTENCY = tuple(getattr(diffusers, SAMPLERS[name].scheduler) for name in FEW_STEP_SAMPLERS)


def make_scheduler(name: str, scheduler_config: Mapping[str, Any]) -> Any:
    """A fresh scheduler for one picture or batch: they hold state. Raises BadInput for a name not in `SAMPLERS`."""
    if name not in SAMPLERS:
        raise BadInput(f"There is no sampler {name!r}; choose one of {', '.join(SAMPLERS)}.")
    sampler = SAMPLERS[name]
    model = {key: scheduler_config[key] for key in FROM_MODEL if scheduler_config.get(key) is not None}
    if scheduler_config.get("rescale_betas_zero_snr"):
        # without noise left at the last timestep a schedule has to begin there (2305.08891, section 3.3)
        model |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, sampler.scheduler)(**{**sampler.options, **model})


def predicting(scheduler_config: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
    """The configuration of a model that predicts what somebody said; "auto": what it says itself."""
    if prediction == "auto":
        return dict(scheduler_config)
    kind = "epsilon" if prediction == "epsilon" else "v_prediction"
    return {
        **scheduler_config,
        "prediction_type": kind,
        "rescale_betas_zero_snr": prediction == "v_zero_snr",
    }


def set_timesteps(
    scheduler: Any, steps: int, device: torch.device | str = "cpu", strength: float | None = None
) -> torch.Tensor:
    """The schedule of `steps` steps, descending: (steps,) from pure noise, or what follows a picture.

    That begins with `strength` (0..1] of the noise and has at least one step. LCM and TCD spread `steps` over that
    part; all others do the last `steps * strength` of `steps` steps, as every image-to-image tool does.
    `StableDiffusionImg2ImgPipeline` cuts LCM's schedule like the others', so that 4 steps at 0.5 become 2 far from the
    distillation grid (diffusers issue 7651).
    """
    if strength is None:
        scheduler.set_timesteps(steps, device=device)
        return scheduler.timesteps
    if isinstance(scheduler, CONSISTENCY):
        grid = max(1, int(scheduler.config.original_inference_steps * strength))
        strength = max(strength, 1 / scheduler.config.original_inference_steps)
        scheduler.set_timesteps(min(steps, grid), device=device, strength=strength)
        return scheduler.timesteps
    scheduler.set_timesteps(steps, device=device)
    start = min(steps - max(1, int(steps * strength)), steps - 1) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # DDIM finds its position by the timestep alone
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]


def start_latents(
    scheduler: Any, noise: torch.Tensor, timesteps: torch.Tensor, source: torch.Tensor | None = None
) -> torch.Tensor:
    """Where sampling begins: pure noise, or the clean latents `source` noised to the first of `timesteps`."""
    if source is None:
        return noise * scheduler.init_noise_sigma
    # In fp32: near 1 half precision has no digits left of 1 - abar_t
    return scheduler.add_noise(source.float(), noise.float(), timesteps[:1].repeat(len(noise))).to(noise)


def estimate_x0(scheduler: Any, output: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The clean latents that a UNet's output at `x` and `t` (0-dimensional) means; for previews."""
    alpha_bar = scheduler.alphas_cumprod[int(t.round())].to(x.device)
    alpha, sigma = alpha_bar.sqrt().clamp_min(1e-3), (1 - alpha_bar).sqrt()  # epsilon can't be divided by nothing
    if isinstance(scheduler, EulerAncestralDiscreteScheduler):
        x = x * alpha  # its latents grow with the noise instead of keeping their variance
    return parameterization.to_x0(output, x, alpha, sigma, scheduler.config.prediction_type)


def step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """What `scheduler.step` takes beside output, timestep and latents: noise from one generator per picture."""
    if isinstance(scheduler, TCDScheduler):
        return {"generator": list(generators), "eta": TCD_ETA}
    return {"generator": list(generators)} if isinstance(scheduler, STOCHASTIC) else {}


def step_with_noise(
    scheduler: Any,
    output: torch.Tensor,
    t: torch.Tensor,
    x: torch.Tensor,
    noise: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """One step from `x`, whose noise is `noise()`; equal to `scheduler.step` where that drew the same noise.

    The three samplers that draw noise add it to something that `step` gives too, so only the sum is made again here.
    """
    if not isinstance(scheduler, STOCHASTIC):
        return scheduler.step(output, t, x, return_dict=False)[0]
    position = scheduler.step_index
    if position is None:
        scheduler._init_step_index(t)
        position = scheduler.step_index
    arguments = {"eta": TCD_ETA} if isinstance(scheduler, TCDScheduler) else {}
    _, base = scheduler.step(
        output, t, x, return_dict=False, generator=torch.Generator(x.device).manual_seed(0), **arguments
    )
    last = position == len(scheduler.timesteps) - 1
    drawn = noise().to(x)
    if isinstance(scheduler, EulerAncestralDiscreteScheduler):
        # `base` is x0; the ancestral step of 2206.00364 as in k-diffusion
        here, there = scheduler.sigmas[position], scheduler.sigmas[position + 1]
        up = (there**2 * (here**2 - there**2) / here**2) ** 0.5
        down = (there**2 - up**2) ** 0.5
        x = x.float()
        x = x + (x - base) / here * (down - here)
        return (x + drawn * up).to(output.dtype)
    if last:
        return base
    previous = scheduler.alphas_cumprod[scheduler.timesteps[position + 1]]
    if isinstance(scheduler, LCMScheduler):  # `base` is x0; 2310.04378, algorithm 3
        return parameterization.add_noise(base, drawn, previous.sqrt(), (1 - previous).sqrt())
    # `base` is x_s, s = (1 - gamma) of the next timestep; 2402.19159, algorithm 2
    at_s = scheduler.alphas_cumprod[torch.floor((1 - TCD_ETA) * scheduler.timesteps[position + 1]).long()]
    return (previous / at_s).sqrt() * base + (1 - previous / at_s).sqrt() * drawn
