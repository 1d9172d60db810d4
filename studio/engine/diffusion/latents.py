"""Pictures to latents and back. Knows the VAE and nothing of sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image

from studio.engine.diffusion.pixels import to_images, to_tensor
from studio.engine.diffusion.preview import Previewer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from studio.engine.models.components import Components

Result = TypeVar("Result")


@torch.no_grad()
def encode(
    components: Components, images: Sequence[Image.Image], generators: Sequence[torch.Generator] | None = None
) -> torch.Tensor:
    """Latents (pictures, channels, height / factor, width / factor) of pictures of one size, scaled for the UNet.

    Sides must be multiples of `components.factor` (`fit` makes them so). Without `generators` the mean of the VAE's
    posterior is taken: the same picture always gives the same latents. With them it is sampled, once per generator;
    one picture can be sampled by several. A half-precision VAE that overflows is run again in fp32.
    """
    pixels = to_tensor(images).to(components.device)
    posterior = _run(
        components, lambda vae, pixels: vae.encode(pixels).latent_dist, pixels, lambda posterior: posterior.mean
    )
    if generators is None:
        drawn = posterior.mode()
    else:
        unit = [torch.randn(posterior.mean[:1].shape, generator=g, dtype=posterior.mean.dtype) for g in generators]
        drawn = posterior.mean + posterior.std * torch.cat(unit).to(components.device)
    return (drawn * components.vae.config.scaling_factor).to(components.dtype)


@torch.no_grad()
def decode_pixels(components: Components, latents: torch.Tensor) -> torch.Tensor:
    """(pictures, 3, height, width) around -1..1. A half-precision VAE that overflows is run again in fp32."""
    scaled = latents / components.vae.config.scaling_factor
    return _run(components, lambda vae, scaled: vae.decode(scaled, return_dict=False)[0], scaled, lambda pixels: pixels)


def _run(
    components: Components,
    half: Callable[[AutoencoderKL, torch.Tensor], Result],
    given: torch.Tensor,
    numbers: Callable[[Result], torch.Tensor],
) -> Result:
    """One half of the VAE on `given`, in its own precision; in 32 bits where it overflows, or is known to."""
    vae = components.vae
    if components.vae_dtype == vae.dtype:
        result = half(vae, given.to(vae.dtype))
        if vae.dtype == torch.float32 or torch.isfinite(numbers(result)).all():
            return result
    with _full_precision(vae):
        return half(vae, given.float())


@contextmanager
def _full_precision(vae: AutoencoderKL) -> Iterator[None]:
    """The VAE in 32 bits: both halves of SD 1.5's can pass fp16's 65504 on bright pictures. Afterwards as before."""
    before = vae.dtype
    try:
        vae.to(torch.float32)
        yield
    finally:
        vae.to(before)  # exact: these numbers came from 16 bits


def previewer(components: Components) -> Previewer:
    """What draws small pictures of this model's unfinished latents; made on first use."""
    if components.previewer is None:
        components.previewer = Previewer(
            components.channels,
            components.factor,
            lambda latents: decode_pixels(components, latents.to(components.device, components.dtype)),
        )
    return components.previewer


def decode(components: Components, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents as `encode` and `denoise` give them."""
    return to_images(decode_pixels(components, latents))


# --- the latent editor --------------------------------------------------------------------------------------------


def slerp(a: torch.Tensor, b: torch.Tensor, amount: float) -> torch.Tensor:
    """The great arc from `a` (0) to `b` (1), (n, ...) each, row by row (Shoemake, 1985). Keeps the length on its way.

    Right for noise: the mean of two samples has too little variance, so the straight line (`torch.lerp`) is for clean
    latents and text. Rows that point (nearly) the same way or away from
    each other have no arc of their own; those take the straight line.
    """
    flat_a, flat_b = a.flatten(1).float(), b.flatten(1).float()
    lengths = (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp_min(1e-12)
    cosine = ((flat_a * flat_b).sum(1) / lengths).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    straight = cosine.abs() > 0.9995
    sine = torch.where(straight, torch.ones_like(sine), sine)
    first = torch.where(straight, torch.full_like(sine, 1 - amount), ((1 - amount) * angle).sin() / sine)
    second = torch.where(straight, torch.full_like(sine, amount), (amount * angle).sin() / sine)
    return (first[:, None] * flat_a + second[:, None] * flat_b).view_as(a).to(a.dtype)


def direction(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """From emotion a to emotion b: the difference of the means of two sets of latents (n, c, h, w) and (m, c, h, w).

    Gives (1, c, h, w); `latents + amount * direction` moves a picture along it. The more characters the sets share,
    the less of them is left in the difference.
    """
    return b.mean(0, keepdim=True) - a.mean(0, keepdim=True)
