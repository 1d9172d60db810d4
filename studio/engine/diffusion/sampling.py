"""The sampling loop and its schedulers. Knows latents and conditioning, not pictures, prompts or files.

The loop is our own so that progress, cancelling, per-picture noise, ControlNet and shared noise need no callbacks into
somebody else's pipeline; from the same latents it gives the same bits as `StableDiffusionPipeline` (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)

from studio.core.errors import BadInput, StudioError

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from studio.engine.models.components import Components

# What every scheduler takes over from the model: the noise schedule and what its UNet predicts.
_FROM_MODEL = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
_OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_karras": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    # "trailing" begins at pure noise, as sampling does (2305.08891, table 2)
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "trailing"}),
    "unipc": (UniPCMultistepScheduler, {"solver_order": 2}),
    "lcm": (LCMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "original_inference_steps": 50}),
    "tcd": (TCDScheduler, {"clip_sample": False, "set_alpha_to_one": False, "original_inference_steps": 50}),
}
TCD_ETA = 0.3  # "gamma" in 2402.19159: how much noise a step puts back
_DRAWS_NOISE = (EulerAncestralDiscreteScheduler, LCMScheduler, TCDScheduler)
# schedules on the distillation grid; `strength` has to be part of `set_timesteps` there
_CONSISTENCY = (LCMScheduler, TCDScheduler)


def make_scheduler(name: str, scheduler_config: dict[str, Any], fast: bool = False) -> Any:
    """A fresh scheduler for one request; they hold state. `auto` means LCM on the fast path and DPM++ 2M elsewhere.

    Raises BadInput for a name that isn't in `specs.SAMPLERS`.
    """
    if name == "auto":
        name = "lcm" if fast else "dpmpp_2m"
    if name not in _OWN:
        raise BadInput(f"There is no sampler {name!r}; choose one of {', '.join(_OWN)}.")
    cls, own = _OWN[name]
    model = {key: scheduler_config[key] for key in _FROM_MODEL if scheduler_config.get(key) is not None}
    if scheduler_config.get("rescale_betas_zero_snr"):
        # without noise left at the last timestep a schedule has to begin there (2305.08891, section 3.3)
        model |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return cls(**{**own, **model})


def set_timesteps(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The whole schedule of `steps` steps, from pure noise; (steps,) descending."""
    scheduler.set_timesteps(steps, device=device)
    return scheduler.timesteps


def img2img_timesteps(scheduler: Any, steps: int, strength: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """The part of a schedule that starts from a picture with `strength` (0..1] of the noise; at least one step.

    LCM and TCD spread `steps` over that part; all others do the last `steps * strength` of `steps` steps, as every
    image-to-image tool does. `StableDiffusionImg2ImgPipeline` cuts LCM's schedule like the others', so that 4 steps at
    0.5 become 2 far from the distillation grid (diffusers issue 7651).
    """
    if isinstance(scheduler, _CONSISTENCY):
        grid = max(1, int(scheduler.config.original_inference_steps * strength))
        strength = max(strength, 1 / scheduler.config.original_inference_steps)
        scheduler.set_timesteps(min(steps, grid), device=device, strength=strength)
        return scheduler.timesteps
    scheduler.set_timesteps(steps, device=device)
    start = min(steps - max(1, int(steps * strength)), steps - 1) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # DDIM finds its place by the timestep alone
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: (pictures, tokens, dim) each, of equal length. `negative` is only read with guidance."""

    positive: torch.Tensor
    negative: torch.Tensor | None = None


@dataclass(frozen=True)
class Control:
    """A drawing that steers (ControlNet, 2302.05543): `image` is (1 or pictures, 3, height, width) in 0..1.

    `start` and `end` are shares of the steps between which it is applied, as in diffusers' pipeline. `favour` says what
    matters more where drawing and prompt disagree: "both", "prompt" or "sketch" (see `steer`).

    The last three are the model's: what a weight of 1 means with guidance and without, and how much of the drawing the
    unconditional half gets. Below 1 guidance amplifies the drawing too; published ControlNets are trained for 1.
    """

    net: ControlNetModel
    image: torch.Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    favour: str = "both"
    guided: float = 1.0
    unguided: float = 1.0
    unconditional: float = 1.0

    def steps(self, count: int) -> range:
        """Which of `count` steps are steered: those that lie whole between `start` and `end`.

        Where none does (a short span, few steps), the one in which the middle of the span lies: a drawing that was
        asked for isn't left out in silence.
        """
        inside = [i for i in range(count) if self.start <= i / count and (i + 1) / count <= self.end]
        if not inside:
            inside = [min(count - 1, int((self.start + self.end) / 2 * count))]
        return range(inside[0], inside[-1] + 1)


# done steps, total steps, and a function that gives the present estimate of the clean latents. It may raise.
StepCallback = Callable[[int, int, Callable[[], torch.Tensor]], None]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per picture, on the CPU whatever the device: the same seed gives the same noise everywhere."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def noise(components: Components, generators: Sequence[torch.Generator], width: int, height: int) -> torch.Tensor:
    """Unit noise (pictures, channels, height / factor, width / factor); picture k's depends on its generator only."""
    shape = (1, components.channels, height // components.factor, width // components.factor)
    drawn = [torch.randn(shape, generator=generator, dtype=components.dtype) for generator in generators]
    return torch.cat(drawn).to(components.device)


def start_latents(
    scheduler: Any, noise: torch.Tensor, timesteps: torch.Tensor, source: torch.Tensor | None = None
) -> torch.Tensor:
    """Where sampling begins: pure noise, or the clean latents `source` noised to the first of `timesteps`."""
    if source is None:
        return noise * scheduler.init_noise_sigma
    return scheduler.add_noise(source, noise, timesteps[:1].repeat(len(noise)))


@torch.no_grad()
def denoise(
    components: Components,
    scheduler: Any,
    latents: torch.Tensor,
    conditioning: Conditioning,
    guidance: float,
    generators: Sequence[torch.Generator],
    *,
    timesteps: torch.Tensor | None = None,
    control: Control | None = None,
    on_step: StepCallback | None = None,
    step_noise: Callable[[int, tuple[int, ...]], torch.Tensor] | None = None,
    after_step: Callable[[int, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Clean latents from `latents` (see `start_latents`), all (pictures, channels, h, w).

    `timesteps` is what `set_timesteps` or `img2img_timesteps` gave for this scheduler (default: the former's).
    Guidance (2207.12598) above 1 doubles the batch, unless the UNet takes the scale itself (2310.04378, section 4.3).
    `generators`: one per picture, for samplers that draw noise; `step_noise(step, shape)` gives that noise instead.
    `after_step(step, latents)` may replace the latents (a region that stays as it is, frames evened out).
    """
    unet, count = components.unet, len(latents)
    steps = scheduler.timesteps if timesteps is None else timesteps
    embeds_guidance = unet.config.time_cond_proj_dim is not None
    guided = guidance > 1 and not embeds_guidance and conditioning.negative is not None
    text = torch.cat([conditioning.negative, conditioning.positive]) if guided else conditioning.positive
    guidance_embedding = None
    if embeds_guidance:
        scale = torch.full((count,), guidance - 1, device=latents.device)
        guidance_embedding = embed_guidance(scale, unet.config.time_cond_proj_dim).to(latents.dtype)
    drawing, steered = None, range(0)
    if control is not None:
        steered = control.steps(len(steps))
        drawing = control.image.to(latents.device, control.net.dtype)
        drawing = drawing.expand(count, -1, -1, -1)
        drawing = torch.cat([drawing] * 2) if guided else drawing
    extra = _step_arguments(scheduler, generators)
    for index, t in enumerate(steps):
        model_input = torch.cat([latents] * 2) if guided else latents
        model_input = scheduler.scale_model_input(model_input, t)
        residuals: dict[str, Any] = {}
        if control is not None and index in steered:
            down, middle = steer(control, model_input, t, text, drawing, guided)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        output = unet(
            model_input, t, encoder_hidden_states=text, timestep_cond=guidance_embedding, return_dict=False, **residuals
        )[0]
        if guided:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance * (conditional - unconditional)
        before = latents
        if step_noise is None:
            latents = scheduler.step(output, t, latents, return_dict=False, **extra)[0]
        else:
            latents = step_with_noise(scheduler, output, t, latents, index, step_noise)
        if after_step is not None:
            latents = after_step(index, latents)
        if on_step is not None:
            on_step(index + 1, len(steps), lambda x=before, o=output, t=t: clean_estimate(scheduler, o, t, x))  # type: ignore[misc]
    return latents


def finite(latents: torch.Tensor) -> torch.Tensor:
    """`latents` as they are. Raises StudioError when they overflowed or aren't numbers: decoded they would be grey."""
    if not torch.isfinite(latents).all():
        raise StudioError(
            "The model's numbers overflowed, so there is no picture; lower the guidance or a LoRA's weight, "
            "or choose another sampler or model."
        )
    return latents


SOFT = 0.825  # per layer, from the middle outwards: the drawing's small details weigh least
STRICTER = 1.3  # "the sketch matters more" where guidance can't amplify the drawing, or does it anyway


def steer(
    control: Control, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor, drawing: torch.Tensor, guided: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the ControlNet adds to the UNet's skip connections and middle block; arguments as the UNet gets them.

    "prompt": layers weigh less the finer they are. "sketch": so too, but only the conditional half gets them, so that
    guidance amplifies the drawing as it amplifies the prompt (guess mode, 2302.05543, section 3.3). Where it does so
    anyway (`Control.unconditional` below 1) the sketch weighs more, and all of its details.
    """
    sketch, amplified = control.favour == "sketch", control.unconditional < 1
    share = 0.0 if sketch else control.unconditional
    alone = guided and share == 0
    if alone:
        latents, text, drawing = (each.chunk(2)[1] for each in (latents, text, drawing))
    weight = control.weight * (control.guided if guided else control.unguided)
    if sketch and (amplified or not guided):
        weight *= STRICTER
    down, middle = control.net(
        latents, t, encoder_hidden_states=text, controlnet_cond=drawing, conditioning_scale=weight, return_dict=False
    )
    layers = [*down, middle]
    if control.favour == "prompt" or (sketch and guided and not amplified):
        layers = [layer * SOFT ** (len(down) - index) for index, layer in enumerate(layers)]
    if alone:
        layers = [torch.cat([torch.zeros_like(layer), layer]) for layer in layers]
    elif guided and share < 1:
        layers = [torch.cat([share * layer.chunk(2)[0], layer.chunk(2)[1]]) for layer in layers]
    return layers[:-1], layers[-1]


def embed_guidance(scale: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal embedding (pictures, dim) of guidance scales (pictures,), times 1000, as LCM's UNets read it."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (scale.float() * 1000.0)[:, None] * frequencies.to(scale.device)[None]
    embedding = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return torch.nn.functional.pad(embedding, (0, dim % 2))


def clean_estimate(scheduler: Any, output: torch.Tensor, t: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """The estimate of the clean latents that a UNet output means, whatever the prediction type; for previews.

    With sample = alpha x0 + sigma eps: x0 = (sample - sigma eps) / alpha, or alpha sample - sigma v (2202.00512).
    """
    alpha_bar = scheduler.alphas_cumprod[int(t.round())].to(sample.device)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if isinstance(scheduler, EulerAncestralDiscreteScheduler):
        sample = sample * alpha  # its latents grow with the noise instead of keeping their variance
    if scheduler.config.prediction_type == "sample":
        return output
    if scheduler.config.prediction_type == "v_prediction":
        return alpha * sample - sigma * output
    return (sample - sigma * output) / alpha.clamp_min(1e-3)


def _step_arguments(scheduler: Any, generators: Sequence[torch.Generator]) -> dict[str, Any]:
    if isinstance(scheduler, TCDScheduler):
        return {"generator": list(generators), "eta": TCD_ETA}
    return {"generator": list(generators)} if isinstance(scheduler, _DRAWS_NOISE) else {}


def step_with_noise(
    scheduler: Any,
    output: torch.Tensor,
    t: torch.Tensor,
    sample: torch.Tensor,
    index: int,
    step_noise: Callable[[int, tuple[int, ...]], torch.Tensor],
) -> torch.Tensor:
    """One step whose noise comes from `step_noise`; equal to `scheduler.step` where that drew the same noise.

    The three samplers that draw noise add it to something that `step` gives too, so only the sum is made again here.
    """
    if not isinstance(scheduler, _DRAWS_NOISE):
        return scheduler.step(output, t, sample, return_dict=False)[0]
    position = scheduler.step_index
    if position is None:
        scheduler._init_step_index(t)
        position = scheduler.step_index
    arguments = {"eta": TCD_ETA} if isinstance(scheduler, TCDScheduler) else {}
    _, base = scheduler.step(
        output, t, sample, return_dict=False, generator=torch.Generator(sample.device).manual_seed(0), **arguments
    )
    last = position == len(scheduler.timesteps) - 1
    drawn = step_noise(index, tuple(sample.shape)).to(sample)
    if isinstance(
        scheduler, EulerAncestralDiscreteScheduler
    ):  # `base` is x0; ancestral step of 2206.00364, eq. in k-diffusion
        here, there = scheduler.sigmas[position], scheduler.sigmas[position + 1]
        up = (there**2 * (here**2 - there**2) / here**2) ** 0.5
        down = (there**2 - up**2) ** 0.5
        x = sample.float()
        x = x + (x - base) / here * (down - here)
        return (x + drawn * up).to(output.dtype)
    if last:
        return base
    previous = scheduler.alphas_cumprod[scheduler.timesteps[position + 1]]
    if isinstance(scheduler, LCMScheduler):  # `base` is x0; 2310.04378, algorithm 3
        return previous.sqrt() * base + (1 - previous).sqrt() * drawn
    # `base` is x_s, s = (1 - gamma) of the next timestep; 2402.19159, algorithm 2
    at_s = scheduler.alphas_cumprod[torch.floor((1 - TCD_ETA) * scheduler.timesteps[position + 1]).long()]
    return (previous / at_s).sqrt() * base + (1 - previous / at_s).sqrt() * drawn
